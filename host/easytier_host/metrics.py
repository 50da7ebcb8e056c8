"""Counters of one node: plain integers, added up from the start, read by monitors and tests.

Every field counts since the node was made and only grows.  Invariant: each of `received_frames` is counted in exactly one of
`delivered_packets`, `relayed_frames`, `control_frames`, `plugin_frames`, `dropped_malformed`, `dropped_unsealed`,
`dropped_clear`, `dropped_forged`, `dropped_access`, `dropped_unhandled` and `dropped_relay`.  The other `dropped_*` fields are
about what this node sends, and the inside of RPC.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Metrics:
    """Counters of the data path, the control plane and the doors."""

    received_frames: int = 0
    """Frames that tunnels delivered after their handshake."""
    received_bytes: int = 0
    """Their bytes, peer headers included."""
    sent_frames: int = 0
    """Frames handed to tunnels, relayed ones included."""
    sent_bytes: int = 0
    """Their bytes, peer headers included."""

    device_packets: int = 0
    """Packets and super-packets read from the network device."""
    delivered_packets: int = 0
    """IP packets from peers that were handed to the network device, or answered by this node without one."""
    relayed_frames: int = 0
    """Frames of other peers passed on."""
    control_frames: int = 0
    """Ping, Pong and RPC frames for this node, and repeated handshakes that were answered again."""
    plugin_frames: int = 0
    """Frames handed to a plugin's handler."""

    dropped_malformed: int = 0
    """Frames of a type that is never passed on, and Data frames without an IP packet inside."""
    dropped_unsealed: int = 0
    """Frames that could not be opened: wrong key, broken tail, encryption off here, or not decompressed."""
    dropped_clear: int = 0
    """Frames in clear text, with encryption on, of a sender that always seals them."""
    dropped_forged: int = 0
    """Frames for this node that are not of whom they say: of ourselves, or of a neighbour that is heard over a connection of
    its own, while they came over another."""
    dropped_access: int = 0
    """Data frames that begin what whitelists or access rules refuse."""
    dropped_unhandled: int = 0
    """Frames for this node of a type that nobody here takes."""
    dropped_relay: int = 0
    """Frames of others not passed on: no next hop, too many hops, or relaying of data disabled."""
    dropped_no_route: int = 0
    """Packets from the device whose destination no peer has."""
    dropped_device: int = 0
    """Packets from the device that are no IP, or could not be segmented."""
    dropped_congestion: int = 0
    """Frames that a tunnel's full queue refused."""

    dropped_subnet: int = 0
    """Packets to networks behind this node that went no further, though they count as delivered: not for peers, from an address
    that their sender has not, damaged, or without room; and answers that nobody waits for."""

    rpc_requests_served: int = 0
    rpc_requests_refused: int = 0
    """Requests answered with an error: service or method not offered, undecodable, or failed."""
    rpc_calls: int = 0
    rpc_calls_failed: int = 0
    """Calls of ours that ended in an error or a time-out."""
    dropped_rpc: int = 0
    """RPC packets that did not decode, claimed another sender, or did not fit the reassembly buffer."""

    tunnels_accepted: int = 0
    tunnels_opened: int = 0
    handshakes_refused: int = 0
    """Handshakes that ended without a peer: wrong network, wrong secret, garbage, or time-out."""
    tunnels_refused: int = 0
    """Tunnels closed before their handshake because too many were half open."""

    refused_dials: int = 0
    """Connections of peers to what this node does not dial for others, or does not dial for them."""
    forged_sources: int = 0
    """Connections of peers that claimed an address of another node, and are carried as their own."""

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return asdict(self)
