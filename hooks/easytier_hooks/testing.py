"""Sample values for the tests of a plugin. Not used by the host."""

from ipaddress import IPv4Address

from easytier_hooks.types import FlowKey, PeerInfo, TcpFlow


def make_peer(peer_id: int = 2, hostname: str = "b") -> PeerInfo:
    """A peer with the address 10.144.0.<peer_id>; `peer_id` 1..254."""
    return PeerInfo(peer_id, hostname, IPv4Address(f"10.144.0.{peer_id}"), version="2.6.4")


def make_flow(
    flow_id: int = 1, *, destination_port: int = 22, peer: PeerInfo | None = None, transport: str | None = None
) -> TcpFlow:
    """An outbound flow from 10.144.0.1, started at time 0, to the peer's address or to 10.144.0.2."""
    destination = peer.ipv4 if peer is not None and peer.ipv4 is not None else IPv4Address("10.144.0.2")
    key = FlowKey(IPv4Address("10.144.0.1"), 51838, destination, destination_port)
    return TcpFlow(flow_id, key, "outbound", peer, started_at=0.0, transport=transport)
