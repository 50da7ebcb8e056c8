"""Connections of peers on their last step: from this node to the destination that they ask for.

The only place that dials for others, whatever brought the connection here: `serve` for those that a transport carries,
`subnet.tcp` for those that come as plain TCP.  Both use `dial`; what may be dialled is said in `dial.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import anyio

from easytier_hooks import streams
from easytier_hooks.errors import DialRefused
from easytier_hooks.services import Endpoint
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import Connected, Connecting, Failed, FlowKey, IPAddress, Selection
from easytier_host.embedding import Listeners
from easytier_host.gate import FlowGate
from easytier_host.metrics import Metrics
from easytier_host.sockets import reason_of

logger = logging.getLogger("easytier.targets")

DIAL_TIMEOUT: Final = 10.0
"""Seconds, as stock's."""


class Targets:
    """Dials for the peers of one node.  `real_address` is `dial_target` of that node; `listeners` are those of the program that
    runs it, which come before those of the machine."""

    def __init__(
        self,
        gate: FlowGate,
        metrics: Metrics,
        real_address: Callable[[IPAddress, int], Endpoint],
        listeners: Listeners | None = None,
    ) -> None:
        self._gate = gate
        self._metrics = metrics
        self._real_address = real_address
        self._listeners = listeners

    async def dial(self, ip: IPAddress, port: int, source: Endpoint | None = None) -> TcpConnection:
        """Connect to what peers call `ip` and `port`; `source` is shown to a listener of the program.

        Raises DialRefused, counted, if that is not for peers, else OSError: ConnectionRefusedError, or TimeoutError after 10 s.
        """
        try:
            real = self._real_address(ip, port)
        except DialRefused:
            self._metrics.refused_dials += 1
            raise
        if self._listeners is not None and (inside := self._listeners.connect((ip, port), source)) is not None:
            return inside
        with anyio.move_on_after(DIAL_TIMEOUT):
            return await streams.connect(*real)
        raise TimeoutError(f"no answer in {DIAL_TIMEOUT:g} s")

    async def serve(
        self, connection: TcpConnection, opener: int, selection: Selection, source: Endpoint | None, destination: Endpoint
    ) -> None:
        """Carry a connection that the peer `opener` has opened over a transport, until its end; see `HostServices.serve`."""
        gate, (ip, port) = self._gate, destination
        source_ip, source_port = source or (type(ip)(0), 0)
        try:
            key = FlowKey(source_ip, source_port, ip, port)
            self._real_address(ip, port)
        except (DialRefused, ValueError) as error:
            self._metrics.refused_dials += 1
            logger.debug("refused a connection of peer %d: %s", opener, error)
            connection.reset()
            return
        peer = gate.peer_for(source_ip) if source is not None else None
        flow = gate.open_flow(key, "inbound", peer, selection)
        report = partial(gate.report, flow.id)
        report(Connecting())
        try:
            target = await self.dial(ip, port, source)
        except (OSError, DialRefused) as error:
            report(Failed(f"{ip}:{port} cannot be reached: {reason_of(error)}"))
            connection.reset()
            return
        connection.confirm()
        report(Connected())
        await gate.relay(flow.id, connection, target)
