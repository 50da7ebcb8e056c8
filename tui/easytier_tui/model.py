"""The state of one daemon as a screen needs it: flows and peers with their history, totals by transport.  Sans-IO.

    Update --apply--> flows, peers, node, link        tick(now), once a second: totals, rates that have run dry, old flows

Ended flows stay for `KEEP_ENDED` seconds, so that their reason can be read.  A daemon that goes away changes `link` alone:
what was known last stays.  Nothing grows without limit: past `MAX_FLOWS` the longest ended flow makes room, else the new one is
counted in `untold` and not kept.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable
from typing import Final, Self

from msgspec.structs import replace

from easytier_tui.history import History
from easytier_tui.records import FlowNote, FlowRecord, Link, NodeRecord, PeerRecord, Update

# All ours.
MAX_FLOWS: Final = 20_000
"""More than a node watches."""
MAX_ENDED: Final = 1000
KEEP_ENDED: Final = 60.0
MAX_NOTES: Final = 32
"""Of each flow; as many as a node remembers."""
TOTALS: Final = 60
"""Samples, one a second: as many as the widest graph shows."""
RATE_LIFETIME: Final = 10.0
"""Seconds after which a rate without news is zero; nodes count at least every 5 s."""


class FlowState:
    """A flow: its newest record and what it did before."""

    __slots__ = ("changed_at", "history", "notes", "record", "send_rate", "receive_rate", "ended_at")  # noqa: RUF023

    def __init__(self, record: FlowRecord, now: float) -> None:
        self.record = record
        self.history = History(now)
        self.notes: tuple[FlowNote, ...] = ()
        self.changed_at = now
        self.send_rate: float | None = None
        self.receive_rate: float | None = None
        self.ended_at: float | None = None
        """By this machine's clock."""
        self._take(record, now, None)

    def change(self, record: FlowRecord, now: float) -> None:
        """Take a newer record."""
        before, self.record = self.record, record
        passed = now - self.changed_at
        again = None
        if record.retransmitted is not None and before.retransmitted is not None and passed > 0:
            again = max(0, record.retransmitted - before.retransmitted) / passed
        self._take(record, now, again)

    def note(self, note: FlowNote) -> None:
        """Remember an event; the oldest of too many goes."""
        if note not in self.notes:
            self.notes = tuple(sorted((*self.notes, note), key=lambda each: each.at))[-MAX_NOTES:]

    def run_dry(self, now: float) -> None:
        """No news for a while: nothing moves."""
        if self.send_rate:
            self.send_rate = 0.0
        if self.receive_rate:
            self.receive_rate = 0.0
        self._sample(now, None)

    def _take(self, record: FlowRecord, now: float, again: float | None) -> None:
        self.changed_at = now
        if record.has_ended:
            self.send_rate = self.receive_rate = None
            if self.ended_at is None:
                self.ended_at = now if record.ended_at is None else min(now, record.ended_at)
        else:
            self.send_rate, self.receive_rate = record.send_rate, record.receive_rate
        if record.send_rate is not None or record.rtt is not None:
            self._sample(now, again)

    def _sample(self, now: float, again: float | None) -> None:
        record = self.record
        self.history.add(
            now, self.send_rate or 0.0, self.receive_rate or 0.0, record.rtt, again, record.window, record.in_flight
        )

    def frozen(self) -> FlowState:
        """The same as it is at this moment."""
        still = copy.copy(self)
        still.history = self.history.copy()
        return still

    @property
    def rate(self) -> float | None:
        """Both ways."""
        if self.send_rate is None and self.receive_rate is None:
            return None
        return (self.send_rate or 0.0) + (self.receive_rate or 0.0)


class PeerState:
    """A peer, and what it moves per second over our connections to it."""

    __slots__ = ("_counted", "_counted_at", "flows", "receive_rate", "record", "send_rate")

    def __init__(self, record: PeerRecord, now: float) -> None:
        self.record = record
        self.send_rate: float | None = None
        self.receive_rate: float | None = None
        self.flows = 0
        self._counted = _bytes_of(record)
        self._counted_at = now

    def change(self, record: PeerRecord, now: float) -> None:
        """Take a newer record."""
        self.record = record
        counted, passed = _bytes_of(record), now - self._counted_at
        if counted is None or self._counted is None or passed <= 0:
            self.send_rate = self.receive_rate = None
        else:
            # A connection that was replaced takes its counters with it.
            self.send_rate, self.receive_rate = (
                max(0, new - old) / passed for new, old in zip(counted, self._counted, strict=True)
            )
        self._counted, self._counted_at = counted, now


class Model:
    """Everything known of one daemon.  `Update.at` and `now` are one clock, in epoch seconds."""

    def __init__(self) -> None:
        self.link = Link("connecting")
        self.node: NodeRecord | None = None
        self.connectors: tuple[tuple[str, bool], ...] = ()
        self.flows: dict[str, FlowState] = {}
        """By key, in the order in which they appeared."""
        self.peers: dict[int, PeerState] = {}
        self.totals: dict[str, deque[tuple[float, float]]] = {}
        """By transport: bytes a second, up and down, one sample a second."""
        self.counts: dict[str, int] = {}
        """Living flows by transport."""
        self.longest_source = 0
        """Characters, and those of the longest destination, of all flows that there ever were."""
        self.longest_destination = 0
        self.missed = 0
        self.unwatched = 0
        self.untold = 0
        self._moving: set[str] = set()
        self._ended: dict[str, float] = {}

    # News

    def apply(self, update: Update) -> None:
        """Take what a feed has told."""
        now = update.at
        if update.link is not None:
            self.link = update.link
        if update.node is not None:
            self.node = update.node
        if update.connectors is not None:
            self.connectors = update.connectors
        if update.peers is not None:
            self._apply_peers(update.peers, now)
        for record in update.flows:
            self._apply_flow(record, now)
        if update.is_whole:
            self._end_absent({record.key for record in update.flows}, now)
            self.unwatched = update.unwatched
        for note in update.notes:
            state = self.flows.get(note.key)
            if state is not None:
                state.note(note)
        self.missed += update.missed

    def _apply_peers(self, records: Iterable[PeerRecord], now: float) -> None:
        peers: dict[int, PeerState] = {}
        for record in records:
            state = self.peers.get(record.peer_id)
            if state is None:
                state = PeerState(record, now)
            else:
                state.change(record, now)
            peers[record.peer_id] = state
        self.peers = peers

    def _apply_flow(self, record: FlowRecord, now: float) -> None:
        state = self.flows.get(record.key)
        if state is None:
            if len(self.flows) >= MAX_FLOWS and not self._make_room():
                self.untold += 1
                return
            state = self.flows[record.key] = FlowState(record, now)
            self.longest_source = max(self.longest_source, len(record.source))
            self.longest_destination = max(self.longest_destination, len(record.destination))
            self._derive_notes(state, None, now)
        elif state.record != record:
            before = state.record
            state.change(record, now)
            self._derive_notes(state, before, now)
        else:
            return
        if state.rate:
            self._moving.add(record.key)
        else:
            self._moving.discard(record.key)
        if record.has_ended:
            self._ended.setdefault(record.key, now)
        else:
            self._ended.pop(record.key, None)

    def _end_absent(self, present: set[str], now: float) -> None:
        for key, state in self.flows.items():
            if key not in present and key not in self._ended:
                gone = replace(
                    state.record, state="closed", end_reason=state.record.end_reason or "the node no longer lists it"
                )
                state.change(gone, now)
                self._derive_notes(state, None, now)
                self._moving.discard(key)
                self._ended[key] = now

    def _derive_notes(self, state: FlowState, before: FlowRecord | None, now: float) -> None:
        """What a polled node does not tell of a flow's past shows in the difference of two answers."""
        if self.node is None or not self.node.is_stock:
            return
        record = state.record
        if before is None or before.state != record.state:
            state.note(FlowNote(record.key, now, f"{record.state}: {record.end_reason}" if record.end_reason else record.state))

    # Time

    def tick(self, now: float) -> None:
        """Once a second: sample the totals, let rates without news run dry, forget flows that ended long ago."""
        sums: dict[str, list[float]] = {}
        for key in list(self._moving):
            state = self.flows[key]
            if now - state.changed_at > RATE_LIFETIME:
                state.run_dry(now)
                self._moving.discard(key)
                continue
            total = sums.setdefault(state.record.transport, [0.0, 0.0])
            total[0] += state.send_rate or 0.0
            total[1] += state.receive_rate or 0.0
        self._count()
        for transport in sums.keys() | self.counts.keys() | self.totals.keys():
            if transport:
                up, down = sums.get(transport, (0.0, 0.0))
                self.totals.setdefault(transport, deque(maxlen=TOTALS)).append((up, down))
        for key, ended_at in list(self._ended.items()):
            # In the order of their ends, so the first young one ends the search.
            if now - ended_at <= KEEP_ENDED and len(self._ended) <= MAX_ENDED:
                break
            self._forget(key)

    def _count(self) -> None:
        counts: dict[str, int] = {}
        by_peer: dict[int, int] = {}
        for key, state in self.flows.items():
            if key not in self._ended:
                record = state.record
                counts[record.transport] = counts.get(record.transport, 0) + 1
                by_peer[record.peer_id] = by_peer.get(record.peer_id, 0) + 1
        self.counts = counts
        for peer_id, peer in self.peers.items():
            peer.flows = by_peer.get(peer_id, 0)

    def _make_room(self) -> bool:
        oldest = next(iter(self._ended), None)
        if oldest is not None:
            self._forget(oldest)
        return oldest is not None

    def _forget(self, key: str) -> None:
        del self.flows[key], self._ended[key]
        self._moving.discard(key)

    # For those who look

    @property
    def is_gone(self) -> bool:
        """The node does not answer."""
        return self.link.kind == "gone"

    @property
    def living(self) -> int:
        """Flows that have not ended, as `counts` has them."""
        return sum(self.counts.values())

    def as_update(self, now: float) -> Update:
        """All that is known, as news for another model."""
        return Update(
            now,
            self.link,
            self.node,
            tuple(peer.record for peer in self.peers.values()),
            self.connectors,
            tuple(flow.record for flow in self.flows.values()),
            is_whole=True,
            notes=tuple(note for flow in self.flows.values() for note in flow.notes),
            unwatched=self.unwatched,
        )

    def frozen(self) -> Self:
        """The same as it is at this moment; later news change it no more."""
        still = copy.copy(self)
        still.flows = {key: state.frozen() for key, state in self.flows.items()}
        still.peers = {key: copy.copy(state) for key, state in self.peers.items()}
        still.totals = {key: copy.copy(samples) for key, samples in self.totals.items()}
        return still


def _bytes_of(record: PeerRecord) -> tuple[int, int] | None:
    """Sent and received over all connections; None if it is no neighbour."""
    if not record.connections:
        return None
    return sum(each.sent for each in record.connections), sum(each.received for each in record.connections)
