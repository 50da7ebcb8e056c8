"""TCP tunnels: frames behind a 4-byte length, over one connection of the system's TCP.

Called by the package's `connect` and `listen`.  Source: wire specification, control plane 1.3.  The layout of the stream is
in `tcp_framing.py`.

Death of a silent neighbour is noticed above, by pings, so
TCP keep-alive is left off.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from easytier_hooks.logs import RateLimitedLogger
from easytier_host.packet import MAX_FRAME_SIZE, PEER_HEADER_SIZE
from easytier_host.tunnel.base import Listener, Tunnel, TunnelError, TunnelInfo
from easytier_host.tunnel.resolve import Endpoint, describe
from easytier_host.tunnel.tcp_framing import LENGTH, FrameParser, FramingError
from easytier_host.tunnel.url import TunnelUrl

logger = logging.getLogger(__name__)

# Wire constants: stock decides.
STALL_SECONDS: Final = 7.0
"""A neighbour that takes nothing for so long is gone; stock gives up after the same time."""
LISTEN_BACKLOG: Final = 1024

# Ours.
BACKLOG_BYTES: Final = 1 << 20
CONGESTED_BYTES: Final = 64 << 10
"""Waiting bytes from which the sender above is asked to pause: one super-packet."""
RECEIVE_BYTES: Final = 128 << 10
ACCEPTS_PER_TURN: Final = 64
ACCEPT_PAUSE_SECONDS: Final = 0.1
"""How long to leave strangers in the kernel's queue when this process has no file descriptor left."""
_SEND_FRAMES: Final = 256
_SHUTDOWN: Final = "this node is shutting down"


class TcpTunnel(Tunnel):
    """One TCP connection.  Owns the socket, which is connected and non-blocking; ends with its task group, by `close`, or by
    the peer.

    At most 1 MiB of frames waits for the kernel; then whole new frames are dropped.
    """

    def __init__(
        self, sock: socket.socket, tasks: TaskGroup, info: TunnelInfo, *, stall_timeout: float = STALL_SECONDS
    ) -> None:
        super().__init__(info)
        self._sock = sock
        self._tasks = tasks
        self._stall_timeout = stall_timeout
        self._closed = False
        self._failure: str | None = None
        self._dropped_frames = 0
        self._backlog = bytearray()
        self._relieved = anyio.Event()
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tasks.start_soon(self._receive, name=f"receive from {info.remote_url}")

    def send(self, frames: Sequence[bytes]) -> bool:
        """As `Tunnel.send`; frames of a forbidden size are dropped."""
        for start in range(0, len(frames), _SEND_FRAMES):
            self._send_some(frames[start : start + _SEND_FRAMES])
        return not self.congested

    async def wait_writable(self) -> None:
        if not self.congested:
            await anyio.lowlevel.checkpoint()
        while self.congested:
            await self._relieved.wait()

    def close(self, reason: str = "closed by this node") -> None:
        if self._closed:
            return
        self._closed = True
        anyio.notify_closing(self._sock)
        self._sock.close()
        self._backlog.clear()
        self._relieve()
        self.on_close(reason)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def dropped_frames(self) -> int:
        return self._dropped_frames

    @property
    def congested(self) -> bool:
        return len(self._backlog) > CONGESTED_BYTES

    def _send_some(self, frames: Sequence[bytes]) -> None:
        parts: list[bytes] = []
        room = -1 if self._closed or self._failure else BACKLOG_BYTES - len(self._backlog)
        for frame in frames:
            length = len(frame)
            if length > room - LENGTH.size:
                break
            if PEER_HEADER_SIZE <= length <= MAX_FRAME_SIZE:
                room -= LENGTH.size + length
                parts.append(LENGTH.pack(length))
                parts.append(frame)
        self._dropped_frames += len(frames) - len(parts) // 2
        payload = b"".join(parts)
        if self._backlog:
            self._backlog += payload
        elif payload:
            written = self._write(payload)
            if written < len(payload):
                self._backlog += memoryview(payload)[written:]
                self._tasks.start_soon(self._flush, name=f"flush to {self.info.remote_url}")

    def _write(self, data: bytes | bytearray) -> int:
        """Bytes that the kernel took.  After an error all count as taken: the reader task ends the tunnel."""
        try:
            return self._sock.send(data)
        except OSError as error:
            if error.errno in _FULL:
                return 0
            # `on_close` must not run inside the caller's `send`; end of file wakes the reader.
            self._failure = _explain(error)
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            return len(data)

    async def _flush(self) -> None:
        while self._backlog:
            waiting = _unacknowledged(self._sock)
            with anyio.move_on_after(self._stall_timeout) as patience:
                try:
                    await anyio.wait_writable(self._sock)
                except anyio.ClosedResourceError:
                    return
            if self._closed:
                return
            if patience.cancelled_caught and _unacknowledged(self._sock) >= waiting:
                # Progress is what the other side acknowledged: on a slow path a large socket buffer takes
                # longer to count as writable.
                self.close(f"the other side took nothing for {self._stall_timeout:g} s")
                return
            del self._backlog[: self._write(self._backlog)]
            if not self.congested:
                self._relieve()

    def _relieve(self) -> None:
        self._relieved.set()
        self._relieved = anyio.Event()

    async def _receive(self) -> None:
        reason = _SHUTDOWN
        try:
            reason = await self._receive_until_end()
        finally:
            self.close(reason)

    async def _receive_until_end(self) -> str:
        parser = FrameParser()
        while not self._closed:
            try:
                await anyio.wait_readable(self._sock)
                data = self._sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except anyio.ClosedResourceError:
                break
            except OSError as error:
                return self._failure or _explain(error)
            if not data:
                return self._failure or "closed by the other side"
            try:
                frames = parser.feed(data)
            except FramingError as error:
                if error.frames:
                    self.on_frames(error.frames)
                return str(error)
            if frames:
                self.on_frames(frames)
        return "closed by this node"


class TcpListener(Listener):
    """A listening TCP socket.  Tunnels that came in stay when it closes.

    When accepting fails, as it does without file descriptors, it says so now and then and goes on trying.
    """

    def __init__(self, sock: socket.socket, tasks: TaskGroup, on_tunnel: Callable[[TcpTunnel], None]) -> None:
        self.url = str(TunnelUrl.from_address("tcp", sock.getsockname()))
        self._sock = sock
        self._tasks = tasks
        self._on_tunnel = on_tunnel
        self._closed = False
        tasks.start_soon(self._accept, name=f"accept on {self.url}")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        anyio.notify_closing(self._sock)
        self._sock.close()

    async def _accept(self) -> None:
        failures = RateLimitedLogger(logger, anyio.current_time)
        try:
            while not self._closed:
                try:
                    await anyio.wait_readable(self._sock)
                    self._accept_some()
                except anyio.ClosedResourceError:
                    break
                except OSError as error:
                    failures.log(
                        logging.WARNING, "accept", "%s: connections wait, accept failed: %s", self.url, describe(error)
                    )
                    await anyio.sleep(ACCEPT_PAUSE_SECONDS)
        finally:
            self.close()

    def _accept_some(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._closed:
                return
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            self._on_tunnel(TcpTunnel(sock, self._tasks, _info(sock, address)))


async def connect(endpoints: Sequence[Endpoint], tasks: TaskGroup, *, timeout: float) -> TcpTunnel:
    """Connect to the first of `endpoints` that accepts, sharing out `timeout` seconds; the tunnel's tasks run in `tasks`.

    Raises `TunnelError` with the reasons if none does.
    """
    deadline = anyio.current_time() + timeout
    failures: list[str] = []
    for turn, endpoint in enumerate(endpoints):
        share = (deadline - anyio.current_time()) / (len(endpoints) - turn)
        try:
            with anyio.fail_after(share):
                sock = await _open(endpoint)
        except TimeoutError:
            failures.append(f"no answer within {share:.2g} s")
        except OSError as error:
            failures.append(describe(error))
        else:
            try:
                return TcpTunnel(sock, tasks, _info(sock, endpoint.address))
            except BaseException:
                sock.close()
                raise
    raise TunnelError("; ".join(dict.fromkeys(failures)))


async def _open(endpoint: Endpoint) -> socket.socket:
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # A turn of the loop, so that it has forgotten an earlier socket of the same number before this one is waited for.
        await anyio.lowlevel.checkpoint()
        try:
            sock.connect(endpoint.address)
        except BlockingIOError:
            await anyio.wait_writable(sock)
            failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                raise OSError(failure, os.strerror(failure)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def listen(endpoint: Endpoint, tasks: TaskGroup, on_tunnel: Callable[[TcpTunnel], None]) -> TcpListener:
    """Bind, and give each connection to `on_tunnel`, which sets its callbacks, or closes it to refuse it.

    How many may be open at once is for the layer above to say.  Raises `TunnelError` if the address is not to be had.
    """
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(endpoint.address)
        sock.listen(LISTEN_BACKLOG)
        return TcpListener(sock, tasks, on_tunnel)
    except OSError as error:
        sock.close()
        raise TunnelError(describe(error)) from None
    except BaseException:
        sock.close()
        raise


_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})


def _info(sock: socket.socket, remote: tuple[Any, ...]) -> TunnelInfo:
    local = TunnelUrl.from_address("tcp", sock.getsockname())
    return TunnelInfo("tcp", str(local), str(TunnelUrl.from_address("tcp", remote)))


def _explain(error: OSError) -> str:
    return (
        "reset by the other side" if error.errno in (errno.ECONNRESET, errno.EPIPE) else f"connection lost: {describe(error)}"
    )


def _unacknowledged(sock: socket.socket) -> int:
    """Bytes in the kernel that the other side has not acknowledged."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
