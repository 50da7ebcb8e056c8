"""One bound UDP socket and the tunnels on it: large reads and writes, sorting by connection, a bounded backlog.

Not the opening of connections, which is in `udp.py`, except that a listener's socket answers SYNs here.  The way in: one
wake-up drains the socket (`_drain`), the kernel hands over up to 64 KiB of datagrams a call (UDP_GRO), each datagram's header
is checked and its frame put with the others of its tunnel, and each tunnel gets one list.  The way out: `UdpTunnel.send`
packs frames into batches, `_write` hands each to the kernel in one call (UDP_SEGMENT), and what the kernel does not take
waits in the backlog for `_flush`.

What a listener's socket gets for a connection that it does not know is answered with a goodbye (`udp_wire.build_goodbye`): a
node that was restarted, or a neighbour whose address has changed, is thus found out by the first datagram instead of by
silence.  So are tunnels that close.

In between datagrams may be left to gather for a millisecond (`gathering.py`).

Where the system lacks GSO or GRO, or the route's device cannot do it, datagrams go one by one; nobody above notices.
"""

from __future__ import annotations

import collections
import errno
import math
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from easytier_host.packet import MAX_FRAME_SIZE, PEER_HEADER_SIZE
from easytier_host.tunnel.base import UNDERLAY_MTU, Tunnel, TunnelInfo
from easytier_host.tunnel.gathering import PAUSE, Gathering
from easytier_host.tunnel.udp_options import (
    CUT,
    CUT_ABOVE,
    UdpCounters,
    enable_gro,
    enlarge_buffers,
    has_gso,
    path_mtu,
    segment_option,
    segment_size,
    set_fragments,
)
from easytier_host.tunnel.udp_wire import (
    KIND_DATA,
    KIND_SACK,
    KIND_SYN,
    MAGIC_SIZE,
    MAX_DATA_SIZE,
    MIN_DATA_SIZE,
    UDP_HEADER,
    UDP_HEADER_SIZE,
    batch_frames,
    build_control,
    build_goodbye,
    data_layout,
)
from easytier_host.tunnel.url import TunnelUrl, subscriber

Address = tuple[Any, ...]

# Ours.
BACKLOG_BYTES: Final = 4 << 20
DRAIN_BYTES: Final = 2 << 20
DRAIN_READS: Final = 256
"""With DRAIN_BYTES the bound of one wake-up, a few milliseconds of work; then other tasks have their turn."""
FLUSH_BATCHES: Final = 64
FRAGMENTS_SECONDS: Final = 60.0
MAX_TUNNELS: Final = 1024
MAX_TUNNELS_PER_HOST: Final = 256
GOODBYES_PER_SECOND: Final = 64
"""To strangers, who may have forged the address to which they go: fewer bytes, and no more datagrams, than came."""
_READ_BYTES: Final = 1 << 16
_RETRY_SECONDS: Final = 0.002
_SHUTDOWN: Final = "this node is shutting down"


class UdpSocket:
    """A bound socket, its reader task and its backlog.  Owns the socket; ends with its task group or by `close`.

    With `on_tunnel` it listens: a SYN opens a tunnel keyed by address and connection id, is given to `on_tunnel` and, unless
    that closed it, is answered.  Without, it carries one tunnel of ours, keyed by connection id alone as stock does, because
    a neighbour with several addresses may answer from another one; it ends with that tunnel.
    """

    def __init__(
        self,
        sock: socket.socket,
        tasks: TaskGroup,
        on_tunnel: Callable[[UdpTunnel], None] | None = None,
        *,
        max_tunnels: int = MAX_TUNNELS,
        max_tunnels_per_host: int = MAX_TUNNELS_PER_HOST,
        offload: bool = True,
    ) -> None:
        self.counters = UdpCounters()
        self.closed = False
        self._sock = sock
        self._tasks = tasks
        self._on_tunnel = on_tunnel
        self._max_tunnels = max_tunnels
        self._max_tunnels_per_host = max_tunnels_per_host
        self._local = TunnelUrl.from_address("udp", sock.getsockname())
        self._tunnels: dict[tuple[Address | None, int], UdpTunnel] = {}
        self._per_host: collections.Counter[str] = collections.Counter()
        self._view = memoryview(bytearray(_READ_BYTES))
        self._backlog: collections.deque[tuple[bytes, int, Address]] = collections.deque()
        self._backlog_bytes = 0
        self._relieved = anyio.Event()
        self._fragments_until = 0.0
        self._cuts = False
        """Whether large datagrams are to be sent so that they are cut."""
        self._gathering = Gathering()
        self._goodbyes_left = GOODBYES_PER_SECOND
        self._goodbyes_renewed_at = 0.0
        enlarge_buffers(sock)
        self.gso = offload and has_gso(sock)
        self.gro = offload and enable_gro(sock)
        tasks.start_soon(self._receive, name=f"receive on {self._local}")

    @property
    def url(self) -> TunnelUrl:
        """The bound address, with the real port."""
        return self._local

    @property
    def congested(self) -> bool:
        """True while datagrams wait for the kernel."""
        return bool(self._backlog)

    @property
    def tunnel_count(self) -> int:
        """Tunnels that are open."""
        return len(self._tunnels)

    def add_tunnel(self, conn_id: int, address: Address) -> UdpTunnel:
        """Open a tunnel to `address` on this socket; the caller has done, or does, the handshake."""
        info = TunnelInfo("udp", str(self._local), str(TunnelUrl.from_address("udp", address)))
        key = (None if self._on_tunnel is None else address, conn_id)
        tunnel = self._tunnels[key] = UdpTunnel(self, key, address, info)
        self._per_host[subscriber(address[0])] += 1
        return tunnel

    def remove_tunnel(self, tunnel: UdpTunnel) -> None:
        """Forget a tunnel that closed, and tell its other side, if that was ever heard."""
        if self._tunnels.pop(tunnel.key, None) is None:
            return
        self.say_goodbye(tunnel)
        host = subscriber(tunnel.address[0])
        self._per_host[host] -= 1
        if not self._per_host[host]:
            del self._per_host[host]
        if self._on_tunnel is None:
            self.close()

    def say_goodbye(self, tunnel: UdpTunnel) -> bool:
        """Tell the other side of a tunnel that it is over, if that was ever heard; whether it was told."""
        if not tunnel.heard or self.closed:
            return False
        self._write(build_goodbye(tunnel.key[1]), UDP_HEADER_SIZE, tunnel.address)
        return True

    def close(self, reason: str = "closed by this node") -> None:
        """Close the socket and end all its tunnels with `reason`; idempotent."""
        if self.closed:
            return
        # No datagram of theirs may follow a goodbye, and the last of them closes a connector's socket.
        self._backlog.clear()
        self._backlog_bytes = 0
        for tunnel in list(self._tunnels.values()):
            tunnel.close(reason)
        if self.closed:
            return
        self.closed = True
        anyio.notify_closing(self._sock)
        self._sock.close()
        self._relieve()

    def whole_frame_size(self, address: Address) -> int:
        """See `Tunnel.whole_frame_size`.  It matters to who asks alone that nothing is cut, so asking ends the minute."""
        if self._fragments_until:
            if anyio.current_time() < self._fragments_until:
                return 0
            self._fragments_until = 0.0
            self._cuts = set_fragments(self._sock, allowed=False)
        family = self._sock.family
        headers = (20 if family == socket.AF_INET else 40) + 8 + UDP_HEADER_SIZE
        return max(0, min(path_mtu(family, address), UNDERLAY_MTU) - headers)

    def allow_fragments(self) -> None:
        """See `Tunnel.allow_fragments`; for all tunnels of the socket."""
        self._fragments_until = anyio.current_time() + FRAGMENTS_SECONDS
        self._cuts = set_fragments(self._sock, allowed=True)

    # The way in.

    async def _receive(self) -> None:
        try:
            while not self.closed:
                try:
                    await anyio.wait_readable(self._sock)
                except anyio.ClosedResourceError:
                    break
                if self._gathering.wanted:
                    await anyio.sleep(PAUSE)
                    if self.closed:
                        break
                try:
                    nearest = self._drain()
                    self._gathering.note(self.counters.received, nearest, anyio.current_time())
                except OSError:
                    # An interface that went down, no memory: the socket stays good.
                    self.counters.receive_errors += 1
                    await anyio.sleep(_RETRY_SECONDS)
        finally:
            self.close(_SHUTDOWN)

    def _drain(self) -> float:
        """Take in what is there; returns the round trip of the nearest tunnel that has brought something."""
        inboxes: dict[UdpTunnel, list[bytes]] = {}
        buffers = [self._view]
        ancillary_size = socket.CMSG_SPACE(4) if self.gro else 0
        budget = DRAIN_BYTES
        try:
            for _ in range(DRAIN_READS):
                size, ancillary, _, address = self._sock.recvmsg_into(buffers, ancillary_size)
                segment = segment_size(ancillary) or size
                self.counters.received += -(-size // segment) if size else 1
                self._sort(size, segment, address, inboxes)
                budget -= size
                if budget <= 0 or self.closed:
                    break
        except BlockingIOError:
            pass
        finally:
            for tunnel, frames in inboxes.items():
                if not tunnel.closed:
                    tunnel.heard = True
                    tunnel.on_frames(frames)
        return min((tunnel.round_trip for tunnel in inboxes), default=math.inf)

    def _sort(self, size: int, segment: int, address: Address, inboxes: dict[UdpTunnel, list[bytes]]) -> None:
        """Put the frames of one read with their tunnels: `size` bytes from one sender, in datagrams of `segment` bytes."""
        view = self._view
        start = 0
        if MIN_DATA_SIZE <= segment <= MAX_DATA_SIZE and size >= 2 * segment:
            start = size - size % segment
            expected = segment - UDP_HEADER_SIZE
            inbox: list[bytes] | None = None
            inbox_id = -1
            for conn_id, kind, length, frame in data_layout(segment).iter_unpack(view[:start]):
                if length != expected:
                    self.counters.malformed += 1
                elif kind != KIND_DATA:
                    self.counters.ignored += 1
                else:
                    if conn_id != inbox_id:
                        inbox, inbox_id = self._inbox(address, conn_id, inboxes), conn_id
                    if inbox is None:
                        self._meet_stranger(conn_id, address)
                    else:
                        inbox.append(frame)
        for offset in range(start, size or 1, segment or 1):
            self._sort_one(view[offset : min(offset + segment, size)], address, inboxes)

    def _sort_one(self, datagram: memoryview, address: Address, inboxes: dict[UdpTunnel, list[bytes]]) -> None:
        if len(datagram) < UDP_HEADER_SIZE:
            self.counters.malformed += 1
            return
        conn_id, kind, length = UDP_HEADER.unpack_from(datagram)
        if length != len(datagram) - UDP_HEADER_SIZE:
            self.counters.malformed += 1
        elif kind == KIND_DATA:
            if length == 0:
                self._take_goodbye(conn_id, address)
            elif not PEER_HEADER_SIZE <= length <= MAX_FRAME_SIZE:
                self.counters.bad_size += 1
            elif (inbox := self._inbox(address, conn_id, inboxes)) is None:
                self._meet_stranger(conn_id, address)
            else:
                inbox.append(bytes(datagram[UDP_HEADER_SIZE:]))
        elif kind == KIND_SYN and length == MAGIC_SIZE and self._on_tunnel is not None:
            self._answer_syn(self._on_tunnel, conn_id, bytes(datagram[UDP_HEADER_SIZE:]), address)
        else:
            self.counters.ignored += 1

    def _inbox(self, address: Address, conn_id: int, inboxes: dict[UdpTunnel, list[bytes]]) -> list[bytes] | None:
        tunnel = self._tunnels.get((None if self._on_tunnel is None else address, conn_id))
        return None if tunnel is None else inboxes.setdefault(tunnel, [])

    def _meet_stranger(self, conn_id: int, address: Address) -> None:
        """Somebody believes to have a connection here: the one before this node was restarted, or before the address of either
        side changed."""
        self.counters.unknown += 1
        if self._on_tunnel is None:
            return
        now = anyio.current_time()
        if now - self._goodbyes_renewed_at >= 1:
            self._goodbyes_left, self._goodbyes_renewed_at = GOODBYES_PER_SECOND, now
        if self._goodbyes_left:
            self._goodbyes_left -= 1
            self._write(build_goodbye(conn_id), UDP_HEADER_SIZE, address)

    def _take_goodbye(self, conn_id: int, address: Address) -> None:
        tunnel = self._tunnels.get((None if self._on_tunnel is None else address, conn_id))
        if tunnel is None:
            self.counters.bad_size += 1
        else:
            tunnel.on_doubt()

    def _answer_syn(self, on_tunnel: Callable[[UdpTunnel], None], conn_id: int, magic: bytes, address: Address) -> None:
        """Open a tunnel for a new SYN; answer it, or a repeated one, with as many bytes as came.

        The answer goes out after the tunnel exists: the other side may send at once.  It does not wait in the backlog, which
        strangers could fill: a connector that misses it tries again.
        """
        if (address, conn_id) not in self._tunnels:
            of_host = self._per_host.get(subscriber(address[0]), 0)
            if len(self._tunnels) >= self._max_tunnels or of_host >= self._max_tunnels_per_host:
                self.counters.refused += 1
                return
            tunnel = self.add_tunnel(conn_id, address)
            on_tunnel(tunnel)
            if tunnel.closed:
                self.counters.refused += 1
                return
        sack = build_control(conn_id, KIND_SACK, magic)
        self._write(sack, len(sack), address)

    # The way out.

    def send(self, payload: bytes, segment: int, address: Address) -> bool:
        """Send datagrams laid end to end, or keep them for later; False if the backlog was full and they were dropped."""
        if not self._backlog:
            written = self._write(payload, segment, address)
            if written == len(payload):
                return True
            self._backlog.append((payload[written:], segment, address))
            self._backlog_bytes = len(payload) - written
            self._tasks.start_soon(self._flush, name=f"flush {self._local}")
            return True
        if self._backlog_bytes + len(payload) > BACKLOG_BYTES:
            self.counters.backlog_dropped += -(-len(payload) // segment)
            return False
        self._backlog.append((payload, segment, address))
        self._backlog_bytes += len(payload)
        return True

    async def wait_relieved(self) -> None:
        """Return once the backlog is empty or the socket is closed."""
        if not self.congested:
            await anyio.lowlevel.checkpoint()
        while self.congested:
            await self._relieved.wait()

    async def _flush(self) -> None:
        while self._backlog:
            try:
                await anyio.wait_writable(self._sock)
            except anyio.ClosedResourceError:
                return
            before = self._backlog_bytes
            for _ in range(FLUSH_BATCHES):
                if not self._backlog:
                    break
                payload, segment, address = self._backlog.popleft()
                written = self._write(payload, segment, address)
                self._backlog_bytes -= written
                if written < len(payload):
                    self._backlog.appendleft((payload[written:], segment, address))
                    break
            if self._backlog and self._backlog_bytes == before:
                # ENOBUFS comes from below the socket, which stays "writable" all the while.
                await anyio.sleep(_RETRY_SECONDS)
        self._relieve()

    def _relieve(self) -> None:
        self._relieved.set()
        self._relieved = anyio.Event()

    def _write(self, payload: bytes, segment: int, address: Address) -> int:
        """Hand datagrams to the kernel; the number of bytes that are done with (sent, or refused by the network and
        counted)."""
        total = len(payload)
        if self.gso and segment < total:
            try:
                self._sock.sendmsg((payload,), (segment_option(segment),), 0, address)
            except OSError as error:
                if error.errno in _FULL:
                    return 0
                if error.errno == errno.EIO:
                    # The route's device has no checksum offload; it will not grow one.
                    self.gso = False
                elif error.errno not in _TOO_LARGE:
                    self.counters.send_errors += -(-total // segment)
                    return total
            else:
                self.counters.sent += -(-total // segment)
                return total
        for offset in range(0, total, segment):
            datagram = payload[offset : offset + segment]
            try:
                if self._cuts and len(datagram) > CUT_ABOVE:
                    self._sock.sendmsg((datagram,), (CUT,), 0, address)
                else:
                    self._sock.sendto(datagram, address)
            except OSError as error:
                if error.errno in _FULL:
                    return offset
                self.counters.send_errors += 1
            else:
                self.counters.sent += 1
        return total


class UdpTunnel(Tunnel):
    """One connection on a UDP socket.  What is said at its end may be lost: the layer above notices silence."""

    def __init__(self, udp_socket: UdpSocket, key: tuple[Address | None, int], address: Address, info: TunnelInfo) -> None:
        super().__init__(info)
        self.key = key
        self.address = address
        self.heard = False
        """A frame has come from the other side, so that it is no stranger who hears of the end."""
        self._socket = udp_socket
        self._closed = self._parting = False
        self._dropped_frames = 0

    def send(self, frames: Sequence[bytes]) -> bool:
        """As `Tunnel.send`; frames of a forbidden size are dropped, congestion is that of the socket."""
        kept = 0
        if not self._closed and not self._parting:
            for payload, segment, count in batch_frames(self.key[1], frames):
                if self._socket.send(payload, segment, self.address):
                    kept += count
        self._dropped_frames += len(frames) - kept
        return not self._socket.congested

    @property
    def congested(self) -> bool:
        return self._socket.congested

    async def wait_writable(self) -> None:
        await self._socket.wait_relieved()

    def whole_frame_size(self) -> int:
        return 0 if self._closed else self._socket.whole_frame_size(self.address)

    def allow_fragments(self) -> None:
        if not self._closed:
            self._socket.allow_fragments()

    def part(self) -> bool:
        if self._closed:
            return False
        if not self._parting:
            self._parting = True
            # An answer to the question whether we are there would say that we stay.
            self.on_frames = lambda _frames: None
        return self._socket.say_goodbye(self)

    def close(self, reason: str = "closed by this node") -> None:
        if self._closed:
            return
        self._closed = True
        self._socket.remove_tunnel(self)
        self.on_close(reason)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def dropped_frames(self) -> int:
        return self._dropped_frames


_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
_TOO_LARGE: Final = frozenset({errno.EINVAL, errno.EMSGSIZE})
"""A segment above the path MTU, of this destination and moment: EINVAL in older kernels.  The same datagrams may go out one
by one."""
