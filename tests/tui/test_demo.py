"""The demo's bad line and its traffic, apart from the nodes."""

from __future__ import annotations

import math
import socket

import anyio
import pytest
from anyio.abc import SocketStream

from easytier_host.demo import traffic
from easytier_host.demo.line import BadLine, Direction, Line

PERFECT = Line(rate_bits=8e6, delay=0.05, loss=0.0, queue_bytes=3000)


def test_datagrams_leave_at_the_rate_and_arrive_after_the_delay() -> None:
    direction = Direction(PERFECT, 1)
    assert direction.next_due() == math.inf
    for number in range(3):
        direction.offer(bytes([number]) * 1000, 10.0)
    assert direction.next_due() == pytest.approx(10.051)
    assert direction.due(10.0505) == []
    assert [datagram[0] for datagram in direction.due(10.0525)] == [0, 1]
    assert [datagram[0] for datagram in direction.due(11.0)] == [2]


def test_a_full_queue_drops_its_tail() -> None:
    direction = Direction(PERFECT, 1)
    for _ in range(5):
        direction.offer(bytes(1000), 0.0)
    assert direction.overflowed == 2
    assert len(direction.due(1.0)) == 3


def test_a_queue_tells_when_it_is_empty() -> None:
    direction = Direction(PERFECT, 1)
    assert direction.queued(9.0) == 0
    for _ in range(2):
        direction.offer(bytes(1000), 10.0)
    assert direction.queued(10.0) == pytest.approx(0.002)
    # What is on its way to the other end is no longer in it.
    assert direction.queued(10.002) == 0


def test_losses_are_those_of_the_seed() -> None:
    line = Line(rate_bits=1e9, delay=0.0, loss=0.1, queue_bytes=10**9)
    lost = []
    for seed in (1, 1, 2):
        direction = Direction(line, seed)
        for number in range(2000):
            direction.offer(b"x", float(number))
        lost.append(direction.lost)
    assert lost[0] == lost[1] != lost[2]
    assert 150 < lost[0] < 250


@pytest.mark.anyio
async def test_a_line_joins_two_sockets_both_ways() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        for sock in (far, near):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        line = BadLine(far.getsockname(), Line(rate_bits=1e9, delay=0.01, loss=0.0, queue_bytes=10**6))
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(line.run)
                began = anyio.current_time()
                near.sendto(b"there", line.address)
                await anyio.wait_readable(far)
                data, sender = far.recvfrom(100)
                assert data == b"there"
                far.sendto(b"back", sender)
                await anyio.wait_readable(near)
                assert near.recvfrom(100) == (b"back", line.address)
                assert anyio.current_time() - began >= 0.02
                tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_the_server_sends_takes_and_survives_rubbish() -> None:
    async def talk(stream: SocketStream) -> None:
        await traffic.ask(stream, 50_000)
        await stream.send(b"-30000 0\n" + bytes(30_000))
        await traffic.ask(stream, 10)
        await stream.send(b"please\n")
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(traffic.serve)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await talk(stream)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await traffic.ask(stream, 1)
            tasks.cancel_scope.cancel()
