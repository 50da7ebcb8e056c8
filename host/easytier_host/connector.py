"""Keeps the node connected to the peers that its configuration names, one loop an URL, with back-off.

::

    dial --tunnel--> shake hands --neighbour--> wait until it is gone --> pause --> dial ...
      \\__________________ failure: log when the reason changes, pause, twice as long each time, 1 to 10 s ____/
"""

from __future__ import annotations

import logging
from collections.abc import Callable
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
LONGEST_PAUSE: Final = 10.0
STEADY_AFTER: Final = 10.0
"""A connection that lived this long clears the back-off."""


async def keep_connected(
    url: TunnelUrl, tasks: TaskGroup, admission: Admission, clock: Callable[[], float], jitter: Callable[[], float]
) -> None:
    """Dial `url` for ever; `jitter` gives numbers from 0 to 1 that keep many nodes from dialling in step."""
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
            await conn.gone.wait()
        if clock() - began >= STEADY_AFTER:
            pause = FIRST_PAUSE
        await anyio.sleep(pause * (0.75 + 0.5 * jitter()))
        pause = min(pause * 2, LONGEST_PAUSE)
