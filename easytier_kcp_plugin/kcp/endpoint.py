"""All KCP sessions of a node, in both roles: caps, answers to strangers, timers, batches.  Sans-IO; `stream.py` drives it.

Packets and the application's calls go in; `poll` takes out what is to be sent, the events, and the time of the next poll.  A
packet belongs to a session by role (its type), sending peer and conv; the two session ids in its header must be that peer's and
ours.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final

from easytier_kcp_plugin.kcp.conn_data import ConnData
from easytier_kcp_plugin.kcp.engine import Engine, PathFactory
from easytier_kcp_plugin.kcp.events import Batch, CloseReason, Event, Incoming, Poll, Role
from easytier_kcp_plugin.kcp.half_open import HalfOpen
from easytier_kcp_plugin.kcp.handshake import KINDS, Input, State
from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, HEADER, HEADER_SIZE, PING, RST, Flag, PacketType
from easytier_kcp_plugin.kcp.last_words import LastWords
from easytier_kcp_plugin.kcp.limits import EndpointCounters, LimitReached, Limits, first_window
from easytier_kcp_plugin.kcp.peers import Peer, Peers
from easytier_kcp_plugin.kcp.sending import SendingMemory
from easytier_kcp_plugin.kcp.session import Session
from easytier_kcp_plugin.kcp.siblings import SiblingsTable
from easytier_kcp_plugin.kcp.strangers import RST_BURST, Strangers
from easytier_kcp_plugin.kcp.underlay import Underlay

_U32: Final = 0xFFFF_FFFF

# Ours.
CONNECT_TIMEOUT: Final = 10.0
"""Seconds; as long as stock's."""
SHADOW_LIFE: Final = 10.0
"""Seconds that an established session may wait to be announced."""
MAX_LINGERING: Final = 4096


class Endpoint:
    """The sessions of the node `peer_id`.

    `paths` makes the path to a peer, with the engines on it.  `first_conv` should be random, so that a restarted node does not
    meet its own past.
    """

    def __init__(
        self,
        peer_id: int,
        paths: PathFactory,
        *,
        first_conv: int,
        limits: Limits | None = None,
        holds: bool = False,
        underlay: Underlay | None = None,
    ) -> None:
        """With `holds` the SYN of a peer of our kind is answered only when `confirm` says that its destination was reached.

        Without `underlay` segments stay as small as stock's, and no way counts as a stream.
        """
        self.limits = limits or Limits()
        self.half_close_idle = self.limits.half_close_idle
        self.sending = SendingMemory()
        self.counters = EndpointCounters()
        self._peer_id = peer_id
        self._holds = holds
        self._underlay = underlay
        self._next_conv = first_conv & _U32
        self._peers = Peers(paths)
        self._strangers = Strangers()
        self._live: dict[Session, None] = {}
        self._half_open: HalfOpen[Session] = HalfOpen(self.limits.half_open_per_peer, self.limits.half_open)
        self._lingering: OrderedDict[Session, None] = OrderedDict()
        self._siblings = SiblingsTable()
        self._engines: dict[Engine, tuple[Session, int]] = {}
        self._touched: dict[Session, None] = {}
        self._freed: set[int] = set()
        """Peers of which an opening has ended, so that another may begin."""
        self._wakes: dict[int, float] = {}
        self._timers: list[tuple[float, int, Session]] = []
        self._order = itertools.count()
        self._out: dict[tuple[int, PacketType], list[bytes]] = {}
        self._events: list[Event] = []
        self._resized: list[tuple[int, int]] = []
        self._alone: list[Batch] = []
        """Payloads that must not leave together with others."""
        self._stopped = False
        self._last_words = LastWords()

    # The application's calls.  Each is to be followed by a poll.

    def connect(self, peer_id: int, conn_data: ConnData, now: float, timeout: float = CONNECT_TIMEOUT) -> Session:
        """Begin to open a session; `Established` or `Closed` follows within `timeout` seconds.  Raises `LimitReached`."""
        peer = self._peers.meet(peer_id)
        if len(self._live) >= self.limits.sessions or peer.live >= self.limits.sessions_per_peer:
            raise LimitReached(f"too many KCP sessions: {len(self._live)} in all, {peer.live} with peer {peer_id}")
        if conn_data.offer is None:
            conn_data = ConnData(conn_data.src, conn_data.dst, peer.path.offer)
        session = Session(self, Role.SOURCE, peer_id, conn_data, peer.path, now)
        self._enlist(session, peer)
        self.counters.opened += 1
        session.connect(timeout, now)
        self._touched[session] = None
        return session

    def confirm(self, session: Session, now: float) -> None:
        """What an incoming session asks for has been reached.  Of use where SYNs are held, and without effect elsewhere."""
        session.confirm(now)
        self._touched[session] = None

    def write(self, session: Session, data: bytes | memoryview) -> int:
        """Take bytes to send; returns how many were taken.  If not all were, `Writable` follows.

        Raises `SessionClosed` if the session is over or our direction has been ended.
        """
        self._touched[session] = None
        return session.write(data)

    def read(self, session: Session, limit: int) -> bytes:
        """Up to `limit` bytes (at least 1).  After b"" follows an event, unless the session is over or `session.at_eof`."""
        data = session.read(limit)
        self._touched[session] = None
        return data

    def finish(self, session: Session, now: float) -> None:
        """End our direction once all that was written has arrived.  Twice is as once."""
        session.finish(now)
        self._touched[session] = None

    def close(self, session: Session, now: float) -> None:
        """As `finish`, and throw away what still comes.  Twice is as once."""
        session.close(now)
        self._touched[session] = None

    def reset(self, session: Session, now: float, reason: CloseReason = CloseReason.ABORTED) -> None:
        """End both directions at once, and tell the peer.  Harmless if the session is over."""
        if session.reason is None:
            session.reset(reason, now)
        self._touched[session] = None

    def stop(self, now: float) -> None:
        """End all sessions as by `reset`, and refuse every other from now on."""
        self._stopped = True
        for session in self.sessions:
            self.reset(session, now)

    def last_words(self, now: float) -> list[Batch]:
        """The RSTs of the last second and the FINs of what lingers, to be said again by a node that stops; not to peers to
        which nothing is lost."""
        words = self._last_words.recall(now)
        for session in self._lingering:
            if session.conv is not None:
                payload = self._header(session.role, session.peer_id, session.conv, FIN)
                words.setdefault((session.peer_id, session.role.value), []).append(payload)
        return [Batch(*whom, payloads) for whom, payloads in words.items() if not self.is_stream(whom[0])]

    @property
    def sessions(self) -> Sequence[Session]:
        """Those that are not over."""
        return list(self._live)

    @property
    def held_entries(self) -> int:
        """Entries in all tables except paths: sessions, conversations, engines, siblings and timers that are not stale."""
        convs = sum(len(peer.by_conv) for peer in self._peers.values())
        timers = sum(time == session.scheduled for time, _, session in self._timers)
        tables = (self._live, self._lingering, self._siblings, self._engines)
        return convs + timers + len(self._half_open) + sum(len(table) for table in tables)

    def rtt(self, peer_id: int) -> float | None:
        """Smoothed round-trip time to a peer in seconds, as seen by its sessions; None if nothing is known."""
        peer = self._peers.get(peer_id)
        return None if peer is None else peer.path.rtt

    def heard_at(self, peer_id: int) -> float:
        """When the last packet of a peer came; minus infinity if there was none, or nothing is known of the peer any more."""
        peer = self._peers.get(peer_id)
        return -math.inf if peer is None else peer.heard_at

    def crowd(self, peer_id: int) -> tuple[int, float]:
        """How many conversations there are with a peer, and when the last packet of any of them came."""
        peer = self._peers.get(peer_id)
        return (0, -math.inf) if peer is None else (len(peer.by_conv), peer.heard_at)

    # What the network and the clock bring.

    def receive(self, from_peer: int, packet_type: int, payloads: Sequence[bytes], now: float) -> None:
        """Take packets in that `from_peer` sent us.  Never raises; what is wrong with them is in the counters."""
        if packet_type == PacketType.KCP_DST:
            role, ours, theirs = Role.SOURCE, 1, 2
        elif packet_type == PacketType.KCP_SRC:
            role, ours, theirs = Role.DESTINATION, 2, 1
        else:
            self.counters.dropped_foreign += len(payloads)
            return
        self.counters.packets_received += len(payloads)
        peer = self._peers.get(from_peer)
        if peer is not None:
            peer.heard_at = now
        session: Session | None = None
        # Of a bulk flow come batches whose headers are all the same: what follows such a header is for the same engine.
        known = b""
        more: list[bytes] = []
        for payload in payloads:
            head, body = payload[:HEADER_SIZE], payload[HEADER_SIZE:]
            if session is not None and head == known:
                if body:
                    more.append(body)
                continue
            if session is not None and more:
                session.receive_more(more, now)
                more = []
            if len(head) < HEADER_SIZE:
                self.counters.dropped_malformed += 1
                continue
            header = HEADER.unpack(head)
            if header[ours] != self._peer_id or header[theirs] != from_peer:
                self.counters.dropped_foreign += 1
                continue
            conv, flags = header[0], header[3]
            session = None if peer is None else peer.by_conv.get((role, conv))
            if session is not None:
                session.receive(conv, flags, body, now)
                self._touched[session] = None
                known = head if session.takes_more(conv, flags) else b""
            else:
                self._meet_stranger(role, from_peer, conv, flags, body, now)
                peer = self._peers.get(from_peer)
        if session is not None and more:
            session.receive_more(more, now)

    def poll(self, now: float, congested: Collection[int] = ()) -> Poll:
        """Do what is due.  Engines of `congested` peers are not asked: their packets would find no room."""
        self._run_timers(now)
        for session in list(self._touched):
            session.settle(now)
        self._admit(now)
        self._pump(congested, now)
        while self._touched:
            session, _ = self._touched.popitem()
            self._schedule(session, now)
        batches = [Batch(peer_id, packet_type, payloads) for (peer_id, packet_type), payloads in self._out.items()]
        self._out = {}
        events, self._events = self._events, []
        resized, self._resized = self._resized, []
        batches, self._alone = batches + self._alone, []
        self._last_words.keep(now)
        wake = min((wake for peer_id, wake in self._wakes.items() if peer_id not in congested), default=math.inf)
        timer = self._timers[0][0] if self._timers else math.inf
        return Poll(batches, events, min(wake, timer, self._half_open.oldest_since + SHADOW_LIFE), resized)

    def _run_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            time, _, session = heapq.heappop(self._timers)
            if time == session.scheduled:
                session.scheduled = math.inf
                session.tick(now)
                self._touched[session] = None
        # The handshakes end by themselves; what stays is an established loser of a stock opener.
        for session in self._half_open.older_than(SHADOW_LIFE, now)[:RST_BURST]:
            session.reset(CloseReason.SUPERSEDED, now)
            self._touched[session] = None

    def _admit(self, now: float) -> None:
        for peer_id in self._freed:
            peer = self._peers.get(peer_id)
            for session in () if peer is None else peer.openings.admit(every=peer.is_ours):
                session.begin_attempts(now)
                self._touched[session] = None
        self._freed.clear()

    def _pump(self, congested: Collection[int], now: float) -> None:
        due = {peer_id for peer_id, wake in self._wakes.items() if wake <= now}
        due.update(session.peer_id for session in self._touched)
        for peer_id in due:
            if peer_id in congested:
                self._wakes[peer_id] = now
                continue
            self._wakes.pop(peer_id, None)
            peer = self._peers.get(peer_id)
            if peer is None:
                continue
            batches, wake = peer.path.pump(now)
            wake = min(math.inf if wake is None else wake, self._ask_for_size(peer_id, peer, now))
            if wake != math.inf:
                self._wakes[peer_id] = wake
            for engine, datagrams in batches:
                session, conv = self._engines[engine]
                prefix = self._header(session.role, peer_id, conv, ACK_DATA)
                self._queue(peer_id, session.role).extend([prefix + datagram for datagram in datagrams])
                self._touched[session] = None

    def _ask_for_size(self, peer_id: int, peer: Peer, now: float) -> float:
        """Send the PINGs that find out how large segments may be; returns when to look again."""
        size = peer.path.size
        if size is None or self._underlay is None:
            return math.inf
        if size.deadline <= now:
            asked = next((session for session in peer.by_conv.values() if session.answers_pings), None)
            bodies = size.poll(self._underlay, peer_id, can_ask=asked is not None, rtt=peer.path.rtt, now=now)
            if asked is not None and asked.conv is not None:
                header = self._header(asked.role, peer_id, asked.conv, PING)
                # Alone: of many datagrams that leave in one call the kernel lets routers cut each.
                self._alone += [Batch(peer_id, asked.role.value, [header + body]) for body in bodies]
        if size.mss != peer.segment_bytes:
            peer.segment_bytes = size.mss
            self._resized.append((peer_id, size.mss))
        return size.deadline

    def _schedule(self, session: Session, now: float) -> None:
        """A timer that turns out to be early costs one look; one that was put off is skipped when its time comes."""
        self._mind_lingering(session, now)
        deadline = session.deadline(now)
        if deadline < session.scheduled:
            session.scheduled = deadline
            heapq.heappush(self._timers, (deadline, next(self._order), session))

    def _mind_lingering(self, session: Session, now: float) -> None:
        if session.state is not State.LINGER:
            self._lingering.pop(session, None)
        elif session not in self._lingering:
            self._lingering[session] = None
            if len(self._lingering) > MAX_LINGERING:
                oldest, _ = self._lingering.popitem(last=False)
                oldest.reset(CloseReason.FINISHED, now)

    # Strangers.

    def _meet_stranger(self, role: Role, peer_id: int, conv: int, flags: int, body: bytes, now: float) -> None:
        kind = KINDS[flags]
        if kind is Input.SYN and role is Role.DESTINATION and not self._stopped:
            self._meet_syn(peer_id, conv, body, now)
        elif kind not in (Input.RST, Input.PONG):
            self.counters.strangers += 1
            self._refuse(role, peer_id, conv, now)

    def _meet_syn(self, peer_id: int, conv: int, body: bytes, now: float) -> None:
        try:
            conn_data = ConnData.decode(body)
        except ValueError:
            conn_data = ConnData(None, None)
        if conn_data.dst is None:
            self.counters.dropped_malformed += 1
            return self._refuse(Role.DESTINATION, peer_id, conv, now)
        if self._strangers.has_met(peer_id, conv, now):
            self.counters.replayed += 1
            return self._refuse(Role.DESTINATION, peer_id, conv, now)
        peer = self._peers.meet(peer_id)
        limits = self.limits
        if len(self._live) >= limits.sessions or peer.live >= limits.sessions_per_peer:
            self.counters.dropped_at_limit += 1
            return self._refuse(Role.DESTINATION, peer_id, conv, now)
        if not self._half_open.has_room(peer_id):
            oldest = self._half_open.gives_way(peer_id, now)
            if oldest is None:
                self.counters.dropped_at_limit += 1
                return None
            self.counters.gave_way += 1
            oldest.reset(CloseReason.GAVE_WAY, now)
        siblings = self._siblings.of(peer_id, conn_data, now)
        if siblings is not None and siblings.settled:
            self.counters.siblings_reset += 1
            return self._refuse(Role.DESTINATION, peer_id, conv, now)
        self._strangers.meet(peer_id, conv, now)
        session = Session(self, Role.DESTINATION, peer_id, conn_data, peer.path, now)
        if siblings is not None:
            siblings.join(session)
        self._enlist(session, peer)
        self._half_open.add(session, peer_id, now)
        peer.by_conv[Role.DESTINATION, conv] = session
        if self._holds and conn_data.offer is not None:
            session.hold(conv)
            self._announce(session)
        else:
            session.accept(conv, now)
        self._touched[session] = None
        return None

    def _announce(self, session: Session) -> None:
        session.announced = True
        self.counters.accepted += 1
        self._events.append(Incoming(session, session.conn_data))

    def _refuse(self, role: Role, peer_id: int, conv: int, now: float) -> None:
        if self._strangers.may_answer(now):
            self.counters.resets_sent += 1
            self._queue(peer_id, role).append(self._header(role, peer_id, conv, RST))

    # What sessions ask of us (SessionHost).

    def opening_slot(self, session: Session, now: float) -> float:
        """When the first SYN of `session` may leave; infinite if `begin_attempts` will be called again."""
        peer = self._peers[session.peer_id]
        if peer.is_ours:
            return now
        stream = self.is_stream(session.peer_id)
        return peer.openings.begin(session, now, stream=stream, again=session.attempts.repeated > 0)

    def opening_ended(self, session: Session) -> None:
        """`session` is served, or will not be."""
        self._peers[session.peer_id].openings.end(session)
        self._freed.add(session.peer_id)

    def is_stream(self, peer_id: int) -> bool:
        """Whether the way to a peer keeps the order and repeats what is lost."""
        return self._underlay is not None and self._underlay.is_stream(peer_id)

    def new_conv(self, session: Session) -> int:
        """A conv that leads to `session` from now on."""
        by_conv = self._peers[session.peer_id].by_conv
        conv = self._next_conv
        while (session.role, conv) in by_conv:
            conv = (conv + 1) & _U32
        self._next_conv = (conv + 1) & _U32
        by_conv[session.role, conv] = session
        return conv

    def forget(self, session: Session, conv: int) -> None:
        """Packets for `conv` are for strangers from now on."""
        peer = self._peers[session.peer_id]
        del peer.by_conv[session.role, conv]
        self._peers.note_idle(session.peer_id)

    def send(self, session: Session, conv: int, flags: Flag, body: bytes) -> None:
        """Queue a packet."""
        payload = self._header(session.role, session.peer_id, conv, flags) + body
        self._queue(session.peer_id, session.role).append(payload)
        if flags == RST:
            self._last_words.note(session.peer_id, session.role.value, payload)

    def open_engine(self, session: Session, conv: int, now: float) -> Engine:
        """An engine on the session's path, whose datagrams leave as packets of `conv`."""
        window = first_window(len(self._live))
        # A bulk flow that began in a crowd need not stay with what its many small neighbours need.
        stream = self.is_stream(session.peer_id)
        engine = session.path.open(conv, window, now, largest=first_window(0), stream=stream)
        self._engines[engine] = (session, conv)
        return engine

    def engine_closed(self, engine: Engine) -> None:
        """No datagram of `engine` will leave any more."""
        del self._engines[engine]

    def emit(self, event: Event) -> None:
        """Queue an event."""
        self._events.append(event)

    def established(self, session: Session, now: float) -> None:
        """An acceptor's session got its third packet."""
        if session.siblings is None or session.siblings.established(session, now):
            self._half_open.remove(session, session.peer_id)
            if not session.announced:
                self._announce(session)

    def proven(self, session: Session, now: float) -> None:
        """The peer's engine was heard for the first time."""
        self._peers[session.peer_id].is_ours = session.peer_offer is not None
        self.opening_ended(session)
        if session.siblings is not None and session.siblings.proven(session, now):
            self._half_open.remove(session, session.peer_id)
            self._announce(session)

    def over(self, session: Session) -> None:
        """The session has ended for the application; a conversation of it may linger."""
        self.opening_ended(session)
        peer = self._peers[session.peer_id]
        del self._live[session]
        peer.live -= 1
        self._half_open.remove(session, session.peer_id)
        self._siblings.leave(session)
        self._touched[session] = None
        self._peers.note_idle(session.peer_id)

    # Helpers.

    def _enlist(self, session: Session, peer: Peer) -> None:
        self._live[session] = None
        peer.live += 1

    def _queue(self, peer_id: int, role: Role) -> list[bytes]:
        return self._out.setdefault((peer_id, role.value), [])

    def _header(self, role: Role, peer_id: int, conv: int, flags: Flag) -> bytes:
        source, destination = (self._peer_id, peer_id) if role is Role.SOURCE else (peer_id, self._peer_id)
        return HEADER.pack(conv, source, destination, flags, 0)
