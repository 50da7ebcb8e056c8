"""The pair of tunnels in memory keeps the promises of every tunnel."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from easytier_host.tunnel import ring
from tests.unit.host.tunnel.helpers import Observer, numbered, running, until

pytestmark = pytest.mark.anyio


async def test_frames_cross_in_order_and_in_batches_on_a_later_turn() -> None:
    async with running() as tasks:
        left, right = ring.pair(tasks)
        seen = Observer(right)
        assert left.send(numbered(10))
        assert left.send(numbered(5, first=10))
        assert seen.batches == []
        await until(lambda: len(seen.frames) == 15)
        assert seen.batches == [numbered(15)]
        assert (left.info.local_url, left.info.remote_url) == (right.info.remote_url, right.info.local_url)


async def test_a_full_ring_is_congested_and_then_drops_the_newest() -> None:
    async with running() as tasks:
        left, right = ring.pair(tasks)
        seen = Observer(right)
        assert left.send(numbered(ring.CONGESTED_FRAMES - 1))
        assert not left.send(numbered(1000, first=ring.CONGESTED_FRAMES - 1))
        assert left.dropped_frames == ring.CONGESTED_FRAMES - 1 + 1000 - ring.RING_FRAMES
        await left.wait_writable()
        assert seen.frames == numbered(ring.RING_FRAMES)
        assert left.send(numbered(1))


async def test_frames_of_a_forbidden_size_are_dropped() -> None:
    async with running() as tasks:
        left, right = ring.pair(tasks)
        seen = Observer(right)
        left.send([bytes(15), bytes(16), bytes(2001), bytes(2000)])
        await until(lambda: seen.frames)
        assert seen.frames == [bytes(16), bytes(2000)]
        assert left.dropped_frames == 2


async def test_the_other_end_hears_of_a_close_after_the_last_frames() -> None:
    async with running() as tasks:
        left, right = ring.pair(tasks)
        ours, theirs = Observer(left), Observer(right)
        left.send(numbered(3))
        left.close("enough")
        left.close("again")
        assert left.closed
        assert ours.reasons == ["enough"]
        assert theirs.reasons == []
        await until(lambda: theirs.reasons)
        assert theirs.reasons == ["closed by the other side"]
        assert theirs.frames == numbered(3)
        left.send(numbered(2))
        right.send(numbered(1))
        assert (left.dropped_frames, right.dropped_frames) == (2, 1)
        assert ours.batches == []


async def test_closing_lets_go_of_a_waiting_sender() -> None:
    async with running() as tasks:
        left, right = ring.pair(tasks)
        right.on_frames = lambda frames: right.close()
        assert not left.send(numbered(1000))
        await left.wait_writable()
        await until(lambda: left.closed)


async def test_cancelling_the_tasks_closes_both_ends() -> None:
    async with anyio.create_task_group() as tasks:
        left, right = ring.pair(tasks)
        ours, theirs = Observer(left), Observer(right)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert left.closed
    assert right.closed
    assert len(ours.reasons) == len(theirs.reasons) == 1
