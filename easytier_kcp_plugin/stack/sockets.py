"""TCP sockets of the kernel as byte streams that can also be reset.

anyio's own socket streams cannot end with RST, and here it matters: an application must not take a transfer that broke for one
that ended.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint


class TcpStream(ByteStream):
    """A connected, non-blocking TCP socket; owns it.  One task may receive while another sends."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Some bytes, at least one.  Raises EndOfStream, BrokenResourceError (reset, timed out) or ClosedResourceError."""
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
        """Close with RST: the other end learns that this was no clean end.  No effect on a closed stream."""
        if self._socket.fileno() >= 0:
            reset(self._socket)
            self._close()

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()

    def _broken(self) -> Exception:
        return anyio.ClosedResourceError() if self._socket.fileno() < 0 else anyio.BrokenResourceError()


async def connect(ip: IPv4Address | IPv6Address, port: int) -> TcpStream:
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
        return TcpStream(connection)
    except BaseException:
        connection.close()
        raise


def reset(connection: socket.socket) -> None:
    """Let the close of a socket send RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
