"""The dial side: a KCP stream that a peer opened becomes a TCP connection to the destination it asks for.

Only to this node's own address and into the networks that it offers; the host judges that.  A destination that refuses or does
not answer resets the stream, which the application at the other end feels as a reset of its connection.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import anyio

from easytier_hooks.errors import DialRefused
from easytier_hooks.services import HostServices
from easytier_hooks.types import Connected, Connecting, Failed, FlowKey
from easytier_kcp_plugin.kcp.conn_data import SocketAddress
from easytier_kcp_plugin.kcp.stream import EndpointDriver, KcpStream
from easytier_kcp_plugin.proxy.carry import Leg, carry, kcp_leg, measure
from easytier_kcp_plugin.proxy.rules import KCP
from easytier_kcp_plugin.stack import sockets

DIAL_TIMEOUT: Final = 10.0
"""Seconds, as stock's."""


class KcpDestination:
    """Serves the streams of all peers; `serve` fits `EndpointDriver`."""

    def __init__(self, host: HostServices) -> None:
        self._host = host
        self.driver: EndpointDriver
        self.refused = 0
        """Streams to what this node does not dial for others."""

    async def serve(self, stream: KcpStream) -> None:
        """Dial what the stream asks for, and carry it until its end."""
        host, asked = self._host, stream.session.conn_data
        wanted = asked.dst
        if wanted is None:
            stream.reset()
            return
        try:
            ip, port = host.dial_target(wanted.ip, wanted.port)
        except DialRefused as error:
            self.refused += 1
            host.logger.debug("refused a stream of peer %d: %s", stream.session.peer_id, error)
            stream.reset()
            return
        # Senders of 2.2.0 and 2.2.1 do not tell who asks.
        source = asked.src or SocketAddress(type(wanted.ip)(0), 0)
        key = FlowKey(source.ip, source.port, wanted.ip, wanted.port)
        peer = host.peer_for(source.ip) if asked.src is not None else None
        opener = (
            peer.hostname if peer is not None and peer.peer_id == stream.session.peer_id else f"peer {stream.session.peer_id}"
        )
        flow = host.open_flow(key, "inbound", peer, KCP, f"opened by {opener}")
        host.flow_event(flow, Connecting())
        try:
            with anyio.fail_after(DIAL_TIMEOUT):
                target = await sockets.connect(ip, port)
        except (OSError, TimeoutError) as error:
            reason = str(error) or f"no answer in {DIAL_TIMEOUT:g} s"
            host.flow_event(flow, Failed(f"{ip}:{port} cannot be reached: {reason}"))
            stream.reset()
            return
        host.flow_event(flow, Connected())
        await carry(
            host,
            flow,
            source=kcp_leg(stream),
            destination=Leg(target, target.reset),
            measure=partial(measure, self.driver, stream),
            early_end_is_refusal=False,
        )
