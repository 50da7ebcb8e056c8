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
from easytier_host.packet import PEER_HEAD, PacketType, PeerHeader
from tests.unit.host.helpers import NATIVE, NEEDS_NATIVE

AEADS = [name for name in ALGORITHMS if name != "xor"]
NONCE = bytes(range(12))
HEAD = PEER_HEAD.pack(1, 2, PacketType.DATA, 1, 1, 0)


class FixedNonce:
    """A random source whose first 8 bytes, with a counter set by the test, give a known nonce."""

    def __call__(self, size: int) -> bytes:
        return NONCE[:size]


def sealed_with_known_nonce(algorithm: str, secret: str, payload: bytes) -> bytes:
    cipher = make_cipher(algorithm, secret, FixedNonce())
    if isinstance(cipher, AeadCipher):
        cipher._nonces._next = int.from_bytes(NONCE[8:], "big")
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
    cipher._nonces._next = 0xFFFF_FFFF - 500
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


@NEEDS_NATIVE
class TestNative:
    """Batches by the native module: the same bytes as Python's, and the same refusals."""

    @pytest.mark.parametrize("algorithm", AEADS)
    @given(payloads=st.lists(st.binary(max_size=1500), max_size=8), counter=st.integers(0, 2**32 - 8))
    def test_both_make_the_same_frames_and_open_them(self, algorithm: str, payloads: list[bytes], counter: int) -> None:
        in_python, native = (make_cipher(algorithm, "s3cret", FixedNonce(), aead) for aead in (None, NATIVE.aead))
        frames = []
        for cipher in (in_python, native):
            assert isinstance(cipher, AeadCipher)
            cipher._nonces._next = counter
            frames.append(cipher.seal_frames(HEAD, payloads))
        assert frames[0] == frames[1]
        assert in_python.open_frames(frames[0]) == native.open_frames(frames[0]) == payloads
        assert [PeerHeader.parse(frame).length for frame in frames[0]] == list(map(len, payloads))

    @pytest.mark.parametrize("algorithm", AEADS)
    @given(data=st.data())
    def test_hostile_frames_are_refused_by_both(self, algorithm: str, data: st.DataObject) -> None:
        in_python, native = (make_cipher(algorithm, "s3cret", FixedNonce(), aead) for aead in (None, NATIVE.aead))
        good = native.seal_frames(HEAD, [b"payload" * 20])[0]
        damaged = bytearray(good)
        damaged[data.draw(st.integers(16, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        short = good[: data.draw(st.integers(0, len(good) - 1))]
        long = good + data.draw(st.binary(min_size=1, max_size=30))
        frames = [good, bytes(damaged), short, data.draw(st.binary(max_size=300)), long, good]
        opened = [b"payload" * 20, None, None, None, None, b"payload" * 20]
        assert native.open_frames(frames) == in_python.open_frames(frames) == opened

    def test_single_payloads_and_batches_share_their_nonces(self) -> None:
        prefixes = itertools.count(1)
        cipher = make_cipher("aes-gcm", "s3cret", lambda size: next(prefixes).to_bytes(size, "big"), NATIVE.aead)
        assert isinstance(cipher, AeadCipher)
        cipher._nonces._next = 0xFFFF_FFFF - 50
        sealed = []
        for count in range(1, 30):
            sealed.append(cipher.seal(b"x"))
            sealed += cipher.seal_frames(HEAD, [b"x"] * count)
        assert len({payload[-NONCE_SIZE:] for payload in sealed}) == len(sealed)

    def test_a_misuse_is_a_value_error(self) -> None:
        assert NATIVE.aead is not None
        for algorithm, key in (("aes-gcm", bytes(32)), ("aes-256-gcm", bytes(16)), ("xor", bytes(16)), ("chacha20", b"")):
            with pytest.raises(ValueError, match="algorithm"):
                NATIVE.aead(algorithm, key)
        aead = NATIVE.aead("aes-gcm", bytes(16))
        for head, prefix, counter in ((HEAD[1:], bytes(8), 0), (HEAD, bytes(7), 0), (HEAD, bytes(8), 2**32 - 1)):
            with pytest.raises(ValueError, match=r"12 bytes|8 bytes|at its end"):
                aead.seal(head, [b"a", b"b"], prefix, counter)
