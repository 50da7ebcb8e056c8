"""Keeps the node connected to the peers that its configuration names, one loop an URL, with back-off.

::

    dial --tunnel--> shake hands --neighbour--> wait until it is gone --> pause, short if it was there for long --> dial ...
      \\__________________ failure: log when the reason changes, pause, twice as long each time, 1 to 4 s ____/
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from easytier_host import tunnel as tunnels
from easytier_host.admission import Admission
from easytier_host.handshake import HandshakeError
from easytier_host.tunnel.base import TunnelError
from easytier_host.tunnel.url import TunnelUrl

logger = logging.getLogger("easytier.connector")

# Ours, in seconds.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 4.0
"""An attempt is one small packet, or three; a user who is back on the net waits for the next one."""
SHORT_PAUSE: Final = 0.2
STEADY_AFTER: Final = 10.0
"""A connection that lived this long clears the back-off, and is made anew after the short pause: most neighbours that go come
back at once."""


class Connectors:
    """The loops of one node."""

    def __init__(self, tasks: TaskGroup, admission: Admission, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._tasks = tasks
        self._admission = admission
        self._clock = clock
        self._jitter = jitter
        self._loops: dict[str, anyio.CancelScope] = {}
        """By URL, as it stands in the configuration."""
        self._hurry = anyio.Event()

    def hurry(self) -> None:
        """The network has changed: whoever waits before dialling again need not."""
        self._hurry.set()
        self._hurry = anyio.Event()

    async def pause(self, seconds: float) -> None:
        """Sleep, at most until `hurry`."""
        with anyio.move_on_after(seconds):
            await self._hurry.wait()

    def replace(self, urls: Iterable[str]) -> None:
        """Keep these connected, and no others: a connection that was made for another URL is closed.  Raises `TunnelError`
        for what is no URL of a tunnel."""
        wanted = {text: TunnelUrl.parse(text) for text in urls}
        for text in self._loops.keys() - wanted.keys():
            self._loops.pop(text).cancel()
        for text in wanted.keys() - self._loops.keys():
            scope = self._loops[text] = anyio.CancelScope()
            self._tasks.start_soon(self._keep, wanted[text], scope, name=f"connect {text}")

    async def _keep(self, url: TunnelUrl, scope: anyio.CancelScope) -> None:
        with scope:
            await keep_connected(url, self._tasks, self._admission, self._clock, self._jitter, self.pause)


async def keep_connected(
    url: TunnelUrl,
    tasks: TaskGroup,
    admission: Admission,
    clock: Callable[[], float],
    jitter: Callable[[], float],
    sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
) -> None:
    """Dial `url` for ever; `jitter` gives numbers from 0 to 1 that keep many nodes from dialling in step.

    `sleep` may return early.
    """
    pause = FIRST_PAUSE
    told: str | None = None
    while True:
        began = clock()
        try:
            tunnel = await tunnels.connect(url, tasks)
            conn = await admission.join(tunnel)
        except (TunnelError, HandshakeError) as error:
            reason = str(error).removeprefix(f"{url}: ")
            if reason != told:
                told = reason
                logger.warning("no connection to %s: %s; trying again", url, reason)
        else:
            told = None
            try:
                await conn.gone.wait()
            finally:
                # Told to dial it no more, or the node stops; else it is closed.
                conn.tunnel.close("this node connects there no more")
        if clock() - began >= STEADY_AFTER:
            pause = FIRST_PAUSE if told else SHORT_PAUSE
        await sleep(pause * (0.75 + 0.5 * jitter()))
        pause = min(max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
