"""A guarded TCP listener: the first free of some ports, a whitelist, a cap on connections.  Portal and metrics have one each.

A connection from elsewhere, or one too many, is accepted and closed at once, as stock does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.stapled import MultiListener

from easytier_host.portal.address import PortalAddress

logger = logging.getLogger("easytier.portal")

# Wire: stock decides.
DEFAULT_WHITELIST: Final = ("127.0.0.0/8", "::1/128")

# Ours.
ACCEPT_PAUSE: Final = 1.0
"""Seconds before accepting again, where the system refused it: no file descriptor left, say."""

Serve: TypeAlias = Callable[[SocketStream, bool], Awaitable[None]]
"""Serves one connection; the second argument: whether it comes from this machine.  May raise what a broken stream raises."""


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
        self._listener: MultiListener[SocketStream] | None = None
        self._connections = 0
        self.refused = 0
        """Connections closed at once: not on the whitelist, or too many."""
        self.port = 0

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
                listener = await anyio.create_tcp_listener(local_host=self._wanted.host, local_port=port)
            except OSError as error:
                failure = failure or error
                continue
            self._listener = listener
            self.port = int(listener.extra(SocketAttribute.local_port))
            return
        ports = f"{self._wanted.ports[0]} to {self._wanted.ports[-1]}" if len(self._wanted.ports) > 1 else self._wanted.ports[0]
        reason = "no port" if failure is None else failure.strerror or str(failure)
        raise PortalError(f"{self._setting}: cannot listen on {self._wanted.host} port {ports}: {reason}")

    async def run(self, serve: Serve) -> None:
        """Serve for ever; to be cancelled.  What goes wrong on a connection closes that one only."""
        if self._listener is None:
            raise RuntimeError("open() comes first")

        async def guarded(stream: SocketStream) -> None:
            async with stream:
                await self._let_in(stream, serve)

        async with self._listener, anyio.create_task_group() as connections:
            while True:
                try:
                    await self._listener.serve(guarded, connections)
                except* OSError as group:
                    logger.warning("%s: cannot accept a connection: %s", self._setting, group.exceptions[0])
                    await anyio.sleep(ACCEPT_PAUSE)

    async def _let_in(self, stream: SocketStream, serve: Serve) -> None:
        caller = _caller(stream)
        known = caller is not None and any(caller in network for network in self._whitelist)
        if caller is None or not known or self._connections >= self._max_connections:
            self.refused += 1
            return
        self._connections += 1
        try:
            await serve(stream, caller.is_loopback)
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, TimeoutError):
            pass
        except* Exception:
            logger.exception("%s: a connection failed", self._setting)
        finally:
            self._connections -= 1


def _caller(stream: SocketStream) -> IPv4Address | IPv6Address | None:
    """Who has connected; None if the connection is gone already."""
    try:
        address = ip_address(str(stream.extra(SocketAttribute.remote_address)[0]).partition("%")[0])
    except (ValueError, anyio.TypedAttributeLookupError, OSError):
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
