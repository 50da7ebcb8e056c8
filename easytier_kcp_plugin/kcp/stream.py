"""anyio byte streams over KCP sessions, and the one task that drives an endpoint.

The host gives it packets (`packets`) and a function that sends; an application opens streams (`connect`) or serves those that
come in.  All methods are for the event loop's thread.  No session has a task: a stream waits on an event that the driver's
task sets.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import anyio
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream, TypedAttributeSet, typed_attribute
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from easytier_kcp_plugin.kcp.conn_data import ConnData, SocketAddress
from easytier_kcp_plugin.kcp.endpoint import CONNECT_TIMEOUT, Endpoint
from easytier_kcp_plugin.kcp.events import (
    Closed,
    CloseReason,
    Established,
    Event,
    Incoming,
    KcpError,
    PeerFinished,
    Poll,
    Readable,
    Writable,
)
from easytier_kcp_plugin.kcp.header import PacketType
from easytier_kcp_plugin.kcp.limits import LimitReached
from easytier_kcp_plugin.kcp.session import Session

Send: TypeAlias = Callable[[int, int, Sequence[bytes]], bool]
"""Peer id, packet type, payloads.  False: congested, nothing was taken; the driver tries again."""

# Ours.
CONGESTION_PAUSE: Final = 0.005
"""Seconds between tries to a congested peer: a full 4 MiB socket buffer at 1 Gbit/s empties in 34 ms."""
MAX_HELD: Final = 4096
"""Packets held for one congested peer.  Engines are not asked meanwhile, so these are answers and handshakes; more are
dropped."""
MAX_SERVED: Final = 12_288
LAST_WORDS: Final = 3
LAST_WORDS_GAP: Final = 0.05
"""Seconds.  A node that stops says how its flows end once, and again so many times with such pauses: who misses it waits for
minutes, and of 10 000 flows on a line that loses every tenth datagram one does."""
_MAX_READ: Final = 65536


class KcpConnectError(KcpError):
    """A stream could not be opened.  `reason` is None if it was not even tried, for a cap of our own."""

    def __init__(self, message: str, reason: CloseReason | None) -> None:
        super().__init__(message)
        self.reason = reason


class KcpAttribute(TypedAttributeSet):
    """Extra attributes of a `KcpStream`."""

    peer_id: int = typed_attribute()
    conn_data: ConnData = typed_attribute()
    session: Session = typed_attribute()
    """Its `state`, `reason`, `peer_offer`, `received_bytes` and `statistics`, for monitors."""


class KcpStream(ByteStream):
    """A session as a byte stream.  One task may receive while another sends."""

    def __init__(self, driver: EndpointDriver, session: Session) -> None:
        self.session = session
        self._driver = driver
        self._readable: anyio.Event | None = None
        self._writable: anyio.Event | None = None
        self._closed = False
        self._over = anyio.Event()
        self.dialling: anyio.CancelScope | None = None
        """Of a stream that was accepted, until its handler has reached what the peer asked for, or reads or writes."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {
            KcpAttribute.peer_id: lambda: self.session.peer_id,
            KcpAttribute.conn_data: lambda: self.session.conn_data,
            KcpAttribute.session: lambda: self.session,
        }

    async def receive(self, max_bytes: int = _MAX_READ) -> bytes:
        """Some bytes, at least one.

        Raises EndOfStream after the peer ended its direction, BrokenResourceError (with the reason) once what came in order has
        been read of a session that broke, ClosedResourceError after `aclose`, BusyResourceError if another task is receiving.
        """
        if self._readable is not None:
            raise BusyResourceError("receiving from")
        self.dialling = None
        await checkpoint()
        while True:
            if self._closed:
                raise ClosedResourceError
            data = self._driver.read(self.session, max_bytes)
            if data:
                return data
            if self.session.at_eof:
                raise EndOfStream
            if self.session.reason is not None:
                raise self._broken()
            self._readable = anyio.Event()
            try:
                await self._readable.wait()
            finally:
                self._readable = None

    async def send(self, item: bytes) -> None:
        """Return once all has been taken into the send buffer, which is bounded.

        Raises BrokenResourceError if the session broke, ClosedResourceError after `send_eof` or `aclose`, BusyResourceError if
        another task is sending.  Some of it may have been sent in these cases.
        """
        if self._writable is not None:
            raise BusyResourceError("sending from")
        self.dialling = None
        await checkpoint()
        rest = memoryview(item)
        while True:
            if self._closed or self.session.ended:
                raise ClosedResourceError
            if self.session.reason is not None:
                raise self._broken()
            rest = rest[self._driver.write(self.session, rest) :]
            if not rest:
                return
            self._writable = anyio.Event()
            try:
                await self._writable.wait()
            finally:
                self._writable = None

    def confirm(self) -> None:
        """What the peer asked for has been reached; see `Endpoint.confirm`."""
        self.dialling = None
        self._driver.confirm(self.session)

    async def send_eof(self) -> None:
        """End our direction after what was sent; the peer's goes on.  Does not wait for it."""
        await checkpoint()
        self._driver.finish(self.session)

    async def aclose(self) -> None:
        """End our direction after what was sent, and drop what still comes.  Does not wait: the endpoint takes up to 60 s."""
        self.close()
        await checkpoint()

    async def wait_over(self) -> None:
        """Return once the session is over, at most some 60 s after `aclose`: then all that was sent has arrived.

        Raises BrokenResourceError if it has not.
        """
        if self.session.reason is None:
            await self._over.wait()
        if self.session.reason is not CloseReason.FINISHED:
            raise self._broken()

    def close(self) -> None:
        """`aclose` without its checkpoint."""
        self._closed = True
        self._driver.close(self.session)
        self.wake()

    def reset(self, reason: CloseReason = CloseReason.ABORTED) -> None:
        """End both directions at once, and tell the peer."""
        self._closed = True
        self._driver.reset(self.session, reason)
        self.wake()

    def _broken(self) -> BrokenResourceError:
        """Why nothing more can be done; an RST of the peer is one of the application there, and the cause says so."""
        error = BrokenResourceError(f"{self.session}: {self.session.reason}")
        if self.session.reason is CloseReason.RESET:
            error.__cause__ = ConnectionResetError()
        return error

    def wake(self, *, reader: bool = True, writer: bool = True) -> None:
        """Let waiting calls look again; for the driver."""
        if reader and self._readable is not None:
            self._readable.set()
        if writer and self._writable is not None:
            self._writable.set()
        if self.session.reason is not None:
            self._over.set()


Handler: TypeAlias = Callable[[KcpStream], Awaitable[None]]


class EndpointDriver:
    """Runs an endpoint: one task that waits for input and for the endpoint's next deadline.

    `serve` is called for each incoming stream, in a task of its own, at most `max_served` at a time; further ones are reset.
    The stream is closed when it returns, and reset when it raises, which is logged.  A peer that gives a stream up before its
    handler has confirmed, read or written anything ends the handler as well.  Without `serve` every stream is reset.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        send: Send,
        serve: Handler | None = None,
        *,
        max_served: int = MAX_SERVED,
        clock: Callable[[], float] = time.monotonic,
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.packets_dropped = 0
        """Answers and handshakes to congested peers beyond `MAX_HELD`."""
        self.streams_refused = 0
        """Incoming ones beyond `max_served`."""
        self._send = send
        self._serve = serve
        self._max_served = max_served
        self._serving = 0
        self._now = clock
        self._logger = logger or logging.getLogger(__name__)
        self._wake = anyio.Event()
        self._streams: dict[Session, KcpStream] = {}
        self._opening: dict[Session, anyio.Event] = {}
        self._held: dict[int, list[tuple[PacketType, list[bytes]]]] = {}
        self._stopped = False

    async def run(self) -> None:
        """Drive until cancelled; then every session is reset and its waiting calls end with BrokenResourceError.

        Peers are told so for up to 0.15 s more.
        """
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    self._wake = anyio.Event()
                    deadline = self._turn(tasks)
                    if self._wake.is_set():
                        await checkpoint()
                        continue
                    with anyio.CancelScope(deadline=deadline):
                        await self._wake.wait()
        finally:
            self._stop()
            with anyio.CancelScope(shield=True):
                await self._repeat_last_words()

    def packets(self, from_peer: int, packet_type: int, payloads: Sequence[bytes]) -> None:
        """Take packets of the types 11 and 12 in; fits `HostServices.handle` with the type bound.  Does not block."""
        self.endpoint.receive(from_peer, packet_type, payloads, self._now())
        self._wake.set()

    async def connect(
        self, peer_id: int, src: SocketAddress | None, dst: SocketAddress, *, timeout: float = CONNECT_TIMEOUT
    ) -> KcpStream:
        """Open a stream to `peer_id`, which shall connect it to `dst` on behalf of `src`.  Takes at most `timeout` seconds, or
        `attempts.REACHING_TIME` more if the peer says that it is reaching `dst`.

        Raises `KcpConnectError`.  Whether a stock peer has reached `dst` is not known by then: it ends the stream if not.
        """
        if self._stopped:
            raise KcpConnectError("the KCP endpoint has been stopped", None)
        try:
            session = self.endpoint.connect(peer_id, ConnData(src, dst), self._now(), timeout)
        except LimitReached as error:
            raise KcpConnectError(str(error), None) from error
        answered = self._opening[session] = anyio.Event()
        stream = self._streams[session] = KcpStream(self, session)
        self._wake.set()
        try:
            await answered.wait()
        except BaseException:
            stream.reset()
            raise
        finally:
            del self._opening[session]
        if not session.was_established:
            raise KcpConnectError(f"no KCP connection to peer {peer_id} for {dst}: {session.reason}", session.reason)
        return stream

    def heard_at(self, peer_id: int) -> float:
        """See `Endpoint.heard_at`; on this driver's clock."""
        return self.endpoint.heard_at(peer_id)

    # For the streams.

    def read(self, session: Session, limit: int) -> bytes:
        """See `Endpoint.read`."""
        data = self.endpoint.read(session, limit)
        if data:
            self._wake.set()
        return data

    def write(self, session: Session, data: memoryview) -> int:
        """See `Endpoint.write`."""
        self._wake.set()
        return self.endpoint.write(session, data)

    def confirm(self, session: Session) -> None:
        """See `Endpoint.confirm`."""
        self.endpoint.confirm(session, self._now())
        self._wake.set()

    def finish(self, session: Session) -> None:
        """See `Endpoint.finish`."""
        self.endpoint.finish(session, self._now())
        self._wake.set()

    def close(self, session: Session) -> None:
        """See `Endpoint.close`."""
        self.endpoint.close(session, self._now())
        self._wake.set()

    def reset(self, session: Session, reason: CloseReason = CloseReason.ABORTED) -> None:
        """See `Endpoint.reset`."""
        self.endpoint.reset(session, self._now(), reason)
        self._wake.set()

    # The task.

    def _turn(self, tasks: anyio.abc.TaskGroup) -> float:
        """Poll once; returns when to do it again, on the event loop's clock."""
        now = self._now()
        self._retry_held()
        poll = self.endpoint.poll(now, self._held.keys())
        self._send_all(poll)
        for event in poll.events:
            self._handle(event, tasks)
        for peer_id, size in poll.resized:
            self._logger.debug("segments to peer %d carry %d bytes from now on", peer_id, size)
        deadline = min(poll.deadline, now + CONGESTION_PAUSE) if self._held else poll.deadline
        return math.inf if deadline == math.inf else anyio.current_time() + max(0.0, deadline - now)

    def _send_all(self, poll: Poll) -> None:
        for batch in poll.batches:
            held = self._held.get(batch.peer_id)
            if held is not None:
                self._hold(held, batch.packet_type, batch.payloads)
            elif not self._send(batch.peer_id, batch.packet_type, batch.payloads):
                self._held[batch.peer_id] = [(batch.packet_type, batch.payloads)]

    def _hold(self, held: list[tuple[PacketType, list[bytes]]], packet_type: PacketType, payloads: list[bytes]) -> None:
        room = MAX_HELD - sum(len(batch) for _, batch in held)
        if room < len(payloads):
            self.packets_dropped += len(payloads) - max(0, room)
        if room > 0:
            held.append((packet_type, payloads[:room]))

    def _retry_held(self) -> None:
        for peer_id, held in list(self._held.items()):
            while held and self._send(peer_id, held[0][0], held[0][1]):
                held.pop(0)
            if not held:
                del self._held[peer_id]

    def _handle(self, event: Event, tasks: anyio.abc.TaskGroup) -> None:
        if isinstance(event, Incoming):
            self._accept(event.session, tasks)
            return
        stream = self._streams.get(event.session)
        if isinstance(event, Closed):
            self._streams.pop(event.session, None)
            if stream is not None and stream.dialling is not None:
                stream.dialling.cancel()
        if isinstance(event, Established | Closed) and event.session in self._opening:
            self._opening[event.session].set()
        if stream is not None:
            stream.wake(reader=isinstance(event, Readable | PeerFinished | Closed), writer=isinstance(event, Writable | Closed))

    def _accept(self, session: Session, tasks: anyio.abc.TaskGroup) -> None:
        if self._serve is None or self._serving >= self._max_served:
            self.streams_refused += 1
            self.reset(session)
            return
        self._serving += 1
        stream = self._streams[session] = KcpStream(self, session)
        scope = stream.dialling = anyio.CancelScope()
        tasks.start_soon(self._serve_one, self._serve, stream, scope, name=str(session))

    async def _serve_one(self, serve: Handler, stream: KcpStream, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await serve(stream)
        except (BrokenResourceError, EndOfStream) as error:
            self._logger.debug("%s ended: %s", stream.session, error)
            stream.reset()
        except Exception:
            self._logger.exception("%s: its handler failed", stream.session)
            stream.reset()
        except BaseException:
            stream.reset()
            raise
        finally:
            self._serving -= 1
            stream.close()

    def _stop(self) -> None:
        self._stopped = True
        self.endpoint.stop(self._now())
        self._speak()
        for stream in list(self._streams.values()):
            stream.wake()
        for answered in self._opening.values():
            answered.set()
        self._streams.clear()

    async def _repeat_last_words(self) -> None:
        words = self.endpoint.last_words(self._now())
        for _ in range(LAST_WORDS if words else 0):
            await anyio.sleep(LAST_WORDS_GAP)
            self._speak()
            for batch in words:
                # To a congested peer the next time.
                if batch.peer_id not in self._held:
                    self._send(batch.peer_id, batch.packet_type, batch.payloads)

    def _speak(self) -> None:
        """Send what the endpoint has to say, without a look at what has happened."""
        self._retry_held()
        self._send_all(self.endpoint.poll(self._now(), self._held.keys()))
