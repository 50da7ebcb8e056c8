"""The two loops that carry packets: `Outbound` from the device to peers, `Inbound` from tunnels to the device, to services, or
onward.

::

    device frames -> FlowGate (hooks, claims) -> lookup per super-packet -> split -> compress? -> seal -> best tunnel
    tunnel frames -> to us?  Data -> open -> decompress? -> FlowGate (watch) -> device, or the echo responder without one
                     |                                             '-- to a network behind us -> subnet router
                     |       Ping/Pong -> its connection     RPC -> PeerRpc     types 11 and up -> plugin handlers
                     '-> for others: forward counter + 1 -> next hop, unchanged

Both loops handle lists.  What is per packet is kept to slicing, one header, one call of the cipher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from easytier_host.compress import CompressError, Compressor
from easytier_host.crypto import Cipher, OpenError
from easytier_host.gate import FlowGate
from easytier_host.lookup import Lookup
from easytier_host.metrics import Metrics
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.nic.offload import split
from easytier_host.packet import MAX_FORWARD_COUNTER, PEER_HEADER, PEER_HEADER_SIZE, Flag, PacketType
from easytier_host.peer_conn import PeerConn, transmit
from easytier_host.peers import PeerMap
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
_IP_VERSIONS: Final = (4, 6)
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
    ) -> None:
        self.lookup: Lookup | None = None
        self.next_hops: dict[int, int] = {}
        """Destination peer -> neighbour, by the policy of our own packets; neighbours themselves are always direct."""
        self.public_servers: frozenset[int] = frozenset()
        """Peers with which RPC is in clear: relays that have no key."""
        self._peer_id = peer_id
        self._peers = peers
        self._metrics = metrics
        self._cipher = cipher
        self._compressor = compressor
        self._mtu = mtu
        self._data_flags = _LATENCY_FIRST if latency_first else 0

    def send_device_frames(self, frames: Sequence[bytes], more_flags: int = 0) -> Tunnel | None:
        """Route, segment, seal and send what the device or a TCP stack brought, with further header flags; returns a congested
        tunnel if there is one, to be waited for."""
        metrics = self._metrics
        batches: dict[tuple[int, int], list[bytes]] = {}
        lookup = self.lookup
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
        peer_id, cipher, compressor = self._peer_id, self._cipher, self._compressor
        pack = PEER_HEADER.pack
        plain_flags = flags | self._data_flags | (_ENCRYPTED if cipher is not None else 0)
        frames = []
        header, header_length = b"", -1
        for payload in payloads:
            length = len(payload)
            packed = compressor.compress(payload) if compressor is not None else None
            if packed is not None:
                body = packed if cipher is None else cipher.seal(packed)
                frames.append(pack(peer_id, target, packet_type, plain_flags | _COMPRESSED, 1, 0, length) + body)
                continue
            if length != header_length:
                header, header_length = pack(peer_id, target, packet_type, plain_flags, 1, 0, length), length
            frames.append(header + (payload if cipher is None else cipher.seal(payload)))
        return transmit(conn, frames, self._metrics)

    @property
    def sealing_overhead(self) -> int:
        """Bytes that sealing adds to a payload."""
        return 0 if self._cipher is None else self._cipher.overhead

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
        rpc: Callable[[int, int, bytes, float], None],
        flows: FlowGate,
        disable_relay_data: bool,
    ) -> None:
        self.handlers: dict[int, PacketHandler] = {}
        """Packet types that plugins take."""
        self.subnet: Callable[[list[Arrival]], list[bytes]] | None = None
        """Takes Data without NO_PROXY, and returns what is for the device all the same."""
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
        self._flows = flows
        self._disable_relay_data = disable_relay_data

    def receive(self, conn: PeerConn, frames: list[bytes]) -> None:
        """Sort one batch of frames and hand each on; never raises."""
        metrics = self._metrics
        unpack, me = PEER_HEADER.unpack_from, self._peer_id
        packets: list[bytes] = []
        arrivals: list[Arrival] = []
        # A packet whose `mask`ed flags are `straight` goes to the device without further ado.
        mask, straight = (_NOT_SEND_TO_TUN, 0) if self.subnet is None else (_NOT_SEND_TO_TUN | _NO_PROXY, _NO_PROXY)
        relayed: dict[int, list[bytes]] = {}
        handled: dict[tuple[int, int], list[bytes]] = {}
        size = 0
        for frame in frames:
            size += len(frame)
            source, target, packet_type, flags, counter, _, length = unpack(frame)
            if packet_type == _DATA and target == me:
                opened = self._open(frame[PEER_HEADER_SIZE:], flags, length)
                if opened is None:
                    continue
                if not opened or opened[0] >> 4 not in _IP_VERSIONS:
                    metrics.dropped_malformed += 1
                elif flags & mask == straight:
                    packets.append(opened)
                elif self.subnet is None or flags & _NO_PROXY:
                    metrics.dropped_unhandled += 1
                else:
                    arrivals.append((opened, source, flags))
            elif packet_type in _PINGS:
                self._take_ping(conn, packet_type, frame)
            elif packet_type == _HANDSHAKE:
                self._take_hello(conn)
            elif target != me:
                self._relay(frame, target, packet_type, flags, counter, relayed)
            elif packet_type in _RPC:
                opened = self._open(frame[PEER_HEADER_SIZE:], flags, length)
                if opened is not None:
                    metrics.control_frames += 1
                    self._rpc(source, packet_type, opened, self._clock())
            elif packet_type in self.handlers:
                opened = self._open(frame[PEER_HEADER_SIZE:], flags, length)
                if opened is not None:
                    handled.setdefault((packet_type, source), []).append(opened)
            else:
                metrics.dropped_unhandled += 1
        conn.received_frames += len(frames)
        conn.received_bytes += size
        metrics.received_frames += len(frames)
        metrics.received_bytes += size
        if arrivals and self.subnet is not None:
            packets += self.subnet(arrivals)
        if packets:
            self._flows.watch_inbound(packets)
            self._deliver(packets)
        for (packet_type, source), payloads in handled.items():
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

    def _open(self, payload: bytes, flags: int, length: int) -> bytes | None:
        # Clear payloads are taken even where encryption is on: stock nodes up to 2.4 send some of theirs so (control plane
        # 4.4).
        try:
            if flags & _ENCRYPTED:
                if self._cipher is None:
                    raise OpenError("encryption is off at this node")
                payload = self._cipher.open(payload)
            if flags & _COMPRESSED:
                payload = self._decompress(payload, length)
        except (OpenError, CompressError):
            self._metrics.dropped_unsealed += 1
            return None
        return payload

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

    def _relay(
        self, frame: bytes, target: int, packet_type: int, flags: int, counter: int, relayed: dict[int, list[bytes]]
    ) -> None:
        """Queue a frame of others for its next hop, by the rules of control plane 2.3."""
        if target == 0:
            self._metrics.dropped_unhandled += 1
            return
        if packet_type == PacketType.FOREIGN_NETWORK:
            # A malformed one would end a stock daemon, and only relays of other networks have a use for any.
            self._metrics.dropped_malformed += 1
            return
        if counter > MAX_FORWARD_COUNTER or (self._disable_relay_data and packet_type in _DATA_TYPES):
            self._metrics.dropped_relay += 1
            return
        by_latency = flags & _LATENCY_FIRST and counter <= 2
        if flags & _LATENCY_FIRST and not by_latency:
            flags &= ~_LATENCY_FIRST
        table = self.next_hops_by_latency if by_latency else self.next_hops_by_hops
        neighbour = target if target in self._peers.best else table.get(target, 0)
        if neighbour not in self._peers.best:
            self._metrics.dropped_relay += 1
            return
        relayed.setdefault(neighbour, []).append(frame[:9] + bytes((flags, counter + 1)) + frame[11:])
