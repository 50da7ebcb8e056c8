"""`peer` and `route`: the other nodes, from three answers that belong together."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from easytier_cli import output
from easytier_cli.output import Report
from easytier_host.rpc.client import PortalClient, common_pb2, portal_pb2

PUBLIC_SERVER = "PublicServer_"
"""Host names of shared servers begin with this; they are listed first."""

NOTHING = "-"
"""Where nothing is measured."""

OURS = "-py"
"""In the version of each node of this project."""

PEER_KEYS = (
    *("cidr", "ipv4", "hostname", "cost", "lat_ms", "loss_rate", "rx_bytes", "tx_bytes", "tunnel_proto", "nat_type", "id"),
    "version",
)
PEER_COLUMNS = {
    "ipv4": "cidr",
    "hostname": "hostname",
    "cost": "cost",
    "lat(ms)": "lat_ms",
    "loss": "loss_rate",
    "rx": "rx_bytes",
    "tx": "tx_bytes",
    "tunnel": "tunnel_proto",
    "NAT": "nat_type",
    "version": "version",
}
"""Heading of the table -> key of the JSON object."""
ROUTE_KEYS = (
    *("ipv4", "hostname", "proxy_cidrs", "next_hop_ipv4", "next_hop_hostname", "next_hop_lat", "path_len", "path_latency"),
    *("next_hop_ipv4_lat_first", "next_hop_hostname_lat_first", "path_len_lat_first", "path_latency_lat_first", "version"),
)
ROUTE_NARROWING = (
    *output.without("proxy_cidrs", "version", "path_latency_lat_first", "path_len_lat_first", "next_hop_ipv4_lat_first"),
    *output.without("next_hop_hostname_lat_first", "next_hop_ipv4", "next_hop_lat", "path_latency"),
    *(("next_hop_hostname", 9), ("path_len", 0)),
)


@dataclass(frozen=True, slots=True)
class Node:
    """Another node: its route, and our connections to it, none if it is no neighbour."""

    route: portal_pb2.Route
    peer: portal_pb2.PeerInfo | None

    @property
    def address(self) -> str:
        """Virtual address with its prefix; "" without one."""
        route = self.route
        return f"{output.ipv4(route.ipv4_addr.address)}/{route.ipv4_addr.network_length}" if route.HasField("ipv4_addr") else ""

    @property
    def latency_ms(self) -> float | None:
        """Of the connection that is used, else the least; None if it is no neighbour, or was not measured yet."""
        conn = self.connection
        return None if conn is None else (conn.stats.latency_us / 1000 or None)

    @property
    def connection(self) -> portal_pb2.PeerConnInfo | None:
        """The one that is used, else the quickest; None if it is no neighbour."""
        if self.peer is None or not self.peer.conns:
            return None
        used = output.uuid_text(self.peer.default_conn_id)
        chosen = [conn for conn in self.peer.conns if conn.conn_id == used]
        return chosen[0] if chosen else min(self.peer.conns, key=lambda conn: conn.stats.latency_us)


def ask(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None) -> tuple[portal_pb2.NodeInfo, list[Node]]:
    """The node itself, and all others, sorted as they are shown."""
    own = client.node_info(instance)
    peers = {peer.peer_id: peer for peer in client.peers(instance)}
    nodes = [Node(route, peers.get(route.peer_id)) for route in client.routes(instance)]
    return own, sorted(nodes, key=_order)


def _order(node: Node) -> tuple[bool, int, str]:
    return not node.route.hostname.startswith(PUBLIC_SERVER), node.route.ipv4_addr.address.addr, node.route.hostname


def peer(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """The nodes, and how good the way to each is."""
    own, nodes = ask(client, instance)
    if options.verbose:
        return Report(_raw(nodes))
    objects: list[dict[str, Any]] = [
        {
            **dict.fromkeys(PEER_KEYS, "-"),
            "cidr": own.ipv4_addr,
            "ipv4": own.ipv4_addr.partition("/")[0],
            "hostname": own.hostname,
            "cost": "Local",
            "nat_type": output.enum_name(own.stun_info, "udp_nat_type"),
            "id": str(own.peer_id),
            "version": own.version or "unknown",
        }
    ]
    objects += [_peer_object(node) for node in nodes]
    rows = [[each[key] for key in PEER_COLUMNS.values()] for each in objects]
    return Report(objects, list(PEER_COLUMNS), rows, output.without("version", "NAT", "tunnel", "rx", "tx", "cost"))


def _peer_object(node: Node) -> dict[str, Any]:
    route, conns = node.route, list(node.peer.conns) if node.peer is not None else []
    conn = node.connection
    is_direct = route.cost == 1 and conn is not None
    latency = node.latency_ms if is_direct else float(route.path_latency_latency_first)
    return {
        "cidr": node.address,
        "ipv4": node.address.partition("/")[0],
        "hostname": route.hostname,
        "cost": "p2p" if route.cost == 1 else f"relay({route.cost})",
        # Stock writes 0.00 and 0.0% where nothing is measured.
        "lat_ms": f"{latency:.2f}" if latency else NOTHING,
        "loss_rate": NOTHING if conn is None else f"{100 * conn.loss_rate:.1f}%",
        "rx_bytes": output.decimal_bytes(sum(each.stats.rx_bytes for each in conns)),
        "tx_bytes": output.decimal_bytes(sum(each.stats.tx_bytes for each in conns)),
        "tunnel_proto": ",".join(sorted({each.tunnel.tunnel_type for each in conns})),
        "nat_type": _nat_type(route),
        "id": str(route.peer_id),
        "version": route.version or "unknown",
    }


def _nat_type(route: portal_pb2.Route) -> str:
    """As stock's; but a node of this project never looks for its NAT, and announces one that nobody tries to get through."""
    return "Unknown" if OURS in route.version else output.enum_name(route.stun_info, "udp_nat_type")


def route(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """The nodes, and the way that packets take to each."""
    own, nodes = ask(client, instance)
    if options.verbose:
        return Report(_raw(nodes))
    objects: list[dict[str, Any]] = [
        dict(zip(ROUTE_KEYS, _own_route(own), strict=True)),
        *(each for node in nodes if (each := _route_object(node, nodes)) is not None),
    ]
    rows = [[_number(each[key]) for key in ROUTE_KEYS] for each in objects]
    # Programs get the numbers that they expect.
    data = [{key: 0 if value is None else value for key, value in each.items()} for each in objects]
    return Report(data, ROUTE_KEYS, rows, ROUTE_NARROWING)


def _own_route(own: portal_pb2.NodeInfo) -> Sequence[object]:
    hop = ("-", "Local")
    return (own.ipv4_addr, own.hostname, ", ".join(own.proxy_cidrs), *hop, 0.0, 0, 0, *hop, 0, 0, own.version or "unknown")


def _route_object(node: Node, nodes: Sequence[Node]) -> dict[str, Any] | None:
    """None if the next hop is not among the nodes."""
    route = node.route
    by_id = {each.route.peer_id: each for each in nodes}
    hop = by_id.get(route.next_hop_peer_id)
    if hop is None:
        return None
    quick_cost = route.cost_latency_first if route.HasField("cost_latency_first") else route.cost
    quick = by_id.get(route.next_hop_peer_id_latency_first, hop)
    cells = (
        *(node.address, route.hostname, ", ".join(route.proxy_cidrs)),
        *(("DIRECT", "DIRECT") if route.cost == 1 else (hop.address, hop.route.hostname)),
        *(hop.latency_ms, route.cost, _path_latency(route.cost, route.path_latency, hop)),
        *(("DIRECT", "DIRECT") if quick_cost == 1 else (quick.address, quick.route.hostname)),
        *(quick_cost, _path_latency(quick_cost, route.path_latency_latency_first, quick), route.version or "unknown"),
    )
    return dict(zip(ROUTE_KEYS, cells, strict=True))


def _path_latency(cost: int, told_ms: int, hop: Node) -> int | None:
    """Milliseconds.  What is measured on a direct connection is better than what the routes say of it.

    None if nobody measured: what is has at least 1 ms a hop.
    """
    return int(hop.latency_ms) if cost == 1 and hop.latency_ms is not None else told_ms or None


def _raw(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    return [
        {"route": output.plain(node.route), "peer": None if node.peer is None else output.plain(node.peer)} for node in nodes
    ]


def _number(value: object) -> str:
    if value is None:
        return NOTHING
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def socket_address(address: IPv4Address | IPv6Address, port: int) -> common_pb2.SocketAddr:
    """An address and port as a message."""
    if isinstance(address, IPv4Address):
        return common_pb2.SocketAddr(ipv4=common_pb2.Ipv4Addr(addr=int(address)), port=port)
    words = [int(address) >> shift & 0xFFFF_FFFF for shift in (96, 64, 32, 0)]
    return common_pb2.SocketAddr(
        ipv6=common_pb2.Ipv6Addr(part1=words[0], part2=words[1], part3=words[2], part4=words[3]), port=port
    )


def address_of(peer: str, own: portal_pb2.NodeInfo, nodes: Sequence[Node]) -> tuple[str, IPv4Address] | None:
    """Name and address of the node with this host name or peer id; None if there is none, or it has no virtual address."""
    for node in nodes:
        if peer in (node.route.hostname, str(node.route.peer_id)) and node.route.HasField("ipv4_addr"):
            return node.route.hostname or peer, output.ipv4(node.route.ipv4_addr.address)
    if peer in (own.hostname, str(own.peer_id)) and own.ipv4_addr:
        return own.hostname, IPv4Address(own.ipv4_addr.partition("/")[0])
    return None


def owner_of(address: IPv4Address, nodes: Sequence[Node]) -> Node | None:
    """The node that packets to `address` go to, as far as the routes say: by its own address, else the longest network."""
    from ipaddress import ip_network

    best: tuple[int, Node] | None = None
    for node in nodes:
        if node.route.HasField("ipv4_addr") and output.ipv4(node.route.ipv4_addr.address) == address:
            return node
        for text in node.route.proxy_cidrs:
            try:
                network = ip_network(text)
            except ValueError:
                continue
            if address in network and (best is None or network.prefixlen > best[0]):
                best = network.prefixlen, node
    return None if best is None else best[1]
