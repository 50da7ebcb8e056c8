"""ICMP echo without a device."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.echo import answer, echo_request, parse_reply
from easytier_host.nic.offload import ones_complement_sum

A, B = IPv4Address("10.77.0.9"), IPv4Address("10.77.0.1")
# Appendix A4 of the specification.
REQUEST = bytes.fromhex("4500002400010000400166350a4d00090a4d000108003314123400016561737974696572")


def test_the_request_of_the_specification_is_answered() -> None:
    reply = answer(REQUEST, B)
    assert reply is not None
    assert parse_reply(reply) == (B, 0x1234, 1)
    assert reply[28:] == b"easytier"
    assert (reply[12:16], reply[16:20]) == (B.packed, A.packed)


def test_our_request_has_the_message_of_the_specification() -> None:
    request = echo_request(A, B, 0x1234, 1, b"easytier")
    assert request[20:] == REQUEST[20:]
    assert request[12:20] == REQUEST[12:20]


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=1400))
def test_request_and_reply_have_good_checksums(identifier: int, sequence: int, data: bytes) -> None:
    request = echo_request(A, B, identifier, sequence, data)
    reply = answer(request, B)
    assert reply is not None
    assert parse_reply(reply) == (B, identifier, sequence)
    for packet in (request, reply):
        assert ones_complement_sum(packet[:20]) % 0xFFFF == 0
        assert ones_complement_sum(packet[20:]) % 0xFFFF == 0
        assert len(packet) == int.from_bytes(packet[2:4], "big")


@pytest.mark.parametrize("index", range(20, 36))
def test_a_damaged_message_is_not_answered(index: int) -> None:
    damaged = bytearray(REQUEST)
    damaged[index] ^= 0x10
    assert answer(bytes(damaged), B) is None


def changed(offset: int, layout: str, value: int) -> bytes:
    packet = bytearray(REQUEST)
    struct.pack_into(layout, packet, offset, value)
    return bytes(packet)


@pytest.mark.parametrize(
    "packet",
    [
        changed(6, "!H", 0x2000),
        changed(6, "!H", 0x0001),
        changed(9, "!B", 6),
        changed(2, "!H", 60),
        changed(2, "!H", 27),
        changed(0, "!B", 0x65),
        changed(0, "!B", 0x44),
        changed(0, "!B", 0x4F),
        REQUEST[:27],
        b"",
    ],
)
def test_fragments_other_protocols_and_lies_about_lengths_are_not_answered(packet: bytes) -> None:
    assert answer(packet, B) is None


def test_a_request_to_somebody_else_and_a_reply_are_not_answered() -> None:
    assert answer(REQUEST, A) is None
    reply = answer(REQUEST, B)
    assert reply is not None
    assert answer(reply, A) is None
    assert parse_reply(REQUEST) is None


@given(st.binary(max_size=100))
def test_any_bytes_are_survived(packet: bytes) -> None:
    for candidate in (packet, b"\x45" + packet, REQUEST[:20] + packet):
        answer(candidate, B)
        parse_reply(candidate)
