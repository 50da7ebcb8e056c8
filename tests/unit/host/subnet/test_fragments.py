"""Fragments, cut and put together, whatever a peer makes of them."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host import ipv4
from easytier_host.metrics import Metrics
from easytier_host.nic.offload import ones_complement_sum
from easytier_host.subnet.fragments import OVERHEAD, TIMEOUT, Reassembler, cut
from tests.unit.host.helpers import OTHER, PEER

A, B = IPv4Address("10.144.0.2").packed, IPv4Address("192.168.7.9").packed


def whole(size: int, identification: int = 7, source: bytes = A) -> bytes:
    payload = random.Random(identification).randbytes(size)
    return ipv4.build(source, B, ipv4.UDP, payload, identification=identification, fragment=0)


def piece(start: int, size: int, *, more: bool = True, identification: int = 7, fill: int = 0) -> bytes:
    field = start // 8 | (ipv4.MORE_FRAGMENTS if more else 0)
    return ipv4.build(A, B, ipv4.UDP, bytes([fill]) * size, identification=identification, fragment=field)


class Bench:
    """A reassembler with its counter."""

    def __init__(self, **bounds: int) -> None:
        self.metrics = Metrics()
        self.reassembler = Reassembler(self.metrics, **bounds)

    def add(self, *packets: bytes, peer: int = PEER, now: float = 0.0) -> list[bytes]:
        """What became whole."""
        found = [self.reassembler.add(packet, peer, now) for packet in packets]
        return [packet for packet in found if packet is not None]

    @property
    def dropped(self) -> int:
        return self.metrics.dropped_subnet


@given(st.integers(1, 5000), st.integers(1, 2000), st.randoms(use_true_random=False))
def test_what_is_cut_can_be_put_together_in_any_order(size: int, payload_size: int, order: random.Random) -> None:
    packet = whole(size)
    pieces = cut(packet, payload_size)
    for each in pieces:
        assert len(each) - 20 <= max(8, payload_size)
        assert ones_complement_sum(each[:20]) % 0xFFFF == 0
        assert int.from_bytes(each[2:4], "big") == len(each)
    bench = Bench(max_bytes_per_peer=1 << 22)
    if len(pieces) == 1:
        assert pieces == [packet]
        return
    order.shuffle(pieces)
    assert bench.add(*pieces) == [packet]
    assert (bench.dropped, bench.reassembler.size) == (0, 0)


def test_the_largest_packet_passes() -> None:
    packet = whole(65_515)
    assert Bench().add(*cut(packet, 1280)) == [packet]


def test_packets_of_different_senders_and_identifications_do_not_mix() -> None:
    packets = [whole(3000, 1), whole(3000, 2), whole(3000, 1, source=B)]
    bench = Bench()
    woven = [each for pieces in zip(*(cut(packet, 1280) for packet in packets), strict=True) for each in pieces]
    assert bench.add(*woven) == packets
    assert bench.add(*cut(packets[0], 1280)[:2], peer=PEER) == []
    assert bench.add(*cut(packets[0], 1280)[2:], peer=OTHER) == []


def test_a_piece_that_comes_twice_does_no_harm() -> None:
    packet = whole(3000)
    first, second, third = cut(packet, 1280)
    assert Bench().add(first, first, third, first, second) == [packet]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([piece(0, 16), piece(8, 8), piece(16, 8, more=False)], id="overlap"),
        pytest.param([piece(0, 16), piece(0, 16, fill=1), piece(16, 8, more=False)], id="two-versions"),
        pytest.param([piece(0, 8), piece(16, 8, more=False), piece(8, 8, more=False)], id="two-ends"),
        pytest.param([piece(24, 8), piece(32, 8), piece(0, 8), piece(8, 8, more=False)], id="beyond-the-end"),
        pytest.param([piece(8, 8), piece(24, 8), piece(0, 8), piece(16, 8, more=False)], id="gap-filled-from-beyond"),
    ],
)
def test_pieces_that_contradict_each_other_spoil_their_packet(pieces: list[bytes]) -> None:
    bench = Bench()
    assert bench.add(*pieces) == []
    assert bench.dropped >= 1


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(piece(0, 12), id="odd-size-in-the-middle"),
        pytest.param(piece(0, 0), id="empty"),
        pytest.param(piece(65_512, 8, more=False), id="too-far"),
        pytest.param(piece(0, 16)[:30], id="cut"),
        pytest.param(b"\x44" + piece(0, 16)[1:], id="short-header"),
        pytest.param(b"\x4f" + piece(0, 16)[1:], id="header-longer-than-packet"),
    ],
)
def test_what_can_be_no_piece_is_dropped_at_once(packet: bytes) -> None:
    bench = Bench()
    assert bench.add(packet) == []
    assert (bench.dropped, bench.reassembler.size) == (1, 0)


def test_a_packet_has_ten_seconds() -> None:
    packet = whole(3000)
    first, second, third = cut(packet, 1280)
    bench = Bench()
    assert bench.add(first, second, now=0.0) == []
    assert bench.add(third, now=TIMEOUT - 0.1) == [packet]
    assert bench.add(first, second, now=20.0) == []
    assert bench.add(third, now=20.0 + TIMEOUT) == []
    assert bench.dropped == 1
    bench.reassembler.expire(20.0 + 2 * TIMEOUT)
    assert (bench.dropped, bench.reassembler.size) == (2, 0)


def test_within_a_peer_the_oldest_packet_gives_way() -> None:
    room = 4 * (1280 + OVERHEAD)
    bench = Bench(max_bytes_per_peer=room)
    packets = [whole(2000, number) for number in range(6)]
    halves = [cut(packet, 1280) for packet in packets]
    assert bench.add(*(first for first, _ in halves)) == []
    assert bench.reassembler.size <= room
    # Two made room for the last first halves, and a third one for a second half.
    assert bench.add(*(second for _, second in halves[4:])) == packets[4:]
    assert bench.dropped == 3


def test_a_greedy_peer_does_not_take_the_room_of_others() -> None:
    bench = Bench(max_bytes_per_peer=10_000, max_bytes=12_000)
    for number in range(100):
        bench.add(piece(0, 1280, identification=number), peer=PEER)
    packet = whole(1500)
    assert bench.add(*cut(packet, 1280), peer=OTHER) == [packet]


def test_with_all_room_taken_new_pieces_are_dropped() -> None:
    bench = Bench(max_bytes_per_peer=10_000, max_bytes=3 * (1280 + OVERHEAD))
    for peer in range(3):
        bench.add(piece(0, 1280), peer=peer)
    assert bench.dropped == 0
    assert bench.add(*cut(whole(1500), 1280), peer=99) == []
    assert bench.dropped == 2


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40), st.integers(0, 2)), max_size=30))
def test_any_fragments_are_survived_within_the_bounds(pieces: list[tuple[int, bytes, int]]) -> None:
    bench = Bench(max_bytes_per_peer=2000, max_bytes=3000)
    for now, (field, data, peer) in enumerate(pieces):
        packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 1, field, 64, 17, 0) + A + B + data
        for result in bench.add(packet, peer=peer, now=now / 4):
            assert ipv4.payload_of(result) is not None
        assert bench.reassembler.size <= 3000
    bench.reassembler.expire(1000.0)
    assert bench.reassembler.size == 0
