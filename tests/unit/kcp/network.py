"""Two endpoints, a lossy link between them, and a clock that jumps to the next thing that happens.  Seeded; a step limit ends
a hang."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Protocol

from easytier_kcp_plugin.kcp import ikcp
from easytier_kcp_plugin.kcp.conn_data import ConnData, SocketAddress
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.engine import PathFactory
from easytier_kcp_plugin.kcp.events import Closed, CloseReason, Event, Incoming, Poll, Role
from easytier_kcp_plugin.kcp.header import SessionHeader
from easytier_kcp_plugin.kcp.limits import Limits
from easytier_kcp_plugin.kcp.session import Session

OPENER, ACCEPTOR = 1001, 2002
STEP_LIMIT = 400_000


def request(port: int = 50_000) -> ConnData:
    """A SYN's body as a plugin would make it."""
    return ConnData(SocketAddress(IPv4Address("10.144.0.1"), port), SocketAddress(IPv4Address("10.144.0.2"), 80))


@dataclass(frozen=True)
class Link:
    """What happens to packets, in both directions.  Seconds, and shares of 1."""

    delay: float = 0.025
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    stream: bool = False
    """Whether what is lost is repeated a round trip later, and all behind it waits, as on an underlay of TCP."""

    def largest_payload(self, _peer_id: int) -> int:
        return 0

    def allow_fragments(self, _peer_id: int) -> None:
        raise AssertionError("nothing large was sent")

    def is_stream(self, _peer_id: int) -> bool:
        return self.stream


@dataclass
class Application:
    """What one end of a session does: writes `outgoing`, then finishes, and reads what comes unless it is asleep."""

    session: Session
    outgoing: bytes = b""
    then_finish: bool = True
    asleep: bool = False
    answer_after_eof: bool = False
    incoming: bytearray = field(default_factory=bytearray)
    written: int = 0
    reason: CloseReason | None = None
    eof: bool = False
    finished: bool = False

    def run(self, endpoint: Endpoint, now: float) -> None:
        """Do all that can be done at `now`."""
        session = self.session
        if not self.asleep:
            while data := endpoint.read(session, 65_536):
                self.incoming += data
            self.eof = self.eof or session.at_eof
        may_write = self.eof or not self.answer_after_eof
        while may_write and session.reason is None and self.written < len(self.outgoing):
            taken = endpoint.write(session, memoryview(self.outgoing)[self.written : self.written + 50_000])
            self.written += taken
            if not taken:
                break
        may_finish = self.then_finish and may_write
        if may_finish and self.written == len(self.outgoing) and not self.finished and session.reason is None:
            self.finished = True
            endpoint.finish(session, now)


Packet = tuple[int, int, bytes]
"""From, type, payload."""


class End(Protocol):
    """An endpoint of ours, or a model of stock's."""

    def receive(self, from_peer: int, packet_type: int, payloads: Sequence[bytes], now: float, /) -> None: ...

    def poll(self, now: float, congested: Collection[int] = ()) -> Poll: ...


def settle(endpoint: Endpoint, now: float, sessions: list[Session], closed: list[Session]) -> float:
    """Poll until it rests; returns its deadline.  Notes the sessions that came in, and those that closed, each once."""
    for _ in range(100):
        poll = endpoint.poll(now)
        for event in poll.events:
            if isinstance(event, Incoming):
                sessions.append(event.session)
            elif isinstance(event, Closed):
                assert event.session not in closed
                closed.append(event.session)
        if poll.deadline > now:
            return poll.deadline
    raise AssertionError("an endpoint does not come to rest")


class Network:
    """The clock, the link, and the two ends.  `filter` may drop a packet by returning False."""

    def __init__(
        self, link: Link | None = None, seed: int = 1, limits: Limits | None = None, paths: PathFactory | None = None
    ) -> None:
        self.link = link or Link()
        self.random = random.Random(seed)
        self.now = 100.0
        paths = paths or ikcp.paths()
        self.opener = Endpoint(OPENER, paths, first_conv=0xFFFF_FFF0, limits=limits, underlay=self.link)
        self.acceptor = Endpoint(ACCEPTOR, paths, first_conv=7, limits=limits, underlay=self.link)
        self.ends: dict[int, End] = {OPENER: self.opener, ACCEPTOR: self.acceptor}
        self.events: dict[int, list[Event]] = {OPENER: [], ACCEPTOR: []}
        self.applications: dict[Session, Application] = {}
        self.serve: Callable[[Incoming], Application | None] = lambda incoming: Application(incoming.session)
        self.filter: Callable[[Packet], bool] = lambda packet: True
        self.congested: dict[int, Collection[int]] = {OPENER: (), ACCEPTOR: ()}
        """Peers to which an end can send nothing for the moment."""
        self.log: list[tuple[float, int, int, bytes]] = []
        """(time, sender, flags, body) of each packet before it meets the link."""
        self._flying: list[tuple[float, int, int, Packet]] = []
        self._order = itertools.count()
        self._last_arrival = {OPENER: -math.inf, ACCEPTOR: -math.inf}
        self._deadlines = {OPENER: math.inf, ACCEPTOR: math.inf}

    def connect(self, outgoing: bytes = b"", port: int = 50_000, **settings: Any) -> Application:
        """Begin a flow at the opener."""
        application = Application(self.opener.connect(ACCEPTOR, request(port), self.now), outgoing, **settings)
        self.applications[application.session] = application
        return application

    def inject(self, to: int, sender: int, packet_type: int, payload: bytes) -> None:
        """Have a packet arrive at once."""
        self.ends[to].receive(sender, packet_type, [payload], self.now)

    def run(self, seconds: float = 60.0, until: Callable[[], bool] = lambda: False) -> None:
        """Go on until the condition holds, nothing is left to happen, or time is up."""
        end = self.now + seconds
        for _ in range(STEP_LIMIT):
            self._turn()
            if until():
                return
            following = self._next_time()
            if following > end:
                self.now = end if end < math.inf else self.now
                return
            self.now = max(self.now, following)
            self._deliver()
        raise AssertionError(f"no end after {STEP_LIMIT} steps, at {self.now - 100:.3f} s")

    def settled(self) -> bool:
        """Whether every application has been told the end of its session."""
        return all(application.reason is not None for application in self.applications.values())

    def application_of(self, peer_id: int, conv: int | None) -> Application:
        """The one at `peer_id` for a conversation."""
        role = Role.SOURCE if peer_id == OPENER else Role.DESTINATION
        other = ACCEPTOR if peer_id == OPENER else OPENER
        found = (a for a in self.applications.values() if (a.session.role, a.session.peer_id) == (role, other))
        return next(application for application in found if application.session.conv == conv)

    def partner(self, application: Application) -> Application:
        """The other end of an opener's application."""
        return self.application_of(ACCEPTOR, application.session.conv)

    def flags_sent(self, sender: int) -> list[int]:
        """Flag bytes in the order of sending."""
        return [flags for _, who, flags, _ in self.log if who == sender]

    def _next_time(self) -> float:
        """When the next thing happens."""
        return min(self._flying[0][0] if self._flying else math.inf, *self._deadlines.values())

    def _turn(self) -> None:
        """Applications and endpoints, until neither has anything to do at this moment."""
        for peer_id, endpoint in self.ends.items():
            for _ in range(1000):
                poll = endpoint.poll(self.now, self.congested.get(peer_id, ()))
                for batch in poll.batches:
                    self._send(peer_id, batch.peer_id, batch.packet_type, batch.payloads)
                self.events[peer_id] += poll.events
                touched: dict[Session, None] = {}
                for event in poll.events:
                    self._handle(event)
                    touched[event.session] = None
                if not poll.events and poll.deadline > self.now:
                    break
                for session in touched:
                    if session in self.applications and isinstance(endpoint, Endpoint):
                        self.applications[session].run(endpoint, self.now)
            else:
                raise AssertionError("an endpoint does not come to rest")
            self._deadlines[peer_id] = poll.deadline

    def _handle(self, event: Event) -> None:
        if isinstance(event, Incoming):
            application = self.serve(event)
            if application is not None:
                self.applications[event.session] = application
        elif isinstance(event, Closed) and event.session in self.applications:
            application = self.applications[event.session]
            assert application.reason is None, "closed twice"
            application.reason = event.reason

    def _send(self, sender: int, to: int, packet_type: int, payloads: list[bytes]) -> None:
        for payload in payloads:
            header = SessionHeader.parse(payload)
            self.log.append((self.now, sender, header.flags, payload[14:]))
            if not self.filter((sender, packet_type, payload)):
                continue
            if self.link.stream:
                self._send_in_order(to, (sender, packet_type, payload))
                continue
            copies = 1 + (self.random.random() < self.link.duplicate)
            for _ in range(copies):
                if self.random.random() >= self.link.loss:
                    arrival = self.now + self.link.delay + self.random.random() * self.link.jitter
                    heapq.heappush(self._flying, (arrival, next(self._order), to, (sender, packet_type, payload)))

    def _send_in_order(self, to: int, packet: Packet) -> None:
        repeats = 0
        while self.random.random() < self.link.loss:
            repeats += 1
        arrival = self.now + self.link.delay * (1 + 2 * repeats) + self.random.random() * self.link.jitter
        self._last_arrival[to] = arrival = max(arrival, self._last_arrival[to])
        heapq.heappush(self._flying, (arrival, next(self._order), to, packet))

    def _deliver(self) -> None:
        batches: dict[tuple[int, int, int], list[bytes]] = {}
        while self._flying and self._flying[0][0] <= self.now:
            _, _, to, (sender, packet_type, payload) = heapq.heappop(self._flying)
            batches.setdefault((to, sender, packet_type), []).append(payload)
        for (to, sender, packet_type), payloads in batches.items():
            if to in self.ends:
                self.ends[to].receive(sender, packet_type, payloads, self.now)
