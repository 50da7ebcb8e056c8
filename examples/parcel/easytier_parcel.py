"""A toy transport: TCP flows in numbered parcels, of which one is under way at a time (stop-and-wait).

It is here to be read, not to be used.  It loses nothing and keeps the order, but moves one parcel a round trip: 24 KB/s over
50 ms.  What it lacks is what a transport is about: a window, a measure of the round trip, a rate.  Both nodes need it, and the
one that opens connections names the other, for nobody announces it:

    [plugins]
    parcel = { peers = ["b"] }

A parcel, big endian: connection (4 bytes, chosen by its opener), kind (1), number (4), then up to 1200 bytes.  It travels in
packets of type 16 to the acceptor and 17 back, which are those of the QUIC proxy: a network that uses it cannot have this.

    opener                                    acceptor
      | OPEN, both ends of the flow  ----------> |  dials the destination
      | <----------------------- ACK of number 0 |  once that is reached; RESET if it is not
      | DATA n -> ... <- ACK n, the same back     |  repeated every 0.3 s, 20 times
      | END n  -> ... <- ACK n                    |  in each direction; then both forget it
"""

import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address

import anyio

from easytier_hooks import (
    Candidate,
    Endpoint,
    FlowKey,
    HostServices,
    PeerInfo,
    TcpConnection,
    TcpFlow,
    Transport,
    TransportUnavailable,
    check_options,
    hookimpl,
)

OPEN, DATA, END, ACK, RESET = range(5)
HEADER = struct.Struct(">IBI")
TO_ACCEPTOR, TO_OPENER = 16, 17
"""Packet types that the node leaves to plugins."""

PARCEL_BYTES = 1200
REPEAT_EVERY = 0.3
REPEATS = 20
LINGER = 10.0
"""Seconds for which a connection that has ended still acknowledges what the peer repeats."""
MAX_CONNECTIONS = 256


class Connection(TcpConnection):
    """One flow, at either end.  `post` sends a parcel to the other one."""

    def __init__(self, post: Callable[[int, int, bytes], None]) -> None:
        self._post = post
        # One parcel that the application has not taken: the next one is not acknowledged, and comes again.
        self._fill, self._inbox = anyio.create_memory_object_stream[bytes](1)
        self._rest = b""
        self._expected = 1
        self._next = 1
        self._waited_for = 0
        self._acked = anyio.Event()
        self._confirmed = False
        self.broken = False
        self.refused = False
        """By the other end."""
        self.ended = anyio.Event()

    async def open(self, ends: bytes) -> None:
        """Ask the other end to reach the destination; raises BrokenResourceError if it does not."""
        await self._deliver(OPEN, 0, ends)

    def take(self, kind: int, number: int, data: bytes) -> None:
        """A parcel of the other end."""
        if kind == RESET:
            self.refused = True
            self._break()
        elif self.broken:
            # The RESET was lost: whatever is repeated gets another one.
            if kind != ACK:
                self._post(RESET, 0, b"")
        elif kind == ACK:
            if number == self._waited_for:
                self._acked.set()
        elif kind == OPEN and self._confirmed:
            self._post(ACK, 0, b"")
        elif kind in (DATA, END) and number <= self._expected:
            if number == self._expected:
                try:
                    self._fill.send_nowait(data if kind == DATA else b"")
                except anyio.WouldBlock:
                    return
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    # Nobody reads any more; the other end may finish.
                    pass
                self._expected += 1
            self._post(ACK, number, b"")

    def confirm(self) -> None:
        self._confirmed = True
        self._post(ACK, 0, b"")

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        if not self._rest:
            try:
                self._rest = await self._inbox.receive()
            except anyio.EndOfStream:
                raise (anyio.BrokenResourceError if self.broken else anyio.EndOfStream) from None
            if not self._rest:
                self._fill.close()
                raise anyio.EndOfStream
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        for begin in range(0, len(item), PARCEL_BYTES):
            await self._deliver(DATA, self._take_number(), bytes(item[begin : begin + PARCEL_BYTES]))

    async def send_eof(self) -> None:
        await self._deliver(END, self._take_number(), b"")

    async def aclose(self) -> None:
        self.discard()

    def discard(self) -> None:
        """Take nothing any more."""
        self._fill.close()
        self._inbox.close()
        self.ended.set()

    def reset(self) -> None:
        if not self.broken:
            self._post(RESET, 0, b"")
            self._break()

    def _take_number(self) -> int:
        self._next += 1
        return self._next - 1

    async def _deliver(self, kind: int, number: int, data: bytes) -> None:
        """Return once the other end has the parcel; raises BrokenResourceError if it stays silent or has given up."""
        self._waited_for, self._acked = number, anyio.Event()
        for _ in range(REPEATS):
            if self.broken:
                raise anyio.BrokenResourceError
            self._post(kind, number, data)
            with anyio.move_on_after(REPEAT_EVERY):
                await self._acked.wait()
                if self.broken:
                    raise anyio.BrokenResourceError
                return
        self.reset()
        raise anyio.BrokenResourceError

    def _break(self) -> None:
        self.broken = True
        self._fill.close()
        self._acked.set()
        self.ended.set()


class ParcelTransport:
    """The transport of one node, for both directions."""

    name = "parcel"

    def __init__(self, host: HostServices, peers: Sequence[str]) -> None:
        self._host = host
        self._peers = frozenset(peers)
        self._connections: dict[tuple[int, int, int], Connection] = {}
        """By peer, packet type of what it sends us, and number."""
        for packet_type in (TO_ACCEPTOR, TO_OPENER):
            host.handle(packet_type, partial(self._packets, packet_type))

    def candidate(self, flow: TcpFlow, peer: PeerInfo | None) -> Candidate:
        """Whether the peer is one of those that the configuration names."""
        if peer is None or peer.hostname not in self._peers:
            return Candidate(self.name, available=False, reason="the options of parcel do not name the peer")
        return Candidate(self.name, available=True, reason=f"{peer.hostname} takes parcels, says the configuration")

    async def dial(self, flow: TcpFlow) -> TcpConnection:
        """See `Transport.dial`."""
        if flow.peer is None or len(self._connections) >= MAX_CONNECTIONS:
            raise TransportUnavailable("the peer has gone" if flow.peer is None else "too many connections")
        connection = self._connection(flow.peer.peer_id, TO_OPENER, secrets.randbits(32))
        try:
            await connection.open(_packed(flow.key))
        except anyio.BrokenResourceError:
            if connection.refused:
                raise ConnectionRefusedError("refused by the destination") from None
            raise TransportUnavailable("no answer to OPEN") from None
        except BaseException:
            connection.reset()
            raise
        return connection

    def _connection(self, peer_id: int, comes_by: int, number: int) -> Connection:
        """A new one.  It is forgotten some time after the other end has been told that it is over."""
        goes_by = TO_ACCEPTOR if comes_by == TO_OPENER else TO_OPENER

        def post(kind: int, parcel: int, data: bytes) -> None:
            # What is not sent, or lost, is repeated.
            self._host.send(peer_id, goes_by, [HEADER.pack(number, kind, parcel) + data])

        made = self._connections[peer_id, comes_by, number] = Connection(post)
        self._host.task_group.start_soon(self._forget, (peer_id, comes_by, number), name="parcel connection")
        return made

    async def _forget(self, key: tuple[int, int, int]) -> None:
        connection = self._connections[key]
        try:
            await connection.ended.wait()
            await anyio.sleep(LINGER)
        finally:
            del self._connections[key]
            connection.discard()

    def _packets(self, comes_by: int, peer_id: int, payloads: list[bytes]) -> None:
        for payload in payloads:
            if len(payload) < HEADER.size:
                continue
            number, kind, parcel = HEADER.unpack_from(payload)
            connection = self._connections.get((peer_id, comes_by, number))
            if connection is not None:
                connection.take(kind, parcel, payload[HEADER.size :])
            elif kind == OPEN and comes_by == TO_ACCEPTOR and len(self._connections) < MAX_CONNECTIONS:
                with suppress(ValueError, struct.error):
                    source, destination = _unpacked(payload[HEADER.size :])
                    opened = self._connection(peer_id, comes_by, number)
                    self._host.task_group.start_soon(self._host.serve, opened, peer_id, self.name, source, destination)


def _packed(key: FlowKey) -> bytes:
    ends = ((key.source_ip, key.source_port), (key.destination_ip, key.destination_port))
    return b"".join(ip.packed + struct.pack(">H", port) for ip, port in ends)


def _unpacked(data: bytes) -> tuple[Endpoint, Endpoint]:
    """Source and destination; raises ValueError."""
    if len(data) not in (12, 36):
        raise ValueError(f"two ends take 12 or 36 bytes, not {len(data)}")
    half = len(data) // 2
    source, destination = ((ip_address(end[:-2]), int.from_bytes(end[-2:], "big")) for end in (data[:half], data[half:]))
    return source, destination


class Parcel:
    """The plugin. Options: `peers`, the host names of nodes that have it too. Raises ValueError for anything else."""

    def __init__(self, options: Mapping[str, object]) -> None:
        check_options(options, "peers")
        peers = options.get("peers", [])
        if not isinstance(peers, list) or not all(isinstance(peer, str) for peer in peers):
            raise ValueError(f"peers: expected a list of host names, not {peers!r}")
        self._peers: list[str] = peers

    @hookimpl
    def register_transports(self, host: HostServices) -> Sequence[Transport]:
        """One transport for each node."""
        return [ParcelTransport(host, self._peers)]

    @hookimpl
    def select_transport(self, flow: TcpFlow, peer: PeerInfo | None, candidates: Sequence[Candidate]) -> str | None:
        """Parcels wherever they are possible, so that a user sees them; a real transport leaves the choice to others."""
        possible = any(candidate.available for candidate in candidates if candidate.transport == ParcelTransport.name)
        return ParcelTransport.name if possible else None
