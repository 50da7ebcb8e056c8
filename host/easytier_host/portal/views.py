"""A node as the messages of its portal show it (wire specification, CLI portal 10.4).  Reads the node, changes nothing.

No secret leaves by here: what is told of the configuration is for `config/writer.py` to decide.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import TYPE_CHECKING, Final
from uuid import NAMESPACE_OID, UUID, uuid5

import anyio

from easytier_hooks import PluginHealth
from easytier_host.config.writer import as_toml
from easytier_host.pb import common_pb2, portal_own_pb2, portal_pb2
from easytier_host.peer_conn import PeerConn
from easytier_host.route_records import PeerRecord, encode_ipv6_inet
from easytier_host.tunnel.base import TunnelError
from easytier_host.tunnel.url import TunnelUrl
from easytier_host.version import EASYTIER_VERSION

if TYPE_CHECKING:
    from easytier_host.instance import Node


GAUGES: Final = frozenset({"node_flows", "node_neighbours", "node_peers", "node_tasks"})
"""Metrics that go up and down."""


def uuid_message(value: UUID) -> common_pb2.UUID:
    """Four big-endian words."""
    words = [value.int >> shift & 0xFFFF_FFFF for shift in (96, 64, 32, 0)]
    return common_pb2.UUID(part1=words[0], part2=words[1], part3=words[2], part4=words[3])


def socket_address(ip: IPv4Address | IPv6Address, port: int) -> common_pb2.SocketAddr:
    """An address with its port."""
    if ip.version == 4:
        return common_pb2.SocketAddr(ipv4=common_pb2.Ipv4Addr(addr=int(ip)), port=port)
    words = [int(ip) >> shift & 0xFFFF_FFFF for shift in (96, 64, 32, 0)]
    address = common_pb2.Ipv6Addr(part1=words[0], part2=words[1], part3=words[2], part4=words[3])
    return common_pb2.SocketAddr(ipv6=address, port=port)


def read_address(message: common_pb2.SocketAddr) -> IPv4Address | IPv6Address:
    """The address of a SocketAddr; 0.0.0.0 where it has none."""
    if message.WhichOneof("ip") == "ipv6":
        words = message.ipv6
        return IPv6Address(words.part1 << 96 | words.part2 << 64 | words.part3 << 32 | words.part4)
    return IPv4Address(message.ipv4.addr)


def node_info(node: Node) -> portal_pb2.NodeInfo:
    """The node itself."""
    config = node.config
    return portal_pb2.NodeInfo(
        peer_id=node.peer_id,
        ipv4_addr=str(config.ipv4 or ""),
        proxy_cidrs=[
            str(network.cidr) if network.mapped_cidr is None else f"{network.cidr}->{network.mapped_cidr}"
            for network in config.proxy_networks
        ],
        hostname=clean(config.hostname),
        stun_info=common_pb2.StunInfo(),
        inst_id=str(config.instance_id),
        listeners=node.listeners,
        config=as_toml(config),
        version=EASYTIER_VERSION,
        feature_flag=node.own_record.feature_flag,
    )


def peer_infos(node: Node) -> Iterator[portal_pb2.PeerInfo]:
    """The neighbours with their connections."""
    by_peer: dict[int, list[PeerConn]] = {}
    for conn in node.peers():
        by_peer.setdefault(conn.peer_id, []).append(conn)
    for peer_id, conns in by_peer.items():
        best = node.outbound.connection_to(peer_id)
        yield portal_pb2.PeerInfo(
            peer_id=peer_id,
            conns=[_conn_info(node, conn) for conn in conns],
            default_conn_id=None if best not in conns else uuid_message(_conn_id(node, best)),
            directly_connected_conns=[uuid_message(_conn_id(node, conn)) for conn in conns],
        )


def routes(node: Node) -> Iterator[portal_pb2.Route]:
    """All other nodes, neighbours included."""
    paths = node.paths()
    for record in node.routes():
        hops, cost = paths.least_hops.get(record.peer_id), paths.least_cost.get(record.peer_id)
        if hops is None or cost is None:
            continue
        route = portal_pb2.Route(
            peer_id=record.peer_id,
            next_hop_peer_id=hops.next_hop,
            cost=hops.hops,
            # A measured one has at least 1 ms a hop; 0 is told where stock would count what it assumes.
            path_latency=hops.latency_ms if hops.is_measured else 0,
            proxy_cidrs=map(str, record.proxy_cidrs),
            hostname=record.hostname,
            stun_info=_stun_info(record),
            inst_id=str(record.inst_id),
            version=record.easytier_version,
            feature_flag=record.feature_flag,
            next_hop_peer_id_latency_first=cost.next_hop,
            cost_latency_first=cost.hops,
            path_latency_latency_first=cost.latency_ms if cost.is_measured else 0,
        )
        if record.ipv4 is not None:
            route.ipv4_addr.CopyFrom(_ipv4_inet(record.ipv4))
        if record.ipv6 is not None:
            route.ipv6_addr.CopyFrom(encode_ipv6_inet(record.ipv6))
        yield route


def connectors(node: Node) -> Iterator[portal_pb2.Connector]:
    """The peers that the configuration names.

    A connection does not remember the name it was dialled by, so a peer given by name counts as connected when any connection
    that this node opened has its scheme and port.
    """
    dialled = [TunnelUrl.parse(conn.tunnel.info.remote_url) for conn in node.peers() if conn.is_initiator and _is_url(conn)]
    for text in node.config.peers:
        url = TunnelUrl.parse(text)
        connected = any(
            (url.scheme, url.port) == (other.scheme, other.port) and (url.host == other.host or not url.is_literal)
            for other in dialled
        )
        status = portal_pb2.CONNECTED if connected else portal_pb2.CONNECTING
        yield portal_pb2.Connector(url=common_pb2.Url(url=text), status=status)


def plugin_infos(node: Node) -> Iterator[portal_own_pb2.PluginInfo]:
    """The plugins that this node knows, loaded or not."""
    if node.plugins is None:
        return
    healths = node.plugins.health()
    for row in node.plugins.describe():
        health = healths.get(row.name, PluginHealth())
        yield portal_own_pb2.PluginInfo(
            name=row.name,
            version=row.version,
            distribution=row.distribution,
            hooks=row.hooks,
            status=clean(f"{row.state}: {row.error}" if row.error else str(row.state)),
            **asdict(health.faults),
            last_fault=clean(health.last_fault),
            last_fault_ago_ms=round(health.last_fault_ago * 1000),
            rests_ms=round(health.rests_for * 1000),
        )


def metric_snapshots(node: Node) -> Iterator[portal_pb2.MetricSnapshot]:
    """Counters by stock's names where they mean the same, and all of this node's by their own with the prefix `node_`."""
    counters = node.metrics.as_dict()
    labels = {"network_name": clean(node.config.network_name)}
    stock = {
        "traffic_bytes_rx": "received_bytes",
        "traffic_bytes_tx": "sent_bytes",
        "traffic_packets_forwarded": "relayed_frames",
        "traffic_packets_rx": "received_frames",
        "traffic_packets_tx": "sent_frames",
    }
    for name, field in stock.items():
        yield portal_pb2.MetricSnapshot(name=name, value=counters[field], labels=labels)
    for name in sorted(counters):
        yield portal_pb2.MetricSnapshot(name=f"node_{name}", value=counters[name], labels=labels)
    for plugin, faults in node.plugins.counters().items() if node.plugins is not None else ():
        for kind, number in asdict(faults).items():
            of_plugin = {**labels, "plugin": plugin, "kind": kind}
            yield portal_pb2.MetricSnapshot(name="node_plugin_faults", value=number, labels=of_plugin)


def gauges(node: Node) -> Iterator[portal_pb2.MetricSnapshot]:
    """What is there now: flows by transport, neighbours, peers, and the tasks of the process."""
    labels = {"network_name": clean(node.config.network_name)}
    flows = Counter(flow.transport or "none" for flow in node.gate.table if flow.ended is None)
    for transport in sorted({"tcp", *node.gate.transports, *flows}):
        yield portal_pb2.MetricSnapshot(name="node_flows", value=flows[transport], labels={**labels, "transport": transport})
    yield portal_pb2.MetricSnapshot(name="node_neighbours", value=len({conn.peer_id for conn in node.peers()}), labels=labels)
    yield portal_pb2.MetricSnapshot(name="node_peers", value=len(node.routes()), labels=labels)
    yield portal_pb2.MetricSnapshot(name="node_tasks", value=len(anyio.get_running_tasks()), labels=labels)


def prometheus(snapshots: Iterable[portal_pb2.MetricSnapshot]) -> str:
    """Counters in the text format of Prometheus."""
    lines: list[str] = []
    for name, group in _by_name(snapshots).items():
        lines.append(f"# TYPE {name} {'gauge' if name in GAUGES else 'counter'}")
        for snapshot in group:
            labels = ",".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in snapshot.labels.items())
            lines.append(f"{name}{{{labels}}} {snapshot.value}")
    return "\n".join(lines) + "\n"


def _by_name(snapshots: Iterable[portal_pb2.MetricSnapshot]) -> dict[str, list[portal_pb2.MetricSnapshot]]:
    groups: dict[str, list[portal_pb2.MetricSnapshot]] = {}
    for snapshot in snapshots:
        groups.setdefault(snapshot.name, []).append(snapshot)
    return groups


def _conn_id(node: Node, conn: PeerConn) -> UUID:
    """Connections have no id of their own; this one stays the same while the connection lives."""
    return uuid5(NAMESPACE_OID, f"{node.peer_id} {conn.peer_id} {conn.opened_at!r} {conn.tunnel.info.remote_url}")


def _conn_info(node: Node, conn: PeerConn) -> portal_pb2.PeerConnInfo:
    info = conn.tunnel.info
    return portal_pb2.PeerConnInfo(
        conn_id=str(_conn_id(node, conn)),
        my_peer_id=node.peer_id,
        peer_id=conn.peer_id,
        tunnel=portal_pb2.TunnelInfo(
            tunnel_type=info.scheme,
            local_addr=common_pb2.Url(url=info.local_url),
            remote_addr=common_pb2.Url(url=info.remote_url),
        ),
        stats=portal_pb2.PeerConnStats(
            rx_bytes=conn.received_bytes,
            tx_bytes=conn.sent_bytes,
            rx_packets=conn.received_frames,
            tx_packets=conn.sent_frames,
            latency_us=round((conn.latency or 0.0) * 1e6),
        ),
        loss_rate=conn.loss,
        is_client=conn.is_initiator,
        network_name=clean(node.config.network_name),
        is_closed=conn.tunnel.closed,
    )


def _stun_info(record: PeerRecord) -> common_pb2.StunInfo:
    info = common_pb2.StunInfo()
    # A peer may announce a number that has no name; those who show it would end themselves.
    if record.udp_nat_type in common_pb2.NatType.values():
        info.udp_nat_type = record.udp_nat_type  # type: ignore[assignment]
    return info


def _ipv4_inet(interface: IPv4Interface) -> common_pb2.Ipv4Inet:
    return common_pb2.Ipv4Inet(address=common_pb2.Ipv4Addr(addr=int(interface.ip)), network_length=interface.network.prefixlen)


def _is_url(conn: PeerConn) -> bool:
    try:
        TunnelUrl.parse(conn.tunnel.info.remote_url)
    except TunnelError:
        return False
    return True


def clean(text: str) -> str:
    """Lone surrogates, which the system's host name may hold, cannot be encoded."""
    return text.encode(errors="replace").decode()
