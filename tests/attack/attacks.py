"""What an attacker with the network's secret may send, a batch for each kind of attack.

Each attack is a function from the `Attacker` and the honest scene to frames, which are sent again and again.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Final

import zstandard

from easytier_host.crypto import network_digest
from easytier_host.handshake import Identity, encode_hello
from easytier_host.packet import PEER_HEADER, Flag, PacketType
from easytier_host.pb import peer_rpc_pb2
from easytier_host.route_records import encode_bitmap
from easytier_kcp_plugin.kcp.conn_data import ConnData, Offer, SocketAddress
from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, PING, PONG, RST, SYN, SYN_ACK, SessionHeader
from tests.attack.scene import NETWORK, SECRET, Attacker, Scene
from tests.unit.host.helpers import ACK as TCP_ACK
from tests.unit.host.helpers import SYN as TCP_SYN
from tests.unit.host.helpers import tcp_segment, udp_packet
from tests.unit.kcp.network import request

COUNT: Final = 200
INVENTED: Final = 0x1000_0000
"""The first peer id of nodes that there are not."""
Attack = Callable[[Scene], list[bytes]]

_source = random.Random(5)


def _endpoint(ip: str, port: int) -> SocketAddress:
    return SocketAddress(ip_address(ip), port)


def packets_of_others(scene: Scene) -> list[bytes]:
    """IP packets with the addresses of others, of the target, and of nobody, to the target and beyond."""
    attacker = scene.attacker
    sources = ("10.144.0.1", "10.144.0.2", "10.144.0.4", "10.144.0.77", "127.0.0.1", "0.0.0.0", "224.0.0.1", "8.8.8.8")
    targets = ("10.144.0.1", "10.144.0.2", "127.0.0.1", "169.254.1.1", "255.255.255.255", "1.1.1.1")
    pairs = [(source, target) for source in sources for target in targets]
    packets = [udp_packet(*pair, b"forged") for pair in pairs] + [tcp_segment(*pair, ports=(9, 7)) for pair in pairs]
    return [
        attacker.frame(PacketType.DATA, packet, flags=flags)
        for packet in packets
        for flags in (0, Flag.NO_PROXY, Flag.EXIT_NODE)
    ]


def connections(scene: Scene) -> list[bytes]:
    """TCP SYNs from all ports, and segments of connections that nobody has begun."""
    frame = scene.attacker.frame
    flags = (TCP_SYN, TCP_ACK)
    segments = (
        tcp_segment("10.144.0.3", "10.144.0.1", ports=(_source.randrange(1, 65_536), _source.randrange(1, 65_536)), flags=flag)
        for flag in flags
        for _ in range(COUNT)
    )
    return [frame(PacketType.DATA, segment) for segment in segments]


def kcp_of_all_sorts(scene: Scene) -> list[bytes]:
    """Every flag, for sessions of its own and of others, in its own name and in that of a neighbour."""
    attacker, target = scene.attacker, scene.target.peer_id
    frames = []
    for source in (attacker.peer_id, scene.near.peer_id, INVENTED):
        for flags in (SYN, SYN_ACK, ACK_DATA, FIN, RST, PING, PONG, 0, 0xFF):
            for opener, acceptor in ((source, target), (target, source), (scene.near.peer_id, target)):
                for kind in (PacketType.KCP_SRC, PacketType.KCP_DST):
                    header = SessionHeader(_source.getrandbits(32), opener, acceptor, flags).encode()
                    frames.append(attacker.frame(kind, header + _source.randbytes(200), source=source))
    return frames


def kcp_of_live_sessions(scene: Scene) -> list[bytes]:
    """The ends, resets, probes and data of the honest flows: with their real numbers, in all names, in both directions."""
    attacker, target, near = scene.attacker, scene.target.peer_id, scene.near.peer_id
    frames = []
    for conv in scene.live_convs():
        for flags in (SYN, SYN_ACK, ACK_DATA, FIN, RST, PING, PONG):
            for source in (attacker.peer_id, near, scene.far.peer_id, INVENTED):
                for opener, acceptor in ((near, target), (target, near), (source, target), (target, source)):
                    for kind in (PacketType.KCP_SRC, PacketType.KCP_DST):
                        # Body of a SYN, or of a segment that acknowledges and carries what was never sent.
                        body = request(7).encode() if flags == SYN else conv.to_bytes(4, "little") + bytes((81, 0)) + bytes(100)
                        header = SessionHeader(conv, opener, acceptor, flags).encode()
                        frames.append(attacker.frame(kind, header + body, source=source))
    return frames


def forbidden_targets(scene: Scene) -> list[bytes]:
    """Connections to what no peer is led to, by KCP and as packets: loopback, link-local, multicast, nowhere, the world."""
    attacker, target = scene.attacker, scene.target.peer_id
    places = ("127.0.0.1", "127.1.2.3", "0.0.0.0", "169.254.1.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "8.8.8.8", "::1")
    frames = []
    for place in places:
        for port in (scene.trap_port, 7, 22, 0):
            for _ in range(COUNT // 20):
                # An opener of our kind, for which is dialled at once.
                wanted = ConnData(_endpoint("10.144.0.3", 9), _endpoint(place, port), Offer())
                header = SessionHeader(_source.getrandbits(32), attacker.peer_id, target, SYN).encode()
                frames.append(attacker.frame(PacketType.KCP_SRC, header + wanted.encode()))
            if ":" not in place:
                segment = tcp_segment("10.144.0.3", place, ports=(_source.randrange(1, 65_536), port), flags=TCP_SYN)
                frames += [attacker.frame(PacketType.DATA, segment, flags=flags) for flags in (0, Flag.EXIT_NODE)]
    return frames


def kcp_openings(scene: Scene) -> list[bytes]:
    """KCP sessions without end, each for a connection to the honest listener."""
    attacker, target = scene.attacker, scene.target.peer_id
    return [
        attacker.frame(
            PacketType.KCP_SRC,
            SessionHeader(_source.getrandbits(32), attacker.peer_id, target, SYN).encode()
            + ConnData(_endpoint("10.144.0.3", _source.randrange(1, 65_536)), _endpoint("10.144.0.1", 7)).encode(),
        )
        # So many that they have been forgotten when they come again.
        for _ in range(50 * COUNT)
    ]


def calls(scene: Scene) -> list[bytes]:
    """RPC that costs: services that there are and are not, names that are answered, maps, lists of addresses."""
    call = scene.attacker.call
    frames: list[bytes] = []
    for _ in range(COUNT // 4):
        frames += call("x" * 400, 1, b"")
        frames += call("PeerCenterRpc", 2, peer_rpc_pb2.GetGlobalPeerMapRequest())
        frames += call("DirectConnectorRpc", 1, peer_rpc_pb2.GetIpListRequest())
        frames += call("OspfRouteRpc", 1, secrets.token_bytes(500))
        frames += call("OspfRouteRpc", 1, b"", is_request=False)
    return frames


def reports(scene: Scene) -> list[bytes]:
    """Latencies of invented nodes, for the table that all read."""
    frames: list[bytes] = []
    for number in range(20):
        peer_id = INVENTED + number
        report = peer_rpc_pb2.ReportPeersRequest(my_peer_id=peer_id)
        for other in range(1000):
            report.peer_infos.direct_peers[INVENTED + other].latency_ms = 1
        frames += scene.attacker.call("PeerCenterRpc", 1, report, source=peer_id)
    return frames


def pieces(scene: Scene) -> list[bytes]:
    """First pieces of calls that never end, in the names of a neighbour, of itself and of many."""
    content = bytes(3000)
    names = (scene.near.peer_id, scene.attacker.peer_id, *range(INVENTED, INVENTED + 300))
    return [
        frame for name in names for frame in scene.attacker.call("OspfRouteRpc", 1, content, source=name, pieces=slice(0, 2))
    ]


def record(peer_id: int, number: int, version: int, hostname: str = "invented") -> peer_rpc_pb2.RoutePeerInfo:
    """The record of a peer that says it is 10.144.0.<number>."""
    made = peer_rpc_pb2.RoutePeerInfo(peer_id=peer_id, version=version, hostname=hostname, peer_route_id=7, network_length=24)
    made.ipv4_addr.addr = 0x0A90_0000 + number % 0x1_0000
    made.feature_flag.kcp_input = True
    return made


def sync(
    attacker: Attacker,
    records: Iterable[peer_rpc_pb2.RoutePeerInfo],
    rows: dict[int, tuple[int, set[int]]] | peer_rpc_pb2.RouteConnBitmap,
) -> list[bytes]:
    """A SyncRouteInfo call."""
    message = peer_rpc_pb2.SyncRouteInfoRequest(my_peer_id=attacker.peer_id, my_session_id=7, is_initiator=True)
    message.peer_infos.items.extend(records)
    if rows:
        message.conn_bitmap.CopyFrom(encode_bitmap(rows) if isinstance(rows, dict) else rows)
    return attacker.call("OspfRouteRpc", 1, message)


def invented_network(scene: Scene) -> list[bytes]:
    """Hundreds of nodes that all know each other, with other names and neighbours each time."""
    attacker = scene.attacker
    peers = range(INVENTED, INVENTED + 400)
    # Two matrices by turns, since they take long to make.
    matrices = []
    for _ in range(2):
        rows = {peer_id: (1, set(_source.sample(peers, 200))) for peer_id in peers}
        rows[attacker.peer_id] = (1, {scene.target.peer_id, *peers})
        matrices.append(encode_bitmap(rows))
    frames: list[bytes] = []
    for version in range(1, COUNT + 1):
        matrix = matrices[version % 2]
        for entry in matrix.peer_ids:
            if entry.version:
                entry.version = version if entry.peer_id in peers else 1_000_000 + version
        records = (record(peer_id, 1000 + peer_id - INVENTED, version, f"invented{version}") for peer_id in peers)
        frames += sync(attacker, records, matrix)
    return frames


def records_of_others(scene: Scene) -> list[bytes]:
    """Honest nodes have other addresses and neighbours, it says; and it has theirs, and their names."""
    attacker = scene.attacker
    last = 0xFFFF_FFF0
    honest = (scene.near, scene.far, scene.target)
    forged = [record(node.peer_id, 77, last, node.config.hostname) for node in honest]
    own = [record(attacker.peer_id, 2, last + number, scene.near.config.hostname) for number in range(2)]
    rows = {node.peer_id: (last, {attacker.peer_id}) for node in honest}
    return [frame for each in own for frame in sync(attacker, [*forged, each], rows)]


def handshakes(scene: Scene) -> list[bytes]:
    """Its own again, those of others, and some of other networks."""
    digest = network_digest(NETWORK, SECRET)
    names = (scene.attacker.peer_id, scene.near.peer_id, scene.target.peer_id)
    hellos = [encode_hello(Identity(name, network, digest)) for name in names for network in (NETWORK, "x" * 300)]
    return hellos * (COUNT // len(hellos))


def pings(scene: Scene) -> list[bytes]:
    """Large Pings and Pongs with all ids, and some too short for a sequence number."""
    frame = scene.attacker.frame
    kinds = (PacketType.PING, PacketType.PONG)
    names = (scene.attacker.peer_id, scene.near.peer_id, scene.target.peer_id)
    return [
        frame(kind, bytes(size), source=name, sealed=False) for kind in kinds for name in names for size in (0, 3, 4, 1900)
    ] * 8


def relayed(scene: Scene) -> list[bytes]:
    """Frames for others: at every count of hops, of and to everybody, itself and nobody included."""
    attacker = scene.attacker
    names = (scene.near.peer_id, scene.far.peer_id, attacker.peer_id, INVENTED, 0)
    return [
        attacker.frame(kind, secrets.token_bytes(64), source=source or 1, to=to, counter=counter, flags=flags)
        for kind in (PacketType.DATA, PacketType.KCP_SRC, PacketType.RPC_REQ, PacketType.FOREIGN_NETWORK)
        for source in names
        for to in names
        if to
        for counter, flags in ((0, 0), (1, Flag.LATENCY_FIRST), (7, 0), (8, 0), (255, 0))
    ]


def bombs(scene: Scene) -> list[bytes]:
    """A few bytes that unpack to as much as may be, to more, and to gigabytes; and what unpacks to nothing good."""
    frame = scene.attacker.frame
    packed = zstandard.ZstdCompressor(level=19).compress
    sizes = (1500, 16_384, 16_385, 65_536, 50_000_000)
    bodies = [(size, packed(b"\x45" + bytes(size - 1)) + b"\x01") for size in sizes]
    bodies += [(1500, secrets.token_bytes(100)), (1500, b"\x01"), (1500, b""), (0, packed(b"") + b"\x01")]
    kinds = (PacketType.DATA, PacketType.RPC_REQ, PacketType.KCP_SRC)
    return [
        frame(kind, body, flags=Flag.COMPRESSED, length=length)
        for kind in kinds
        for size, body in bodies
        for length in (size, 0xFFFF_FFFF, 16_384)
    ] * 3


def clear_text(scene: Scene) -> list[bytes]:
    """What is always sealed, in clear, of itself, of neighbours and of nobody."""
    frame, near = scene.attacker.frame, scene.near.peer_id
    kinds = (
        PacketType.DATA,
        PacketType.KCP_SRC,
        PacketType.KCP_DST,
        PacketType.RPC_REQ,
        PacketType.RPC_RESP,
        PacketType.QUIC_SRC,
    )
    packet = udp_packet("10.144.0.3", "10.144.0.1", b"clear")
    return [
        frame(kind, packet, source=name, sealed=False) for kind in kinds for name in (scene.attacker.peer_id, near, INVENTED)
    ] * 5


def other_types(scene: Scene) -> list[bytes]:
    """Types that nobody takes, sealed, in clear, cut and changed."""
    frame = scene.attacker.frame
    kinds = sorted({0, 3, 6, 7, *map(int, PacketType), 200, 255} - {2, 4, 5})
    frames = [
        frame(kind, _source.randbytes(64), sealed=sealed, flags=flags)
        for kind in kinds
        for sealed in (True, False)
        for flags in (0, 0xEE)
    ]
    cut = [each[:size] for each in frames for size in (PEER_HEADER.size, PEER_HEADER.size + 5)]
    return frames + cut + [each + bytes(1900) for each in frames]


ATTACKS: Final[tuple[Attack, ...]] = (
    packets_of_others,
    connections,
    kcp_of_all_sorts,
    kcp_of_live_sessions,
    forbidden_targets,
    kcp_openings,
    calls,
    reports,
    pieces,
    invented_network,
    records_of_others,
    handshakes,
    pings,
    relayed,
    bombs,
    clear_text,
    other_types,
)
