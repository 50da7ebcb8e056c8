"""The source side: flows that begin at this node are dialled through the peer that has their destination, over KCP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from easytier_hooks.errors import DestinationUnreachable, TransportUnavailable
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import Candidate, PeerInfo, TcpFlow
from easytier_kcp_plugin.kcp.conn_data import SocketAddress
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.stream import EndpointDriver, KcpConnectError
from easytier_kcp_plugin.proxy.connection import KcpConnection
from easytier_kcp_plugin.proxy.rules import KCP, Rules

CONNECT_TIMEOUT: Final = 2.0
"""Seconds for the KCP handshake while the application's SYN is held.  The kernel repeats a SYN after 1 s, and again after 2
more; a longer wait would cost more than plain TCP loses."""
ASK_AGAIN: Final = 10.0
"""Seconds after a KCP SYN without answer, and without any other word of the peer, in which further flows to that peer go by
plain TCP at once: on a path that drops KCP each would wait in vain."""
MAX_UNANSWERED: Final = 1024
"""Peers for which that is kept; beyond, the longest ago is forgotten."""


class KcpTransport:
    """`easytier_hooks.Transport` by KCP."""

    name = KCP

    def __init__(self, rules: Rules, driver: EndpointDriver, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._driver = driver
        self._clock = clock
        self._unanswered: dict[int, float] = {}
        """When each peer last left us without an answer, the latest last."""

    def candidate(self, flow: TcpFlow, peer: PeerInfo | None) -> Candidate:
        """See `Transport.candidate`."""
        candidate = self._rules.judge(flow, peer)
        if not candidate.available:
            return candidate
        unanswered = self._unanswered_for(peer)
        return candidate if unanswered is None else Candidate(KCP, available=False, reason=unanswered)

    async def dial(self, flow: TcpFlow) -> TcpConnection:
        """See `Transport.dial`."""
        if flow.peer is None:
            raise TransportUnavailable("the peer has gone")
        source = SocketAddress(flow.key.source_ip, flow.key.source_port)
        destination = SocketAddress(flow.key.destination_ip, flow.key.destination_port)
        began = self._clock()
        try:
            stream = await self._driver.connect(flow.peer.peer_id, source, destination, timeout=CONNECT_TIMEOUT)
        except KcpConnectError as error:
            if error.reason is CloseReason.DESTINATION_REFUSED:
                raise ConnectionRefusedError(str(error.reason)) from None
            if error.reason is CloseReason.DESTINATION_UNREACHABLE:
                raise DestinationUnreachable(str(error.reason)) from None
            # Where much is lost one flow of many may fail, and says nothing of the path.
            if error.reason is CloseReason.NO_ANSWER and self._driver.heard_at(flow.peer.peer_id) < began:
                self._note_unanswered(flow.peer.peer_id)
            raise TransportUnavailable(f"KCP connect failed: {error.reason or error}") from None
        return KcpConnection(self._driver, stream, opened_here=True)

    def _unanswered_for(self, peer: PeerInfo | None) -> str | None:
        """What to say of a peer that has just left a KCP SYN unanswered; None if it may be asked."""
        if peer is None:
            return None
        ago = self._clock() - self._unanswered.get(peer.peer_id, -math.inf)
        return f"KCP got no answer from {peer.hostname or peer.peer_id} {ago:.0f} s ago" if ago < ASK_AGAIN else None

    def _note_unanswered(self, peer_id: int) -> None:
        self._unanswered.pop(peer_id, None)
        self._unanswered[peer_id] = self._clock()
        if len(self._unanswered) > MAX_UNANSWERED:
            del self._unanswered[next(iter(self._unanswered))]
