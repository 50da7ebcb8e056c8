"""How long a work in turns has to rest."""

from __future__ import annotations

import time

import anyio
import pytest

from easytier_host.turns import LONGEST_PAUSE, PAUSE_FACTOR, SHORTEST_PAUSE, Turns

pytestmark = pytest.mark.anyio


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Instead of sleeping."""
    times: list[float] = []

    async def sleep(seconds: float) -> None:
        times.append(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
    return times


async def test_its_own_time_counts_and_not_that_of_others(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(anyio, "current_time", lambda: now)

    async def others() -> None:
        nonlocal now
        now += 5.0

    turns = Turns()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        now += 0.1
        await turns.give()
        now += 0.1
        turns.stop()
        now += 7.0
        await turns.rest()
    assert now == pytest.approx(112.2)
    assert slept == [pytest.approx(0.2 * PAUSE_FACTOR)]


async def test_a_rest_has_an_end(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(anyio, "current_time", lambda: now)
    turns = Turns()
    now += 10.0
    await turns.rest()
    assert slept == [LONGEST_PAUSE]


async def test_there_is_always_a_rest(slept: list[float]) -> None:
    began = time.monotonic()
    await Turns().rest()
    assert slept[0] >= SHORTEST_PAUSE
    assert slept[0] <= SHORTEST_PAUSE + PAUSE_FACTOR * (time.monotonic() - began)
