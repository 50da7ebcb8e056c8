"""What the tests of the subnet router share."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network
from uuid import UUID

from easytier_host.pb import common_pb2
from easytier_host.route_records import PeerRecord


def record(peer_id: int, address: str, *cidrs: str) -> PeerRecord:
    """A peer's record with its virtual address and the networks that it offers."""
    return PeerRecord(
        peer_id=peer_id,
        hostname="",
        ipv4=IPv4Interface(address),
        ipv6=None,
        proxy_cidrs=tuple(IPv4Network(cidr) for cidr in cidrs),
        udp_nat_type=6,
        easytier_version="",
        feature_flag=common_pb2.PeerFeatureFlag(),
        inst_id=UUID(int=peer_id),
        version=1,
        last_seen=0.0,
    )
