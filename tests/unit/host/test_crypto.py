"""Keys, digest and ciphers against the tables of the specification (control plane 3.3, 4.1, 4.3), and tampering."""

from __future__ import annotations

import itertools
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.crypto import (
    ALGORITHMS,
    NONCE_SIZE,
    AeadCipher,
    OpenError,
    XorCipher,
    key_128,
    key_256,
    make_cipher,
    network_digest,
    siphash_1_3,
)

AEADS = [name for name in ALGORITHMS if name != "xor"]
NONCE = bytes(range(12))


class FixedNonce:
    """A random source whose first 8 bytes, with a counter set by the test, give a known nonce."""

    def __call__(self, size: int) -> bytes:
        return NONCE[:size]


def sealed_with_known_nonce(algorithm: str, secret: str, payload: bytes) -> bytes:
    cipher = make_cipher(algorithm, secret, FixedNonce())
    if isinstance(cipher, AeadCipher):
        cipher._counter = int.from_bytes(NONCE[8:], "big")
    return cipher.seal(payload)


@pytest.mark.parametrize(("data", "value"), [(b"", "d1fba762150c532c"), (bytes(range(15)), "f30eb725bb91c9ea")])
def test_siphash_check_values(data: bytes, value: str) -> None:
    assert f"{siphash_1_3(data):016x}" == value


@pytest.mark.parametrize(
    ("name", "secret", "digest"),
    [
        ("default", "", "02e2bcd8739ae03985d61303fbec09210289c243231b1dcaa5bbb1f191f9b993"),
        ("testnet", "s3cret", "b1a472463c37f28171eac33b54326a3573464e452ee6da636b25b5f93b5a0dbf"),
        ("spec-net", "spec-secret-1", "4e87e35e8ddade2be2cc2196abcf7d65d304db867e6821af390e8846e456cfc7"),
    ],
)
def test_network_digest(name: str, secret: str, digest: str) -> None:
    assert network_digest(name, secret).hex() == digest


@pytest.mark.parametrize(
    ("secret", "short", "long"),
    [
        ("", "d1fba762150c532c4cf426633e76377d", "a2c096544363634f2b0a4489cb8496d919d9f290fe8349cad32bc1da83778cb1"),
        ("s3cret", "b74f388ea35a2c72dfd5806a4da4744c", "c8b011e479f430a7dbd75725db0d4019c9693206a2322d7eca72f6db93d2e0db"),
        (
            "spec-secret-1",
            "163afbd27eb2a2b68722e82e6c7a283f",
            "0dd54fbea637312f591c73053e6742ffa93c7fc9687e92dd8f9bc353e17c3c71",
        ),
    ],
)
def test_keys(secret: str, short: str, long: str) -> None:
    assert key_128(secret).hex() == short
    assert key_256(secret).hex() == long


@pytest.mark.parametrize(
    ("algorithm", "wire"),
    [
        ("aes-gcm", "72f43c7003f68bfeec8bc40145bb04a35a73f10305796c3422bc56e565f9000102030405060708090a0b"),
        ("aes-256-gcm", "d8f04eaeee508c5be2cea1d301d12cc7ebab0716bba18348e14362ca8a07000102030405060708090a0b"),
        ("chacha20", "19bfe3aec474177531a0fb74306cb96e00175b5ddc0e4c97b7ca29cad55a000102030405060708090a0b"),
        ("xor", "7e5f97be1192c7d7f45b9c470908"),
    ],
)
def test_sealed_payloads_of_the_specification(algorithm: str, wire: str) -> None:
    sealed = bytes.fromhex(wire)
    assert sealed_with_known_nonce(algorithm, "spec-secret-1", b"hello easytier") == sealed
    assert make_cipher(algorithm, "spec-secret-1", secrets.token_bytes).open(sealed) == b"hello easytier"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(payload=st.binary(max_size=300))
def test_seal_then_open(algorithm: str, payload: bytes) -> None:
    cipher = make_cipher(algorithm, "s3cret", secrets.token_bytes)
    sealed = cipher.seal(payload)
    assert len(sealed) == len(payload) + cipher.overhead
    assert make_cipher(algorithm, "s3cret", secrets.token_bytes).open(sealed) == payload


@pytest.mark.parametrize("algorithm", AEADS)
def test_any_changed_byte_is_noticed(algorithm: str) -> None:
    cipher = make_cipher(algorithm, "s3cret", secrets.token_bytes)
    sealed = cipher.seal(b"forty bytes of payload, more or less....")
    for index in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[index] ^= 0x01
        with pytest.raises(OpenError):
            cipher.open(bytes(damaged))


@pytest.mark.parametrize("algorithm", AEADS)
def test_a_truncated_payload_is_an_open_error(algorithm: str) -> None:
    cipher = make_cipher(algorithm, "s3cret", secrets.token_bytes)
    sealed = cipher.seal(b"payload")
    for size in range(len(sealed)):
        with pytest.raises(OpenError):
            cipher.open(sealed[:size])


@pytest.mark.parametrize("algorithm", AEADS)
def test_another_secret_does_not_open(algorithm: str) -> None:
    sealed = make_cipher(algorithm, "s3cret", secrets.token_bytes).seal(b"payload")
    with pytest.raises(OpenError):
        make_cipher(algorithm, "S3cret", secrets.token_bytes).open(sealed)


def test_nonces_stay_unique_across_the_wrap_of_the_counter() -> None:
    prefixes = itertools.count(1)
    cipher = make_cipher("aes-gcm", "s3cret", lambda size: next(prefixes).to_bytes(size, "big"))
    assert isinstance(cipher, AeadCipher)
    cipher._counter = 0xFFFF_FFFF - 500
    sealed = [cipher.seal(b"x") for _ in range(1000)]
    assert len({payload[-NONCE_SIZE:] for payload in sealed}) == 1000
    assert {payload[-NONCE_SIZE:-4] for payload in sealed} == {(1).to_bytes(8, "big"), (2).to_bytes(8, "big")}
    assert {cipher.open(payload) for payload in sealed} == {b"x"}


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1360, 65_536])
def test_xor_of_every_length_is_the_repeated_key(size: int) -> None:
    key = bytes(range(1, 17))
    cipher = XorCipher(key)
    assert cipher.seal(bytes(size)) == (key * (size // 16 + 1))[:size]
    payload = secrets.token_bytes(size)
    assert cipher.open(cipher.seal(payload)) == payload


def test_xor_forgets_its_pads_before_they_become_many() -> None:
    cipher = XorCipher(bytes(range(16)))
    for size in range(6000):
        cipher.seal(bytes(size))
    assert len(cipher._pads) <= 4096


def test_an_unknown_algorithm_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"rot13.*aes-gcm"):
        make_cipher("rot13", "s3cret", secrets.token_bytes)
