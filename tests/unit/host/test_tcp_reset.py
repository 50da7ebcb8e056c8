"""The RST and the ICMP error that answer a segment, for both IP versions."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.flows import ACK, FIN, RST, SYN, reverse_key, segment_key
from easytier_host.nic.offload import ones_complement_sum
from easytier_host.tcp_reset import reset_for, unreachable_for
from tests.unit.host.helpers import device_frame, tcp_segment

ENDS = {4: ("10.144.0.1", "10.144.0.2"), 6: ("fd00::1", "fd00::2")}


@given(
    version=st.sampled_from([4, 6]),
    ports=st.tuples(st.integers(0, 65_535), st.integers(0, 65_535)),
    sequence=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([SYN, ACK, SYN | ACK, FIN | ACK]),
    data=st.binary(max_size=8),
)
def test_the_reset_answers_the_segment(version: int, ports: tuple[int, int], sequence: int, flags: int, data: bytes) -> None:
    frame = device_frame(tcp_segment(*ENDS[version], ports=ports, flags=flags, data=data, sequence=sequence))
    answer = reset_for(frame)
    asked, found = segment_key(frame), segment_key(answer)
    assert asked is not None
    assert found is not None
    assert found[0] == reverse_key(asked[0])
    packet, segment = answer[10:], answer[found[1] :]
    if version == 4:
        assert ones_complement_sum(packet[:20]) % 0xFFFF == 0
    addresses = packet[12:20] if version == 4 else packet[8:40]
    assert ones_complement_sum(addresses + struct.pack("!II", len(segment), 6) + segment) % 0xFFFF == 0
    answered_sequence, acknowledged, _, answer_flags = struct.unpack_from("!IIBB", segment, 4)
    if flags & ACK:
        assert (answered_sequence, answer_flags) == (0, RST)
    else:
        assert (answered_sequence, answer_flags) == (0, RST | ACK)
        assert acknowledged == (sequence + len(data) + 1) % 2**32


@pytest.mark.parametrize(("version", "protocol", "kind"), [(4, 1, b"\x03\x01"), (6, 58, b"\x01\x03")])
def test_the_error_quotes_the_segment_that_cannot_arrive(version: int, protocol: int, kind: bytes) -> None:
    asked = device_frame(tcp_segment(*ENDS[version], ports=(40_000, 80), flags=SYN, sequence=7))[10:]
    packet = unreachable_for(bytes(10) + asked)[10:]
    if version == 4:
        assert ones_complement_sum(packet[:20]) % 0xFFFF == 0
        assert (packet[9], int.from_bytes(packet[2:4], "big")) == (protocol, len(packet))
        addresses, error, pseudo = packet[12:20], packet[20:], b""
        assert addresses == asked[16:20] + asked[12:16]
    else:
        addresses, error = packet[8:40], packet[40:]
        assert (packet[6], int.from_bytes(packet[4:6], "big")) == (protocol, len(error))
        assert addresses == asked[24:40] + asked[8:24]
        pseudo = addresses + struct.pack("!II", len(error), protocol)
    assert error[:2] == kind
    assert ones_complement_sum(pseudo + error) % 0xFFFF == 0
    # The IP header, both ports and the sequence number: the kernel looks at no more.
    assert error[8:] == asked[: len(error) - 8]
    assert error.endswith(struct.pack("!HHI", 40_000, 80, 7))


@given(st.binary(max_size=80))
def test_anything_else_has_no_answer(data: bytes) -> None:
    if segment_key(data) is None:
        with pytest.raises(ValueError, match="not a TCP segment"):
            reset_for(data)
        with pytest.raises(ValueError, match="not a TCP segment"):
            unreachable_for(data)
