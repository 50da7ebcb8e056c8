"""Notices that this machine has slept, or that the process was stopped: then its neighbours have given it up.

`time.monotonic` stands still while a machine is suspended, so no time-out of ours sees the gap; CLOCK_BOOTTIME runs on (Linux,
clock_gettime(2)).  A step of the wall clock moves neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Ours.
LONGEST_STALL: Final = 5.0
"""Seconds without a look that a busy machine may take; a stock neighbour gives up after 7 to 9."""


def boot_time() -> float:
    """Seconds since the machine was started, with those in which it was suspended where there is a clock that knows."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class SleepWatch:
    """To be asked often, at intervals well below `LONGEST_STALL`."""

    def __init__(self, clock: Callable[[], float] = boot_time) -> None:
        self._clock = clock
        self._last_look = clock()

    def slept(self) -> float:
        """Seconds since the last question, if they are more than a busy machine explains; else 0."""
        before, self._last_look = self._last_look, self._clock()
        gap = self._last_look - before
        return gap if gap > LONGEST_STALL else 0.0
