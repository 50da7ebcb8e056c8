"""The streams that transports, TCP stacks and the host hand to each other, and the one over a socket of the kernel.

They are anyio byte streams that can also be reset: an application must not take a transfer that broke for one that ended, and
anyio's own socket streams cannot end with RST.
"""

import os
import socket
import struct
from abc import abstractmethod
from typing import ClassVar

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from easytier_hooks.types import IPAddress, Measures


class TcpConnection(ByteStream):
    """One end of a TCP connection, or of what carries one.  One task may receive while another sends.

    `receive` raises EndOfStream after the other end's last byte, BrokenResourceError if the connection broke, with the
    reason as its cause where one is known, and ClosedResourceError after an end of our own.  `send_eof` ends our direction
    only.
    """

    stack: ClassVar[str] = ""
    """Name of the TCP stack that ends it here; "" where none does, as of a stream of a transport."""

    @abstractmethod
    def reset(self) -> None:
        """End both directions at once, with RST: the other end learns that this was no clean end.  No effect after an end."""

    def confirm(self) -> None:
        """Of one that a peer opened: its destination has been reached. Tell the peer, if it waits for that."""

    def refuse(self, error: OSError) -> None:
        """Of one that a peer opened, in place of `confirm`: its destination cannot be reached.  Reset it, and tell the peer,
        if it can be told, whether that refused: then `error` is a ConnectionRefusedError."""
        self.reset()

    @property
    def end_reason(self) -> str | None:
        """What the stream knows of why it broke, in a user's words; None if nothing."""
        return None

    def measure(self) -> Measures | None:
        """What is known of the way to the other end; None if nothing."""
        return None


class SocketStream(TcpConnection):
    """A connected stream socket of the kernel; owns it."""

    stack = "kernel"

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """See `TcpConnection`."""
        await checkpoint()
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError as error:
                raise self._broken() from error
            else:
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        """Return once the kernel has taken all; raises BrokenResourceError or ClosedResourceError."""
        await checkpoint()
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise self._broken() from error

    async def send_eof(self) -> None:
        """End our direction (FIN); raises BrokenResourceError if the connection is gone."""
        await checkpoint()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._broken() from error

    async def aclose(self) -> None:
        """Close; the kernel still sends what it has taken."""
        self._close()
        await checkpoint()

    def reset(self) -> None:
        """See `TcpConnection`."""
        if self._socket.fileno() >= 0:
            _reset_on_close(self._socket)
            self._close()

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()

    def _broken(self) -> Exception:
        return anyio.ClosedResourceError() if self._socket.fileno() < 0 else anyio.BrokenResourceError()


async def connect(ip: IPAddress, port: int) -> SocketStream:
    """Connect to an address; waits as long as the kernel does, so bound it.  Raises OSError."""
    connection = socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        # A turn of the loop, so that it has forgotten an earlier socket of the same number before this one is waited for.
        await checkpoint()
        try:
            connection.connect((str(ip), port))
        except BlockingIOError:
            await anyio.wait_writable(connection)
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error)) from None
        return SocketStream(connection)
    except BaseException:
        connection.close()
        raise


def abort(connection: socket.socket) -> None:
    """Close a socket with RST instead of FIN, so that the other end sees no clean end; no effect on a closed one."""
    if connection.fileno() >= 0:
        _reset_on_close(connection)
        connection.close()


def _reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
