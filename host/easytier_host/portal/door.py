"""A guarded TCP listener: the first free of some ports, a whitelist, a cap on connections.  Portal and metrics have one each.

A connection from elsewhere is accepted and closed at once, as stock does; one too many is reset.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_network
from typing import Final, TypeAlias

import anyio

from easytier_hooks.services import Endpoint
from easytier_hooks.streams import SocketStream
from easytier_host.acceptor import Acceptor
from easytier_host.portal.address import PortalAddress

logger = logging.getLogger("easytier.portal")

# Wire: stock decides.
DEFAULT_WHITELIST: Final = ("127.0.0.0/8", "::1/128")

Serve: TypeAlias = Callable[[SocketStream, Endpoint, Endpoint], Awaitable[None]]
"""Serves one connection; where it comes from, and where it came to.  May raise what a broken stream raises."""


class PortalError(Exception):
    """Nothing can listen there; the message says where and why."""


class Door:
    """Listens as `wanted` says, once open.  `setting` is what the user calls it, `whitelist` holds networks in text form; empty
    means this machine only.
    """

    def __init__(self, wanted: PortalAddress, whitelist: Sequence[str], max_connections: int, *, setting: str) -> None:
        self._wanted = wanted
        self._whitelist = [ip_network(text, strict=False) for text in whitelist or DEFAULT_WHITELIST]
        self._max_connections = max_connections
        self._setting = setting
        self._serve: Serve | None = None
        self._acceptor: Acceptor | None = None
        self._strangers = 0
        self.port = 0

    @property
    def refused(self) -> int:
        """Connections closed at once: not on the whitelist, or too many."""
        return self._strangers + (0 if self._acceptor is None else self._acceptor.refused)

    @property
    def address(self) -> str:
        """Where it listens, once open."""
        host = self._wanted.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def open(self) -> None:
        """Listen on the first of the ports that is free; raises `PortalError` if none is."""
        failure: OSError | None = None
        for port in self._wanted.ports:
            try:
                self._acceptor = Acceptor(self._wanted.host, port, self._let_in, max_connections=self._max_connections)
            except OSError as error:
                failure = failure or error
                continue
            self.port = self._acceptor.address[1]
            return
        ports = f"{self._wanted.ports[0]} to {self._wanted.ports[-1]}" if len(self._wanted.ports) > 1 else self._wanted.ports[0]
        reason = "no port" if failure is None else failure.strerror or str(failure)
        raise PortalError(f"{self._setting}: cannot listen on {self._wanted.host} port {ports}: {reason}")

    async def run(self, serve: Serve) -> None:
        """Serve for ever; to be cancelled.  What goes wrong on a connection closes that one only."""
        if self._acceptor is None:
            raise RuntimeError("open() comes first")
        self._serve = serve
        async with anyio.create_task_group() as connections:
            await self._acceptor.run(connections)

    async def _let_in(self, stream: SocketStream, caller: Endpoint, here: Endpoint) -> None:
        async with stream:
            if self._serve is None or not any(caller[0] in network for network in self._whitelist):
                self._strangers += 1
                return
            try:
                await self._serve(stream, caller, here)
            except* (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, TimeoutError):
                pass
            except* Exception:
                logger.exception("%s: a connection failed", self._setting)
