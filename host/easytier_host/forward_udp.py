"""Port forwards for UDP: datagrams that come to a port of this machine go to one address in the overlay, and answers back.

Each client, an address and port that sends here, gets a port of its own towards the overlay, so that answers find it.  Answers
count only from the address and port that the rule names.

Bounds: 256 clients of a rule; then the one that has been silent longest gives way.  A client is forgotten after 120 s without a
datagram either way.  What a socket or a tunnel does not take at once is dropped, as UDP is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import anyio

from easytier_hooks.services import Endpoint
from easytier_host.config.model import PortForward
from easytier_host.datagrams import DatagramPort, OpenPort, read_datagrams
from easytier_host.forward import ForwardError, parse_endpoint
from easytier_host.sockets import send_or_drop

# Wire: as long as stock's UDP proxy at the other end keeps a source (data plane 1.7).
TIMEOUT: Final = 120.0
"""Seconds of silence."""

# Ours.
MAX_CLIENTS: Final = 256
TICK: Final = 5.0
"""Seconds between looks for the forgotten."""


class UdpForward:
    """One rule for UDP, bound."""

    def __init__(self, rule: PortForward, open_port: OpenPort, clock: Callable[[], float]) -> None:
        """Bind the port; raises `ForwardError`."""
        self._target = parse_endpoint(rule.dst_addr)
        self._open_port = open_port
        self._clock = clock
        self._clients: dict[Endpoint, _Client] = {}
        """The one that was silent longest comes first."""
        host, port = parse_endpoint(rule.bind_addr)
        self._socket = socket.socket(socket.AF_INET if host.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind((str(host), port))
        except OSError as error:
            self._socket.close()
            raise ForwardError(f"port_forward {rule.bind_addr}: cannot listen there: {error.strerror}") from None
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        """Where it listens, with the real port."""

    def __len__(self) -> int:
        """The clients that are remembered."""
        return len(self._clients)

    def close(self) -> None:
        """Give the port back, if `run` was not called, which does so at its end."""
        self._socket.close()

    async def run(self) -> None:
        """Carry both ways for ever; closes all ports at its end."""
        try:
            while True:
                with anyio.move_on_after(TICK):
                    await anyio.wait_readable(self._socket)
                for source, data in read_datagrams(self._socket):
                    self._send(source, data)
                self._expire()
        finally:
            for client in self._clients.values():
                client.port.close()
            self._socket.close()

    def _send(self, source: Endpoint, data: bytes) -> None:
        client = self._clients.pop(source, None)
        if client is None:
            if len(self._clients) >= MAX_CLIENTS:
                self._forget(next(iter(self._clients)))
            try:
                client = _Client(self._open_port(partial(self._answer, source)))
            except OSError:
                return
        client.last_used = self._clock()
        self._clients[source] = client
        client.port.send(data, self._target)

    def _answer(self, client: Endpoint, source: Endpoint, data: bytes) -> None:
        if source != self._target or client not in self._clients:
            return
        known = self._clients[client] = self._clients.pop(client)
        known.last_used = self._clock()
        send_or_drop(self._socket, data, client)

    def _expire(self) -> None:
        now = self._clock()
        for source, client in list(self._clients.items()):
            if now - client.last_used < TIMEOUT:
                break
            self._forget(source)

    def _forget(self, source: Endpoint) -> None:
        self._clients.pop(source).port.close()


class _Client:
    """One address and port that sends here."""

    def __init__(self, port: DatagramPort) -> None:
        self.port = port
        self.last_used = 0.0
