"""Work that takes long, done in slices, with all others of the event loop in between, and for a share of the time.

A slice is a quarter of a millisecond, so nobody waits longer for it.  After each the others have their turn, and if there were
any, the next slice, of this work or another one, comes ten milliseconds later: a packet that needs ten turns of the
loop meets one slice, not ten.  An idle loop goes on at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import anyio
from anyio.lowlevel import RunVar, checkpoint

from easytier_host.steps import Result, Steps

# Ours, in seconds.
SLICE: Final = 0.00025
INTERVAL: Final = 0.01
"""Between two slices of one event loop while others are busy: a fortieth of the time."""
IDLE_PASS: Final = 0.0001
"""A turn of the loop takes less if nobody else has anything to do."""
PAUSE_FACTOR: Final = 9.0
"""The rest after a work, in times of its length, the rests in it included: it takes a tenth of the time at most."""
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
"""Of large networks on slow machines the news come late otherwise."""


class Pace:
    """When the slices of one event loop may be, whatever works they are of: each waits for those that were asked for before
    it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._last = -math.inf

    def next_slice(self) -> float:
        """The seconds until one more slice may be, which is taken for it."""
        now = self.clock()
        self._last = max(self._last, now) + INTERVAL
        return self._last - now


_pace_of_loop: RunVar[Pace] = RunVar("pace")


def pace_of_loop() -> Pace:
    """The one that all nodes of this event loop share."""
    try:
        return _pace_of_loop.get()
    except LookupError:
        _pace_of_loop.set(pace := Pace())
        return pace


class Turns:
    """One work that begins now, or several that share their slices.  What others do meanwhile is not its time."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._clock = clock = pace.clock
        self._spent = 0.0
        self._rested = 0.0
        self._in_slice = 0.0
        self._began: float | None = clock()

    def begin(self) -> None:
        """What follows is its time again."""
        if self._began is None:
            self._began = self._clock()

    def stop(self) -> None:
        """What follows is not its time, up to the next `begin`, `give` or `run`."""
        if self._began is not None:
            took = self._clock() - self._began
            self._spent += took
            self._in_slice += took
            self._began = None

    def is_over(self) -> bool:
        """Whether a slice is used up: then `give` is due."""
        running = 0.0 if self._began is None else self._clock() - self._began
        return self._in_slice + running >= SLICE

    async def give(self) -> None:
        """Let the others have their turn."""
        self.stop()
        self._in_slice = 0.0
        left = self._clock()
        await checkpoint()
        if self._clock() - left > IDLE_PASS:
            rest = self._pace.next_slice()
            self._rested += rest
            await anyio.sleep(rest)
        self.begin()

    async def run(self, steps: Steps[Result]) -> Result:
        """Do this in slices; raises what it raises."""
        self.begin()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: Result = end.value
                return result
            if self.is_over():
                await self.give()

    async def rest(self) -> None:
        """The work is done: wait as long as the next one may not begin."""
        self.stop()
        await anyio.sleep(max(SHORTEST_PAUSE, min(LONGEST_PAUSE, self._spent * PAUSE_FACTOR) - self._rested))
