"""Connections of the user-space stack, both ends of it, over a line in memory: bytes, ends, losses, back-pressure."""

from __future__ import annotations

import random
from itertools import count
from typing import Any, cast

import anyio
import pytest
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream

from easytier_hooks.streams import TcpConnection
from tests.unit.host.tunnel.helpers import until
from tests.unit.kcp_plugin.stack_links import broken_by_reset, everything, joined

pytest.importorskip("easytier_kcp_plugin._native", reason="the native module was not built")

# Behind the check: they need the native module.
from easytier_kcp_plugin.stack import driver, smoltcp

pytestmark = pytest.mark.anyio

MEGABYTE = random.Random(1).randbytes(1_000_000)


async def finished(connection: TcpConnection, data: bytes) -> None:
    await connection.send(data)
    await connection.send_eof()


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
async def test_bytes_pass_both_ways_and_each_direction_ends_by_itself(ipv6: bool) -> None:
    async with joined() as ends:
        near, far = await ends.open(ipv6=ipv6)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finished, near, MEGABYTE)
            assert await everything(far) == MEGABYTE
        with pytest.raises(EndOfStream):
            await far.receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finished, far, MEGABYTE[::-1])
            assert await everything(near) == MEGABYTE[::-1]
        await near.aclose()
        await far.aclose()


async def test_super_packets_carry_bulk() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finished, near, MEGABYTE)
            assert await everything(far) == MEGABYTE
        assert ends.near_link.written < len(MEGABYTE) / 10_000


async def test_what_is_lost_is_repeated() -> None:
    packets = count()
    async with joined() as ends:
        near, far = await ends.open()
        # The loss of a super-packet would be that of a whole window.
        ends.near_link.splits = True
        ends.near_link.lost = ends.far_link.lost = lambda _: next(packets) % 40 == 20
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finished, near, MEGABYTE[:150_000])
            assert await everything(far) == MEGABYTE[:150_000]
        assert next(packets) > 100


async def test_a_reader_that_stops_makes_the_sender_wait() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        sent = 0

        async def push() -> None:
            nonlocal sent
            for _ in range(10):
                await near.send(MEGABYTE)
                sent += len(MEGABYTE)
            await near.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push)
            await until(lambda: ends.near_link.written > 10)
            before = -1
            while before != ends.near_link.written:
                before = ends.near_link.written
                await anyio.sleep(0.05)
            buffers = smoltcp.OVERLAY_RECEIVE_BUFFER + smoltcp.OVERLAY_SEND_BUFFER
            assert sent <= buffers
            assert len(await everything(far)) == 10 * len(MEGABYTE)


async def test_in_a_crowd_buffers_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "FULL_SIZED", 1)
    async with joined() as ends:
        await ends.open(1)
        near, far = await ends.open(2)
        with anyio.move_on_after(0.2) as full:
            await near.send(MEGABYTE)
        assert full.cancelled_caught
        for end, what in ((near, "queued"), (far, "received")):
            held = cast("Any", end)._driver.native.info(cast("Any", end).number)[what]
            assert driver.SMALL_BUFFER / 2 < held <= driver.SMALL_BUFFER


async def test_a_close_still_delivers_what_was_sent() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        await near.send(MEGABYTE[:400_000])
        await near.aclose()
        with pytest.raises(ClosedResourceError):
            await near.send(b"more")
        assert await everything(far) == MEGABYTE[:400_000]


async def test_bytes_that_nobody_will_read_are_answered_with_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TIME_WAIT", 0.1)
    async with joined() as ends:
        near, far = await ends.open()
        await far.aclose()
        assert await everything(near) == b""
        await near.send(b"unwanted")
        await until(lambda: ends.near_link.claims == 0)
        with pytest.raises(BrokenResourceError):
            await near.send(b"more")

        near, far = await ends.open(40_001)
        await near.send(b"unwanted")
        await until(lambda: cast("Any", far)._has_unread())
        await far.aclose()
        await broken_by_reset(near)


async def test_a_reset_ends_both_directions_for_both_ends() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broken_by_reset, far)
            await near.send(b"")
            near.reset()
            for call in (near.receive(), near.send(b"x"), near.send_eof()):
                with pytest.raises(ClosedResourceError):
                    await call
        # Afterwards nothing has an effect.
        near.reset()
        await near.aclose()
        far.reset()


async def test_a_reset_is_felt_by_a_sender_that_has_not_read_everything() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        await far.send(b"last words")
        await until(lambda: cast("Any", near)._has_unread())
        far.reset()
        with pytest.raises(BrokenResourceError) as caught, anyio.fail_after(5):
            await send_for_ever(near)
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert await near.receive() == b"last words"
        await broken_by_reset(near)


async def send_for_ever(connection: TcpConnection) -> None:
    while True:
        await connection.send(b"x")


async def test_one_call_at_a_time_in_each_direction() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(near.receive)
            await until(lambda: cast("Any", near)._readable is not None)
            with pytest.raises(BusyResourceError):
                await near.receive()
            await far.send(b"at last")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(near.send, bytes(10_000_000))
            await until(lambda: cast("Any", near)._writable is not None)
            with pytest.raises(BusyResourceError):
                await near.send(b"x")
            tasks.cancel_scope.cancel()
