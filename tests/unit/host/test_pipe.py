"""Connections inside the process: bytes, bounds, half-closes, resets, and whoever waits meanwhile."""

from __future__ import annotations

from ipaddress import IPv4Address

import anyio
import pytest
from anyio.abc import SocketAttribute

from easytier_host.pipe import BUFFER_BYTES, PipeEnd, pipe
from tests.unit.host.tunnel.helpers import running

pytestmark = pytest.mark.anyio

HERE, THERE = (IPv4Address("10.144.0.1"), 50_000), (IPv4Address("10.144.0.2"), 80)


def ends() -> tuple[PipeEnd, PipeEnd]:
    return pipe(HERE, THERE)


async def test_each_end_knows_both_addresses() -> None:
    near, far = ends()
    assert near.extra(SocketAttribute.local_address) == far.extra(SocketAttribute.remote_address) == ("10.144.0.1", 50_000)
    assert near.extra(SocketAttribute.remote_port) == far.extra(SocketAttribute.local_port) == 80


async def test_bytes_arrive_in_order_and_as_many_as_asked_for() -> None:
    near, far = ends()
    await near.send(b"hello ")
    await near.send(b"")
    await near.send(b"world")
    assert await far.receive(4) == b"hell"
    assert await far.receive() == b"o world"
    await far.send(b"back")
    assert await near.receive() == b"back"


async def test_a_sender_waits_while_the_buffer_is_full_and_no_more_is_kept() -> None:
    near, far = ends()
    data = bytes(range(256)) * (3 * BUFFER_BYTES // 256)
    received = bytearray()
    async with running() as tasks:
        tasks.start_soon(near.send, data)
        await anyio.wait_all_tasks_blocked()
        assert len(far._incoming.data) == BUFFER_BYTES
        while len(received) < len(data):
            received += await far.receive()
            assert len(far._incoming.data) <= BUFFER_BYTES
    assert received == data


async def test_a_half_close_lets_the_other_direction_go_on() -> None:
    near, far = ends()
    await near.send(b"question")
    await near.send_eof()
    assert await far.receive() == b"question"
    with pytest.raises(anyio.EndOfStream):
        await far.receive()
    await far.send(b"answer")
    assert await near.receive() == b"answer"
    with pytest.raises(anyio.ClosedResourceError):
        await near.send(b"more")


async def test_what_was_sent_before_a_close_still_arrives() -> None:
    near, far = ends()
    await near.send(b"last words")
    await near.aclose()
    assert await far.receive() == b"last words"
    with pytest.raises(anyio.EndOfStream):
        await far.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await far.send(b"too late")
    for call in (near.receive(), near.send(b"x"), near.send_eof()):
        with pytest.raises(anyio.ClosedResourceError):
            await call


async def test_a_reset_is_no_end() -> None:
    near, far = ends()
    await near.send(b"half of it")
    near.reset()
    near.reset()
    with pytest.raises(anyio.BrokenResourceError) as caught:
        await far.receive()
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(anyio.BrokenResourceError):
        await far.send(b"x")


async def test_a_reset_after_a_close_changes_nothing() -> None:
    near, far = ends()
    await near.send(b"all")
    await near.aclose()
    near.reset()
    assert await far.receive() == b"all"


@pytest.mark.parametrize("by_own_end", [True, False])
async def test_who_waits_is_told_of_a_reset(by_own_end: bool) -> None:
    near, far = ends()
    expected = anyio.ClosedResourceError if by_own_end else anyio.BrokenResourceError
    told: list[str] = []

    async def receive() -> None:
        with pytest.raises(expected):
            await near.receive()
        told.append("receive")

    async def send() -> None:
        with pytest.raises(expected):
            await near.send(bytes(BUFFER_BYTES + 1))
        told.append("send")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        tasks.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        (near if by_own_end else far).reset()
    assert sorted(told) == ["receive", "send"]
