"""Connections that go well: handshake, bytes, half-close, end."""

from random import Random
from typing import Any

import pytest

from easytier_kcp_plugin._native import AddressInUseError, ClosedError, Stack
from tests.unit.native.segments import CLIENT, CLIENT6, FIN, SERVER, SERVER6, SYN, Endpoint, is_intact, parse
from tests.unit.native.wire import Pair

FAMILIES = pytest.mark.parametrize(("source", "destination"), [(CLIENT, SERVER), (CLIENT6, SERVER6)], ids=["v4", "v6"])
LINKS = pytest.mark.parametrize(
    "link",
    [{}, {"vnet_header": True}, {"vnet_header": True, "tso_max": 65_535}, {"verify_checksums": False, "congestion": "none"}],
    ids=["plain", "vnet", "tso", "trusting"],
)


@FAMILIES
@LINKS
def test_bytes_arrive_whole_both_ways(source: Endpoint, destination: Endpoint, link: dict[str, Any]) -> None:
    pair = Pair(**link)
    left, right = pair.connect(source, destination)
    up, down = Random(1).randbytes(1_000_000), Random(2).randbytes(700_001)
    pair.left.send(left, up)
    pair.right.send(right, down)
    pair.run(lambda: len(pair.right.received[right]) == len(up) and len(pair.left.received[left]) == len(down))
    assert pair.right.received[right] == up
    assert pair.left.received[left] == down


@FAMILIES
def test_every_packet_is_well_formed_and_within_the_mtu(source: Endpoint, destination: Endpoint) -> None:
    pair = Pair()
    left, right = pair.connect(source, destination)
    pair.left.send(left, bytes(100_000))
    pair.deliver(pair.right, right, 100_000)
    packets = pair.left.sent + pair.right.sent
    assert all(is_intact(packet) for packet in packets)
    assert max(map(len, packets)) == 1380


def test_the_other_end_sees_who_connects_where() -> None:
    pair = Pair()
    pair.right.accepting = False
    pair.left.stack.connect(CLIENT, SERVER)
    pair.settle()
    [event] = pair.right.events
    assert event[0] == "incoming"
    assert event[2:] == (CLIENT, SERVER)


def test_a_half_close_leaves_the_other_direction_open() -> None:
    pair = Pair()
    left, right = pair.connect()
    pair.left.send(left, b"request")
    pair.left.stack.finish(left)
    pair.run(lambda: ("end_of_stream", right) in pair.right.events)
    assert pair.right.received[right] == b"request"
    pair.rest(50)
    answer = bytes(range(256)) * 1000
    pair.right.send(right, answer)
    pair.deliver(pair.left, left, len(answer))
    assert pair.left.received[left] == answer
    pair.right.stack.finish(right)
    pair.rest()
    assert pair.left.closed() == pair.right.closed() == ["normal"]


def test_the_events_of_a_connection_come_in_order() -> None:
    pair = Pair()
    pair.right.finishing = True
    left, _ = pair.connect()
    pair.left.send(left, b"x")
    pair.settle()
    pair.left.stack.finish(left)
    pair.rest()
    assert pair.left.kinds() == ["established", "end_of_stream", "closed"]
    assert pair.right.kinds() == ["incoming", "established", "readable", "end_of_stream", "closed"]


def test_end_of_stream_and_closed_wait_until_everything_is_received() -> None:
    pair = Pair()
    left, right = pair.connect()
    pair.right.reading = False
    pair.left.send(left, b"a" * 5000)
    pair.left.stack.finish(left)
    pair.right.stack.finish(right)
    pair.rest()
    assert pair.left.closed() == ["normal"]
    assert pair.right.kinds()[-1] == "readable"
    assert pair.right.stack.info(right)["received"] == 5000
    assert pair.right.stack.receive(right, 4999) == b"a" * 4999
    pair.settle()
    assert pair.right.kinds()[-1] == "readable"
    assert pair.right.stack.receive(right, 1) == b"a"
    pair.settle()
    assert pair.right.kinds()[-2:] == ["end_of_stream", "closed"]


def test_readable_is_said_once_until_everything_is_received() -> None:
    pair = Pair()
    left, right = pair.connect()
    pair.right.reading = False
    for _ in range(3):
        pair.left.send(left, b"abc")
        pair.settle()
    assert pair.right.kinds().count("readable") == 1
    assert pair.right.stack.receive(right, 8) == b"abcabcab"
    pair.left.send(left, b"d")
    pair.settle()
    assert pair.right.kinds().count("readable") == 1
    assert pair.right.stack.receive(right, 8) == b"cd"
    assert pair.right.stack.receive(right, 8) == b""
    pair.left.send(left, b"e")
    pair.settle()
    assert pair.right.kinds().count("readable") == 2


def test_receive_into_fills_a_buffer_and_send_takes_any() -> None:
    pair = Pair()
    left, right = pair.connect()
    pair.right.reading = False
    for data in (bytearray(b"one"), memoryview(b"+two"), memoryview(b"x+three")[1:]):
        assert pair.left.stack.send(left, data) == len(data)
    pair.settle()
    target = bytearray(20)
    assert pair.right.stack.receive_into(right, memoryview(target)[2:]) == 13
    assert bytes(target) == b"\0\0one+two+three" + bytes(5)
    with pytest.raises(BufferError):
        pair.right.stack.receive_into(right, b"constant")
    with pytest.raises(BufferError):
        pair.left.stack.send(left, memoryview(b"every other")[::2])


def test_finish_before_the_handshake_waits_for_it() -> None:
    pair = Pair(latency=0.01)
    connection = pair.left.stack.connect(CLIENT, SERVER)
    pair.left.stack.finish(connection)
    pair.right.finishing = True
    pair.rest()
    assert pair.left.kinds() == ["established", "end_of_stream", "closed"]
    assert pair.left.closed() == pair.right.closed() == ["normal"]


def test_send_before_the_handshake_takes_nothing_and_writable_follows() -> None:
    pair = Pair(latency=0.01)
    connection = pair.left.stack.connect(CLIENT, SERVER)
    assert pair.left.stack.send(connection, b"early") == 0
    pair.run(lambda: "writable" in pair.left.kinds())
    assert pair.left.kinds() == ["established", "writable"]


def test_both_ends_may_connect_at_once() -> None:
    pair = Pair(latency=0.01)
    left = pair.left.stack.connect(CLIENT, SERVER)
    right = pair.right.stack.connect(SERVER, CLIENT)
    pair.run(lambda: {*pair.left.kinds(), *pair.right.kinds()} == {"established"})
    pair.left.send(left, b"hello")
    pair.deliver(pair.right, right, 5)
    assert pair.right.received[right] == b"hello"


def test_one_port_serves_two_destinations() -> None:
    pair = Pair()
    other = (bytes([10, 0, 0, 3]), 80)
    first, _ = pair.connect(CLIENT, SERVER)
    second, right = pair.connect(CLIENT, other)
    assert first != second
    with pytest.raises(AddressInUseError):
        pair.left.stack.connect(CLIENT, SERVER)
    info = pair.right.stack.info(right)
    assert (info["state"], info["local"], info["remote"]) == ("ESTABLISHED", other, CLIENT)


def test_a_new_connection_may_follow_in_time_wait() -> None:
    pair = Pair(right={"time_wait": 10.0})
    left, right = pair.connect()
    pair.right.stack.finish(right)
    pair.settle()
    pair.left.stack.finish(left)
    pair.settle()
    assert pair.right.closed() == ["normal"]
    assert pair.right.stack.counters()["time_wait"] == 1
    again, right_again = pair.connect()
    assert (again, right_again) != (left, right)
    pair.left.send(again, b"fresh")
    pair.deliver(pair.right, right_again, 5)
    assert pair.right.received[right_again] == b"fresh"
    assert pair.right.stack.counters()["time_wait"] == 0
    assert pair.right.closed() == ["normal"]


def test_unread_bytes_survive_their_four_tuple() -> None:
    pair = Pair(right={"time_wait": 10.0})
    left, right = pair.connect()
    pair.right.reading = False
    pair.right.stack.finish(right)
    pair.left.send(left, b"late")
    pair.left.stack.finish(left)
    pair.settle()
    pair.right.reading = True
    again, _ = pair.connect()
    assert pair.right.closed() == []
    assert pair.right.stack.receive(right, 100) == b"late"
    pair.settle()
    assert pair.right.events[-2:] == [("end_of_stream", right), ("closed", right, "normal")]
    assert pair.left.stack.info(again)["state"] == "ESTABLISHED"


def test_time_wait_answers_a_repeated_fin_and_ends() -> None:
    lost: list[bytes] = []

    def lose_last_ack(packet: bytes) -> bool:
        segment = parse(packet)
        if segment.source == CLIENT and segment.flags == 16 and pair.right.kinds()[-1:] == ["end_of_stream"] and not lost:
            lost.append(packet)
            return True
        return False

    pair = Pair(latency=0.01, lose=lose_last_ack, time_wait=5.0)
    left, right = pair.connect()
    pair.left.stack.finish(left)
    pair.run(lambda: ("end_of_stream", right) in pair.right.events)
    pair.right.stack.finish(right)
    pair.run(lambda: pair.right.closed() == ["normal"])
    assert lost
    assert sum(parse(packet).flags & FIN for packet in pair.right.sent) == 2
    assert pair.left.stack.counters()["time_wait"] == 1
    pair.rest()
    assert pair.left.stack.counters()["time_wait"] == pair.left.stack.counters()["connections"] == 0


def test_ids_are_never_used_again() -> None:
    pair = Pair(time_wait=0.0)
    pair.right.finishing = True
    seen = set()
    for _ in range(50):
        left, right = pair.connect()
        seen |= {("left", left), ("right", right)}
        pair.left.stack.finish(left)
        pair.rest()
        with pytest.raises(ClosedError):
            pair.left.stack.info(left)
    assert len(seen) == 100
    assert pair.left.stack.counters()["connections"] == 0


def test_the_seed_decides_the_sequence_numbers() -> None:
    def first_sequence(seed: int) -> int:
        stack = Stack(mtu=1380, seed=seed)
        stack.connect(CLIENT, SERVER)
        [syn] = stack.step([], 0.0)[0]
        assert parse(syn).flags == SYN
        return parse(syn).sequence

    assert first_sequence(1) == first_sequence(1) != first_sequence(2)


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        (CLIENT, SERVER6, "two families"),
        ((CLIENT[0], 0), SERVER, "port 0"),
        (CLIENT, (SERVER[0], 0), "port 0"),
        (CLIENT, (b"\x7f\0\0\1", 80), "no host"),
        (CLIENT, (b"\xe0\0\0\1", 80), "no host"),
        (CLIENT, (b"\xff\xff\xff\xff", 80), "no host"),
        (CLIENT, (bytes(4), 80), "no host"),
        (CLIENT6, (bytes(15) + b"\1", 80), "no host"),
        (CLIENT6, (b"\xff\2" + bytes(13) + b"\1", 80), "no host"),
        (CLIENT, (b"\1\2\3", 80), "4 or 16 bytes"),
    ],
)
def test_what_cannot_be_connected_is_refused(source: Endpoint, destination: Endpoint, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Stack(mtu=1380, seed=1).connect(source, destination)
