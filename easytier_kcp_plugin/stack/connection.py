"""One TCP connection of the user-space stack, as a byte stream.

It has no task and no buffer of its own: bytes wait in the native stack, calls wait on events that the link's driver sets.
Needs the native module: importing this one raises ImportError without it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, Protocol

import anyio
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
from anyio.lowlevel import checkpoint

from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import FlowKey
from easytier_kcp_plugin._native import ClosedError, Stack, StackError

if TYPE_CHECKING:
    from easytier_kcp_plugin._native import CloseReason, Event


class Driver(Protocol):
    """What a connection needs of the driver of its link."""

    native: Stack

    def wake(self) -> None: ...


class StackConnection(TcpConnection):
    """One connection.  `key` is that of the frames that come in, `first_sequence` that of the SYN which began it there."""

    stack = "smoltcp"

    def __init__(self, driver: Driver, key: FlowKey, first_sequence: bytes | None) -> None:
        self.key = key
        self.first_sequence = first_sequence
        self.number = 0
        """Its id in the native stack; 0, which is none, until it has begun."""
        self.unclaim: Callable[[], None] = _nothing
        self.opened = anyio.Event()
        """Set when the handshake is complete, or has failed."""
        self._driver = driver
        self._reason: CloseReason | None = None
        self._established = False
        self._at_end = False
        self._finished = False
        self._closed = False
        self._readable: anyio.Event | None = None
        self._writable: anyio.Event | None = None

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """See `TcpConnection`; raises BusyResourceError if another task is receiving."""
        if self._readable is not None:
            raise BusyResourceError("receiving from")
        await checkpoint()
        while True:
            if self._closed:
                raise ClosedResourceError
            if self._at_end:
                raise EndOfStream
            if self._reason is not None:
                raise self._broken()
            try:
                data = self._driver.native.receive(self.number, max_bytes)
            except StackError as error:
                self._lose(error)
            if data:
                # The other end may have to hear that there is room again.
                self._driver.wake()
                return data
            self._readable = anyio.Event()
            try:
                await self._readable.wait()
            finally:
                self._readable = None

    async def send(self, item: bytes) -> None:
        """Return once the stack has taken all, which is bounded.

        Raises BrokenResourceError if the connection broke, ClosedResourceError after an end of our own, BusyResourceError if
        another task is sending.  Some of it may have been sent in these cases.
        """
        if self._writable is not None:
            raise BusyResourceError("sending to")
        await checkpoint()
        rest = memoryview(item)
        while True:
            if self._closed or self._finished:
                raise ClosedResourceError
            if self._reason is not None:
                raise self._broken()
            try:
                taken = self._driver.native.send(self.number, rest)
            except StackError as error:
                self._lose(error)
            self._driver.wake()
            rest = rest[taken:]
            if not rest:
                return
            self._writable = anyio.Event()
            try:
                await self._writable.wait()
            finally:
                self._writable = None

    async def send_eof(self) -> None:
        """End our direction (FIN) after what was sent; raises BrokenResourceError if the connection broke."""
        await checkpoint()
        if self._closed:
            raise ClosedResourceError
        if self._reason not in (None, "normal"):
            raise self._broken()
        self._finish()

    async def aclose(self) -> None:
        """Close; the stack still sends what it has taken.  Bytes that nobody reads are answered with RST, as by the kernel."""
        if not self._closed:
            self._closed = True
            if self._has_unread():
                self.abort()
            else:
                self._finish()
            self._wake_all()
        await checkpoint()

    def reset(self) -> None:
        """See `TcpConnection`."""
        if not self._closed:
            self._closed = True
            self.abort()
            self._wake_all()

    # For the driver.

    def abort(self) -> None:
        """RST now, whatever our end thinks of it."""
        with suppress(StackError):
            self._driver.native.abort(self.number)
        self._driver.wake()

    def check_open(self) -> None:
        """Raise OSError unless the handshake is complete."""
        match self._reason:
            case None if self._established:
                return
            case None:
                raise TimeoutError("the other end did not complete the handshake")
            case "refused":
                raise ConnectionRefusedError("refused by the other end")
            case "timeout":
                raise TimeoutError("no answer")
            case "aborted":
                raise ConnectionAbortedError("ended by this node")
            case "reset" | "normal":
                raise ConnectionResetError("reset by the other end")

    def notice(self, event: Event) -> None:
        """Something has happened to this connection."""
        match event:
            case ("established", _):
                self._established = True
                self.opened.set()
            case ("readable", _):
                if self._closed:
                    self.abort()
                elif self._readable is not None:
                    self._readable.set()
            case ("writable", _):
                if self._writable is not None:
                    self._writable.set()
            case ("end_of_stream", _):
                self._at_end = True
                if self._readable is not None:
                    self._readable.set()
            case ("closed", _, reason):
                self._reason = reason
                self.opened.set()
                self._wake_all()

    def _finish(self) -> None:
        self._finished = True
        try:
            self._driver.native.finish(self.number)
        except StackError as error:
            self._lose(error)
        self._driver.wake()

    def _has_unread(self) -> bool:
        try:
            return self._driver.native.info(self.number)["received"] > 0
        except StackError:
            return False

    def _wake_all(self) -> None:
        for event in (self._readable, self._writable):
            if event is not None:
                event.set()

    def _lose(self, error: StackError) -> NoReturn:
        """The native stack refused a call: the connection has broken, or the whole stack, which the next step shows."""
        self._driver.wake()
        # While bytes wait to be received, the end has not been reported with its reason; it is hardly ever another.
        cause = ConnectionResetError() if isinstance(error, ClosedError) else error
        raise BrokenResourceError(str(error)) from cause

    def _broken(self) -> BrokenResourceError:
        """With its reason as the cause."""
        error = BrokenResourceError(f"connection {self.key}: {self._reason}")
        error.__cause__ = TimeoutError("no answer") if self._reason == "timeout" else ConnectionResetError()
        return error


def _nothing() -> None:
    pass
