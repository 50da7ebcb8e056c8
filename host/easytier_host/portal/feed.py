"""News of a node's flows for readers of the portal, who may come and go and be slow.

::

    gate.publish --> FlowFeed: the last updates, numbered; the flows by when each changed last
                         | read(cursor)
                         |-- place known: what has changed since
                         '-- no place, or no longer known: all flows, and how many updates were missed

Readers keep their place themselves, as a cursor that they send along.  So they cost the node nothing but their connection:
there is one journal for all of them, and a slow reader finds that its place is no longer in it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from easytier_hooks.types import Counters, FlowEvent
from easytier_host.flows import MAX_FLOWS, Flow

if TYPE_CHECKING:
    from easytier_host.gate import FlowGate

# Ours.
MAX_UPDATES: Final = 4096
"""Updates kept; a reader that asks once a second keeps up with 4096 a second.  The oldest go first."""
MAX_CHANGED: Final = MAX_FLOWS
"""Flows whose last change is known, ended ones included.  The longest unchanged go first."""
_CURSOR: Final = struct.Struct("<QQQ")
"""Feed, number of the last update, number of the last change: of no meaning to readers."""


@dataclass(frozen=True, slots=True)
class Update:
    """What happened to a flow, with its number in the feed and the epoch time in seconds."""

    sequence: int
    flow_id: int
    time: float
    event: FlowEvent


@dataclass(frozen=True, slots=True)
class News:
    """What a reader has not seen; `flows` are all there are if `is_snapshot`, else those that changed."""

    cursor: bytes
    is_snapshot: bool
    flows: list[Flow]
    updates: list[Update]
    missed: int


class FlowFeed:
    """The news of one node's flows, from now on; `feed_id` tells it from others."""

    def __init__(self, gate: FlowGate, feed_id: int, wall_clock: Callable[[], float]) -> None:
        self._table = gate.table
        self._id = feed_id
        self._wall_clock = wall_clock
        self._updates: deque[Update] = deque(maxlen=MAX_UPDATES)
        self._sequence = 0
        self._changed: dict[int, tuple[int, Flow]] = {}
        """Flow id -> number of its last change, which is the order of the entries."""
        self._change = 0
        self._forgotten_change = 0
        """The last change that is no longer known."""
        self._news = anyio.Event()
        gate.observers.append(self.note)

    def note(self, flow: Flow, event: FlowEvent) -> None:
        """Take in what has happened.  Counters change a flow but are no update: nobody is woken by them."""
        self._change += 1
        self._changed.pop(flow.id, None)
        if len(self._changed) >= MAX_CHANGED:
            oldest = next(iter(self._changed))
            self._forgotten_change = self._changed.pop(oldest)[0]
        self._changed[flow.id] = self._change, flow
        if not isinstance(event, Counters):
            self._sequence += 1
            # The time that the flow's history has, so that a reader of both can tell that they are one.
            happened = next((at for at, each in reversed(flow.history) if each is event), None)
            wall_time = self._wall_clock() if happened is None else flow.wall_time(happened)
            self._updates.append(Update(self._sequence, flow.id, wall_time, event))
            self._news.set()

    def read(self, cursor: bytes) -> News:
        """What came after `cursor`; a snapshot if it is not one of this feed's, or too old."""
        sequence, change = self._place(cursor)
        oldest = self._updates[0].sequence if self._updates else self._sequence + 1
        missed = 0 if sequence is None else max(0, oldest - 1 - sequence)
        is_snapshot = sequence is None or missed > 0 or change < self._forgotten_change
        return News(
            _CURSOR.pack(self._id, self._sequence, self._change),
            is_snapshot,
            list(self._table) if is_snapshot else [*self._since(change)][::-1],
            [] if sequence is None else [*_newer(reversed(self._updates), sequence)][::-1],
            missed,
        )

    async def wait(self, cursor: bytes) -> None:
        """Return when there is an update after `cursor`; at once for one that `read` answers with a snapshot."""
        sequence, change = self._place(cursor)
        while sequence is not None and sequence == self._sequence and change >= self._forgotten_change:
            if self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()

    def _place(self, cursor: bytes) -> tuple[int | None, int]:
        """The last update and change that a reader has seen; no update for a cursor that is not ours."""
        if len(cursor) == _CURSOR.size:
            feed, sequence, change = _CURSOR.unpack(cursor)
            if feed == self._id and sequence <= self._sequence and change <= self._change:
                return sequence, change
        return None, 0

    def _since(self, change: int) -> Iterator[Flow]:
        """Flows that have changed after `change`, the latest first."""
        for number, flow in reversed(self._changed.values()):
            if number <= change:
                return
            yield flow


def _newer(updates: Iterable[Update], sequence: int) -> Iterator[Update]:
    for update in updates:
        if update.sequence <= sequence:
            return
        yield update
