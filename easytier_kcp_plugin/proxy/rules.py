"""Which flows KCP may carry, and the words in which a user reads why not (wire specification, data plane 3.1, 3.2, 7 and 8).

Pure: called once for each new flow, with what the host knows.  Stock's rules, and the reasons are ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from easytier_hooks.services import HostServices
from easytier_hooks.types import Candidate, PeerCapabilities, PeerInfo, TcpFlow

KCP: Final = "kcp"
FIRST_VERSION: Final = (2, 2)
"""The first stock version that knows KCP."""
_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})(\.\d{1,4})?\b")


@dataclass(frozen=True, slots=True)
class Rules:
    """The decision for one node."""

    host: HostServices
    enabled: bool

    def judge(self, flow: TcpFlow, peer: PeerInfo | None) -> Candidate:
        """Whether KCP may carry a flow that begins at this node."""
        refusal = self._refusal(flow, peer)
        if refusal is not None:
            return Candidate(KCP, available=False, reason=refusal)
        assert peer is not None
        return Candidate(KCP, available=True, reason=f"{peer.hostname or peer.peer_id} takes KCP")

    def _refusal(self, flow: TcpFlow, peer: PeerInfo | None) -> str | None:
        if not self.enabled:
            return "the KCP proxy is off here (enable_kcp_proxy)"
        if flow.key.source_ip.version != 4:
            return "IPv6 flows are not carried by KCP"
        if peer is None:
            return f"no peer has {flow.key.destination_ip}"
        capabilities = self.host.capabilities_of(peer.peer_id)
        if capabilities is None:
            return f"nothing is known of peer {peer.peer_id}"
        if not capabilities.kcp_input:
            return without_kcp(peer, capabilities)
        return self._relay_refusal(peer)

    def _relay_refusal(self, peer: PeerInfo) -> str | None:
        next_hop = self.host.next_hop_of(peer.peer_id)
        if next_hop is None:
            return f"no way to peer {peer.peer_id}"
        if next_hop.peer_id == peer.peer_id:
            return None
        relay = self.host.capabilities_of(next_hop.peer_id)
        if relay is not None and relay.no_relay_kcp:
            return f"the next hop {next_hop.hostname or next_hop.peer_id} does not relay KCP"
        return None


def without_kcp(peer: PeerInfo, capabilities: PeerCapabilities) -> str:
    """Why a peer that does not announce KCP has none: too old, or told so."""
    found = _VERSION.match(capabilities.version)
    if found is not None and (int(found[1]), int(found[2])) < FIRST_VERSION:
        return f"peer {found[0]} has no KCP"
    return "kcp input disabled there"
