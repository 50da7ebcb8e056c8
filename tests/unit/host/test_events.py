"""The board of a node's events: order, bounds, and how it ends."""

from __future__ import annotations

import gc

import anyio
import pytest

from easytier_host.events import MAX_WAITING, EventBoard, NodeEvent

pytestmark = pytest.mark.anyio


def event(number: int) -> NodeEvent:
    return NodeEvent("peer_joined", number, "")


async def test_every_reader_gets_what_was_published_after_it_subscribed() -> None:
    board = EventBoard()
    first = board.subscribe()
    board.publish(event(1))
    second = board.subscribe()
    board.publish(event(2))
    board.close()
    assert [item async for item in first] == [event(1), event(2)]
    assert [item async for item in second] == [event(2)]


async def test_a_waiting_reader_is_woken() -> None:
    board = EventBoard()
    seen: list[NodeEvent] = []

    async def read() -> None:
        seen.extend([item async for item in reader])

    reader = board.subscribe()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            board.publish(event(1))
            await anyio.wait_all_tasks_blocked()
            board.publish(event(2))
            board.close()
    assert seen == [event(1), event(2)]


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    board = EventBoard()
    reader = board.subscribe()
    for number in range(MAX_WAITING + 44):
        board.publish(event(number))
    board.close()
    first, *rest = [item async for item in reader]
    assert (first.kind, first.peer_id) == ("missed", 44)
    assert rest == [event(number) for number in range(44, MAX_WAITING + 44)]


async def test_a_reader_that_stops_is_forgotten() -> None:
    board = EventBoard()
    reader = board.subscribe()
    board.publish(event(1))
    assert await anext(reader) == event(1)
    await reader.aclose()  # type: ignore[attr-defined]
    assert not board._readers


async def test_a_closed_board_has_nothing_to_read() -> None:
    board = EventBoard()
    board.close()
    assert [item async for item in board.subscribe()] == []


async def test_a_subscription_that_is_dropped_unread_is_forgotten() -> None:
    board = EventBoard()
    kept = board.subscribe()
    for _ in range(10):
        board.subscribe()
    gc.collect()
    assert len(board._readers) == 1
    board.publish(event(1))
    board.close()
    assert [item async for item in kept] == [event(1)]
    assert len(board._readers) == 0
