"""The two loops that carry packets: `Outbound` from the device to peers, `Inbound` from tunnels to the device, to services, or
onward.

::

    device frames -> FlowGate (hooks, claims) -> lookup per super-packet -> split -> compress? -> seal -> best tunnel
    tunnel frames -> to us?  Data -> open -> decompress? -> guard? -> FlowGate (watch) -> device, or the echo responder
                     |                                             '-- to a network behind us -> subnet router
                     |       Ping/Pong -> its connection     RPC -> PeerRpc     types 11 and up -> plugin handlers
                     '-> for others: forward counter + 1 -> next hop, unchanged

Both loops handle lists, and what is done to each packet of a list is one call: of `split`, of the cipher.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final, TypeAlias

from easytier_host.compress import CompressError, Compressor
from easytier_host.crypto import Cipher
from easytier_host.guard import Guard
from easytier_host.lookup import Lookup
from easytier_host.metrics import Metrics
from easytier_host.nic import offload
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.packet import (
    MAX_FORWARD_COUNTER,
    PAYLOAD_LENGTH,
    PEER_HEAD,
    PEER_HEADER,
    PEER_HEADER_SIZE,
    Flag,
    PacketType,
)
from easytier_host.peer_conn import PeerConn, transmit
from easytier_host.peers import PeerMap
from easytier_host.sealing import always_seals
from easytier_host.tunnel.base import Tunnel

# Plain integers: an IntFlag or IntEnum costs a method call each time it is used, which per packet is too much.
_ENCRYPTED: Final = int(Flag.ENCRYPTED)
_COMPRESSED: Final = int(Flag.COMPRESSED)
_LATENCY_FIRST: Final = int(Flag.LATENCY_FIRST)
_EXIT_NODE: Final = int(Flag.EXIT_NODE)
_NO_PROXY: Final = int(Flag.NO_PROXY)
_NOT_SEND_TO_TUN: Final = int(Flag.NOT_SEND_TO_TUN)
_DATA: Final = int(PacketType.DATA)
_PONG: Final = int(PacketType.PONG)
_HANDSHAKE: Final = int(PacketType.HANDSHAKE)
_PINGS: Final = (int(PacketType.PING), _PONG)
_CONNECTION_TYPES: Final = frozenset({*_PINGS, _HANDSHAKE})
"""Never sealed, and between neighbours."""
_IP_VERSIONS: Final = (4, 6)
_SORT: Final = struct.Struct("<IIBB")
_sort_of: Final = itemgetter(slice(_SORT.size))
"""Source, target, type and flags of a frame: those that agree in them are handled in one go, in their order.  Not the bytes
behind them: the counter depends on the way that each came, and stock leaves garbage in the reserved one."""
_COUNTER: Final = 10
_RPC: Final = (int(PacketType.RPC_REQ), int(PacketType.RPC_RESP))
_DATA_TYPES: Final = frozenset(
    {
        PacketType.DATA,
        PacketType.KCP_SRC,
        PacketType.KCP_DST,
        PacketType.QUIC_SRC,
        PacketType.QUIC_DST,
        PacketType.DATA_KCP_SRC_MODIFIED,
        PacketType.DATA_QUIC_SRC_MODIFIED,
        PacketType.FOREIGN_NETWORK,
    }
)
"""Types that a relay with `disable_relay_data` does not pass on (control plane 2.3)."""

PacketHandler = Callable[[int, list[bytes]], None]
"""(sending peer, opened payloads), one call per batch and sender."""

Arrival: TypeAlias = tuple[bytes, int, int]
"""(IP packet, sending peer, flags of its peer header)"""


class Outbound:
    """Everything that this node originates: packets of the device, payloads of plugins, RPC."""

    def __init__(
        self,
        peer_id: int,
        peers: PeerMap,
        metrics: Metrics,
        cipher: Cipher | None,
        compressor: Compressor | None,
        *,
        mtu: int,
        latency_first: bool,
        split: Callable[[bytes, int], list[bytes]] = offload.split,
    ) -> None:
        self.lookup: Lookup | None = None
        self.next_hops: dict[int, int] = {}
        """Destination peer -> neighbour, by the policy of our own packets; neighbours themselves are always direct."""
        self.guard: Guard | None = None
        """Notes what leaves for peers; None where nothing is restricted."""
        self.public_servers: frozenset[int] = frozenset()
        """Peers with which RPC is in clear: relays that have no key."""
        self._peer_id = peer_id
        self._peers = peers
        self._metrics = metrics
        self._cipher = cipher
        self._compressor = compressor
        self._mtu = mtu
        self._split = split
        self._data_flags = _LATENCY_FIRST if latency_first else 0

    def send_device_frames(self, frames: Sequence[bytes], more_flags: int = 0) -> Tunnel | None:
        """Route, segment, seal and send what the device or a TCP stack brought, with further header flags; returns a congested
        tunnel if there is one, to be waited for."""
        metrics = self._metrics
        if self.guard is not None:
            self.guard.note(frames)
        batches: dict[tuple[int, int], list[bytes]] = {}
        lookup, split = self.lookup, self._split
        for frame in frames:
            first = frame[VNET_HEADER_SIZE] if len(frame) > VNET_HEADER_SIZE else 0
            if first >> 4 == 4:
                address = frame[26:30]
            elif first >> 4 == 6:
                address = frame[34:50]
            else:
                metrics.dropped_device += 1
                continue
            found = lookup.resolve(address) if lookup is not None else None
            if found is None or not found.peers:
                metrics.dropped_no_route += 1
                continue
            try:
                packets = split(frame, self._mtu)
            except ValueError:
                metrics.dropped_device += 1
                continue
            flags = more_flags | _EXIT_NODE if found.exit_node else more_flags
            for target in found.peers:
                batch = batches.get((target, flags))
                if batch is None:
                    batches[target, flags] = packets if len(found.peers) == 1 else list(packets)
                else:
                    batch += packets
        congested = None
        for (target, flags), packets in batches.items():
            congested = self.send(target, PacketType.DATA, packets, flags) or congested
        return congested

    def send(self, target: int, packet_type: int, payloads: Sequence[bytes], flags: int = 0) -> Tunnel | None:
        """Seal and send payloads of one type to `target`; returns the tunnel if it is congested.  `flags` are
        further header flags.

        Without a way to `target` they are dropped and counted.
        """
        conn = self.connection_to(target)
        if conn is None:
            self._metrics.dropped_no_route += len(payloads)
            return None
        flags |= self._data_flags | (_ENCRYPTED if self._cipher is not None else 0)
        head = PEER_HEAD.pack(self._peer_id, target, packet_type, flags, 1, 0)
        if self._compressor is None:
            frames = self._frames(head, payloads)
        else:
            packed_head = PEER_HEAD.pack(self._peer_id, target, packet_type, flags | _COMPRESSED, 1, 0)
            frames = self._compressed_frames(self._compressor, head, packed_head, payloads)
        return transmit(conn, frames, self._metrics)

    @property
    def sealing_overhead(self) -> int:
        """Bytes that sealing adds to a payload."""
        return 0 if self._cipher is None else self._cipher.overhead

    def _frames(self, head: bytes, payloads: Sequence[bytes]) -> list[bytes]:
        if self._cipher is not None:
            return self._cipher.seal_frames(head, payloads)
        length = PAYLOAD_LENGTH.pack
        return [b"".join((head, length(len(payload)), payload)) for payload in payloads]

    def _compressed_frames(
        self, compressor: Compressor, head: bytes, packed_head: bytes, payloads: Sequence[bytes]
    ) -> list[bytes]:
        frames = []
        for payload in payloads:
            packed = compressor.compress(payload)
            if packed is None:
                frames += self._frames(head, [payload])
            else:
                body = packed if self._cipher is None else self._cipher.seal(packed)
                frames.append(b"".join((packed_head, PAYLOAD_LENGTH.pack(len(payload)), body)))
        return frames

    def send_rpc(self, target: int, packet_type: PacketType, payloads: list[bytes]) -> None:
        """Send RPC packets: sealed to peers of the network, in clear to relays of others (control plane 4.4)."""
        conn = self.connection_to(target)
        if conn is None:
            self._metrics.dropped_no_route += len(payloads)
            return
        to_foreign_relay = target in self.public_servers or (conn.is_foreign_relay and conn.peer_id == target)
        in_clear = self._cipher is None or to_foreign_relay
        flags = 0 if in_clear else _ENCRYPTED
        # A stock node's RPC packets pass once through its own forwarding step, so they start at 2, except with foreign relays.
        counter = 1 if to_foreign_relay else 2
        frames = []
        for payload in payloads:
            body = payload if in_clear or self._cipher is None else self._cipher.seal(payload)
            frames.append(PEER_HEADER.pack(self._peer_id, target, packet_type, flags, counter, 0, len(payload)) + body)
        transmit(conn, frames, self._metrics)

    def connection_to(self, target: int) -> PeerConn | None:
        """The connection that frames for `target` take: its own, else that of the next hop; None if there is no way."""
        best = self._peers.best
        conn = best.get(target)
        return conn if conn is not None else best.get(self.next_hops.get(target, 0))


class Inbound:
    """Everything that tunnels bring after their handshake; `receive` is their callback."""

    def __init__(
        self,
        peer_id: int,
        peers: PeerMap,
        metrics: Metrics,
        cipher: Cipher | None,
        clock: Callable[[], float],
        *,
        deliver: Callable[[list[bytes]], None],
        rpc: Callable[[int, int, bytes, float, int], None],
        version_of: Callable[[int], str | None],
        disable_relay_data: bool,
    ) -> None:
        """`rpc(source, packet type, payload, now, neighbour)` takes RPC, the last one being whose connection brought it.
        `version_of` is the version that a peer reports, None if nothing is known of it."""
        self.handlers: dict[int, PacketHandler] = {}
        """Packet types that plugins take."""
        self.subnet: Callable[[list[Arrival]], list[bytes]] | None = None
        """Takes Data without NO_PROXY, and returns what is for the device all the same."""
        self.guard: Guard | None = None
        """Keeps Data back that begins what is not for its sender; None where nothing is restricted."""
        self.next_hops_by_hops: dict[int, int] = {}
        self.next_hops_by_latency: dict[int, int] = {}
        self._peer_id = peer_id
        self._peers = peers
        self._metrics = metrics
        self._cipher = cipher
        self._decompress = Compressor().decompress
        self._clock = clock
        self._deliver = deliver
        self._rpc = rpc
        self._version_of = version_of
        self._disable_relay_data = disable_relay_data

    def receive(self, conn: PeerConn, frames: list[bytes]) -> None:
        """Sort one batch of frames and hand each on; never raises."""
        metrics, me = self._metrics, self._peer_id
        sorts: dict[bytes, list[bytes]] = {}
        for sort, run in groupby(frames, _sort_of):
            sorts.setdefault(sort, []).extend(run)
        packets: list[bytes] = []
        arrivals: list[Arrival] = []
        handled: dict[tuple[int, int], list[bytes]] = {}
        relayed: dict[int, list[bytes]] = {}
        for sort, batch in sorts.items():
            source, target, packet_type, flags = _SORT.unpack(sort)
            if target == me and packet_type not in _CONNECTION_TYPES and self._is_forged(conn, source):
                metrics.dropped_forged += len(batch)
            elif target == me and not self._is_credible(conn, source, packet_type, flags):
                metrics.dropped_clear += len(batch)
            elif packet_type == _DATA and target == me:
                self._sort_packets(self._open(batch, flags), source, flags, packets, arrivals)
            elif packet_type in _PINGS:
                for frame in batch:
                    self._take_ping(conn, packet_type, frame)
            elif packet_type == _HANDSHAKE:
                for _ in batch:
                    self._take_hello(conn)
            elif target != me:
                self._relay(batch, target, packet_type, flags, relayed)
            elif packet_type in _RPC:
                for opened in self._open(batch, flags):
                    metrics.control_frames += 1
                    self._rpc(source, packet_type, opened, self._clock(), conn.peer_id)
            elif packet_type in self.handlers:
                handled.setdefault((packet_type, source), []).extend(self._open(batch, flags))
            else:
                metrics.dropped_unhandled += len(batch)
        size = sum(map(len, frames))
        conn.received_frames += len(frames)
        conn.received_bytes += size
        metrics.received_frames += len(frames)
        metrics.received_bytes += size
        if arrivals and self.subnet is not None:
            packets += self.subnet(arrivals)
        if packets:
            self._deliver(packets)
        for (packet_type, source), payloads in handled.items():
            if payloads:
                metrics.plugin_frames += len(payloads)
                self.handlers[packet_type](source, payloads)
        for neighbour, batch in relayed.items():
            # A handler above may have closed the connection that was found for them.
            best = self._peers.best.get(neighbour)
            if best is None:
                metrics.dropped_relay += len(batch)
                continue
            metrics.relayed_frames += len(batch)
            transmit(best, batch, metrics)

    def _sort_packets(
        self, opened: Sequence[bytes], source: int, flags: int, packets: list[bytes], arrivals: list[Arrival]
    ) -> None:
        """Put IP packets with those for the device, or with those that may be for a subnet behind this node."""
        whole = [packet for packet in opened if packet and packet[0] >> 4 in _IP_VERSIONS]
        self._metrics.dropped_malformed += len(opened) - len(whole)
        if self.guard is not None:
            admitted = self.guard.admit(whole, source)
            self._metrics.dropped_access += len(whole) - len(admitted)
            whole = admitted
        if self.subnet is not None and not flags & _NO_PROXY:
            arrivals += [(packet, source, flags) for packet in whole]
        elif flags & _NOT_SEND_TO_TUN:
            self._metrics.dropped_unhandled += len(whole)
        else:
            packets += whole

    def _is_forged(self, conn: PeerConn, source: int) -> bool:
        """Whether frames for this node cannot be of whom they say.

        A node sends to its neighbours directly, stock whatever its tables say (data plane 1.3).  One whose own connection is
        silent may have lost it, and come by another way.
        """
        if source == conn.peer_id:
            return False
        return source == self._peer_id or (source in self._peers.best and self._peers.is_live(source))

    def _is_credible(self, conn: PeerConn, source: int, packet_type: int, flags: int) -> bool:
        """Whether frames may be in clear, if they are: their sender does not always seal them."""
        if packet_type in _CONNECTION_TYPES or flags & _ENCRYPTED or self._cipher is None:
            return True
        is_neighbour = source == conn.peer_id and not conn.is_foreign_relay
        return not always_seals(packet_type, self._version_of(source), is_neighbour=is_neighbour)

    def _open(self, frames: list[bytes], flags: int) -> Sequence[bytes]:
        """The plain payloads of frames with these flags; those that cannot be had are counted."""
        opened: Sequence[bytes | None]
        if not flags & _ENCRYPTED:
            opened = [frame[PEER_HEADER_SIZE:] for frame in frames]
        elif self._cipher is not None:
            opened = self._cipher.open_frames(frames)
        else:
            # Encryption is off at this node.
            opened = [None] * len(frames)
        if flags & _COMPRESSED:
            opened = [self._decompressed(frame, payload) for frame, payload in zip(frames, opened, strict=True)]
        plain = [payload for payload in opened if payload is not None]
        self._metrics.dropped_unsealed += len(opened) - len(plain)
        return plain

    def _decompressed(self, frame: bytes, packed: bytes | None) -> bytes | None:
        if packed is None:
            return None
        (length,) = PAYLOAD_LENGTH.unpack_from(frame, PEER_HEAD.size)
        try:
            return self._decompress(packed, length)
        except CompressError:
            return None

    def _take_ping(self, conn: PeerConn, packet_type: int, frame: bytes) -> None:
        self._metrics.control_frames += 1
        if packet_type == _PONG:
            conn.take_pong(frame, self._clock())
            return
        pong = conn.answer_ping(frame)
        if pong is not None:
            transmit(conn, [pong], self._metrics)

    def _take_hello(self, conn: PeerConn) -> None:
        """A handshake after the handshake: over UDP the answer may have been lost, then it is given again."""
        answer = conn.repeat_answer()
        if answer is None:
            self._metrics.dropped_unhandled += 1
            return
        self._metrics.control_frames += 1
        transmit(conn, [answer], self._metrics)

    def _relay(self, frames: list[bytes], target: int, packet_type: int, flags: int, relayed: dict[int, list[bytes]]) -> None:
        """Queue frames of others for their next hop, by the rules of control plane 2.3."""
        metrics = self._metrics
        if target == 0:
            metrics.dropped_unhandled += len(frames)
            return
        if packet_type == PacketType.FOREIGN_NETWORK:
            # A malformed one would end a stock daemon, and only relays of other networks have a use for any.
            metrics.dropped_malformed += len(frames)
            return
        if self._disable_relay_data and packet_type in _DATA_TYPES:
            metrics.dropped_relay += len(frames)
            return
        for frame in frames:
            counter = frame[_COUNTER]
            by_latency = bool(flags & _LATENCY_FIRST) and counter <= 2
            table = self.next_hops_by_latency if by_latency else self.next_hops_by_hops
            neighbour = target if target in self._peers.best else table.get(target, 0)
            if counter > MAX_FORWARD_COUNTER or neighbour not in self._peers.best:
                metrics.dropped_relay += 1
                continue
            kept = flags if by_latency else flags & ~_LATENCY_FIRST
            relayed.setdefault(neighbour, []).append(frame[:9] + bytes((kept, counter + 1)) + frame[11:])
