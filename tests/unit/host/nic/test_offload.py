"""`split` and `coalesce`, in Python and in Rust, against a slow reference, and against anything at all."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easytier_host.batch import Batch
from easytier_host.nic.offload import MAX_JOINED_SEGMENTS, PLAIN_VNET_HEADER, coalesce, ones_complement_sum, split
from tests.unit.host.helpers import BATCHES
from tests.unit.host.nic.packets import (
    ACK,
    CWR,
    DESTINATION,
    ECE,
    FIN,
    ICMPV6,
    OWN,
    PSH,
    SOURCE,
    Segment,
    checksums_right,
    folded,
    ip_header,
    udp_frame,
)

versions = pytest.mark.parametrize("version", [4, 6])


@st.composite
def super_segments(draw: st.DrawFn, *, flags: int = ACK | PSH | FIN | ECE | CWR, ip_options: bool = True) -> Segment:
    version = draw(st.sampled_from([4, 6]))
    # IPv6: 6 and 14 bytes of options (Pad1), so that the extension header is a multiple of 8 bytes long.
    option_sizes = ([0, 4, 40] if version == 4 else [0, 6, 14]) if ip_options else [0]
    return Segment(
        payload=draw(st.binary(min_size=1, max_size=600)) * draw(st.integers(1, 12)),
        version=version,
        sequence=draw(st.integers(0, 2**32 - 1) | st.integers(2**32 - 2000, 2**32 - 1)),
        acknowledgement=draw(st.integers(0, 2**32 - 1)),
        flags=draw(st.integers(0, 255)) & flags | ACK,
        window=draw(st.integers(0, 2**16 - 1)),
        options=bytes(draw(st.integers(0, 10)) * 4),
        ip_options=bytes(draw(st.sampled_from(option_sizes))),
        identification=draw(st.integers(0, 2**16 - 1)),
        traffic_class=draw(st.integers(0, 255)),
        hop_limit=draw(st.integers(1, 255)),
    )


@given(st.binary(max_size=3000))
def test_the_sum_agrees_with_adding_words_one_by_one(data: bytes) -> None:
    assert ones_complement_sum(data) == folded(data) % 65535


@pytest.mark.parametrize("size", [0, 1, 703, 704, 705, 1407, 1408, 1409, 65_535])
def test_the_sum_of_ones_is_right_at_the_edges_of_the_folds(size: int) -> None:
    assert ones_complement_sum(b"\xff" * size) == folded(b"\xff" * size) % 65535


@BATCHES
class TestSplit:
    @given(super_segments(), st.integers(1, 1500), st.booleans())
    def test_segments_are_those_of_the_reference(self, batch: Batch, segment: Segment, size: int, ecn: bool) -> None:
        assert batch.split(segment.device_frame(size, ecn=ecn), 9000) == [piece.encode() for piece in segment.pieces(size)]

    @versions
    def test_sequence_and_identification_wrap(self, batch: Batch, version: int) -> None:
        segment = Segment(bytes(3000), version, sequence=2**32 - 1500, identification=2**16 - 2)
        packets = batch.split(segment.device_frame(1000), 1360)
        assert packets == [piece.encode() for piece in segment.pieces(1000)]
        assert rejoined(batch.coalesce(packets, OWN)) == packets
        assert len(batch.coalesce(packets, OWN)) == 1

    @given(super_segments(), st.integers(1, 65_535), st.integers(200, 1500))
    def test_no_segment_exceeds_the_mtu(self, batch: Batch, segment: Segment, size: int, mtu: int) -> None:
        packets = batch.split(segment.device_frame(size), mtu)
        assert max(map(len, packets)) <= mtu
        assert all(map(checksums_right, packets))
        header_size = len(segment.encode()) - len(segment.payload)
        assert b"".join(packet[header_size:] for packet in packets) == segment.payload

    @given(super_segments(ip_options=False), st.integers(1, 1500))
    def test_a_finished_super_packet_is_verified_before_it_is_split(self, batch: Batch, segment: Segment, size: int) -> None:
        whole = segment.encode()
        header = struct.pack("<BBHHHH", 0, 1 if segment.version == 4 else 4, 0, size, 0, 0)
        assert batch.split(header + whole, 9000) == [piece.encode() for piece in segment.pieces(size)]
        with pytest.raises(ValueError, match="checksum"):
            batch.split(header + whole[:-1] + bytes([whole[-1] ^ 1]), 9000)

    @versions
    @given(payload=st.binary(min_size=1, max_size=4000), size=st.integers(1, 1400))
    def test_udp_super_packets_become_datagrams(self, batch: Batch, version: int, payload: bytes, size: int) -> None:
        packets = batch.split(udp_frame(payload, version, size), 1500)
        assert all(map(checksums_right, packets))
        header_size = 28 if version == 4 else 48
        assert [packet[header_size:] for packet in packets] == [
            payload[start : start + size] for start in range(0, len(payload), size)
        ]

    @given(super_segments(ip_options=False))
    def test_an_unfinished_checksum_is_completed(self, batch: Batch, segment: Segment) -> None:
        frame = bytearray(segment.device_frame(0))
        frame[1] = 0
        (packet,) = batch.split(bytes(frame), 1360)
        assert checksums_right(packet)
        assert len(packet) == len(segment.encode())

    @versions
    @given(payload=st.binary(max_size=300))
    def test_udp_and_its_odd_sizes_too(self, batch: Batch, version: int, payload: bytes) -> None:
        (packet,) = batch.split(udp_frame(payload, version), 1360)
        assert checksums_right(packet)

    @versions
    def test_a_udp_checksum_of_zero_is_sent_as_ffff(self, batch: Batch, version: int) -> None:
        frame = udp_frame(b"\0\0", version)
        (packet,) = batch.split(frame, 1360)
        # A payload that is the checksum of the packet without it makes the sum all ones, the checksum zero.
        missing = packet[-4:-2]
        (packet,) = batch.split(udp_frame(missing, version), 1360)
        assert packet[-4:-2] == b"\xff\xff"
        assert checksums_right(packet)
        (packet,) = batch.split(udp_frame(missing, version, 2), 1360)
        assert packet[-4:-2] == b"\xff\xff"

    def test_icmpv6_has_its_checksum_completed(self, batch: Batch) -> None:
        body = b"\x80\0\0\0" + b"ping pong"
        ip = ip_header(Segment(b"", 6), SOURCE[6], DESTINATION[6], len(body), ICMPV6)
        pseudo = folded(SOURCE[6] + DESTINATION[6] + struct.pack(">II", len(body), ICMPV6))
        frame = struct.pack("<BBHHHH", 1, 0, 0, 0, 40, 2) + ip + body[:2] + struct.pack(">H", pseudo) + body[4:]
        (packet,) = batch.split(frame, 1360)
        assert checksums_right(packet)

    @given(super_segments())
    def test_a_finished_packet_passes_as_it_is(self, batch: Batch, segment: Segment) -> None:
        packet = segment.encode()
        assert batch.split(PLAIN_VNET_HEADER + packet, 1360) == [packet]

    @given(st.binary(max_size=200))
    def test_any_bytes_give_packets_or_value_error(self, batch: Batch, frame: bytes) -> None:
        assert_packets_or_value_error(batch, frame)

    @settings(max_examples=300)
    @given(
        super_segments(),
        st.integers(0, 2000),
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=6),
        st.data(),
    )
    def test_damaged_frames_give_packets_or_value_error(
        self, batch: Batch, segment: Segment, size: int, damage: list[tuple[int, int]], data: st.DataObject
    ) -> None:
        frame = bytearray(segment.device_frame(size))
        for position, value in damage:
            frame[position % len(frame)] = value
        assert_packets_or_value_error(batch, bytes(frame[: data.draw(st.integers(0, len(frame)))]))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("<B", (1, 2)),  # an unknown kind of segmentation
            ("<B", (1, 4)),  # TCPv6 in an IPv4 packet
            ("<H", (4, 0)),  # no segment size
            ("<H", (6, 24)),  # the TCP header is elsewhere
            ("<H", (6, 60_000)),
        ],
    )
    def test_a_virtio_header_that_does_not_fit_is_refused(self, batch: Batch, field: str, value: tuple[int, int]) -> None:
        frame = bytearray(Segment(bytes(3000)).device_frame(1000))
        struct.pack_into(field, frame, *value)
        with pytest.raises(ValueError, match=r"segment|header|cut"):
            batch.split(bytes(frame), 1360)


def assert_packets_or_value_error(batch: Batch, frame: bytes) -> None:
    try:
        packets = batch.split(frame, 1360)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            split(frame, 1360)
        return
    assert packets == split(frame, 1360)
    assert packets
    assert all(packet[0] >> 4 in (4, 6) for packet in packets)


def is_plain(frame: bytes, packet: bytes) -> bool:
    return frame == PLAIN_VNET_HEADER + packet


def rejoined(frames: list[bytes]) -> list[bytes]:
    return [packet for frame in frames for packet in split(frame, 65_535)]


def counts(frames: list[bytes]) -> list[int]:
    """How many packets each frame stands for."""
    headers = [struct.unpack_from("<BBHHHH", frame) for frame in frames]
    return [
        -(-(len(frame) - 10 - size) // segment) if kind else 1
        for frame, (_, kind, size, segment, _, _) in zip(frames, headers, strict=True)
    ]


@BATCHES
class TestCoalesce:
    @given(super_segments(flags=ACK | PSH | FIN, ip_options=False), st.integers(1, 1400))
    def test_splitting_undoes_it(self, batch: Batch, segment: Segment, size: int) -> None:
        packets = [piece.encode() for piece in segment.pieces(size)]
        frames = batch.coalesce(packets, OWN)
        assert rejoined(frames) == packets
        assert all(checksums_right(frame[10:]) for frame in frames)
        assert len(frames) == -(-len(packets) // MAX_JOINED_SEGMENTS)

    @versions
    def test_the_frame_says_what_it_is(self, batch: Batch, version: int) -> None:
        packets = [piece.encode() for piece in Segment(bytes(3300), version, options=bytes(12)).pieces(1000)]
        (frame,) = batch.coalesce(packets, OWN)
        header_size = {4: 52, 6: 72}[version]
        assert struct.unpack_from("<BBHHHH", frame) == (0, {4: 1, 6: 4}[version], header_size, 1000, 0, 0)
        assert frame[10 + header_size :] == bytes(3300)

    @versions
    @given(index=st.integers(0, 5), position=st.integers(0, 796), bit=st.integers(0, 7))
    def test_a_flipped_bit_is_not_laundered(self, batch: Batch, version: int, index: int, position: int, bit: int) -> None:
        originals = [piece.encode() for piece in Segment(bytes(range(250)) * 16, version).pieces(777)]
        damaged = bytearray(originals[index])
        header_size = 20 if version == 4 else 40
        damaged[header_size + position % (len(damaged) - header_size)] ^= 1 << bit
        packets = [*originals[:index], bytes(damaged), *originals[index + 1 :]]
        frames = batch.coalesce(packets, OWN)
        accepted = [frame for frame in frames if checksums_right(frame[10:])]
        assert len(accepted) < len(frames)
        assert {packet for frame in accepted for packet in split(frame, 65_535)} <= set(originals) - {originals[index]}

    @given(
        st.lists(super_segments(flags=ACK | PSH | FIN, ip_options=False), min_size=2, max_size=4),
        st.randoms(use_true_random=False),
    )
    def test_interleaved_flows_are_joined_and_keep_their_order(
        self, batch: Batch, segments: list[Segment], rng: random.Random
    ) -> None:
        flows = [
            [piece.encode() for piece in replace(segment, ports=(1000 + number, 80)).pieces(400)]
            for number, segment in enumerate(segments)
        ]
        waiting = [list(flow) for flow in flows]
        packets = []
        while any(waiting):
            packets.append(rng.choice([flow for flow in waiting if flow]).pop(0))
        frames = batch.coalesce(packets, OWN)
        assert len(frames) == sum(-(-len(flow) // MAX_JOINED_SEGMENTS) for flow in flows)
        got = rejoined(frames)
        assert sorted(got) == sorted(packets)
        for flow in flows:
            assert [packet for packet in got if packet in flow] == flow

    @versions
    @pytest.mark.parametrize(
        "change",
        [
            {"sequence": 2001},
            {"sequence": 1000},
            {"acknowledgement": 78},
            {"window": 501},
            {"options": bytes(4)},
            {"traffic_class": 1},
            {"hop_limit": 63},
            {"flags": ACK | ECE},
            {"flags": ACK | CWR},
            {"flags": 0},
            {"ports": (40_000, 5202)},
            {"payload": bytes(1001)},
            {"payload": b""},
        ],
    )
    def test_what_differs_stays_apart(self, batch: Batch, version: int, change: dict[str, object]) -> None:
        first = Segment(bytes(1000), version)
        second = replace(first, sequence=2000)
        packets = [first.encode(), replace(second, **change).encode()]  # type: ignore[arg-type]
        frames = batch.coalesce(packets, OWN)
        assert all(map(is_plain, frames, packets))
        assert len(batch.coalesce([first.encode(), second.encode()], OWN)) == 1

    @versions
    def test_other_options_of_the_same_length_stay_apart(self, batch: Batch, version: int) -> None:
        packets = [
            Segment(bytes(9), version, sequence=1000 + 9 * number, options=bytes([1, 1, 1, number])).encode()
            for number in range(2)
        ]
        assert all(map(is_plain, batch.coalesce(packets, OWN), packets))

    @versions
    def test_a_length_that_is_not_the_packets_stays_apart(self, batch: Batch, version: int) -> None:
        first, second = Segment(bytes(1999), version).pieces(1000)
        packets = [first.encode(), second.encode() + b"!"]
        assert all(map(is_plain, batch.coalesce(packets, OWN), packets))

    @pytest.mark.parametrize("change", [{"fragment": 0x2000}, {"fragment": 0x4001}, {"fragment": 0}])
    def test_another_fragment_field_stays_apart(self, batch: Batch, change: dict[str, int]) -> None:
        packets = [Segment(bytes(9)).encode(), replace(Segment(bytes(9), sequence=1009), **change).encode()]  # type: ignore[arg-type]
        assert all(map(is_plain, batch.coalesce(packets, OWN), packets))

    def test_fragments_are_never_joined(self, batch: Batch) -> None:
        packets = [Segment(bytes(8), sequence=1000 + 8 * number, fragment=0x2000).encode() for number in range(3)]
        assert all(map(is_plain, batch.coalesce(packets, OWN), packets))

    @versions
    def test_packets_that_will_be_forwarded_are_not_joined(self, batch: Batch, version: int) -> None:
        packets = [piece.encode() for piece in Segment(bytes(3000), version).pieces(1000)]
        assert all(map(is_plain, batch.coalesce(packets, frozenset()), packets))

    @versions
    @pytest.mark.parametrize("flags", [ACK | PSH, ACK | FIN, ACK | PSH | FIN])
    def test_push_and_fin_end_a_run(self, batch: Batch, version: int, flags: int) -> None:
        pieces = Segment(bytes(5000), version).pieces(1000)
        pieces[2] = replace(pieces[2], flags=flags)
        packets = [piece.encode() for piece in pieces]
        frames = batch.coalesce(packets, OWN)
        assert counts(frames) == [3, 2]
        assert rejoined(frames) == packets

    def test_a_short_segment_ends_a_run(self, batch: Batch) -> None:
        sizes = [1000, 1000, 500, 1000]
        sequences = [1000, 2000, 3000, 3500]
        packets = [Segment(bytes(size), sequence=sequence).encode() for size, sequence in zip(sizes, sequences, strict=True)]
        assert counts(batch.coalesce(packets, OWN)) == [3, 1]

    def test_a_joined_packet_stays_below_64_kib(self, batch: Batch) -> None:
        packets = [piece.encode() for piece in Segment(bytes(150_000)).pieces(8960)]
        frames = batch.coalesce(packets, OWN)
        assert max(map(len, frames)) <= 10 + 65_535
        assert len(frames) == 3

    @versions
    def test_a_segment_behind_ip_options_is_not_overtaken(self, batch: Batch, version: int) -> None:
        first, second, third = Segment(bytes(3000), version).pieces(1000)
        hidden = replace(second, ip_options=bytes(4 if version == 4 else 6))
        packets = [first.encode(), hidden.encode(), second.encode(), third.encode()]
        frames = batch.coalesce(packets, OWN)
        assert is_plain(frames[0], packets[0])
        assert is_plain(frames[1], packets[1])
        assert len(frames) == 3

    def test_a_reset_behind_a_run_stays_behind_it(self, batch: Batch) -> None:
        first, second = Segment(bytes(2000)).pieces(1000)
        reset = replace(first, payload=b"", sequence=3000, flags=0x04)
        packets = [first.encode(), second.encode(), reset.encode(), replace(first, sequence=3000).encode()]
        frames = batch.coalesce(packets, OWN)
        assert counts(frames) == [2, 1, 1]
        assert is_plain(frames[1], packets[2])

    def test_a_wrong_ip_header_checksum_stays_wrong(self, batch: Batch) -> None:
        packets = [piece.encode() for piece in Segment(bytes(2000)).pieces(1000)]
        packets[0] = packets[0][:10] + bytes([packets[0][10] ^ 1]) + packets[0][11:]
        (frame,) = batch.coalesce(packets, OWN)
        assert folded(frame[10:30]) != 0xFFFF

    @given(st.lists(st.binary(max_size=90), max_size=8))
    def test_anything_else_passes_as_it_is(self, batch: Batch, packets: list[bytes]) -> None:
        assert all(map(is_plain, batch.coalesce(packets, OWN), packets))

    @given(
        st.lists(
            st.tuples(super_segments(), st.integers(0, 80), st.integers(0, 255), st.integers(0, 200)), min_size=1, max_size=6
        )
    )
    def test_damaged_packets_are_neither_lost_nor_fatal(
        self, batch: Batch, damaged: list[tuple[Segment, int, int, int]]
    ) -> None:
        packets = []
        for segment, position, value, cut in damaged:
            packet = bytearray(segment.encode())
            packet[position % len(packet)] = value
            packets.append(bytes(packet[: max(1, len(packet) - cut)]))
        frames = batch.coalesce(packets, OWN)
        assert frames == coalesce(packets, OWN)
        assert sum(counts(frames)) == len(packets)
