"""A network whose ways change while it runs, in virtual time, and applications that read slowly.

What a way may do: loss in bursts, reordering, copies that come late, bits that flip, a bottleneck with a queue, holes.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from easytier_kcp_plugin.kcp.arq.memory import WindowMemory
from easytier_kcp_plugin.kcp.arq.path import ArqPath
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.engine import Engine
from tests.unit.kcp.network import ACCEPTOR, OPENER, Application, End, Network

LATEST: Final = 30.0
"""Seconds by which a late copy may come late."""
LONGEST_BURST: Final = 2.0
"""Seconds."""
HEADERS: Final = 80
"""Bytes on the wire around a payload."""
_ALL: Final = 1 << 30


@dataclass
class Way:
    """One direction, as it is at the moment.  Seconds, bytes, and shares of 1."""

    random: random.Random
    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    burst: float = 1.0
    """Packets that are lost one after the other, on average."""
    duplicate: float = 0.0
    late: float = 0.0
    """Share of packets of which a copy comes late."""
    corrupt: float = 0.0
    rate: float = math.inf
    """Bytes a second."""
    queue: float = 30_000
    """Bytes that wait for the rate; what comes on top is dropped."""
    largest: int = 65_535
    """Payloads that are longer vanish, except while the network may cut them."""
    cut_until: float = -math.inf
    hole_until: float = -math.inf
    _free_at: float = -math.inf
    _burst_until: float = -math.inf

    def pass_on(self, payload: bytes, now: float) -> list[tuple[float, bytes]]:
        """What arrives of a packet that leaves now, and when."""
        chance = self.random
        too_long = len(payload) > self.largest and now >= self.cut_until
        if now < self.hole_until or too_long or self._loses(now):
            return []
        wait = max(0.0, self._free_at - now)
        if wait * self.rate > self.queue:
            return []
        self._free_at = now + wait + (len(payload) + HEADERS) / self.rate
        arrives = self._free_at + self.delay
        out = [(arrives + chance.random() * self.jitter, payload)]
        if chance.random() < self.duplicate:
            out.append((arrives + chance.random() * self.jitter, payload))
        if chance.random() < self.late:
            out.append((arrives + chance.random() * LATEST, payload))
        if self.corrupt:
            out = [(time, self._corrupted(body) if chance.random() < self.corrupt else body) for time, body in out]
        return out

    def _loses(self, now: float) -> bool:
        if now < self._burst_until:
            # However few packets pass: a minute of silence is a hole, and no burst.
            if self.random.random() < 1 / self.burst:
                self._burst_until = now
            return True
        lost = self.random.random() < self.loss / self.burst
        if lost and self.burst > 1.0:
            self._burst_until = now + LONGEST_BURST
        return lost

    def _corrupted(self, payload: bytes) -> bytes:
        broken = bytearray(payload)
        for _ in range(self.random.choice((1, 1, 1, 2, 8))):
            broken[self.random.randrange(len(broken))] ^= 1 << self.random.randrange(8)
        if self.random.random() < 0.2:
            del broken[self.random.randrange(len(broken)) :]
        return bytes(broken)


@dataclass
class Flow:
    """What is to be carried between two applications."""

    number: int
    upload: bytes
    download: bytes
    cut: bool = False
    """Whether one of them has given it up before its end."""


@dataclass
class Reader(Application):
    """An application that may read slowly, and whose endpoint may go away."""

    peer: int = OPENER
    """Where it is."""
    flow: Flow = field(default_factory=lambda: Flow(0, b"", b""))
    expected: bytes = b""
    """The whole stream to it."""
    checks: bool = True
    """Off where bits flip: KCP has no checksum."""
    bytes_a_turn: int = _ALL
    allowance: int = _ALL
    given_up: bool = False
    """Whether it has reset or closed the flow."""
    lost: bool = False
    """With the endpoint that it belonged to."""

    def run(self, endpoint: Endpoint, now: float) -> None:
        if self.lost:
            return
        if self.asleep or self.allowance == _ALL:
            super().run(endpoint, now)
        else:
            while self.allowance and (data := endpoint.read(self.session, self.allowance)):
                self.incoming += data
                self.allowance -= len(data)
            self.eof = self.eof or self.session.at_eof
            self.asleep = True
            super().run(endpoint, now)
            self.asleep = False
        if self.checks:
            # At all times, not only at the end.
            assert self.expected.startswith(self.incoming), f"{self.session}: these bytes were never sent"
            whole = self.flow.cut or self.incoming == self.expected
            assert whole or not self.eof, f"{self.session}: an end of stream in its middle"


class Tight(ArqPath):
    """A path whose receive windows stay small, so that they are full often."""

    __slots__ = ("_cap",)

    def __init__(self, cap: int) -> None:
        super().__init__(WindowMemory())
        self._cap = cap

    def open(self, conv: int, receive_window: int, now: float, *, largest: int = 0, stream: bool = False) -> Engine:
        return super().open(conv, min(receive_window, self._cap), now, largest=min(largest, self._cap), stream=stream)


@dataclass
class Below:
    """What an endpoint may ask of the way to its peer."""

    storm: Storm
    sender: int
    payload_bytes: int

    def largest_payload(self, _peer_id: int) -> int:
        return self.payload_bytes

    def allow_fragments(self, _peer_id: int) -> None:
        self.storm.ways[self.sender].cut_until = self.storm.now + 60.0

    def is_stream(self, _peer_id: int) -> bool:
        return False


class Storm(Network):
    """Two ends, to be set in `ends`, and a way in each direction."""

    def __init__(self, ways: dict[int, Way], grain: float) -> None:
        """`ways` by their senders.  Timers that are due within `grain` seconds are served together, as on a busy loop."""
        super().__init__()
        self.ways = ways
        self.sent: Counter[int] = Counter()
        """Packets, by sender."""
        self._grain = grain
        self._frozen: dict[int, End] = {}
        self._actions: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Have something done so many seconds from now."""
        heapq.heappush(self._actions, (self.now + seconds, next(self._numbers), action))

    def poke(self, application: Reader) -> None:
        """A turn for an application that no event has woken."""
        endpoint = self.ends.get(application.peer)
        if isinstance(endpoint, Endpoint) and not application.lost:
            application.run(endpoint, self.now)

    def freeze(self, peer_id: int) -> None:
        """An end that gets no processor time, or whose machine sleeps: what comes meanwhile is lost."""
        if peer_id in self.ends:
            self._frozen[peer_id] = self.ends.pop(peer_id)

    def thaw(self, peer_id: int) -> None:
        """It goes on, much later by its clock."""
        if peer_id in self._frozen:
            self.ends[peer_id] = self._frozen.pop(peer_id)
            for application in list(self.applications.values()):
                assert isinstance(application, Reader)
                if application.peer == peer_id:
                    self.poke(application)

    def remove(self, peer_id: int) -> End | None:
        """An end that is gone for good, frozen or not."""
        return self.ends.pop(peer_id, None) or self._frozen.pop(peer_id, None)

    def rest(self) -> float:
        """When an end would do something by itself, after nothing has come for long; infinite if never."""
        return min((self._deadlines[peer_id] for peer_id in self.ends), default=math.inf)

    def _next_time(self) -> float:
        timers = max(self.rest(), self.now + self._grain)
        input_at = self._flying[0][0] if self._flying else math.inf
        return min(timers, input_at, self._actions[0][0] if self._actions else math.inf)

    def _deliver(self) -> None:
        while self._actions and self._actions[0][0] <= self.now:
            heapq.heappop(self._actions)[2]()
        super()._deliver()

    def _send(self, sender: int, to: int, packet_type: int, payloads: list[bytes]) -> None:
        self.sent[sender] += len(payloads)
        assert to in (OPENER, ACCEPTOR)
        for payload in payloads:
            for arrival, body in self.ways[sender].pass_on(payload, self.now):
                heapq.heappush(self._flying, (arrival, next(self._order), to, (sender, packet_type, body)))
