"""How long a work in slices keeps others waiting, and how long it has to rest."""

from __future__ import annotations

from collections.abc import Generator

import anyio
import pytest

from easytier_host.turns import (
    IDLE_PASS,
    INTERVAL,
    LONGEST_PAUSE,
    PAUSE_FACTOR,
    SHORTEST_PAUSE,
    SLICE,
    Pace,
    Turns,
    pace_of_loop,
)
from tests.unit.host.helpers import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Instead of sleeping."""
    times: list[float] = []

    async def sleep(seconds: float) -> None:
        times.append(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
    return times


async def give_beside_others(turns: Turns, clock: FakeClock, seconds: float) -> None:
    """`seconds` is what the others take."""

    async def others() -> None:
        clock.advance(seconds)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await turns.give()


async def test_its_own_time_counts_and_not_that_of_others(slept: list[float], clock: FakeClock) -> None:
    turns = Turns(Pace(clock))
    clock.advance(0.1)
    await give_beside_others(turns, clock, 5.0)
    clock.advance(0.1)
    turns.stop()
    clock.advance(7.0)
    await turns.rest()
    # The rest among others was one already.
    assert slept == [pytest.approx(INTERVAL), pytest.approx(0.2 * PAUSE_FACTOR - INTERVAL)]


async def test_a_rest_has_an_end(slept: list[float], clock: FakeClock) -> None:
    turns = Turns(Pace(clock))
    clock.advance(10.0)
    await turns.rest()
    assert slept == [LONGEST_PAUSE]


async def test_there_is_always_a_rest(slept: list[float], clock: FakeClock) -> None:
    await Turns(Pace(clock)).rest()
    assert slept == [SHORTEST_PAUSE]


async def test_an_idle_loop_goes_on_at_once(slept: list[float], clock: FakeClock) -> None:
    turns = Turns(Pace(clock))
    await give_beside_others(turns, clock, IDLE_PASS / 2)
    assert slept == []
    await give_beside_others(turns, clock, IDLE_PASS * 2)
    assert slept == [pytest.approx(INTERVAL)]


async def test_works_of_one_node_have_their_slices_one_after_the_other(slept: list[float], clock: FakeClock) -> None:
    pace = Pace(clock)
    works = [Turns(pace) for _ in range(3)]
    for turns in works:
        await give_beside_others(turns, clock, 0.001)
    assert slept == [pytest.approx(number * INTERVAL - (number - 1) * 0.001) for number in (1, 2, 3)]
    clock.advance(1.0)
    await give_beside_others(works[0], clock, 0.001)
    assert slept[-1] == pytest.approx(INTERVAL)


async def test_nobody_waits_longer_than_a_slice_and_a_step(slept: list[float], clock: FakeClock) -> None:
    step = SLICE / 7
    longest = 0.0

    def work() -> Generator[None, None, str]:
        for _ in range(100):
            clock.advance(step)
            yield
        return "done"

    async def others() -> None:
        nonlocal longest
        while True:
            began = clock.now
            await anyio.lowlevel.checkpoint()
            longest = max(longest, clock.now - began)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await anyio.lowlevel.checkpoint()
        assert await Turns(Pace(clock)).run(work()) == "done"
        tasks.cancel_scope.cancel()
    assert SLICE <= longest <= SLICE + step


async def test_short_works_share_a_slice(clock: FakeClock) -> None:
    turns = Turns(Pace(clock))
    for _ in range(4):
        assert not turns.is_over()
        turns.begin()
        clock.advance(SLICE / 3.5)
        turns.stop()
        clock.advance(1.0)
    assert turns.is_over()


async def test_what_a_work_raises_comes_out(clock: FakeClock) -> None:
    def work() -> Generator[None, None, None]:
        yield
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await Turns(Pace(clock)).run(work())


async def test_nodes_of_one_loop_share_its_pace() -> None:
    assert pace_of_loop() is pace_of_loop()


def test_another_loop_has_its_own_pace() -> None:
    async def pace() -> Pace:
        return pace_of_loop()

    assert anyio.run(pace) is not anyio.run(pace)
