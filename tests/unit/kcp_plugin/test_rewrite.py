"""Rewritten segments have the checksums that a recomputation gives, finished and partial ones alike."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from easytier_kcp_plugin.stack.rewrite import SYN, Ends, Rewriter, tcp_flags

addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
ports = st.integers(0, 65535)
ends = st.builds(Ends, addresses, ports, addresses, ports)


def ones_sum(data: bytes) -> int:
    """Word by word, as RFC 1071 says it."""
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(packet: bytes, size: int) -> bytes:
    return packet[12:20] + struct.pack(">HH", 6, size)


def device_frame(between: Ends, payload: bytes, *, options: bytes = b"", partial: bool = False, flags: int = SYN) -> bytes:
    words = between.words
    header_size = 20 + len(options)
    total = header_size + 20 + len(payload)
    ip = struct.pack(">BBHHHBBH", 0x40 | header_size // 4, 0, total, 7, 0x4000, 64, 6, 0) + words[:8] + options
    ip = ip[:10] + struct.pack(">H", 0xFFFF - ones_sum(ip)) + ip[12:]
    tcp = words[8:] + struct.pack(">IIBBHHH", 1000, 2000, 0x50, flags, 512, 0, 0)
    pseudo = pseudo_header(ip, 20 + len(payload))
    checksum = ones_sum(pseudo) if partial else 0xFFFF - ones_sum(pseudo + tcp + payload)
    tcp = tcp[:16] + struct.pack(">H", checksum) + tcp[18:]
    vnet = struct.pack("<BBHHHH", 1, 0, 0, 0, header_size, 16) if partial else bytes(10)
    return vnet + ip + tcp + payload


def assert_checksums(frame: bytes) -> None:
    packet = frame[10:]
    header_size = (packet[0] & 15) * 4
    assert ones_sum(packet[:header_size]) == 0xFFFF
    segment = packet[header_size:]
    pseudo = pseudo_header(packet, len(segment))
    if frame[0] & 1:
        # Zero and 0xFFFF are the same sum.
        assert int.from_bytes(segment[16:18], "big") % 0xFFFF == ones_sum(pseudo) % 0xFFFF
    else:
        assert ones_sum(pseudo + segment) == 0xFFFF


@given(old=ends, new=ends, payload=st.binary(max_size=64), options=st.sampled_from([b"", b"\x01" * 8]), partial=st.booleans())
def test_a_rewritten_segment_is_the_same_segment_between_other_ends(
    old: Ends, new: Ends, payload: bytes, options: bytes, partial: bool
) -> None:
    frame = device_frame(old, payload, options=options, partial=partial)
    rewritten = Rewriter(old, new)(frame)
    assert_checksums(rewritten)
    tcp = 30 + len(options)
    assert rewritten[22:30] + rewritten[tcp : tcp + 4] == new.words
    # Everything but addresses, ports and checksums is untouched.
    for start, end in ((0, 20), (30, tcp), (tcp + 4, tcp + 16), (tcp + 18, len(frame))):
        assert rewritten[start:end] == frame[start:end]


@given(old=ends, new=ends, payload=st.binary(max_size=32))
def test_there_and_back_gives_the_frame_again(old: Ends, new: Ends, payload: bytes) -> None:
    frame = device_frame(old, payload)
    back = Rewriter(new, old)(Rewriter(old, new)(frame))
    assert_checksums(back)
    assert back[22:34] == frame[22:34]


@given(st.binary(max_size=80))
def test_flags_of_any_bytes(data: bytes) -> None:
    flags = tcp_flags(data)
    assert flags is None or 0 <= flags <= 255
