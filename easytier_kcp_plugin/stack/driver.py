"""One native TCP stack at work on one link: a single task steps it, however many connections there are.

::

    frames of claimed flows --inbox--> step --> Link.write, one batch
    accept, connect, send, receive, finish, abort --wake--^  '--> events: connections wake whoever waits for them

Only `stack.smoltcp` makes a `LinkDriver`.  All of it belongs to the event loop's thread.  Needs the native module: importing
this one raises ImportError without it.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio.lowlevel import checkpoint

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.services import Link
from easytier_hooks.types import FlowKey
from easytier_kcp_plugin._native import Stack, StackError
from easytier_kcp_plugin.stack.connection import StackConnection
from easytier_kcp_plugin.stack.rewrite import syn_sequence

if TYPE_CHECKING:
    from easytier_kcp_plugin._native import Event

# Ours.
HANDSHAKE_TIMEOUT: Final = 8.0
"""Seconds for the source of a held SYN to complete its handshake: it and we repeat ourselves twice in that time."""
TIME_WAIT: Final = 2.0
"""Seconds for which late segments of a closed connection are still answered: several retransmissions of a FIN on most paths."""
MAX_LINGERING: Final = 16_384
"""Closed connections for which that is done; beyond, the one that closed longest ago is forgotten."""
MAX_INBOX: Final = 512
"""Frames that wait for the task's turn; more, and the stack is stepped at once."""
FULL_SIZED: Final = 256
SMALL_BUFFER: Final = 32 * 1024
"""Bytes each way of connections beyond so many, whose full buffers together could take all of the machine's memory."""
LAST_PACKETS: Final = 1 << 20
"""Given out at the stop: an RST for each connection."""


class LinkDriver:
    """Drives `native`, whose connections are those of `link`.  `native` must have been made with `time_wait=TIME_WAIT`."""

    def __init__(
        self,
        link: Link,
        native: Stack,
        *,
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.native = native
        self._link = link
        self._logger = logger
        self._clock = clock
        self._wake = anyio.Event()
        self._inbox: list[bytes] = []
        self._connections: dict[int, StackConnection] = {}
        self._claimed: dict[FlowKey, StackConnection] = {}
        self._lingering: deque[tuple[float, StackConnection]] = deque()
        """Closed connections whose frames are still ours, with the time when that ends."""
        self._stopped = False

    def __len__(self) -> int:
        """Connections that have not closed."""
        return len(self._connections)

    async def run(self) -> None:
        """Step until cancelled, or until the native stack fails, which is logged; then every connection is reset."""
        try:
            while True:
                if self._wake.is_set():
                    self._wake = anyio.Event()
                deadline = self._turn()
                with anyio.CancelScope(deadline=deadline):
                    await self._wake.wait()
                # A wait whose deadline has passed already does not yield.
                await checkpoint()
        except Exception:
            # A fault in here or in the link costs the connections, not the node.
            self._logger.exception("the TCP stack failed; its %d connections are lost", len(self))
        finally:
            self._stop()

    async def accept(self, key: FlowKey, syn: bytes) -> StackConnection:
        """Answer a held TCP SYN, and return once the handshake is complete; raises TransportUnavailable if it cannot be."""
        former = self._claimed.get(key)
        try:
            if former is not None:
                self._supersede(former)
                self._turn()
            connection = StackConnection(self, key, syn_sequence(syn))
            await self._open(connection, partial(self.native.accept_syn, syn, self._clock()), HANDSHAKE_TIMEOUT)
        except (StackError, OSError, ValueError) as error:
            raise TransportUnavailable(f"smoltcp: {error}") from None
        return connection

    async def connect(self, key: FlowKey) -> StackConnection:
        """Begin a connection; waits as long as TCP does.

        Raises ConnectionRefusedError, TimeoutError after `timeout` of the native stack, or OSError if it cannot begin.
        """
        source, destination = (key.source_ip.packed, key.source_port), (key.destination_ip.packed, key.destination_port)
        answers = FlowKey(key.destination_ip, key.destination_port, key.source_ip, key.source_port)
        former = self._claimed.get(answers)
        if former is not None and former.number not in self._connections:
            self._release(former)
        connection = StackConnection(self, answers, None)
        try:
            await self._open(connection, partial(self.native.connect, source, destination), math.inf)
        except (StackError, ValueError) as error:
            raise OSError(str(error)) from None
        return connection

    async def _open(self, connection: StackConnection, begin: Callable[[int | None, int | None], int], timeout: float) -> None:
        """Let it begin, with sizes of its buffers or the usual ones, and wait for its handshake; no claim is left if this
        raises."""
        if self._stopped:
            raise StackError("the TCP stack has stopped")
        connection.unclaim = self._link.claim(connection.key, partial(self._take, connection))
        self._claimed[connection.key] = connection
        try:
            size = SMALL_BUFFER if len(self) >= FULL_SIZED else None
            connection.number = begin(size, size)
            self._connections[connection.number] = connection
            self.wake()
            with anyio.move_on_after(timeout):
                await connection.opened.wait()
            connection.check_open()
        except BaseException:
            connection.reset()
            self._release(connection)
            raise

    # For the connections.

    def wake(self) -> None:
        """Let the task step soon."""
        self._wake.set()

    # The task.

    def _take(self, connection: StackConnection, frames: list[bytes]) -> None:
        """Frames of a claimed flow."""
        if connection.first_sequence is not None and syn_sequence(frames[-1]) not in (None, connection.first_sequence):
            # The source has forgotten this connection: it begins another, and the host has ended the claim.
            frames = frames[:-1]
            self._supersede(connection)
        self._inbox += frames
        self._wake.set()
        if len(self._inbox) >= MAX_INBOX and not self._stopped:
            with suppress(StackError):
                self._turn()

    def _supersede(self, connection: StackConnection) -> None:
        connection.abort()
        self._release(connection)

    def _release(self, connection: StackConnection) -> None:
        """Leave the frames of a flow to the host again."""
        connection.unclaim()
        if self._claimed.get(connection.key) is connection:
            del self._claimed[connection.key]

    def _turn(self) -> float:
        """Step once; returns when to do it again, on the event loop's clock."""
        now = self._clock()
        deadline = self._step(now)
        while self._lingering and (self._lingering[0][0] <= now or len(self._lingering) > MAX_LINGERING):
            self._release(self._lingering.popleft()[1])
        if self._lingering:
            deadline = min(deadline, self._lingering[0][0])
        return math.inf if deadline == math.inf else anyio.current_time() + max(0.0, deadline - now)

    def _step(self, now: float, max_packets: int = 64) -> float:
        frames, self._inbox = self._inbox, []
        output, events, _, deadline = self.native.step(frames, now, max_packets)
        for event in events:
            self._handle(event, now)
        # Last: a link may lead back here.
        if output:
            self._link.write(output)
        return math.inf if deadline is None else deadline

    def _handle(self, event: Event, now: float) -> None:
        connection = self._connections.get(event[1])
        if connection is None:
            return
        if event[0] == "closed":
            del self._connections[event[1]]
            self._lingering.append((now + TIME_WAIT, connection))
        connection.notice(event)

    def _stop(self) -> None:
        self._stopped = True
        try:
            for number in self._connections:
                self.native.abort(number)
            self._step(self._clock(), LAST_PACKETS)
        except Exception as error:
            # It has failed before, and nothing can be sent any more.
            self._logger.debug("the TCP stack says no good-bye: %s", error)
        for number, connection in self._connections.items():
            connection.notice(("closed", number, "aborted"))
        self._connections.clear()
        self._lingering.clear()
        for connection in list(self._claimed.values()):
            self._release(connection)
