"""Connections of peers on their last step: from this node to the destination that they ask for.

The only place that dials for others, whatever brought the connection here: `serve` for those that a transport carries,
`subnet.tcp` for those that come as plain TCP.  Both use `dial`; what may be dialled is said in `dial.py`.  What a user forbids
some peers besides is asked of `guard`: here for transports, on the way of the packets for plain TCP.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio

from easytier_hooks import streams
from easytier_hooks.errors import DialRefused
from easytier_hooks.services import Endpoint
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import Connected, Connecting, Failed, FlowKey, IPAddress, Selection, endpoint
from easytier_host.access import TCP
from easytier_host.embedding import Listeners
from easytier_host.gate import FlowGate
from easytier_host.guard import Guard
from easytier_host.metrics import Metrics
from easytier_host.owners import Claim, Owners
from easytier_host.sockets import reason_of
from easytier_host.topology import peer_info

logger = logging.getLogger("easytier.targets")

DIAL_TIMEOUT: Final = 10.0
"""Seconds, as stock's."""

# Ours.
RECORD_PATIENCE: Final = 1.0
"""Seconds for the record of a peer that asks for something before it has come: its first flow may overtake it.  Less than a
peer of our kind waits for its answer."""


class Targets:
    """Dials for the peers of one node.  `real_address` is `dial_target` of that node, `owners` and `guard` judge who asks;
    `listeners` are those of the program that runs it, which come before those of the machine."""

    def __init__(
        self,
        gate: FlowGate,
        metrics: Metrics,
        real_address: Callable[[IPAddress, int], Endpoint],
        owners: Owners,
        guard: Guard,
        listeners: Listeners | None = None,
    ) -> None:
        self._gate = gate
        self._metrics = metrics
        self._real_address = real_address
        self._owners = owners
        self._guard = guard
        self._listeners = listeners
        self.wait_known: Callable[[int], Awaitable[object]] | None = None
        """Returns when there is a record of a peer; its owner sets it."""

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
        if self.wait_known is not None:
            with anyio.move_on_after(RECORD_PATIENCE):
                await self.wait_known(opener)
        believed, refusal = self._judge(opener, source, destination)
        shown = believed or (type(ip)(0), 0)
        try:
            key = FlowKey(*shown, ip, port)
        except ValueError as error:
            self._metrics.refused_dials += 1
            logger.debug("refused a connection of peer %d: %s", opener, error)
            connection.reset()
            return
        record = self._owners.record(opener)
        flow = gate.open_flow(key, "inbound", None if record is None else peer_info(record), selection)
        report = partial(gate.report, flow.id)
        report(Connecting())
        try:
            if refusal:
                self._metrics.refused_dials += 1
                raise DialRefused(refusal)
            target = await self.dial(ip, port, believed)
        except DialRefused as error:
            report(Failed(f"{endpoint(ip, port)} is refused to peers: {error}"))
            connection.reset()
            return
        except OSError as error:
            report(Failed(f"{endpoint(ip, port)} cannot be reached: {reason_of(error)}"))
            connection.refuse(error)
            return
        except anyio.get_cancelled_exc_class():
            report(Failed("given up before its destination was reached"))
            connection.reset()
            raise
        connection.confirm()
        report(Connected())
        await gate.relay(flow.id, connection, target)

    def _judge(self, opener: int, source: Endpoint | None, destination: Endpoint) -> tuple[Endpoint | None, str]:
        """The source to believe in, and why the connection is refused, "" if it is not.

        One that is not the peer's own is never believed, but it is no reason to refuse: stock nodes name clients of their
        SOCKS5 servers, which may be nodes of the overlay.  The connection is the peer's own then, for programs, lists and
        rules.
        """
        ip, port = destination
        if source is not None and (claim := self._owners.judge(opener, source[0])) is not Claim.OWN:
            self._metrics.forged_sources += claim is Claim.FORGED
            stand_in = self._owners.stand_in(opener, ip.version)
            if claim is Claim.FORGED and stand_in is None:
                return None, f"{source[0]} is not an address of the peer that claims it, which has none itself"
            source = None if stand_in is None else (stand_in, source[1])
        refusal = self._guard.refusal(TCP, opener, None if source is None else source[0], ip, port)
        return source, refusal
