"""Port forwards: connections to a port of this machine are carried to an address in the overlay (`port_forward`,
`--port-forward`).  TCP here, UDP in `forward_udp`.

Neither root nor a device is needed.  The gate chooses the transport of each connection, as for those of the device.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from anyio.abc import TaskGroup

from easytier_hooks.services import Endpoint
from easytier_hooks.streams import SocketStream
from easytier_hooks.types import FlowKey
from easytier_host.acceptor import Acceptor
from easytier_host.config.model import PortForward
from easytier_host.gate import FlowGate


class ForwardError(Exception):
    """A forward cannot be opened; the message says which and why."""


class Forward:
    """One rule for TCP, listening."""

    def __init__(self, rule: PortForward, gate: FlowGate, tasks: TaskGroup) -> None:
        """Bind the port; raises `ForwardError`."""
        self._target = parse_endpoint(rule.dst_addr)
        self._gate = gate
        self._tasks = tasks
        host, port = parse_endpoint(rule.bind_addr)
        try:
            self._acceptor = Acceptor(str(host), port, self._carry)
        except OSError as error:
            raise ForwardError(f"port_forward {rule.bind_addr}: cannot listen there: {error.strerror}") from None
        self.address = self._acceptor.address
        """Where it listens, with the real port."""

    def close(self) -> None:
        """As `Acceptor.close`."""
        self._acceptor.close()

    async def run(self) -> None:
        """Accept for ever."""
        await self._acceptor.run(self._tasks)

    async def _carry(self, connection: SocketStream, source: Endpoint, _: Endpoint) -> None:
        await self._gate.carry(flow_key(source, self._target), connection)


def parse_endpoint(text: str) -> Endpoint:
    """`10.0.0.1:80` or `[fd00::1]:80`, which the configuration has checked."""
    host, _, port = text.rpartition(":")
    return ip_address(host.strip("[]")), int(port)


def flow_key(source: Endpoint, destination: Endpoint) -> FlowKey:
    """The key of a flow that enters from `source`; a source of the other family is shown as unspecified."""
    ip, port = source
    if ip.version != destination[0].version:
        ip = IPv4Address(0) if destination[0].version == 4 else IPv6Address(0)
    return FlowKey(ip, port, *destination)
