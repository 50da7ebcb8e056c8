"""SOCKS5 messages: whole, byte by byte, wrong, and random."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.socks import wire
from easytier_host.socks.wire import Command, Handshake, Reply, Request, SocksError, UdpHeader

GREETING = bytes.fromhex("05 01 00")
CHOICE = bytes.fromhex("05 00")
NAME = bytes.fromhex("05 01 00 03 0b") + b"example.org" + bytes.fromhex("01 bb")
REQUESTS = [
    ("05 01 00 01 0a 90 00 02 00 50", Request(Command.CONNECT, IPv4Address("10.144.0.2"), 80)),
    ("05 03 00 04" + "00" * 15 + "01 00 00", Request(Command.UDP_ASSOCIATE, IPv6Address("::1"), 0)),
    (NAME.hex(), Request(Command.CONNECT, "example.org", 443)),
    ("05 63 07 01 00 00 00 00 00 00", Request(99, IPv4Address(0), 0)),
]


def feed(data: bytes) -> tuple[bytes, Request | None]:
    """Read as a server does: never more than is missing."""
    handshake, answers = Handshake(), b""
    while data and handshake.request is None:
        assert handshake.missing >= 1
        part, data = data[: handshake.missing], data[handshake.missing :]
        answers += handshake.receive(part)
    assert data == b"" or handshake.request is not None
    return answers, handshake.request


@pytest.mark.parametrize(("text", "request_"), REQUESTS)
def test_a_request_of_each_kind(text: str, request_: Request) -> None:
    assert feed(GREETING + bytes.fromhex(text)) == (CHOICE, request_)


@pytest.mark.parametrize(("text", "request_"), REQUESTS)
def test_the_same_byte_by_byte(text: str, request_: Request) -> None:
    handshake, answers = Handshake(), b""
    for byte in GREETING + bytes.fromhex(text):
        assert handshake.request is None
        answers += handshake.receive(bytes((byte,)))
    assert (answers, handshake.request) == (CHOICE, request_)


def test_nothing_is_read_that_belongs_to_the_destination() -> None:
    data = GREETING + NAME + b"GET / HTTP/1.1"
    handshake = Handshake()
    while handshake.request is None:
        part, data = data[: handshake.missing], data[handshake.missing :]
        handshake.receive(part)
    assert data == b"GET / HTTP/1.1"


def test_one_of_several_methods_is_enough() -> None:
    assert feed(bytes.fromhex("05 03 02 01 00"))[0] == CHOICE


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("04 01", b""),
        ("47 45", b""),
        ("05 00", bytes((5, 255))),
        ("05 02 01 02", bytes((5, 255))),
        ("05 01 00 04 01 00 01 00", b""),
        ("05 01 00 05 01 00 02 00", wire.encode_reply(Reply.ADDRESS_KIND_UNKNOWN)),
        ("05 01 00 05 01 00 03 00", wire.encode_reply(Reply.FAILED)),
        ("05 01 00 05 01 00 03 02 ff fe 00 50", wire.encode_reply(Reply.FAILED)),
        ("05 01 00 05 01 00 03 02 61 00 00 50", wire.encode_reply(Reply.FAILED)),
    ],
)
def test_what_is_wrong_gets_the_answer_that_it_deserves(text: str, answer: bytes) -> None:
    with pytest.raises(SocksError) as caught:
        feed(bytes.fromhex(text))
    assert caught.value.answer == answer


def last_word(data: bytes) -> bytes:
    """What a server says at the end to a client that sends this."""
    try:
        feed(data)
    except SocksError as error:
        return error.answer
    return b""


@given(st.binary(max_size=300))
def test_any_bytes_are_handled(data: bytes) -> None:
    for start in (b"", GREETING, GREETING + b"\x05\x01\x00\x03"):
        assert len(last_word(start + data)) in (0, 2, 10)


def test_a_reply_names_the_bound_address() -> None:
    assert wire.encode_reply(Reply.REFUSED) == bytes.fromhex("05 05 00 01 00 00 00 00 00 00")
    bound = IPv6Address("fd00::1"), 1080
    assert wire.encode_reply(Reply.SUCCEEDED, bound) == b"\x05\x00\x00\x04" + bound[0].packed + b"\x04\x38"


@given(st.ip_addresses(), st.integers(0, 65_535), st.binary(max_size=100))
def test_datagrams_round_trip(ip: IPv4Address | IPv6Address, port: int, data: bytes) -> None:
    assert wire.parse_datagram(wire.encode_datagram((ip, port), data)) == (UdpHeader(ip, port), data)


def test_a_datagram_may_name_its_destination() -> None:
    packet = b"\0\0\0\x03\x01a\x00\x35data"
    assert wire.parse_datagram(packet) == (UdpHeader("a", 53), b"data")


@pytest.mark.parametrize(
    "text", ["", "00000001", "000001 01 0a900002 0035", "000000 02 0a900002 0035", "000000 01 0a900002 00", "000000 03 00 0035"]
)
def test_a_datagram_that_is_none_is_dropped(text: str) -> None:
    assert wire.parse_datagram(bytes.fromhex(text)) is None


@given(st.binary(max_size=300))
def test_any_datagram_is_handled(packet: bytes) -> None:
    parsed = wire.parse_datagram(packet)
    assert parsed is None or packet.endswith(parsed[1])
