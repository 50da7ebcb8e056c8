"""Which flows KCP may carry, and why not in a user's words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address
from typing import cast

import pytest

from easytier_hooks import Direction, FlowKey, HostServices, PeerCapabilities, PeerInfo, TcpFlow
from easytier_kcp_plugin.proxy.rules import Rules

OWN = IPv4Address("10.144.0.1")
PEER = PeerInfo(7, "b", IPv4Address("10.144.0.2"))
RELAY = PeerInfo(8, "relay")
WILLING = PeerCapabilities(kcp_input=True, version="2.6.4")


@dataclass
class Host:
    """What the rules ask a host."""

    addresses: tuple[IPv4Address, ...] = (OWN,)
    capabilities: dict[int, PeerCapabilities] = field(default_factory=lambda: {7: WILLING, 8: PeerCapabilities()})
    next_hop: PeerInfo | None = PEER

    def capabilities_of(self, peer_id: int) -> PeerCapabilities | None:
        return self.capabilities.get(peer_id)

    def next_hop_of(self, _peer_id: int) -> PeerInfo | None:
        return self.next_hop


def flow(source: str = str(OWN), destination: str = "10.144.0.2", direction: Direction = "outbound") -> TcpFlow:
    return TcpFlow(1, FlowKey(ip_address(source), 40_000, ip_address(destination), 22), direction, PEER, 0.0)


def judge(host: Host, of: TcpFlow | None = None, *, enabled: bool = True) -> tuple[bool, str]:
    rules = Rules(cast("HostServices", host), enabled)
    candidate = rules.judge(of or flow(), PEER)
    assert candidate.transport == "kcp"
    return candidate.available, candidate.reason


def test_a_willing_neighbour_gets_kcp() -> None:
    assert judge(Host()) == (True, "b takes KCP")


def test_the_proxy_has_to_be_on() -> None:
    assert judge(Host(), enabled=False) == (False, "the KCP proxy is off here (enable_kcp_proxy)")


@pytest.mark.parametrize(
    ("capabilities", "reason"),
    [
        (PeerCapabilities(version="2.1.2-0a1b2c3d"), "peer 2.1.2 has no KCP"),
        (PeerCapabilities(version="1.9"), "peer 1.9 has no KCP"),
        (PeerCapabilities(version="2.6.4"), "kcp input disabled there"),
        (PeerCapabilities(version="10.0.1"), "kcp input disabled there"),
        (PeerCapabilities(version="whatever"), "kcp input disabled there"),
        (PeerCapabilities(version=""), "kcp input disabled there"),
    ],
)
def test_a_peer_without_kcp_is_too_old_or_was_told_so(capabilities: PeerCapabilities, reason: str) -> None:
    assert judge(Host(capabilities={7: capabilities})) == (False, reason)


def test_nothing_known_is_a_no() -> None:
    assert judge(Host(capabilities={})) == (False, "nothing is known of peer 7")


def test_a_flow_that_entered_at_a_port_of_ours_may_have_any_source() -> None:
    assert judge(Host(), flow("127.0.0.1", direction="forwarded"))[0]


def test_ipv6_stays_plain() -> None:
    assert judge(Host(), flow("fd00::1", "fd00::2")) == (False, "IPv6 flows are not carried by KCP")


def test_only_the_first_hop_is_asked_whether_it_relays() -> None:
    assert judge(Host(next_hop=RELAY))[0]
    refuses = {7: WILLING, 8: PeerCapabilities(no_relay_kcp=True)}
    assert judge(Host(next_hop=RELAY, capabilities=refuses)) == (False, "the next hop relay does not relay KCP")
    # The same word of the destination itself means others, not its own flows.
    itself = {7: replace(WILLING, no_relay_kcp=True)}
    assert judge(Host(capabilities=itself))[0]


def test_without_a_way_there_is_no_kcp() -> None:
    assert judge(Host(next_hop=None)) == (False, "no way to peer 7")
