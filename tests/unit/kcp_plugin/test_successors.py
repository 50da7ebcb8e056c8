"""Flows whose peer has restarted, and so has another id."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, cast

from easytier_hooks.types import IPAddress, PeerInfo
from easytier_kcp_plugin.kcp import ikcp
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.header import SYN, PacketType, SessionHeader
from easytier_kcp_plugin.proxy.successors import orphans
from tests.unit.kcp.network import request

ME, OLD, NEW = 1, 2, 3
THERE, HERE = IPv4Address("10.144.0.2"), IPv4Address("10.144.0.1")
"""The destination and the source that `request` names."""


@dataclass
class Host:
    """Who has which address, and who can be reached."""

    holders: dict[IPAddress, int] = field(default_factory=dict)
    reachable: set[int] = field(default_factory=set)

    def peer_for(self, ip: IPAddress) -> PeerInfo | None:
        return PeerInfo(self.holders[ip]) if ip in self.holders else None

    def next_hop_of(self, peer_id: int) -> PeerInfo | None:
        return PeerInfo(peer_id) if peer_id in self.reachable else None


def ended(host: Host) -> list[str]:
    """Roles of the sessions that end: one to the peer, one of it."""
    endpoint = Endpoint(ME, ikcp.paths(), first_conv=1)
    endpoint.connect(OLD, request(), 0.0)
    syn = SessionHeader(9, OLD, ME, SYN).encode() + request().encode()
    endpoint.receive(OLD, PacketType.KCP_SRC, [syn], 0.0)
    assert len(endpoint.sessions) == 2
    return sorted(session.role.name for session in orphans(cast("Any", host), endpoint.sessions))


def test_flows_go_on_while_the_peer_is_there_or_may_come_back() -> None:
    assert ended(Host({THERE: OLD, HERE: OLD}, {OLD})) == []
    assert ended(Host({THERE: NEW, HERE: NEW}, {OLD, NEW})) == []
    assert ended(Host()) == []


def test_flows_end_once_another_has_the_address_of_a_peer_that_is_gone() -> None:
    assert ended(Host({THERE: NEW}, {NEW})) == ["SOURCE"]
    assert ended(Host({HERE: NEW}, {NEW})) == ["DESTINATION"]
    assert ended(Host({THERE: NEW, HERE: NEW}, {NEW})) == ["DESTINATION", "SOURCE"]
