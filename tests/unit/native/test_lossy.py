"""Bytes over a line that loses, reorders and repeats packets, with fixed seeds."""

from random import Random

import pytest

from tests.unit.native.segments import parse
from tests.unit.native.wire import Pair


@pytest.mark.parametrize("congestion", ["reno", "cubic"])
@pytest.mark.parametrize("seed", range(4))
def test_bytes_arrive_whole_over_a_bad_line(congestion: str, seed: int) -> None:
    random = Random(seed)
    pair = Pair(
        latency=0.01,
        jitter=0.005,
        duplicates=0.02,
        lose=lambda packet: random.random() < 0.03,
        random=random,
        congestion=congestion,
        vnet_header=bool(seed % 2),
        receive_buffer=64 * 1024,
    )
    pair.right.finishing = True
    left, right = pair.connect()
    up, down = random.randbytes(300_000), random.randbytes(200_000)
    pair.left.send(left, up)
    pair.right.send(right, down)
    pair.run(
        lambda: len(pair.right.received.get(right, b"")) == len(up) and len(pair.left.received.get(left, b"")) == len(down)
    )
    pair.left.stack.finish(left)
    pair.rest()
    assert pair.right.received[right] == up
    assert pair.left.received[left] == down
    assert pair.left.closed() == ["normal"]
    assert pair.right.closed() == ["normal"]


def test_connections_after_lossy_ones_start_clean() -> None:
    """The memory of a connection that ended in the middle of a recovery serves the next one."""
    random = Random(5)
    pair = Pair(latency=0.005, lose=lambda packet: random.random() < 0.1, random=random, time_wait=0.0)
    for number in range(15):
        left, right = pair.connect((b"\x0a\0\0\1", 10_000 + number))
        data = random.randbytes(60_000)
        pair.left.send(left, data)
        pair.deliver(pair.right, right, 30_000)
        if number % 3 == 0:
            pair.left.stack.abort(left)
            continue
        pair.deliver(pair.right, right, len(data))
        assert pair.right.received[right] == data
        pair.left.stack.abort(left)
    pair.lose = lambda packet: False
    pair.rest()
    assert pair.left.stack.counters()["connections"] == 0


def test_an_early_loss_costs_no_timeout() -> None:
    """One lost packet of many is repeated after three duplicates, not after a second."""
    count = 0

    def lose_one(packet: bytes) -> bool:
        nonlocal count
        count += len(packet) > 1000
        return count == 40 and len(packet) > 1000

    pair = Pair(latency=0.01, lose=lose_one)
    left, right = pair.connect()
    start = pair.now
    pair.left.send(left, bytes(300_000))
    pair.deliver(pair.right, right, 300_000)
    sizes = [len(parse(packet).payload) for packet in pair.left.sent]
    assert sum(sizes) == 300_000 + 1340
    assert pair.now - start < 1.0
