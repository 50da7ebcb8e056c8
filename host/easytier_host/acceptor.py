"""A TCP listener of the kernel for applications of this machine or its neighbours: accepts in turns, and no more than its cap.

For port forwards, SOCKS5, the portal and metrics.  Those for nodes are in `tunnel/`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.logs import RateLimitedLogger
from easytier_hooks.services import Endpoint
from easytier_hooks.streams import SocketStream, abort
from easytier_host.sockets import to_endpoint

logger = logging.getLogger("easytier.forward")

# Ours.
MAX_CONNECTIONS: Final = 1024
"""Of one listener at a time; further ones are reset."""
BACKLOG: Final = 128
ACCEPTS_PER_TURN: Final = 64
RETRY_PAUSE: Final = 0.1
"""Seconds after an accept that failed, as for want of descriptors."""

Serve: TypeAlias = Callable[[SocketStream, Endpoint, Endpoint], Awaitable[None]]
"""Called with a connection, where it comes from and where it came to; what it leaves open is reset."""


class Acceptor:
    """One listener.  Made listening; raises OSError if the port cannot be had."""

    def __init__(self, host: str, port: int, serve: Serve, *, max_connections: int = MAX_CONNECTIONS) -> None:
        self._serve = serve
        self._max_connections = max_connections
        self._connections = 0
        self.refused = 0
        """Connections reset because there were too many."""
        family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setblocking(False)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host, port))
            self._listener.listen(BACKLOG)
        except OSError:
            self._listener.close()
            raise
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        """Where it listens, with the real port."""

    def close(self) -> None:
        """Give the port back, if `run` was not called, which does so at its end."""
        self._listener.close()

    async def run(self, tasks: TaskGroup) -> None:
        """Accept for ever; `tasks` gets a task for each connection."""
        failures = RateLimitedLogger(logger, anyio.current_time)
        try:
            while True:
                await anyio.wait_readable(self._listener)
                for _ in range(ACCEPTS_PER_TURN):
                    try:
                        connection, remote = self._listener.accept()
                    except BlockingIOError:
                        break
                    except OSError as error:
                        failures.log(
                            logging.WARNING, "accept", "a connection to %s:%d could not be accepted: %s", *self.address, error
                        )
                        await anyio.sleep(RETRY_PAUSE)
                        break
                    self._take(connection, remote, tasks)
        finally:
            self._listener.close()

    def _take(self, connection: socket.socket, remote: tuple[str, int], tasks: TaskGroup) -> None:
        if self._connections >= self._max_connections:
            self.refused += 1
            abort(connection)
            return
        self._connections += 1
        tasks.start_soon(self._run_one, connection, remote, name=f"client {remote[0]}:{remote[1]}")

    async def _run_one(self, connection: socket.socket, remote: tuple[str, int]) -> None:
        try:
            await self._serve(SocketStream(connection), to_endpoint(remote), to_endpoint(connection.getsockname()))
        except Exception:
            # One client's trouble must not end the node.
            logger.exception("a connection from %s:%d is reset", *remote[:2])
        finally:
            self._connections -= 1
            abort(connection)
