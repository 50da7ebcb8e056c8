"""The TCP flows that pass the network device: who talks to whom, in which state, how many bytes.  Sans-IO.

The table only watches: it never changes, delays or drops a packet.  A flow's life, from its segments or, where a transport
carries it, from the transport's reports::

    TCP SYN --> Seen --> TransportSelected --> Connecting --SYN|ACK--> Connected --FIN--> HalfClosed --FIN--> Closed
                             |                     |  RST, no answer                     | RST            RST ^
                             '- no such peer ------+-------------> Failed                 '--------------------'

Ended flows stay for 10 s, so that late segments find them.  With 16 384 flows watched, the longest ended one makes room, else
the inbound one that waits longest for its TCP SYN|ACK, as a flood of SYNs leaves them; if there is neither, a new flow is
carried unwatched.  Inbound flows may be 12 288: that many peers can fill, and this node's own always have the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

from easytier_hooks.types import (
    Closed,
    Connected,
    Connecting,
    Counters,
    Direction,
    Failed,
    FlowEvent,
    FlowKey,
    HalfClosed,
    Measures,
    PeerInfo,
    Seen,
    TcpFlow,
    TransportSelected,
)
from easytier_host.nic.base import VNET_HEADER_SIZE

# Wire: RFC 9293 section 3.1.
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10
_TCP: Final = 6

# Ours, in seconds unless said.
MAX_FLOWS: Final = 16_384
INBOUND_SHARE: Final = 0.75
"""Of the flows watched, those that begin at peers."""
ENDED_LINGER: Final = 10.0
CONNECT_TIMEOUT: Final = 130.0
"""Linux gives up on a connection after 127 s of TCP SYNs."""
GIVEN_UP: Final = 4.0
"""A source of this side repeats its TCP SYN after 1 s, old systems after 3, and then after twice as long each time at most.  So
much more than that without one, and it has given up, which nothing else tells."""
IDLE_TIMEOUT: Final = 86_400.0
"""A flow without a segment for a day is no longer watched; one whose ends are gone leaves no other trace."""
COUNTERS_INTERVAL: Final = 5.0
SHORTEST_RATE: Final = 0.5
"""Two counters closer to each other than this give no rate."""
MAX_HISTORY: Final = 32
"""Events remembered of each flow, counters apart; a flow has some eight, so what is lost is a plugin's chatter."""


class Flow:
    """One watched flow; mutable, owned by the table.  `snapshot` is what others may keep."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "chosen_by",
        "connected",
        "counted_at",
        "counted_bytes",
        "direction",
        "ended",
        "ended_at",
        "fin_destination",
        "fin_source",
        "first_seen",
        "first_sequence",
        "held",
        "history",
        "id",
        "key",
        "last_seen",
        "measures",
        "peer",
        "rates",
        "raw_key",
        "reason",
        "reported_by_transport",
        "stack",
        "started_at",
        "transport",
    )

    def __init__(self, flow_id: int, raw_key: bytes, key: FlowKey, direction: Direction, now: float, wall_now: float) -> None:
        self.id = flow_id
        self.raw_key = raw_key
        self.key = key
        self.first_sequence = b""
        """Of its TCP SYN, as it stands in the segment: a repeated SYN has the same, that of a new flow between the same ends
        another."""
        self.direction = direction
        self.peer: PeerInfo | None = None
        self.started_at = wall_now
        """Epoch seconds, at which the table's clock stood at `first_seen`."""
        self.first_seen = now
        self.transport: str | None = None
        self.reason = ""
        self.chosen_by = ""
        self.bytes_sent = 0
        self.bytes_received = 0
        self.measures = Measures()
        """As the transport reported them last."""
        self.stack = ""
        """Names of the TCP stacks that end its connections at this node; "" while none does, as where its packets pass."""
        self.rates = (0.0, 0.0)
        """Bytes a second sent and received, between the last two counters; see `rates_at`."""
        self.counted_bytes = (0, 0)
        self.counted_at = now
        self.reported_by_transport = False
        """A transport carries it and says what happens; segments are not looked at."""
        self.held = False
        """Its TCP SYN waits for a decision; repetitions of it are dropped meanwhile."""
        self.connected = False
        self.fin_source = False
        self.fin_destination = False
        self.ended: Closed | Failed | None = None
        self.ended_at = 0.0
        self.last_seen = now
        self.history: deque[tuple[float, FlowEvent]] = deque(maxlen=MAX_HISTORY)
        """What happened and when by the table's clock; the oldest goes first."""

    def wall_time(self, at: float) -> float:
        """A moment of the table's clock in epoch seconds."""
        return self.started_at + at - self.first_seen

    def rates_at(self, now: float) -> tuple[float, float]:
        """Bytes a second sent and received; zeros where the last counters are too old to say anything of `now`."""
        return self.rates if self.ended is None and now - self.counted_at <= 2 * COUNTERS_INTERVAL else (0.0, 0.0)

    def count(self, counters: Counters, now: float) -> None:
        """Take what has been counted up to `now`."""
        sent, received = counters.bytes_sent, counters.bytes_received
        # Totals that a transport repeats within a moment say nothing of the rate.
        passed = now - self.counted_at
        if passed >= SHORTEST_RATE:
            self.rates = (sent - self.counted_bytes[0]) / passed, (received - self.counted_bytes[1]) / passed
            self.counted_bytes, self.counted_at = (sent, received), now
        self.bytes_sent, self.bytes_received = sent, received
        self.measures = Measures(counters.rtt, counters.retransmitted, counters.window, counters.in_flight)

    def snapshot(self) -> TcpFlow:
        """The flow as it is now, as plugins see it."""
        return TcpFlow(self.id, self.key, self.direction, self.peer, self.started_at, self.transport, self.reason)


class FlowTable:
    """Watches segments in batches; what happened waits in `events` until the caller takes it."""

    def __init__(self, *, max_flows: int = MAX_FLOWS) -> None:
        self.events: list[tuple[Flow, FlowEvent]] = []
        """In the order in which they happened; the caller empties it after each batch."""
        self.unwatched = 0
        """Flows that the full table did not take."""
        self._max_flows = max_flows
        self._next_id = 1
        self._by_segment: dict[bytes, tuple[Flow, bool]] = {}
        """Raw key as it stands in a segment -> the flow, and whether the segment comes from its source."""
        self._by_id: dict[int, Flow] = {}
        self._ended: dict[int, Flow] = {}
        self._half_open: dict[int, Flow] = {}
        """Inbound flows of the device, unanswered, in the order of their SYNs."""
        self._inbound = 0
        self._counters_due = 0.0

    def __iter__(self) -> Iterator[Flow]:
        """All flows, oldest first, ended ones included while they linger."""
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, flow_id: int) -> Flow | None:
        """The flow with this id, while it is in the table."""
        return self._by_id.get(flow_id)

    def find(self, raw_key: bytes) -> Flow | None:
        """The flow whose segments carry this key, from either end."""
        entry = self._by_segment.get(raw_key)
        return None if entry is None else entry[0]

    def look(self, packet: bytes, offset: int, now: float, wall_now: float, direction: Direction) -> Flow | None:
        """Watch one packet or super-packet that begins at `offset`; returns its flow if this TCP SYN has just made it.

        `direction` is "outbound" for what the device brought, "inbound" for what a peer sent.
        """
        found = segment_key(packet, offset)
        if found is None:
            return None
        raw_key, tcp = found
        flags = packet[tcp + 13]
        entry = self._by_segment.get(raw_key)
        if flags & (SYN | ACK | RST | FIN) == SYN:
            sequence = packet[tcp + 4 : tcp + 8]
            if entry is None or not entry[1] or entry[0].first_sequence != sequence:
                if entry is not None:
                    self.report(entry[0], _superseded(entry[0]), now)
                return self._begin(raw_key, direction, now, wall_now, sequence)
        if entry is None:
            return None
        flow, from_source = entry
        flow.last_seen = now
        if flow.reported_by_transport or flow.ended is not None:
            return None
        # A header that claims to be longer than the packet carries nothing.
        size = max(0, len(packet) - tcp - (packet[tcp + 12] >> 4) * 4)
        if from_source:
            flow.bytes_sent += size
        else:
            flow.bytes_received += size
        if flags & (SYN | RST | FIN):
            self._turn(flow, from_source, flags, now)
        return None

    def open(self, key: FlowKey, direction: Direction, peer: PeerInfo | None, now: float, wall_now: float) -> Flow | None:
        """A flow that shows on no device, since a transport carries it from the start; None if the table is full."""
        flow = self._begin(encode_key(key), direction, now, wall_now, b"", on_device=False)
        if flow is not None:
            flow.peer = peer
            flow.reported_by_transport = True
        return flow

    def report(self, flow: Flow, event: FlowEvent, now: float) -> bool:
        """Apply what a transport or the selection says of a flow; False if it has ended already, which nothing follows."""
        if flow.ended is not None:
            return False
        match event:
            case TransportSelected(transport, reason, chosen_by):
                flow.transport, flow.reason, flow.chosen_by = transport, reason, chosen_by
            case Connecting():
                # While its SYN was held, repetitions may have gone elsewhere.
                flow.last_seen = now
            case Connected():
                flow.connected = True
                self._half_open.pop(flow.id, None)
            case HalfClosed("source"):
                flow.fin_source = True
            case HalfClosed("destination"):
                flow.fin_destination = True
            case Counters():
                flow.count(event, now)
            case Closed() | Failed():
                if not flow.reported_by_transport and flow.counted_bytes != (flow.bytes_sent, flow.bytes_received):
                    self.report(flow, Counters(flow.bytes_sent, flow.bytes_received), now)
                flow.ended, flow.ended_at = event, now
                self._ended[flow.id] = flow
                self._half_open.pop(flow.id, None)
            case _:
                pass
        self._note(flow, event, now)
        return True

    def tick(self, now: float) -> None:
        """Time-outs and periodic counters; to be called about once a second."""
        for flow in list(self._ended.values()):
            if now - flow.ended_at < ENDED_LINGER:
                break
            self._forget(flow)
        counters_due = now >= self._counters_due
        if counters_due:
            self._counters_due = now + COUNTERS_INTERVAL
        for flow in self:
            if flow.ended is not None or flow.reported_by_transport:
                continue
            silence = now - flow.last_seen
            if not flow.connected and silence >= _patience(flow) and not flow.held:
                inbound = flow.direction == "inbound"
                why = f"no answer in {CONNECT_TIMEOUT:g} s" if inbound else "no answer, the source has given up"
                self.report(flow, Failed(why), now)
            elif silence >= IDLE_TIMEOUT:
                self.report(flow, Closed(f"no segment in {IDLE_TIMEOUT / 3600:g} h, no longer watched"), now)
            elif counters_due and flow.counted_bytes != (flow.bytes_sent, flow.bytes_received):
                self.report(flow, Counters(flow.bytes_sent, flow.bytes_received), now)

    def _note(self, flow: Flow, event: FlowEvent, now: float) -> None:
        self.events.append((flow, event))
        if not isinstance(event, Counters):
            flow.history.append((now, event))

    def _turn(self, flow: Flow, from_source: bool, flags: int, now: float) -> None:
        side: Literal["source", "destination"] = "source" if from_source else "destination"
        if flags & RST:
            end = Closed(f"reset by the {side}") if flow.connected else Failed(f"refused by the {side}{_doubt(flow, side)}")
            self.report(flow, end, now)
        elif flags & SYN:
            if flags & ACK and not from_source and not flow.connected:
                self.report(flow, Connected(), now)
        elif not (flow.fin_source if from_source else flow.fin_destination):
            self.report(flow, HalfClosed(side), now)
            if flow.fin_source and flow.fin_destination:
                self.report(flow, Closed("FIN both ways"), now)

    def _begin(
        self,
        raw_key: bytes,
        direction: Direction,
        now: float,
        wall_now: float,
        first_sequence: bytes,
        *,
        on_device: bool = True,
    ) -> Flow | None:
        is_inbound = direction == "inbound"
        if len(self._by_id) >= self._max_flows or (is_inbound and self._inbound >= self._max_flows * INBOUND_SHARE):
            given_up = next(self._dispensable(is_inbound), None)
            if given_up is None:
                self.unwatched += 1
                return None
            if given_up.ended is None:
                self.report(given_up, Failed("unanswered, and the table of flows is full"), now)
            self._forget(given_up)
        replaced = self._by_segment.get(raw_key) if on_device else None
        if replaced is not None:
            self._forget(replaced[0])
        flow = Flow(self._next_id, raw_key, decode_key(raw_key), direction, now, wall_now)
        flow.first_sequence = first_sequence
        self._next_id += 1
        self._by_id[flow.id] = flow
        self._inbound += is_inbound
        if is_inbound and on_device:
            self._half_open[flow.id] = flow
        if on_device:
            self._by_segment[raw_key] = flow, True
            self._by_segment[reverse_key(raw_key)] = flow, False
        self._note(flow, Seen(), now)
        return flow

    def _dispensable(self, for_inbound: bool) -> Iterator[Flow]:
        """What a full table can do without, for an inbound flow or one of our own.  One whose SYN is held here is not."""
        ended = (flow for flow in self._ended.values() if not for_inbound or flow.direction == "inbound")
        waiting = (flow for flow in self._half_open.values() if not flow.held and not flow.reported_by_transport)
        yield from ended
        yield from waiting

    def _forget(self, flow: Flow) -> None:
        del self._by_id[flow.id]
        self._inbound -= flow.direction == "inbound"
        self._ended.pop(flow.id, None)
        self._half_open.pop(flow.id, None)
        for raw_key in (flow.raw_key, reverse_key(flow.raw_key)):
            entry = self._by_segment.get(raw_key)
            if entry is not None and entry[0] is flow:
                del self._by_segment[raw_key]


def _patience(flow: Flow) -> float:
    """Seconds without a TCP SYN after which a flow's source has given up.  Those of peers may be lost on the way."""
    if flow.direction == "inbound":
        return CONNECT_TIMEOUT
    return min(CONNECT_TIMEOUT, GIVEN_UP + 2 * (flow.last_seen - flow.first_seen))


def segment_key(packet: bytes, offset: int = VNET_HEADER_SIZE) -> tuple[bytes, int] | None:
    """(addresses and ports as they stand in the packet, where the TCP header begins); None if this is no whole TCP header.

    IPv6 packets with extension headers and all fragments are None too.
    """
    size = len(packet) - offset
    if size < 40:
        return None
    first = packet[offset]
    if first == 0x45:
        tcp = offset + 20
    elif first >> 4 == 4:
        tcp = offset + (first & 15) * 4
        if tcp < offset + 20:
            return None
    elif first >> 4 == 6:
        tcp = offset + 40
        if packet[offset + 6] != _TCP or size < 60:
            return None
        return packet[offset + 8 : tcp + 4], tcp
    else:
        return None
    # Any fragment offset, or "more fragments": the ports are missing or the segment is not whole.
    if packet[offset + 9] != _TCP or packet[offset + 6] & 0x3F or packet[offset + 7] or len(packet) < tcp + 20:
        return None
    if first == 0x45:
        return packet[offset + 12 : tcp + 4], tcp
    return packet[offset + 12 : offset + 20] + packet[tcp : tcp + 4], tcp


def reverse_key(raw_key: bytes) -> bytes:
    """The raw key of the same flow's segments the other way."""
    half = (len(raw_key) - 4) // 2
    return raw_key[half:-4] + raw_key[:half] + raw_key[-2:] + raw_key[-4:-2]


def decode_key(raw_key: bytes) -> FlowKey:
    """A raw key of 12 (IPv4) or 36 bytes (IPv6) as addresses and ports."""
    half = (len(raw_key) - 4) // 2
    address = IPv4Address if half == 4 else IPv6Address
    return FlowKey(
        address(raw_key[:half]),
        int.from_bytes(raw_key[-4:-2], "big"),
        address(raw_key[half:-4]),
        int.from_bytes(raw_key[-2:], "big"),
    )


def encode_key(key: FlowKey) -> bytes:
    """The raw key of a flow's segments from its source."""
    return (
        key.source_ip.packed
        + key.destination_ip.packed
        + key.source_port.to_bytes(2, "big")
        + key.destination_port.to_bytes(2, "big")
    )


def _doubt(flow: Flow, side: str) -> str:
    """What else a refusal may mean: a router refuses for hosts that it does not find."""
    peer = flow.peer
    behind = peer is not None and flow.key.destination_ip not in (peer.ipv4, peer.ipv6)
    return ", or out of the peer's reach" if behind and side == "destination" and flow.direction != "inbound" else ""


def _superseded(flow: Flow) -> Closed | Failed:
    end = Closed if flow.connected else Failed
    return end("a new connection uses its ports")
