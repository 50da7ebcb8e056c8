"""All connections of the node to its neighbours, by peer id, and the best one of each.

A neighbour may have several connections; frames take the one with the least latency, of those that still bring something:
after a reconnect over UDP the connection before it stays until it counts as dead.  Callbacks tell the layers above when a
neighbour appears with its first connection or goes with its last.

A neighbour is asked in two ways.  `probe` wants to know whether it is there, which `is_live` says later; silence ends nothing.
`doubt` has a reason to think that it has gone: connections without an answer end.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

import anyio

from easytier_host.metrics import Metrics
from easytier_host.peer_conn import LIVE_TIME, UNANSWERED, PeerConn, transmit
from easytier_host.sleep_watch import SleepWatch
from easytier_host.tunnel.base import Tunnel
from easytier_host.tunnel.url import subscriber

logger = logging.getLogger("easytier.peers")

# Ours.
TICK: Final = 0.5
"""Seconds; connections want about two a second."""
MAX_CONNECTIONS_PER_PEER: Final = 8
MAX_CONNECTIONS: Final = 1024
MAX_CONNECTIONS_PER_ADDRESS: Final = 256
"""Accepted ones: so many may stand behind one NAT, and one machine cannot shut all others out."""


class PeerMap:
    """Connections by neighbour.  `best` maps a neighbour's peer id to the connection that frames take."""

    def __init__(self, on_joined: Callable[[PeerConn], None], on_left: Callable[[int, str], None], metrics: Metrics) -> None:
        self.best: dict[int, PeerConn] = {}
        self._connections: dict[int, list[PeerConn]] = {}
        self._count = 0
        self._now = -math.inf
        self._addresses: Counter[str] = Counter()
        """Accepted connections of each underlay address."""
        self._on_joined = on_joined
        self._on_left = on_left
        self._metrics = metrics

    def __iter__(self) -> Iterator[PeerConn]:
        """All connections, in no particular order; safe against changes while iterating."""
        return iter([conn for connections in self._connections.values() for conn in connections])

    def neighbours(self) -> frozenset[int]:
        """Peer ids with at least one connection."""
        return frozenset(self._connections)

    def connections(self, peer_id: int) -> list[PeerConn]:
        """The connections of one neighbour, oldest first."""
        return list(self._connections.get(peer_id, ()))

    def latencies_ms(self) -> dict[int, int]:
        """The latency to each neighbour to which it is known, in whole milliseconds, 1 at least."""
        known = ((peer_id, conn.latency) for peer_id, conn in self.best.items())
        return {peer_id: max(1, round(latency * 1000)) for peer_id, latency in known if latency is not None}

    def is_live(self, peer_id: int, within: float = LIVE_TIME) -> bool:
        """Whether a neighbour is heard over a connection of its own, so that it would use no other way to us; `within` so many
        seconds before the last tick."""
        return any(conn.is_live(self._now, within) for conn in self._connections.get(peer_id, ()))

    def probe(self, peer_id: int) -> None:
        """Ping a neighbour over all its connections at the next tick."""
        for conn in self._connections.get(peer_id, ()):
            conn.probe()

    def refusal(self, peer_id: int, address: str | None = None) -> str | None:
        """Why one more connection to `peer_id` cannot be kept, or None if it can; `address` is whose we accept, as
        `underlay_address` has it."""
        if len(self._connections.get(peer_id, ())) >= MAX_CONNECTIONS_PER_PEER:
            return f"peer {peer_id} has {MAX_CONNECTIONS_PER_PEER} connections already"
        if self._count >= MAX_CONNECTIONS:
            return f"this node has {MAX_CONNECTIONS} connections already"
        if address is not None and self._addresses[address] >= MAX_CONNECTIONS_PER_ADDRESS:
            return f"{address} has {MAX_CONNECTIONS_PER_ADDRESS} connections already"
        return None

    def add(self, conn: PeerConn) -> None:
        """Keep `conn`; the caller has asked `refusal` first."""
        connections = self._connections.setdefault(conn.peer_id, [])
        connections.append(conn)
        self._count += 1
        if not conn.is_initiator:
            self._addresses[underlay_address(conn.tunnel)] += 1
        self._elect(conn.peer_id)
        if len(connections) == 1:
            self._on_joined(conn)

    def remove(self, conn: PeerConn, reason: str) -> None:
        """Forget `conn`, which is closed; unknown ones are ignored."""
        connections = self._connections.get(conn.peer_id)
        if connections is None or conn not in connections:
            return
        connections.remove(conn)
        self._count -= 1
        if not conn.is_initiator:
            address = underlay_address(conn.tunnel)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
        if connections:
            self._elect(conn.peer_id)
            return
        del self._connections[conn.peer_id]
        del self.best[conn.peer_id]
        self._on_left(conn.peer_id, reason)

    def doubt(self, conn: PeerConn, now: float, why: str = UNANSWERED) -> None:
        """There is a reason to think that the neighbour has gone: ask, and let other connections have the frames meanwhile."""
        ping = conn.doubt(now, why)
        if ping is not None:
            transmit(conn, [ping], self._metrics)
            if conn.peer_id in self._connections:
                self._elect(conn.peer_id)

    def doubt_peer(self, peer_id: int, now: float) -> None:
        """The same of all connections of one neighbour: it was restarted, say."""
        for conn in self.connections(peer_id):
            self.doubt(conn, now)

    def doubt_all(self, now: float) -> None:
        """The same of all: this machine has slept, say."""
        for conn in self:
            self.doubt(conn, now)

    async def run(self, clock: Callable[[], float]) -> None:
        """Tick for ever, and ask all after this machine has slept."""
        sleep_watch = SleepWatch()
        while True:
            await anyio.sleep(TICK)
            slept = sleep_watch.slept()
            if slept:
                logger.warning("this machine, or this process, stood still for %.0f s: asking all neighbours", slept)
                self.doubt_all(clock())
            self.tick(clock())

    def tick(self, now: float) -> None:
        """Send due pings, close dead connections, choose the best of each neighbour anew."""
        self._now = now
        for conn in self:
            ping = conn.tick(now)
            if conn.is_dead(now):
                conn.tunnel.close(conn.end_reason)
            elif ping is not None:
                transmit(conn, [ping], self._metrics)
        for peer_id in self._connections:
            self._elect(peer_id)

    def _elect(self, peer_id: int) -> None:
        connections = self._connections[peer_id]
        best = min(connections, key=lambda conn: (conn.is_silent, _latency(conn)))
        current = self.best.get(peer_id)
        # A change of connection may reorder the frames of a flow, so it takes a clear gain.
        if (
            current not in connections
            or best.is_silent < current.is_silent
            or _latency(best) < _latency(current) * 0.75 - 0.001
        ):
            self.best[peer_id] = best


def underlay_address(tunnel: Tunnel) -> str:
    """Whom a tunnel counts for."""
    return subscriber(urlsplit(tunnel.info.remote_url).hostname or tunnel.info.remote_url)


def _latency(conn: PeerConn) -> float:
    latency = conn.latency
    return float("inf") if latency is None else latency
