"""What happens when one side is slower than the other: windows, short sends, bounded steps, deadlines."""

import gc
from pathlib import Path

import pytest

from easytier_kcp_plugin._native import Stack
from tests.unit.native.segments import CLIENT, SERVER, SYN, Tcp, parse
from tests.unit.native.wire import Pair

KIB = 1024


def test_a_reader_that_stops_closes_the_window_and_opens_it_again() -> None:
    pair = Pair(latency=0.01, receive_buffer=64 * KIB, send_buffer=64 * KIB)
    left, right = pair.connect()
    pair.right.reading = False
    data = bytes(range(256)) * 2048
    pair.left.send(left, data)
    pair.rest(300)
    assert pair.right.stack.info(right)["received"] == 64 * KIB
    queued = pair.left.stack.info(left)["queued"]
    assert 48 * KIB <= queued <= 64 * KIB
    assert len(pair.left.unsent[left]) == len(data) - 64 * KIB - queued
    # Probes of a closed window back off.
    assert len([packet for packet in pair.left.sent if parse(packet).payload and len(packet) == 41]) < 20
    pair.right.reading = True
    pair.right.drain(right)
    pair.run(lambda: len(pair.right.received[right]) == len(data), seconds=5)
    assert pair.right.received[right] == data


def test_a_lost_window_update_is_asked_for() -> None:
    lossy: list[bool] = []
    pair = Pair(latency=0.01, lose=lambda packet: bool(lossy) and parse(packet).source == SERVER, receive_buffer=64 * KIB)
    left, right = pair.connect()
    pair.right.reading = False
    pair.left.send(left, bytes(100 * KIB))
    pair.rest(10)
    lossy.append(True)
    pair.right.drain(right)
    pair.rest(5)
    lossy.clear()
    pair.right.reading = True
    pair.deliver(pair.right, right, 100 * KIB, seconds=60)


def test_writable_follows_a_short_send_when_a_quarter_is_free() -> None:
    pair = Pair(latency=0.01, receive_buffer=64 * KIB, send_buffer=16 * KIB)
    left, right = pair.connect()
    pair.right.reading = False
    stack = pair.left.stack
    assert stack.send(left, bytes(16 * KIB)) == 16 * KIB
    pair.rest(1)
    assert "writable" not in pair.left.kinds()
    assert stack.send(left, bytes(60 * KIB)) == 16 * KIB
    assert stack.send(left, b"x") == 0
    pair.rest(1)
    assert pair.left.kinds().count("writable") == 1
    while stack.send(left, bytes(16 * KIB)):
        pair.rest(1)
    asked = pair.left.kinds().count("writable")
    assert pair.right.stack.receive(right, 4 * KIB - 1)
    pair.rest(100)
    assert pair.left.kinds().count("writable") == asked
    pair.right.stack.receive(right, 60 * KIB)
    pair.rest(100)
    assert pair.left.kinds().count("writable") == asked + 1


@pytest.mark.parametrize("limit", [1, 3, 64, 1000])
def test_a_step_gives_out_no_more_than_asked_for(limit: int) -> None:
    pair = Pair(congestion="none")
    left, _ = pair.connect()
    stack = pair.left.stack
    assert stack.send(left, bytes(30_000)) == 30_000
    given: list[bytes] = []
    deadline = None
    while True:
        output, _, _, deadline = stack.step([], 2.0, limit)
        if not output:
            break
        assert len(output) == min(limit, 23 - len(given))
        assert (deadline == 2.0) == (len(output) == limit)
        given += output
    assert sum(len(parse(packet).payload) for packet in given) == 30_000
    assert deadline is not None
    assert deadline > 2.0


def test_a_step_may_only_listen() -> None:
    pair = Pair()
    left, right = pair.connect()
    pair.left.stack.send(left, b"hello")
    assert pair.left.stack.step([], 2.0, 0) == ([], [], None, 2.0)
    [packet] = pair.left.stack.step([], 2.0, 1)[0]
    assert pair.right.stack.step([packet], 2.0, 0) == ([], [("readable", right)], None, 2.0)
    [acknowledgement] = pair.right.stack.step([], 2.0)[0]
    assert parse(acknowledgement).payload == b""


def test_flows_take_turns() -> None:
    pair = Pair(congestion="none")
    first, _ = pair.connect((CLIENT[0], 1000))
    second, _ = pair.connect((CLIENT[0], 2000))
    for connection in (first, second):
        # The window of a SYN is below 64 KiB.
        pair.left.send(connection, b"more")
    pair.settle()
    for connection in (first, second):
        pair.left.stack.send(connection, bytes(200_000))
    output = pair.left.stack.step([], 2.0, 128)[0]
    ports = [parse(packet).source[1] for packet in output]
    assert ports.count(1000) == ports.count(2000) == 64


def test_time_that_goes_back_stands_still() -> None:
    pair = Pair()
    left, _ = pair.connect()
    pair.left.stack.send(left, b"x")
    assert pair.left.stack.step([], 50.0)[3] == 51.0
    assert pair.left.stack.step([], 20.0)[3] == 51.0
    [repeated], _, _, deadline = pair.left.stack.step([], 51.0)
    assert parse(repeated).payload == b"x"
    assert deadline == 53.0


@pytest.mark.parametrize("now", [-1.0, float("nan"), float("inf"), 1e10])
def test_a_time_that_is_none_raises(now: float) -> None:
    target = Stack(mtu=1380, seed=1)
    with pytest.raises(ValueError, match="now"):
        target.step([], now)


def test_an_idle_stack_has_no_deadline() -> None:
    pair = Pair()
    pair.connect()
    pair.rest(5)
    assert pair.left.deadline is None
    assert pair.right.deadline is None


def test_an_idle_connection_takes_no_memory_for_its_buffers() -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4 * KIB

    target = Stack(mtu=1380, seed=1, max_connections=4000, receive_buffer=1 << 20, send_buffer=1 << 20)
    gc.collect()
    before = resident()
    for port in range(1, 3001):
        target.accept_syn(Tcp((CLIENT[0], port), SERVER, SYN).pack(), 0.0)
    assert len(target.step([], 0.0, 4000)[0]) == 3000
    assert resident() - before < 3000 * 8 * KIB


def test_used_buffers_are_kept_within_a_bound() -> None:
    target = Stack(mtu=1380, seed=1, receive_buffer=1 << 20, send_buffer=1 << 20)
    connections = [target.accept_syn(Tcp((CLIENT[0], port), SERVER, SYN).pack(), 0.0) for port in range(1, 101)]
    for connection in connections:
        target.abort(connection)
    target.step([], 0.0, 1000)
    assert target.counters()["connections"] == 0
    assert target.counters()["pooled_bytes"] == 32 << 20
