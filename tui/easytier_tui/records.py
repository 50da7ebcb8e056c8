"""What a node has told, as plain values: the only thing that feeds hand to the model, and what a recording holds.

All are immutable.  Texts are free of control characters once they are here.  Times are epoch seconds of the machine that tells
them, durations seconds, sizes bytes, rates bytes a second.  `gc=False` is for those of which there are thousands, and which
hold texts and numbers alone: the garbage collector need not look at them.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

LinkKind = Literal["connecting", "live", "polled", "gone", "replayed", "ended"]

ENDED_STATES = frozenset({"closed", "failed"})


class Link(Struct, frozen=True, omit_defaults=True):
    """How the node is being read.

    connecting: no answer yet.  live: it tells changes as they happen.  polled: it is asked at intervals.  gone: it does not
    answer, `text` says why and what to do, and `retry_at` when it is asked again.  replayed, ended: a recording.
    """

    kind: LinkKind
    text: str = ""
    retry_at: float | None = None


class NodeRecord(Struct, frozen=True, omit_defaults=True):
    """The node that is asked."""

    peer_id: int
    hostname: str
    address: str
    """Virtual address with its prefix; "" without one."""
    version: str
    instance: str = ""
    """Name of the instance, where the process runs several."""
    is_stock: bool = False
    plugins: tuple[str, ...] = ()
    """Each as `name: status`."""


class ConnectionRecord(Struct, frozen=True, omit_defaults=True):
    """A tunnel to a neighbour."""

    tunnel: str
    """The kind: udp, tcp."""
    remote: str
    latency: float | None
    """None: not measured yet."""
    loss: float
    """Share of pings lost, 0 to 1."""
    sent: int
    received: int
    is_used: bool


class PeerRecord(Struct, frozen=True, omit_defaults=True):
    """Another node of the network."""

    peer_id: int
    hostname: str
    address: str
    version: str
    hops: int
    next_hop: str
    """Host name of the neighbour that gets our packets for it; its own where it is one."""
    path_latency: float | None
    """None: not measured yet."""
    next_hop_by_latency: str
    networks: tuple[str, ...]
    """Subnets that it offers."""
    kcp: str
    """ "" if flows to it can go by KCP, else why not."""
    capabilities: tuple[str, ...]
    connections: tuple[ConnectionRecord, ...] = ()


class FlowRecord(Struct, frozen=True, omit_defaults=True, gc=False):
    """One TCP connection.  None stands for what the node does not tell."""

    key: str
    """Never used again for another flow of the same daemon."""
    flow_id: int | None
    """The node's own number for it, by which it can be closed; None at stock nodes."""
    source: str
    destination: str
    state: str
    transport: str
    """ "" until one was selected."""
    started_at: float
    direction: str = ""
    peer_id: int = 0
    peer: str = ""
    reason: str = ""
    chosen_by: str = ""
    end_reason: str = ""
    ended_at: float | None = None
    sent: int | None = None
    received: int | None = None
    send_rate: float | None = None
    receive_rate: float | None = None
    rtt: float | None = None
    retransmitted: int | None = None
    loss: float | None = None
    stack: str = ""
    """What ends its TCP connections at the node; "" if nothing does, or the node does not tell."""
    window: int | None = None
    """Segments that may be on their way to the peer, and `in_flight` those that are."""
    in_flight: int | None = None

    @property
    def why(self) -> str:
        """Why it ended, why it travels as it does, and which plugin said so."""
        chosen = self.reason
        if chosen and self.chosen_by not in ("", "default", "fallback", "peer"):
            chosen = f"{self.chosen_by}: {chosen}"
        return "; ".join(dict.fromkeys(filter(None, (self.end_reason, chosen))))

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED_STATES


class FlowNote(Struct, frozen=True, omit_defaults=True, gc=False):
    """Something that happened to a flow."""

    key: str
    at: float
    text: str


class Update(Struct, frozen=True, omit_defaults=True):
    """News.  What is None has not changed."""

    at: float
    link: Link | None = None
    node: NodeRecord | None = None
    peers: tuple[PeerRecord, ...] | None = None
    connectors: tuple[tuple[str, bool], ...] | None = None
    """The peers that the configuration names, and whether they are connected."""
    flows: tuple[FlowRecord, ...] = ()
    is_whole: bool = False
    """`flows` are all there are."""
    notes: tuple[FlowNote, ...] = ()
    missed: int = 0
    """Events that this program was too slow for."""
    unwatched: int = 0
    """Flows that the node itself does not watch, for its table is full."""
