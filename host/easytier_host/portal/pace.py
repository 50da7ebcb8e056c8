"""What keeps the portal from taking the node's time: long answers made in slices, and an allowance of questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import anyio
from anyio.lowlevel import checkpoint

Item = TypeVar("Item")

# Ours.
SLICE: Final = 256
"""Entries made before packets get their turn: about two milliseconds."""
RATE: Final = 100.0
"""Questions a second that a portal answers in all, after the first `BURST`; then they wait.  Stock asks nine at most."""
BURST: Final = 200.0


async def gradually(items: Iterable[Item]) -> list[Item]:
    """All of `items`, with a turn for other tasks after each slice."""
    found: list[Item] = []
    for item in items:
        found.append(item)
        if len(found) % SLICE == 0:
            await checkpoint()
    return found


class Allowance:
    """A bucket of questions that fills with time; `clock` in seconds."""

    def __init__(self, clock: Callable[[], float], *, rate: float = RATE, burst: float = BURST) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._filled_at = clock()

    async def take(self) -> None:
        """Return at once while there is one left, else when it is this caller's turn."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._filled_at) * self._rate) - 1
        self._filled_at = now
        if self._left < 0:
            try:
                await anyio.sleep(-self._left / self._rate)
            except BaseException:
                # Who gave up asks nothing; the others need not wait for it.
                self._left += 1
                raise
