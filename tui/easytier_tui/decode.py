"""Messages of a portal -> records.  Names of others are made harmless here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from typing import Final

from easytier_cli import output
from easytier_cli.flows import STOCK_STATES
from easytier_host.rpc.client import common_pb2, portal_own_pb2, portal_pb2
from easytier_tui.records import ConnectionRecord, FlowNote, FlowRecord, NodeRecord, PeerRecord
from easytier_tui.words import clean

# Wire: EasyTier accepts KCP since this version.
KCP_SINCE: Final = (2, 2)
_CAPABILITIES: Final = {
    "kcp_input": "accepts KCP",
    "quic_input": "accepts QUIC",
    "no_relay_kcp": "does not relay KCP",
    "no_relay_quic": "does not relay QUIC",
    "avoid_relay_data": "relays only where nobody else can",
    "is_public_server": "shared server",
    "disable_p2p": "no direct connections",
    "need_p2p": "wants direct connections only",
}


def node(info: portal_pb2.NodeInfo, instance: str, plugins: Iterable[portal_own_pb2.PluginInfo] | None) -> NodeRecord:
    """`plugins` is None for a stock node."""
    return NodeRecord(
        peer_id=info.peer_id,
        hostname=clean(info.hostname),
        address=clean(info.ipv4_addr),
        version=short_version(info.version),
        instance=clean(instance),
        is_stock=plugins is None,
        plugins=tuple(clean(f"{each.name} {each.version}: {each.status}") for each in plugins or ()),
    )


def peers(routes: Sequence[portal_pb2.Route], infos: Iterable[portal_pb2.PeerInfo]) -> tuple[PeerRecord, ...]:
    """The other nodes, by address."""
    connections = {info.peer_id: _connections(info) for info in infos}
    by_id = {route.peer_id: route for route in routes}
    found = [_peer(route, by_id, connections.get(route.peer_id, ())) for route in routes]
    numbers = {route.peer_id: route.ipv4_addr.address.addr for route in routes}
    return tuple(sorted(found, key=lambda peer: (numbers[peer.peer_id], peer.hostname, peer.peer_id)))


def _peer(route: portal_pb2.Route, by_id: dict[int, portal_pb2.Route], connections: tuple[ConnectionRecord, ...]) -> PeerRecord:
    used = next((each for each in connections if each.is_used), None)
    latency_ms = route.path_latency_latency_first if route.HasField("path_latency_latency_first") else route.path_latency
    flags = route.feature_flag
    has_address = route.HasField("ipv4_addr")
    return PeerRecord(
        peer_id=route.peer_id,
        hostname=clean(route.hostname),
        address=str(output.ipv4(route.ipv4_addr.address)) if has_address else "",
        version=short_version(route.version),
        hops=route.cost,
        next_hop=_name(route.next_hop_peer_id, by_id),
        # What is measured has at least 1 ms a hop.
        path_latency=used.latency if used is not None and route.cost == 1 else latency_ms / 1000 if latency_ms > 0 else None,
        next_hop_by_latency=_name(route.next_hop_peer_id_latency_first or route.next_hop_peer_id, by_id),
        networks=tuple(clean(cidr) for cidr in route.proxy_cidrs[:64]),
        kcp=why_no_kcp(route, by_id.get(route.next_hop_peer_id)),
        capabilities=tuple(text for name, text in _CAPABILITIES.items() if getattr(flags, name)),
        connections=connections,
    )


def why_no_kcp(route: portal_pb2.Route, next_hop: portal_pb2.Route | None) -> str:
    """ "" if flows to this peer can go by KCP."""
    if not route.feature_flag.kcp_input:
        version = _version(route.version)
        if version is not None and version < KCP_SINCE:
            return f"it runs {short_version(route.version)}, KCP needs 2.2"
        return "it accepts no KCP"
    if route.cost > 1 and next_hop is not None and next_hop.feature_flag.no_relay_kcp:
        return f"{clean(next_hop.hostname)} on the way does not relay KCP"
    return ""


def _connections(info: portal_pb2.PeerInfo) -> tuple[ConnectionRecord, ...]:
    used = output.uuid_text(info.default_conn_id)
    if not any(conn.conn_id == used for conn in info.conns):
        used = min(info.conns, key=lambda conn: conn.stats.latency_us).conn_id if info.conns else ""
    return tuple(
        ConnectionRecord(
            tunnel=clean(conn.tunnel.tunnel_type),
            remote=clean(conn.tunnel.remote_addr.url),
            latency=conn.stats.latency_us / 1e6 or None,
            loss=min(1.0, max(0.0, conn.loss_rate)),
            sent=conn.stats.tx_bytes,
            received=conn.stats.rx_bytes,
            is_used=conn.conn_id == used,
        )
        for conn in info.conns[:16]
    )


def flow(info: portal_own_pb2.FlowInfo, owner: int) -> FlowRecord:
    """A flow of the node with peer id `owner`."""
    return FlowRecord(
        key=f"{owner}.{info.id}",
        flow_id=info.id,
        source=output.socket_address(info.src),
        destination=output.socket_address(info.dst),
        state=clean(info.state),
        transport=clean(info.transport),
        started_at=info.start_time_ms / 1000,
        direction=clean(info.direction),
        peer_id=info.peer_id,
        peer=clean(info.peer_hostname),
        reason=clean(info.reason),
        chosen_by=clean(info.chosen_by),
        end_reason=clean(info.end_reason),
        ended_at=info.end_time_ms / 1000 if info.HasField("end_time_ms") else None,
        sent=info.bytes_sent,
        received=info.bytes_received,
        send_rate=float(info.send_rate),
        receive_rate=float(info.receive_rate),
        rtt=info.rtt_us / 1e6 if info.HasField("rtt_us") else None,
        retransmitted=info.retransmitted if info.HasField("retransmitted") else None,
        loss=info.loss if info.HasField("loss") else None,
        stack=clean(info.stack),
        window=info.window if info.HasField("window") else None,
        in_flight=info.in_flight if info.HasField("in_flight") else None,
    )


class Owners:
    """Which peer has an address: its own, else that of the narrowest network which holds it.  IPv4, as stock's TCP proxy."""

    def __init__(self, routes: Iterable[portal_pb2.Route] = ()) -> None:
        self._by_length: dict[int, dict[int, tuple[int, str]]] = {}
        for route in routes:
            peer = route.peer_id, clean(route.hostname)
            if route.HasField("ipv4_addr"):
                # One longer than any network, so that it comes first.
                self._by_length.setdefault(33, {})[route.ipv4_addr.address.addr] = peer
            for cidr in route.proxy_cidrs[:64]:
                with suppress(ValueError):
                    network = IPv4Network(cidr, strict=False)
                    self._by_length.setdefault(network.prefixlen, {}).setdefault(int(network.network_address), peer)
        self._lengths = sorted(self._by_length, reverse=True)

    def find(self, end: common_pb2.SocketAddr) -> tuple[int, str]:
        """Peer id and host name; 0 and "" if no peer has the address."""
        address = end.ipv4.addr
        for length in self._lengths:
            # An address of its own has all 32 bits.
            host_bits = 32 - min(32, length)
            peer = self._by_length[length].get(address >> host_bits << host_bits)
            if peer is not None:
                return peer
        return 0, ""


NO_OWNERS: Final = Owners()


def stock_flow(entry: portal_pb2.TcpProxyEntry, owners: Owners = NO_OWNERS) -> FlowRecord:
    """A flow of a stock node, which gives it no number: ends and start make it up, and `owners` tell the peer."""
    # A flow that comes in has its other end at the source.
    peer_id, peer = next((found for found in (owners.find(entry.dst), owners.find(entry.src)) if found[0]), (0, ""))
    source, destination = output.socket_address(entry.src), output.socket_address(entry.dst)
    transport = output.enum_name(entry, "transport_type").lower()
    state = output.enum_name(entry, "state")
    return FlowRecord(
        key=f"{source} {destination} {transport} {entry.start_time}",
        flow_id=None,
        source=source,
        destination=destination,
        state=STOCK_STATES.get(state, "unknown"),
        transport=transport,
        started_at=float(entry.start_time),
        peer_id=peer_id,
        peer=peer,
    )


def note(update: portal_own_pb2.FlowUpdate, owner: int) -> FlowNote:
    """Something that happened to a flow of the node with peer id `owner`."""
    text = f"{update.event}: {update.detail}" if update.detail else update.event
    return FlowNote(f"{owner}.{update.flow_id}", update.time_ms / 1000, clean(text))


def short_version(version: str) -> str:
    """Without the commit: `2.6.4-81487c36` is 2.6.4."""
    return clean(version.partition("-")[0], 20)


def _version(text: str) -> tuple[int, int] | None:
    parts = text.partition("-")[0].split(".")
    if len(parts) < 2 or not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts[:2]):
        return None
    return int(parts[0]), int(parts[1])


def _name(peer_id: int, by_id: dict[int, portal_pb2.Route]) -> str:
    route = by_id.get(peer_id)
    return clean(route.hostname) if route is not None and route.hostname else str(peer_id)
