"""What hooks are told and what they answer: plain values, all immutable.

Nothing here does I/O, holds a lock or changes after it was made. A `TcpFlow` is a snapshot: the same flow seen later is another
object with the same `id`. Hosts build these values, plugins read them; only `Selection` and `Candidate` go the other way.
Times are epoch seconds, durations are seconds, sizes are bytes.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, NamedTuple, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network
Direction: TypeAlias = Literal["outbound", "inbound", "forwarded"]

TCP = "tcp"
"""Name of the transport that every host has: the flow's packets travel over the overlay as they are."""


@dataclass(frozen=True, slots=True)
class FlowKey:
    """The two ends of a TCP connection. Raises ValueError if the families differ or a port is outside 0..65535."""

    source_ip: IPAddress
    source_port: int
    destination_ip: IPAddress
    destination_port: int

    def __post_init__(self) -> None:
        if self.source_ip.version != self.destination_ip.version:
            raise ValueError(f"addresses of two families: {self.source_ip} and {self.destination_ip}")
        for port in (self.source_port, self.destination_port):
            if not 0 <= port <= 0xFFFF:
                raise ValueError(f"not a port: {port}")

    def __str__(self) -> str:
        return f"{endpoint(self.source_ip, self.source_port)} -> {endpoint(self.destination_ip, self.destination_port)}"


def endpoint(ip: IPAddress, port: int) -> str:
    """`10.144.0.2:22` or `[fd00::2]:22`."""
    return f"{ip}:{port}" if ip.version == 4 else f"[{ip}]:{port}"


@dataclass(frozen=True, slots=True)
class PathFigures:
    """What the node's pings say of the path to a peer: the round trip, and the share of round trips that were lost, 0 to 1."""

    rtt: float
    loss: float
    """Of a peer behind others, that of the first hop: at least so much is lost."""
    pings: int = 100
    """Of so many pings; few, where the node or the peer has just come."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """Another node of the network. `version` is the EasyTier version it reports, "" if unknown."""

    peer_id: int
    hostname: str = ""
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    version: str = ""
    proxy_networks: tuple[IPNetwork, ...] = ()
    """Networks behind the peer that it offers to carry packets to."""
    path: PathFigures | None = field(default=None, compare=False)
    """As measured when the value was made; None if unknown. Only the peer of a new flow has it. The same peer on another path
    is equal."""


class Capability(StrEnum):
    """What a plugin can make our own node announce. Each value is the name of a field of `PeerCapabilities`."""

    KCP_INPUT = "kcp_input"
    QUIC_INPUT = "quic_input"
    NO_RELAY_KCP = "no_relay_kcp"
    NO_RELAY_QUIC = "no_relay_quic"


@dataclass(frozen=True, slots=True)
class PeerCapabilities:
    """What a peer announces about itself. A peer too old to know a capability is seen as not having it."""

    kcp_input: bool = False
    """Accepts TCP flows carried over KCP."""
    no_relay_kcp: bool = False
    """As next hop it does not want KCP of others."""
    quic_input: bool = False
    """Accepts TCP flows carried over QUIC."""
    no_relay_quic: bool = False
    """As next hop it does not want QUIC of others."""
    avoid_relay_data: bool = False
    """To be used as next hop only where there is no other path."""
    is_public_server: bool = False
    """A shared server that relays for other networks too."""
    version: str = ""
    """The version that announces them, "" if unknown."""


@dataclass(frozen=True, slots=True)
class TcpFlow:
    """One TCP connection, as known at one moment."""

    id: int
    """Never used again for another flow while the node runs."""
    key: FlowKey
    direction: Direction
    """"outbound": captured from our own device. "inbound": arrived from a peer. "forwarded": entered at a port of ours."""
    peer: PeerInfo | None
    """The node at the other end, None if no peer has the address."""
    started_at: float
    transport: str | None = None
    """None until a transport was selected."""
    reason: str = ""
    """Why that transport."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transport that a flow could take. `reason` says why it is available, or why it is not."""

    transport: str
    available: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The transport that a flow shall take, and why. The reason is shown to the user."""

    transport: str
    reason: str
    chosen_by: str = ""
    """The plugin that answered, or "default". The host fills it in and ignores what stands there."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The first event of every flow."""


@dataclass(frozen=True, slots=True)
class TransportSelected:
    """Comes again with another transport if the first one could not take the flow."""

    transport: str
    reason: str
    chosen_by: str
    """The plugin that answered; "default": none did, "fallback": the selected one could not, "peer": the flow came that way."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """The way to the destination is being opened."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The destination accepted: bytes can travel both ways."""


class Measures(NamedTuple):
    """What a transport knows of one flow at this end. None is what it does not measure."""

    rtt: float | None = None
    """Round trip to the peer."""
    retransmitted: int | None = None
    """Segments sent more than once, since the flow's start."""
    window: int | None = None
    """Segments that may be on their way to the peer at once, by what both ends allow."""
    in_flight: int | None = None
    """Segments that are: sent, and not acknowledged."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Comes at intervals while the flow lives. Totals since its start; the fields with a default are those of `Measures`."""

    bytes_sent: int
    """From the flow's source to its destination."""
    bytes_received: int
    rtt: float | None = None
    retransmitted: int | None = None
    window: int | None = None
    in_flight: int | None = None


@dataclass(frozen=True, slots=True)
class HalfClosed:
    """One end has sent its last byte; the other may go on."""

    by: Literal["source", "destination"]


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of a flow that had been connected."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a flow that never connected, or that broke."""

    reason: str


FlowEvent: TypeAlias = Seen | TransportSelected | Connecting | Connected | Counters | HalfClosed | Closed | Failed
"""Seen comes first; exactly one of Closed and Failed comes last."""
