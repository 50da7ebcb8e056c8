"""Notices that the underlay is not what it was: an interface came up, an address changed.

The kernel says so (`kernel_news`); what it says is not read, only that it says something.  Then the neighbours to whom packets
leave from another address than before are asked whether they still know us, and who waits before dialling again does not wait
any longer.  Without netlink, silence tells the same later.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

import anyio

from easytier_host.kernel_news import ADDRESSES, LINKS, open_news, read_news
from easytier_host.peer_conn import PeerConn

logger = logging.getLogger("easytier.underlay")

# Ours, in seconds.
SETTLE: Final = 0.2
"""An interface that comes up brings a handful of messages."""
REST: Final = 1.0
"""Between two reactions; machines with many containers have news all the time."""
LOOK_INTERVAL: Final = 5.0
"""Between looks at which address packets to new neighbours leave from."""


class UnderlayWatch:
    """`doubt` is called with a connection that leaves from another address than before, `hurry` once for each piece of news."""

    def __init__(
        self,
        connections: Callable[[], Iterable[PeerConn]],
        doubt: Callable[[PeerConn], object],
        hurry: Callable[[], object],
        source_of: Callable[[str], str | None] | None = None,
    ) -> None:
        self._connections = connections
        self._doubt = doubt
        self._hurry = hurry
        self._source_of = source_of or source_address
        self._sources: dict[PeerConn, str] = {}

    async def run(self) -> None:
        """Watch for ever, where the system has news to give."""
        news = open_news(LINKS | ADDRESSES)
        if news is None:
            return
        with news:
            while True:
                with anyio.move_on_after(LOOK_INTERVAL) as quiet:
                    await anyio.wait_readable(news)
                if quiet.cancelled_caught:
                    self.look()
                    continue
                await anyio.sleep(SETTLE)
                read_news(news)
                self.react()
                await anyio.sleep(REST)

    def look(self) -> list[PeerConn]:
        """Note from where packets leave now; returns the connections for which that is another address than it was."""
        before, self._sources = self._sources, {}
        changed = []
        for conn in self._connections():
            known = before.get(conn)
            # What nobody can reach at the moment is not asked for either: it may come back as it was.
            source = self._source_of(conn.tunnel.info.remote_url) or known
            if source is not None:
                self._sources[conn] = source
                if known is not None and known != source:
                    changed.append(conn)
        return changed

    def react(self) -> None:
        """There is news."""
        for conn in self.look():
            logger.info("packets to peer %d leave from %s now; asking it", conn.peer_id, self._sources[conn])
            self._doubt(conn)
        self._hurry()


def source_address(url: str) -> str | None:
    """The address of this machine from which packets to the host of `url` leave; None without a way there."""
    parts = urlsplit(url)
    if parts.scheme == "ring" or not parts.hostname or not parts.port:
        return None
    family = socket.AF_INET6 if ":" in parts.hostname else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Sends nothing: it asks the routing table.
            probe.connect((parts.hostname, parts.port))
            return str(probe.getsockname()[0])
    except OSError:
        return None
