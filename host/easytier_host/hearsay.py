"""What others say of our neighbours: not believed while those speak for themselves, and needed once they do not.  Sans-IO.

Whoever said it counts it as delivered and will not say it again, so the newest of it is kept: one record and one row of
connections for each neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from easytier_host.pb import peer_rpc_pb2

# Ours.
MAX_ROW: Final = 256
"""Neighbours in a row that is kept; who has more tells it anew often enough."""


@dataclass(frozen=True, slots=True)
class Record:
    """As it came, from the peer `bringer` at `now` (monotonic seconds)."""

    bringer: int
    message: peer_rpc_pb2.RoutePeerInfo
    now: float


@dataclass(frozen=True, slots=True)
class Row:
    """The neighbours of one peer, in a version."""

    bringer: int
    version: int
    neighbours: frozenset[int]
    now: float


@dataclass(slots=True)
class Hearsay:
    """By the neighbour that is spoken of."""

    records: dict[int, Record] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)

    def note_record(self, bringer: int, message: peer_rpc_pb2.RoutePeerInfo, now: float) -> None:
        """Keep it, if it is newer than what is kept."""
        kept = self.records.get(message.peer_id)
        if kept is None or message.version > kept.message.version:
            copy = peer_rpc_pb2.RoutePeerInfo()
            copy.CopyFrom(message)
            self.records[message.peer_id] = Record(bringer, copy, now)

    def note_row(self, bringer: int, peer_id: int, version: int, neighbours: frozenset[int], now: float) -> None:
        """The same."""
        if version > self.row_version(peer_id) and len(neighbours) <= MAX_ROW:
            self.rows[peer_id] = Row(bringer, version, neighbours, now)

    def row_version(self, peer_id: int) -> int:
        """Of the row that is kept; 0 if there is none."""
        kept = self.rows.get(peer_id)
        return 0 if kept is None else kept.version

    def take(self, peer_id: int) -> tuple[Record | None, Row | None]:
        """What was kept of somebody who is no neighbour any more."""
        return self.records.pop(peer_id, None), self.rows.pop(peer_id, None)
