"""Gaps in time: which ones a busy machine explains, and which mean that it has slept."""

from __future__ import annotations

import time

import pytest

from easytier_host.sleep_watch import SleepWatch, boot_time
from tests.unit.host.helpers import FakeClock


def test_a_gap_is_told_once() -> None:
    clock = FakeClock()
    watch = SleepWatch(clock)
    clock.advance(40.0)
    assert watch.slept() == 40.0
    clock.advance(0.5)
    assert watch.slept() == 0.0


@pytest.mark.parametrize("pause", [0.5, 4.0, 5.0])
def test_a_busy_machine_has_not_slept(pause: float) -> None:
    clock = FakeClock()
    watch = SleepWatch(clock)
    for _ in range(10):
        clock.advance(pause)
        assert watch.slept() == 0.0


def test_the_clock_is_one_that_runs_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert boot_time() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1.0)
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert boot_time() == pytest.approx(time.monotonic(), abs=1.0)
