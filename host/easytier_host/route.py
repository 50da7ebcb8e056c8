"""The route protocol: versioned records of all nodes, and who lacks which of them.

A link-state protocol.  Each node publishes a record about itself and the list of its neighbours ("connection info"), both with
a version that only grows.  Nodes flood what is new to their neighbours in SyncRouteInfo calls, and each computes its own next
hops.

`LinkState` is sans-IO: it has no socket, clock or randomness of its own.  Four things move it: `update_own`, the neighbours
that come and go, `handle_request` and `on_response`, and `expire`.  Two things drain it: `build_request` says what to send,
`generation` when to compute next hops anew.  `route_sync` drives it; what may take long is done in steps there, between which
any of these may be called.  Format and rules: wire specification, control plane section 7.

Who says what: a neighbour is believed about itself, whatever version others have brought, and nobody else is about a neighbour.
All other records and connections may be anybody's invention; so in full tables what one neighbour has brought gives way to what
others bring, until all have equal shares.

A session belongs to a neighbour for as long as it stays connected.  It remembers which versions the neighbour has: those it
sent and those it took from us.  If the neighbour's session id changes, it has forgotten everything and gets it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final

from easytier_host.hearsay import Hearsay
from easytier_host.pb import peer_rpc_pb2
from easytier_host.route_records import (
    MAX_NEIGHBOURS,
    OwnRecord,
    PeerRecord,
    Versioned,
    decode_bitmap,
    decode_peer_list,
    decode_record,
    encode_bitmap_in_steps,
    encode_record,
    may_pass_on,
)
from easytier_host.route_tables import RouteCounters, Session, StoredConnInfo, StoredRecord
from easytier_host.steps import Steps, finish

# Wire constants, in seconds (control plane 7.4 and 7.8).
RENEWAL_INTERVAL: Final = 3600.0
"""Our record gets a new version this often, or others forget us."""
RECORD_LIFETIME: Final = 3660.0
"""A record that was not renewed for so long is forgotten."""
UNREACHABLE_LIFETIME: Final = 90.0
"""The same for a record of a peer to which no path leads."""

# Ours.
MAX_RECORDS: Final = 4096
"""Peers we keep records of, and peers we keep connection info of, besides neighbours; more are refused and counted."""
MAX_LINKS: Final = 262_144
"""Connections announced by all peers together: those of 512 peers that all know each other, some 20 MB."""
MAX_RECORD_SIZE: Final = 4096
"""Bytes of one record; stock's have about 100, and room is left for some 200 CIDRs."""
MAX_REQUEST_RECORDS_SIZE: Final = 256 * 1024
"""Bytes of records in one request, a quarter of what a call may have; the rest follows in the next."""
STEP_VERSIONS: Final = 100
"""Versions that are noted in one step."""
MAX_BITMAP_PEERS: Final = 2 * MAX_NEIGHBOURS
"""Peers in one matrix, 0.5 MiB; rows that do not fit follow in the next request.  The longest row fits alone."""

_LAST_VERSION: Final = 0xFFFF_FFFF


class RouteError(Exception):
    """A neighbour's request cannot be honoured: it has no session, or speaks for somebody else."""


class LinkState:
    """All that one node knows of its network.

    `random_u64` gives session ids and the route id, which lets others tell two nodes with one peer id apart.  `now` is seconds,
    monotonic, wherever it appears; `wall_now` is seconds since 1970.
    """

    def __init__(self, peer_id: int, own: OwnRecord, random_u64: Callable[[], int], now: float) -> None:
        self.peer_id = peer_id
        self.counters = RouteCounters()
        self._own = own
        self._own_version = 1
        self._own_renewed = now
        self._route_id = random_u64()
        self._random_u64 = random_u64
        self._neighbours: frozenset[int] = frozenset()
        self._conn_version = 1
        self._sessions: dict[int, Session] = {}
        self._records: dict[int, StoredRecord] = {}
        self._conns: dict[int, StoredConnInfo] = {}
        self._hearsay = Hearsay()
        self._records_brought: Counter[int] = Counter()
        self._links_brought: Counter[int] = Counter()
        self._links = 0
        self._generation = 0
        self._reachable: frozenset[int] = frozenset()
        self._nearest_first: tuple[int, ...] = ()
        self._unreachable: frozenset[int] = frozenset()
        self._searched_generation = 0

    # What we know

    @property
    def generation(self) -> int:
        """Grows whenever a record, a connection or our own record says something else than before."""
        return self._generation

    @property
    def own(self) -> OwnRecord:
        """What we tell about ourselves."""
        return self._own

    @property
    def neighbours(self) -> frozenset[int]:
        """The peers that have a connection to us."""
        return self._neighbours

    def peers(self) -> list[PeerRecord]:
        """The records of all other peers, reachable or not."""
        return [record.view for record in self._records.values()]

    def message(self, peer_id: int) -> peer_rpc_pb2.RoutePeerInfo | None:
        """A peer's record as it came, with what this version does not know; do not change it.  None if there is none."""
        record = self._records.get(peer_id)
        return record.message if record is not None else None

    def connections(self) -> dict[int, frozenset[int]]:
        """The neighbours that each other peer announced."""
        return {peer_id: conn.neighbours for peer_id, conn in self._conns.items()}

    def reachable(self) -> frozenset[int]:
        """The peers with a record to which announced connections lead from us."""
        finish(self._search_if_stale())
        return self._reachable

    # What we tell about ourselves

    def update_own(self, own: OwnRecord) -> None:
        """Publish another record of ours, under a new version if it differs."""
        if own != self._own:
            self._own = own
            self._own_version += 1
            self._generation += 1

    def add_neighbour(self, peer_id: int) -> None:
        """A peer connected: open a session and publish the connection.  No effect if it has one; ValueError for our own id."""
        if peer_id == self.peer_id:
            raise ValueError("no node is its own neighbour")
        self.set_neighbours(self._neighbours | {peer_id})

    def remove_neighbour(self, peer_id: int) -> None:
        """A peer's last connection closed: end its session.  No effect if there is none."""
        self.set_neighbours(self._neighbours - {peer_id})

    def set_neighbours(self, peer_ids: frozenset[int]) -> None:
        """Make exactly these the neighbours, at most MAX_NEIGHBOURS (ValueError)."""
        if peer_ids == self._neighbours:
            return
        if len(peer_ids) > MAX_NEIGHBOURS:
            raise ValueError(f"{len(peer_ids)} neighbours, more than {MAX_NEIGHBOURS}")
        for peer_id in self._neighbours - peer_ids:
            del self._sessions[peer_id]
        for peer_id in peer_ids - self._neighbours:
            self._sessions[peer_id] = Session(self._random_u64())
        left, self._neighbours = self._neighbours - peer_ids, peer_ids
        self._conn_version += 1
        self._generation += 1
        for peer_id in left:
            self._believe(peer_id)

    def _believe(self, peer_id: int) -> None:
        """Take what others have said of somebody who was a neighbour until now."""
        record, row = self._hearsay.take(peer_id)
        if record is not None and record.bringer in self._sessions:
            self._take_record(record.bringer, self._sessions[record.bringer], record.message, record.now)
        stored = self._conns.get(peer_id)
        if row is not None and row.bringer in self._sessions and (stored is None or row.version > stored.version):
            self._take_row(row.bringer, peer_id, row.version, row.neighbours, row.now)

    # What we send

    def wants_sync(self, peer_id: int) -> bool:
        """Whether a neighbour lacks something that we know."""
        return finish(self.wants_sync_in_steps(peer_id))

    def wants_sync_in_steps(self, peer_id: int) -> Steps[bool]:
        """The same in steps."""
        yield from self._search_if_stale()
        session = self._sessions.get(peer_id)
        return session is not None and (
            any(True for _ in self._newer_records(peer_id, session)) or any(True for _ in self._newer_conns(peer_id, session))
        )

    def build_request(
        self, peer_id: int, now: float, wall_now: float, *, keepalive: bool = False
    ) -> peer_rpc_pb2.SyncRouteInfoRequest | None:
        """What a neighbour lacks; with nothing new None, or with `keepalive` a request that only keeps the session alive.

        None also for a peer without session.  A large network may take several requests: ask `wants_sync` after each.
        """
        return finish(self.build_request_in_steps(peer_id, now, wall_now, keepalive=keepalive))

    def build_request_in_steps(
        self, peer_id: int, now: float, wall_now: float, *, keepalive: bool = False
    ) -> Steps[peer_rpc_pb2.SyncRouteInfoRequest | None]:
        """The same in steps."""
        self._renew_own(now)
        yield from self._search_if_stale()
        session = self._sessions.get(peer_id)
        if session is None:
            return None
        request = peer_rpc_pb2.SyncRouteInfoRequest(
            my_peer_id=self.peer_id, my_session_id=session.session_id, is_initiator=True
        )
        size = 0
        for record in self._newer_records(peer_id, session):
            if record is None:
                message = encode_record(self._own, self.peer_id, self._route_id, self._own_version, wall_now)
                size += message.ByteSize()
            else:
                message = record.message
                size += record.size
            if size > MAX_REQUEST_RECORDS_SIZE and request.peer_infos.items:
                break
            request.peer_infos.items.append(message)
            yield
        rows: dict[int, tuple[int, frozenset[int]]] = {}
        mentioned: set[int] = set()
        for row_id, version, neighbours in self._newer_conns(peer_id, session):
            wider = mentioned | neighbours | {row_id}
            if len(wider) <= MAX_BITMAP_PEERS:
                mentioned = wider
                rows[row_id] = (version, neighbours)
            yield
        if rows:
            request.conn_bitmap.CopyFrom((yield from encode_bitmap_in_steps(rows)))
        return request if request.HasField("peer_infos") or rows or keepalive else None

    def on_response(
        self,
        peer_id: int,
        request: peer_rpc_pb2.SyncRouteInfoRequest,
        response: peer_rpc_pb2.SyncRouteInfoResponse,
        now: float,
    ) -> bool:
        """Note that a neighbour took our request.  False if it did not, and the request has to be repeated later."""
        session = self._sessions.get(peer_id)
        if session is None or session.session_id != request.my_session_id:
            # An answer to an earlier connection tells nothing about this one.
            return True
        # `wants_sync`, asked next, has no clock.
        self._renew_own(now)
        if response.HasField("error"):
            if response.error == peer_rpc_pb2.DuplicatePeerId:
                self.counters.own_id_claimed += 1
            self.counters.syncs_failed += 1
            return False
        session.meet(response.session_id)
        for item in request.peer_infos.items:
            _raise_to(session.records, item.peer_id, item.version)
        for entry in request.conn_bitmap.peer_ids:
            _raise_to(session.conns, entry.peer_id, entry.version)
        return True

    def on_failure(self, peer_id: int) -> None:
        """A neighbour did not answer: all of the request stays new to it."""
        self.counters.syncs_failed += 1

    # What we receive

    def handle_request(
        self, from_peer: int, request: peer_rpc_pb2.SyncRouteInfoRequest, now: float
    ) -> peer_rpc_pb2.SyncRouteInfoResponse:
        """Take what a neighbour knows better.  Raises RouteError if it has no session or claims another id than its own."""
        return finish(self.handle_request_in_steps(from_peer, request, now))

    def handle_request_in_steps(
        self, from_peer: int, request: peer_rpc_pb2.SyncRouteInfoRequest, now: float
    ) -> Steps[peer_rpc_pb2.SyncRouteInfoResponse]:
        """The same in steps, one for each record and each row.  Raises RouteError as well if the session ends meanwhile."""
        session = self._sessions.get(from_peer)
        if session is None:
            raise RouteError(f"no session with peer {from_peer}: it is not a neighbour")
        if request.my_peer_id != from_peer:
            raise RouteError(f"peer {from_peer} speaks for peer {request.my_peer_id}")
        session.meet(request.my_session_id)
        for step in (self._take_records, self._take_conn_info):
            for _ in step(from_peer, session, request, now):
                yield
                if self._sessions.get(from_peer) is not session:
                    raise RouteError(f"peer {from_peer} has gone")
        # `error` stays unset: present, even with value 0, it ends a stock daemon.
        return peer_rpc_pb2.SyncRouteInfoResponse(is_initiator=True, session_id=session.session_id)

    def expire(self, now: float) -> None:
        """Forget what is too old and renew our own record; call it every minute or so."""
        self._renew_own(now)
        reachable = self.reachable()
        for peer_id, record in list(self._records.items()):
            if peer_id in reachable:
                record.last_sign = now
            if now - record.view.last_seen >= RECORD_LIFETIME or now - record.last_sign >= UNREACHABLE_LIFETIME:
                self._drop_record(peer_id)
                self._forget_saved(peer_id)
                self._generation += 1
        for peer_id, conn in list(self._conns.items()):
            if peer_id not in self._records and now - conn.received >= UNREACHABLE_LIFETIME:
                self._drop_conn(peer_id)
                self._forget_saved(peer_id)

    def _take_records(
        self, bringer: int, session: Session, request: peer_rpc_pb2.SyncRouteInfoRequest, now: float
    ) -> Steps[None]:
        for message in request.peer_infos.items[:MAX_RECORDS]:
            self._take_record(bringer, session, message, now)
            yield

    def _take_record(self, bringer: int, session: Session, message: peer_rpc_pb2.RoutePeerInfo, now: float) -> None:
        peer_id, version = message.peer_id, message.version
        if peer_id == self.peer_id:
            if message.peer_route_id != self._route_id:
                self.counters.own_id_claimed += 1
            return
        stored = self._records.get(peer_id)
        is_its_own = peer_id == bringer
        if not is_its_own and peer_id in self._neighbours:
            # Its own will come, or has.
            if (stored is None or version > stored.view.version) and message.ByteSize() <= MAX_RECORD_SIZE:
                self._hearsay.note_record(bringer, message, now)
            _raise_to(session.records, peer_id, version)
            return
        # What others said of it before it came may have any version.
        if stored is None or version > stored.view.version or (is_its_own and stored.bringer != peer_id):
            size = message.ByteSize()
            has_room = is_its_own or stored is not None or len(self._records) < MAX_RECORDS
            if not peer_id or not version or size > MAX_RECORD_SIZE or not (has_room or self._make_room_for_record(bringer)):
                self.counters.records_refused += 1
                return
            if stored is not None:
                _take_off(self._records_brought, stored.bringer, 1)
            copy = peer_rpc_pb2.RoutePeerInfo()
            copy.CopyFrom(message)
            view = decode_record(message, now)
            self._records[peer_id] = StoredRecord(copy, view, size, may_pass_on(message), last_sign=now, bringer=bringer)
            self._records_brought[bringer] += 1
            if stored is not None and version < stored.view.version:
                # The others have the higher version that was none of its own.
                self._forget_saved(peer_id)
            if stored is None or stored.view != view:
                self._generation += 1
        _raise_to(session.records, peer_id, version)

    def _take_conn_info(
        self, bringer: int, session: Session, request: peer_rpc_pb2.SyncRouteInfoRequest, now: float
    ) -> Steps[None]:
        bitmap, peer_list = request.conn_bitmap, request.conn_peer_list
        if len(bitmap.peer_ids) > MAX_RECORDS or len(peer_list.peer_conn_infos) > MAX_RECORDS:
            self.counters.conn_info_refused += 1
            return
        known = {peer_id: conn.version for peer_id, conn in self._conns.items()}
        known.update((peer_id, self._known_version(bringer, peer_id)) for peer_id in (*self._neighbours, self.peer_id))
        yield
        try:
            for peer_id, version, neighbours in chain(decode_bitmap(bitmap, known), decode_peer_list(peer_list, known)):
                # Others may have brought a newer one since this work began.
                if version <= self._known_version(bringer, peer_id):
                    continue
                if peer_id in self._neighbours and peer_id != bringer:
                    # It knows better itself.
                    self._hearsay.note_row(bringer, peer_id, version, neighbours, now)
                else:
                    self._take_row(bringer, peer_id, version, neighbours, now)
                yield
        except ValueError:
            self.counters.conn_info_refused += 1
            return
        for number, entry in enumerate(chain(bitmap.peer_ids, (info.peer_id for info in peer_list.peer_conn_infos)), 1):
            stored = self._conns.get(entry.peer_id)
            ours = self._conn_version if entry.peer_id == self.peer_id else stored.version if stored is not None else 0
            # A version that we did not take is not remembered either, so that this table has the bounds of the other.
            if entry.version <= ours:
                _raise_to(session.conns, entry.peer_id, entry.version)
            if number % STEP_VERSIONS == 0:
                yield

    def _known_version(self, bringer: int, peer_id: int) -> int:
        """The last version of a peer's connection info that `bringer` tells us nothing new with."""
        if peer_id == self.peer_id:
            # Nobody knows our own neighbours better than we.
            return _LAST_VERSION
        stored = self._conns.get(peer_id)
        if peer_id == bringer:
            # What others said of it before it came may have any version.
            return stored.version if stored is not None and stored.bringer == bringer else 0
        version = 0 if stored is None else stored.version
        return max(version, self._hearsay.row_version(peer_id)) if peer_id in self._neighbours else version

    def _take_row(self, bringer: int, peer_id: int, version: int, neighbours: frozenset[int], now: float) -> None:
        stored = self._conns.get(peer_id)
        has_place = peer_id == bringer or stored is not None or len(self._conns) < MAX_RECORDS
        if not peer_id or not (has_place and (peer_id == bringer or self._make_room_for_links(bringer, peer_id, neighbours))):
            self.counters.conn_info_refused += 1
            return
        stored = self._conns.get(peer_id)
        if stored is not None:
            self._drop_conn(peer_id)
        self._conns[peer_id] = StoredConnInfo(version, neighbours, now, bringer)
        self._links_brought[bringer] += len(neighbours)
        self._links += len(neighbours)
        if stored is not None and version < stored.version:
            self._forget_saved(peer_id)
        if stored is None or stored.neighbours != neighbours:
            self._generation += 1

    # Who lacks what

    def _newer_records(self, peer_id: int, session: Session) -> Iterable[StoredRecord | None]:
        """Records that a neighbour lacks, None standing for our own; never one about itself, which could end a stock daemon."""
        if self._own_version > session.records.get(self.peer_id, 0):
            yield None
        saved = session.records
        # What one attacker invents lies behind it, and finds the tables of others full, at worst.
        for other in self._nearest_first:
            record = self._records.get(other)
            if record is None:
                continue
            if other != peer_id and record.may_pass_on and record.view.version > saved.get(other, 0):
                yield record

    def _newer_conns(self, peer_id: int, session: Session) -> Iterable[Versioned]:
        saved = session.conns
        if self._conn_version > saved.get(self.peer_id, 0):
            yield self.peer_id, self._conn_version, self._neighbours
        for other in self._nearest_first:
            conn = self._conns.get(other)
            if conn is not None and other != peer_id and conn.version > saved.get(other, 0):
                yield other, conn.version, conn.neighbours

    def _search_if_stale(self) -> Steps[None]:
        """Find out who is reachable, if something has changed."""
        if self._searched_generation == self._generation:
            return
        generation = self._generation
        self._nearest_first = yield from self._search()
        self._searched_generation = generation
        self._reachable = frozenset(self._nearest_first)
        # While a peer was out of reach, others may have forgotten it sooner than we: it is new to them again.
        for peer_id in self._unreachable & self._reachable:
            self._forget_saved(peer_id)
        self._unreachable = frozenset(self._records.keys() - self._reachable)

    def _search(self) -> Steps[tuple[int, ...]]:
        """The reachable peers, the nearest first."""
        found: dict[int, None] = {}
        frontier = self._neighbours & self._records.keys()
        while frontier:
            found.update(dict.fromkeys(frontier))
            beyond: set[int] = set()
            for peer_id in frontier:
                conn = self._conns.get(peer_id)
                if conn is not None:
                    beyond |= self._records.keys() & conn.neighbours
                    yield
            frontier = frozenset(beyond - found.keys())
        return tuple(found)

    def _make_room_for_record(self, bringer: int) -> bool:
        """Forget the newest record of the neighbour that has brought most, if that is more than `bringer` has."""
        richest, count = self._records_brought.most_common(1)[0]
        if count <= self._records_brought[bringer] + 1:
            return False
        for peer_id in reversed(self._records):
            if self._records[peer_id].bringer == richest != peer_id:
                self._drop_record(peer_id)
                self._forget_saved(peer_id)
                self.counters.records_refused += 1
                return True
        return False

    def _make_room_for_links(self, bringer: int, peer_id: int, neighbours: frozenset[int]) -> bool:
        """The same for the connections of a peer; whether they fit."""
        stored = self._conns.get(peer_id)
        more = len(neighbours) - (0 if stored is None else len(stored.neighbours))
        while more > 0 and self._links + more > MAX_LINKS:
            richest, count = self._links_brought.most_common(1)[0]
            others = (each for each in reversed(self._conns) if self._conns[each].bringer == richest != each != peer_id)
            poorer = next(others, None)
            if poorer is None or count <= self._links_brought[bringer] + len(neighbours):
                return False
            self._drop_conn(poorer)
            self._forget_saved(poorer)
            self.counters.conn_info_refused += 1
        return True

    def _drop_record(self, peer_id: int) -> None:
        bringer = self._records.pop(peer_id).bringer
        _take_off(self._records_brought, bringer, 1)

    def _drop_conn(self, peer_id: int) -> None:
        conn = self._conns.pop(peer_id)
        self._links -= len(conn.neighbours)
        _take_off(self._links_brought, conn.bringer, len(conn.neighbours))

    def _renew_own(self, now: float) -> None:
        if now - self._own_renewed >= RENEWAL_INTERVAL:
            self._own_renewed = now
            self._own_version += 1

    def _forget_saved(self, peer_id: int) -> None:
        for session in self._sessions.values():
            session.records.pop(peer_id, None)
            session.conns.pop(peer_id, None)


def _take_off(brought: Counter[int], bringer: int, amount: int) -> None:
    brought[bringer] -= amount
    if not brought[bringer]:
        del brought[bringer]


def _raise_to(versions: dict[int, int], peer_id: int, version: int) -> None:
    if version > versions.get(peer_id, 0):
        versions[peer_id] = version
