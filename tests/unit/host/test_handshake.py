"""The peer handshake: its bytes, and the judgement of both roles as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.crypto import network_digest
from easytier_host.handshake import (
    ZERO_DIGEST,
    HandshakeError,
    Hello,
    Identity,
    Joined,
    encode_hello,
    judge_as_acceptor,
    judge_as_initiator,
    parse_hello,
)
from easytier_host.packet import PacketType, build_frame
from easytier_host.pb import peer_rpc_pb2

DIGEST = network_digest("lab", "s3cret")
ME = Identity(0x8000_0001, "lab", DIGEST)


def hello(peer_id: int = 0x8000_0002, name: str = "lab", digest: bytes = DIGEST) -> bytes:
    return encode_hello(Identity(peer_id, name, digest))


def test_the_frame_is_that_of_the_specification() -> None:
    identity = Identity(0xA1B2C3D4, "spec-net", network_digest("spec-net", "spec-secret-1"))
    assert encode_hello(identity).hex() == (
        "d4c3b2a100000000020001003a000000"
        "08e1cb868f0d10d487cb8d0a18012a08737065632d6e65743220"
        "4e87e35e8ddade2be2cc2196abcf7d65d304db867e6821af390e8846e456cfc7"
    )


def test_a_hello_is_read_back() -> None:
    assert parse_hello(hello()) == Hello(0x8000_0002, "lab", DIGEST)


def test_magic_version_and_unknown_fields_do_not_matter() -> None:
    message = peer_rpc_pb2.HandshakeRequest(magic=1, my_peer_id=5, version=99, network_name="lab", network_secret_digest=DIGEST)
    body = message.SerializeToString() + bytes.fromhex("fa0702abcd")
    assert parse_hello(build_frame(5, 0, PacketType.HANDSHAKE, body)).peer_id == 5


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"", "shorter than a peer header"),
        (bytes(15), "shorter than a peer header"),
        (build_frame(5, 0, PacketType.PING, bytes(4)), "type 4, not a handshake"),
        (build_frame(5, 0, PacketType.NOISE_HANDSHAKE_1, bytes(50)), "secure mode"),
        (build_frame(5, 0, PacketType.HANDSHAKE, b"\xff\xff\xff"), "does not decode"),
        (build_frame(5, 0, PacketType.HANDSHAKE, b""), "digest has 0 bytes"),
        (hello(digest=DIGEST[:-1]), "digest has 31 bytes"),
        (hello(digest=DIGEST + b"\0"), "digest has 33 bytes"),
        (hello(peer_id=0), "peer id 0"),
    ],
)
def test_what_is_no_handshake_is_refused_by_both_roles_without_an_answer(frame: bytes, said: str) -> None:
    with pytest.raises(HandshakeError, match=said):
        judge_as_initiator(ME, frame)
    answer, outcome = judge_as_acceptor(ME, frame)
    assert answer is None
    assert isinstance(outcome, HandshakeError)
    assert said in str(outcome)


def test_acceptor_joins_a_peer_of_the_same_network() -> None:
    answer, outcome = judge_as_acceptor(ME, hello())
    assert outcome == Joined(0x8000_0002, is_foreign_relay=False)
    assert answer == encode_hello(ME)


@pytest.mark.parametrize("digest", [ZERO_DIGEST, network_digest("lab", "other"), DIGEST[:-1] + b"\0"])
def test_acceptor_answers_a_wrong_secret_with_a_zero_digest(digest: bytes) -> None:
    answer, outcome = judge_as_acceptor(ME, hello(digest=digest))
    assert answer is not None
    assert parse_hello(answer) == Hello(ME.peer_id, "lab", ZERO_DIGEST)
    assert isinstance(outcome, HandshakeError)
    assert "secret" in str(outcome)


@pytest.mark.parametrize("name", ["", "Lab", "lab ", "elsewhere"])
def test_acceptor_says_nothing_to_another_network(name: str) -> None:
    answer, outcome = judge_as_acceptor(ME, hello(name=name))
    assert answer is None
    assert isinstance(outcome, HandshakeError)


def test_acceptor_answers_itself_and_refuses() -> None:
    answer, outcome = judge_as_acceptor(ME, encode_hello(ME))
    assert answer == encode_hello(ME)
    assert isinstance(outcome, HandshakeError)
    assert "itself" in str(outcome)


def test_initiator_joins_a_peer_of_the_same_network() -> None:
    assert judge_as_initiator(ME, hello()) == Joined(0x8000_0002, is_foreign_relay=False)


@pytest.mark.parametrize("digest", [DIGEST, ZERO_DIGEST])
def test_initiator_takes_another_network_for_a_public_relay(digest: bytes) -> None:
    assert judge_as_initiator(ME, hello(name="relay", digest=digest)) == Joined(0x8000_0002, is_foreign_relay=True)


@pytest.mark.parametrize("digest", [ZERO_DIGEST, network_digest("lab", "other")])
def test_initiator_learns_of_a_wrong_secret(digest: bytes) -> None:
    with pytest.raises(HandshakeError, match="another secret"):
        judge_as_initiator(ME, hello(digest=digest))


def test_initiator_notices_itself() -> None:
    with pytest.raises(HandshakeError, match="itself"):
        judge_as_initiator(ME, encode_hello(ME))


def test_the_digest_is_not_shown() -> None:
    assert DIGEST.hex() not in repr(ME)
    assert str(DIGEST) not in repr(ME) + repr(parse_hello(hello()))


def test_a_long_foreign_name_is_cut_in_the_message() -> None:
    _, outcome = judge_as_acceptor(ME, hello(name="n" * 1500))
    assert len(str(outcome)) < 300


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(garbage: bytes) -> None:
    for frame in (garbage, build_frame(1, 0, PacketType.HANDSHAKE, garbage)):
        answer, outcome = judge_as_acceptor(ME, frame)
        assert isinstance(outcome, HandshakeError)
        assert answer is None or parse_hello(answer).digest == ZERO_DIGEST
