"""Work that takes long, done in turns with all others of the event loop, and for a share of the time."""

from __future__ import annotations

from typing import Final

import anyio
from anyio.lowlevel import checkpoint

# Ours.
PAUSE_FACTOR: Final = 9.0
"""The rest after a work, in times of its length: it takes a tenth of the time at most."""
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
"""Of large networks on slow machines the news come late otherwise."""


class Turns:
    """One work that begins now.  What others do in its pauses is not its time."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._began: float | None = anyio.current_time()

    async def give(self) -> None:
        """Let the others have their turn."""
        self.stop()
        await checkpoint()
        self._began = anyio.current_time()

    def stop(self) -> None:
        """What follows, up to the next `give`, is not its time either."""
        if self._began is not None:
            self._spent += anyio.current_time() - self._began
            self._began = None

    async def rest(self) -> None:
        """The work is done: wait as long as the next one may not begin."""
        self.stop()
        await anyio.sleep(max(SHORTEST_PAUSE, min(LONGEST_PAUSE, self._spent * PAUSE_FACTOR)))
