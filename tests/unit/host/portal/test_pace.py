"""Long answers leave room for packets, and questions have a rate."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from easytier_host.portal.pace import SLICE, Allowance, gradually
from tests.unit.host.helpers import FakeClock

pytestmark = pytest.mark.anyio


async def test_others_get_a_turn_after_each_slice() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        assert await gradually(iter(range(4 * SLICE + 1))) == list(range(4 * SLICE + 1))
        tasks.cancel_scope.cancel()
    assert turns >= 4


async def test_a_burst_is_free_and_what_follows_waits_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(round(seconds, 6))

    monkeypatch.setattr(anyio, "sleep", sleep)
    clock = FakeClock()
    allowance = Allowance(clock, rate=10, burst=3)
    for _ in range(5):
        await allowance.take()
    assert waited == [0.1, 0.2]
    clock.advance(0.35)
    await allowance.take()
    assert waited == [0.1, 0.2]
    clock.advance(1000)
    for _ in range(4):
        await allowance.take()
    assert waited == [0.1, 0.2, 0.1]


async def test_whoever_gives_up_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def gives_up(seconds: float) -> None:
        waited.append(seconds)
        raise TimeoutError

    monkeypatch.setattr(anyio, "sleep", gives_up)
    allowance = Allowance(FakeClock(), rate=10, burst=1)
    await allowance.take()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await allowance.take()
    assert waited == [0.1, 0.1, 0.1]
