"""TCP in the overlay for the program that runs the node: connect, and listen, without root and without the kernel.

What the program gets are ends of pipes inside the process; the other ends are relayed like any other flow, so that these flows
stand in the table, and plugins hear of them.  Made and asked by `Node.connect_tcp` and `Node.listen_tcp`; docs/embedding.md
has examples.

Bounds: 1024 connections wait for each listener to accept them, further ones are refused; a pipe holds 256 KiB each way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio
from anyio.abc import Listener, SocketAttribute, TaskGroup
from anyio.lowlevel import checkpoint

from easytier_hooks.services import Endpoint
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import FlowKey, IPAddress
from easytier_host.gate import FlowGate
from easytier_host.pipe import PipeEnd, pipe

# Ours.
BACKLOG: Final = 1024
"""Connections that wait to be accepted: as many as may be in the making at once (`subnet.tcp`), which can arrive in one turn of
the loop."""


class OverlayListener(Listener[TcpConnection]):
    """Takes the connections that arrive at one port of the node's own addresses, over whatever transport.

    Closed by `aclose` or with its node: `accept` raises ClosedResourceError then, `serve` returns.
    `anyio.abc.SocketAttribute.local_port` tells the port.
    """

    def __init__(self, port: int, on_close: Callable[[], object]) -> None:
        self.port = port
        self._on_close = on_close
        self._waiting: deque[PipeEnd] = deque()
        self._arrived = anyio.Event()
        self._closed = False

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.local_port: lambda: self.port}

    async def accept(self) -> TcpConnection:
        """The next connection; its `SocketAttribute.remote_address` is that of the source, where the peer tells it."""
        await checkpoint()
        while not self._waiting:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._arrived.is_set():
                self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._waiting.popleft()

    async def serve(self, handler: Callable[[TcpConnection], Any], task_group: TaskGroup | None = None) -> None:
        """Call `handler` with each connection, in a task of its own in `task_group`, or in a group that ends with this call.

        The handler closes the connection.
        """
        if task_group is None:
            async with anyio.create_task_group() as own:
                await self.serve(handler, own)
            return
        with suppress(anyio.ClosedResourceError):
            while True:
                connection = await self.accept()
                task_group.start_soon(handler, connection, name=f"overlay client at port {self.port}")

    async def aclose(self) -> None:
        """Take no more; connections that nobody has accepted are reset."""
        self.close()
        await checkpoint()

    def close(self) -> None:
        """The same at once."""
        if not self._closed:
            self._closed = True
            self._on_close()
            for connection in self._waiting:
                connection.reset()
            self._waiting.clear()
            self._arrived.set()

    def offer(self, connection: PipeEnd) -> None:
        """Let a connection wait to be accepted; raises ConnectionRefusedError if too many do."""
        if len(self._waiting) >= BACKLOG:
            raise ConnectionRefusedError(f"{BACKLOG} connections to port {self.port} wait to be accepted")
        self._waiting.append(connection)
        self._arrived.set()


class Listeners:
    """The listeners of one node, by port; `own` are its addresses."""

    def __init__(self, own: Sequence[IPAddress]) -> None:
        self._own = frozenset(own)
        self._by_port: dict[int, OverlayListener] = {}

    def open(self, port: int) -> OverlayListener:
        """A listener; raises ValueError if the port is none, or OSError if it is taken."""
        if not 0 < port < 65_536:
            raise ValueError(f"not a port: {port}")
        if port in self._by_port:
            raise OSError(f"port {port} has a listener already")
        listener = self._by_port[port] = OverlayListener(port, partial(self._by_port.pop, port))
        return listener

    def connect(self, destination: Endpoint, source: Endpoint | None) -> TcpConnection | None:
        """The source's end of a new connection to a listener; None if none listens there.

        Raises ConnectionRefusedError if the listener has no room.
        """
        ip, port = destination
        listener = self._by_port.get(port) if ip in self._own else None
        if listener is None:
            return None
        near, far = pipe(source or (type(ip)(0), 0), destination)
        listener.offer(far)
        return near

    def close(self) -> None:
        """Close all of them."""
        for listener in list(self._by_port.values()):
            listener.close()


async def connect(gate: FlowGate, tasks: TaskGroup, source: Endpoint, destination: Endpoint) -> TcpConnection:
    """A connection that begins at `source`, an address and port of ours; relayed in `tasks`.  Raises as `FlowGate.dial`."""
    flow_id, outer = await gate.dial(FlowKey(*source, *destination))
    near, far = pipe(source, destination)
    tasks.start_soon(gate.relay, flow_id, far, outer, name=f"flow {flow_id}")
    return near
