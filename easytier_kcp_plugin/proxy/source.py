"""The capture side: a TCP flow of this node becomes a KCP flow to the peer that has its destination.

::

    TCP SYN, held by the host --> KCP handshake with the peer --> the kernel completes the application's handshake --> carry
                                     | no answer in 2 s, refused       | firewall, full
                                     '------- TransportUnavailable <---'   the host releases the SYN: plain TCP
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.services import HostServices
from easytier_hooks.types import Candidate, Connected, PeerInfo, TcpFlow
from easytier_kcp_plugin.kcp.conn_data import SocketAddress
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.stream import EndpointDriver, KcpConnectError, KcpStream
from easytier_kcp_plugin.proxy.carry import Leg, carry, kcp_leg, measure
from easytier_kcp_plugin.proxy.rules import KCP, Rules
from easytier_kcp_plugin.stack.kernel import KernelStack
from easytier_kcp_plugin.stack.sockets import TcpStream

CONNECT_TIMEOUT: Final = 2.0
"""Seconds for the KCP handshake while the application's SYN is held.  The kernel repeats a SYN after 1 s, and again after 2
more; a longer wait would cost more than plain TCP loses."""
ASK_AGAIN: Final = 10.0
"""Seconds after a KCP SYN without answer in which further flows to that peer go by plain TCP at once: on a path that drops KCP
each would wait in vain."""
MAX_UNANSWERED: Final = 1024
"""Peers for which that is kept; beyond, the longest ago is forgotten."""


class KcpTransport:
    """`easytier_hooks.Transport` by KCP.  `stack` is None where nothing can end a TCP connection; `obstacle` then says why."""

    name = KCP

    def __init__(
        self,
        host: HostServices,
        rules: Rules,
        driver: EndpointDriver,
        stack: KernelStack | None,
        obstacle: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._rules = rules
        self._driver = driver
        self._stack = stack
        self._obstacle = obstacle
        self._clock = clock
        self._unanswered: dict[int, float] = {}
        """When each peer last left us without an answer, the latest last."""

    def candidate(self, flow: TcpFlow, peer: PeerInfo | None) -> Candidate:
        """See `Transport.candidate`."""
        candidate = self._rules.judge(flow, peer)
        if not candidate.available or flow.direction != "outbound":
            return candidate
        if self._stack is None:
            return Candidate(KCP, available=False, reason=self._obstacle)
        unanswered = self._unanswered_for(peer)
        return candidate if unanswered is None else Candidate(KCP, available=False, reason=unanswered)

    async def open(self, flow: TcpFlow, syn: bytes) -> None:
        """See `Transport.open`."""
        stack = self._stack
        if stack is None:
            raise TransportUnavailable(self._obstacle)
        stream = await self._connect(flow)
        try:
            local, port = await stack.terminate(flow.key, syn)
        except BaseException:
            stream.reset()
            raise
        self._host.flow_event(flow, Connected())
        self._host.task_group.start_soon(self._carry_captured, stack, flow, local, port, stream, name=f"kcp flow {flow.id}")

    async def carry(self, flow: TcpFlow, connection: socket.socket) -> None:
        """See `Transport.carry`."""
        stream = await self._connect(flow)
        self._host.flow_event(flow, Connected())
        await self._carry(flow, TcpStream(connection), stream)

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

    async def _connect(self, flow: TcpFlow) -> KcpStream:
        if flow.peer is None:
            raise TransportUnavailable("the peer has gone")
        source = SocketAddress(flow.key.source_ip, flow.key.source_port)
        destination = SocketAddress(flow.key.destination_ip, flow.key.destination_port)
        try:
            return await self._driver.connect(flow.peer.peer_id, source, destination, timeout=CONNECT_TIMEOUT)
        except KcpConnectError as error:
            if error.reason is CloseReason.NO_ANSWER:
                self._note_unanswered(flow.peer.peer_id)
            raise TransportUnavailable(f"KCP connect failed: {error.reason or error}") from None

    async def _carry_captured(self, stack: KernelStack, flow: TcpFlow, local: TcpStream, port: int, stream: KcpStream) -> None:
        try:
            await self._carry(flow, local, stream)
        finally:
            stack.release(port)

    async def _carry(self, flow: TcpFlow, local: TcpStream, stream: KcpStream) -> None:
        await carry(
            self._host,
            flow,
            source=Leg(local, local.reset),
            destination=kcp_leg(stream),
            measure=partial(measure, self._driver, stream),
            # Stock ends the stream when it cannot reach the destination; a peer of our kind resets it.
            early_end_is_refusal=stream.session.peer_offer is None,
        )
