"""Port forwards: TCP connections to a port of this machine are carried to an address in the overlay (`port_forward`,
`--port-forward`).

No root and no device are needed.  A forward can use any transport but plain TCP, which would need a TCP stack of our own.
"""

from __future__ import annotations

import logging
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.streams import SocketStream
from easytier_hooks.types import FlowKey
from easytier_host.config.model import PortForward
from easytier_host.gate import FlowGate
from easytier_host.sockets import abort

logger = logging.getLogger("easytier.forward")

# Ours.
MAX_CONNECTIONS: Final = 1024
"""Of one forward at a time; further ones are reset."""
BACKLOG: Final = 128
ACCEPTS_PER_TURN: Final = 64
RETRY_PAUSE: Final = 0.1
"""Seconds after an accept that failed, as for want of descriptors."""


class ForwardError(Exception):
    """A forward cannot be opened; the message says which and why."""


class Forward:
    """One rule, listening."""

    def __init__(self, rule: PortForward, gate: FlowGate, tasks: TaskGroup) -> None:
        """Bind the port; raises `ForwardError`."""
        if rule.proto != "tcp":
            raise ForwardError(f"port_forward {rule.bind_addr}: {rule.proto} is not supported, only tcp")
        self._target = _endpoint(rule.dst_addr)
        self._gate = gate
        self._tasks = tasks
        self._connections = 0
        host, port = _endpoint(rule.bind_addr)
        self._listener = socket.socket(socket.AF_INET if host.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        try:
            self._listener.setblocking(False)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((str(host), port))
            self._listener.listen(BACKLOG)
        except OSError as error:
            self._listener.close()
            raise ForwardError(f"port_forward {rule.bind_addr}: cannot listen there: {error.strerror}") from None
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        """Where it listens, with the real port."""

    async def run(self) -> None:
        """Accept for ever."""
        try:
            while True:
                await anyio.wait_readable(self._listener)
                for _ in range(ACCEPTS_PER_TURN):
                    try:
                        connection, remote = self._listener.accept()
                    except BlockingIOError:
                        break
                    except OSError as error:
                        logger.warning("a connection to %s:%d could not be accepted: %s", *self.address, error)
                        await anyio.sleep(RETRY_PAUSE)
                        break
                    self._take(connection, remote)
        finally:
            self._listener.close()

    def _take(self, connection: socket.socket, remote: tuple[str, int]) -> None:
        source = ip_address(remote[0].partition("%")[0])
        target, port = self._target
        if self._connections >= MAX_CONNECTIONS or source.version != target.version:
            abort(connection)
            return
        connection.setblocking(False)
        self._connections += 1
        self._tasks.start_soon(self._carry, FlowKey(source, remote[1], target, port), connection, name=f"forward {remote}")

    async def _carry(self, key: FlowKey, connection: socket.socket) -> None:
        try:
            await self._gate.carry(key, SocketStream(connection))
        finally:
            self._connections -= 1
            abort(connection)


def _endpoint(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    host, _, port = text.rpartition(":")
    return ip_address(host.strip("[]")), int(port)
