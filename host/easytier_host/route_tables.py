"""What the tables of the route protocol hold: records, connections, what each neighbour has of them.  Data of `route.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from easytier_host.pb import peer_rpc_pb2
from easytier_host.route_records import PeerRecord


@dataclass(slots=True)
class RouteCounters:
    """What came in and was not taken, since the start."""

    records_refused: int = 0
    """Records without peer id, too large, or one too many."""
    conn_info_refused: int = 0
    """Matrices too short for their peers, rows of one peer too many, and rows with too many connections."""
    own_id_claimed: int = 0
    """Records under our peer id that are not ours, and answers that call our id a duplicate: another node uses it."""
    syncs_failed: int = 0
    """Requests of ours that were refused or not answered."""


@dataclass(slots=True)
class StoredRecord:
    """What a node says about itself, as somebody brought it."""

    message: peer_rpc_pb2.RoutePeerInfo
    view: PeerRecord
    size: int
    may_pass_on: bool
    last_sign: float
    """When it was renewed, or seen to be within reach."""
    bringer: int
    """The neighbour that this version came from."""


@dataclass(slots=True)
class StoredConnInfo:
    """The neighbours that a node announced."""

    version: int
    neighbours: frozenset[int]
    received: float
    bringer: int
    """The neighbour that this version came from."""


@dataclass(slots=True)
class Session:
    """What one neighbour has, for as long as it stays connected."""

    session_id: int
    their_session_id: int | None = None
    records: dict[int, int] = field(default_factory=dict)
    """Version of each record that the neighbour has."""
    conns: dict[int, int] = field(default_factory=dict)
    """Version of each peer's connection info that the neighbour has."""

    def forget(self) -> None:
        """The neighbour has nothing any more."""
        self.records.clear()
        self.conns.clear()

    def meet(self, their_session_id: int) -> None:
        """Note the neighbour's session id; another one than before means that it has begun anew."""
        if self.their_session_id not in (None, their_session_id):
            self.forget()
        self.their_session_id = their_session_id
