"""A seeded link in virtual time with engines at its ends: ours, and a model of a stock node around the package `kcp`.

Loss comes before the bottleneck's queue, as in bench/link.py.  An end sends bodies of ACK|DATA packets; each travels as one
datagram.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from kcp.extension import KCP

from easytier_kcp_plugin.kcp import arq
from easytier_kcp_plugin.kcp.arq.path import ArqPath
from easytier_kcp_plugin.kcp.engine import Engine

HEADERS: Final = 94
"""Bytes on the wire around a body."""
MSS: Final = 1176
WAKE_GRAIN: Final = 0.001
"""Seconds; an event loop wakes no more exactly."""


class Clock:
    """Virtual time, and what is to happen in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(time, self.now), next(self._order), action))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        while self._events and self._events[0][0] <= until and not done():
            self.now, _, action = heapq.heappop(self._events)
            action()
        if not done():
            self.now = until


@dataclass
class Link:
    """One direction.  `rate` in bit/s (0: no limit), `delay` and `jitter` in seconds, `queue` in bytes."""

    clock: Clock
    deliver: Callable[[int, bytes], None]
    rate: float
    delay: float
    loss: float
    queue: int
    seed: int
    jitter: float = 0.0
    stream: bool = False
    """Whether a lost datagram is repeated, and those behind it wait, as on a TCP connection that keeps its rate."""
    burst: float = 1.0
    """Datagrams that are lost one after the other, on average."""
    loses_behind: bool = False
    """Whether losses come after the queue, and take their share of the rate."""
    sent: int = 0
    overflowed: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)
    filter: Callable[[bytes], bool] | None = None
    """Whether a datagram survives."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._free_at = 0.0
        self._last_at = 0.0
        self._in_burst = False

    def send(self, flow: int, body: bytes) -> None:
        self.sent += 1
        repeats = 0
        lost = False
        while self._loses():
            if not self.stream:
                lost = True
                break
            repeats += 1
        if lost and not self.loses_behind:
            return
        if self.filter is not None and not self.filter(body):
            return
        now = leaves = self.clock.now
        size = len(body) + HEADERS
        if self.rate:
            wait = max(0.0, self._free_at - now)
            if wait * self.rate / 8 > self.queue:
                self.overflowed += 1
                return
            self.waits.append((now, wait))
            leaves = self._free_at = now + wait + size * 8 / self.rate
        if lost:
            return
        arrives = leaves + self.delay * (1 + 2 * repeats) + self._random.random() * self.jitter
        if self.stream:
            arrives = self._last_at = max(self._last_at, arrives)
        self.clock.at(arrives, lambda: self.deliver(flow, body))

    def _loses(self) -> bool:
        if self.burst <= 1.0:
            return self._random.random() < self.loss
        begins = self.loss / (self.burst * (1 - self.loss))
        self._in_burst = self._random.random() < (1 - 1 / self.burst if self._in_burst else begins)
        return self._in_burst

    def queueing(self, since: float, share: float) -> float:
        """Quantile of the waiting times since then, in seconds."""
        waits = sorted(wait for time, wait in self.waits if time >= since)
        return waits[min(len(waits) - 1, int(len(waits) * share))] if waits else 0.0


class Content:
    """Bytes that a writer sends and a reader checks: position-dependent, so that nothing can be lost, repeated or swapped."""

    _BLOCK: Final = random.Random(99).randbytes(65_521)

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.written = 0
        self.read = 0
        self.reads: list[tuple[float, int]] = []

    def next(self, size: int) -> bytes:
        size = int(min(size, self.limit - self.written))
        return self._slice(self.written, size)

    def take(self, data: bytes, now: float) -> None:
        assert data == self._slice(self.read, len(data)), f"wrong bytes at {self.read}"
        self.read += len(data)
        self.reads.append((now, len(data)))

    def _slice(self, start: int, size: int) -> bytes:
        offset = start % len(self._BLOCK)
        data = self._BLOCK[offset : offset + size]
        while len(data) < size:
            data += self._BLOCK[: size - len(data)]
        return data

    def mbits(self, since: float, until: float) -> float:
        """Goodput in Mbit/s."""
        return sum(size for time, size in self.reads if since < time <= until) * 8 / (until - since) / 1e6


class Ours:
    """A path of ours with any number of conversations.  `lateness` is by how many seconds its turns come late on average, as on
    a busy machine."""

    def __init__(
        self, clock: Clock, send: Callable[[int, bytes], None], lateness: float = 0.0, seed: int = 1, mss: int = MSS
    ) -> None:
        self.clock, self.send = clock, send
        self._lateness, self._random = lateness, random.Random(seed)
        path = arq.paths(mss)()
        assert isinstance(path, ArqPath)
        self.path = path
        self.engines: dict[int, Engine] = {}
        self.contents: dict[int, tuple[Content, Content]] = {}
        self._flow_of: dict[Engine, int] = {}
        self._generation = 0
        self._due: float | None = None

    def open(self, flow: int, outgoing: Content, incoming: Content, *, met: bool) -> Engine:
        """`met`: the other end has said that it is of our kind."""
        engine = self.engines[flow] = self.path.open(flow, 1024, self.clock.now)
        if met:
            engine.meet(self.path.offer)
        self.contents[flow] = (outgoing, incoming)
        self._flow_of[engine] = flow
        self.fill(flow)
        return engine

    def fill(self, flow: int) -> None:
        outgoing = self.contents[flow][0]
        engine = self.engines[flow]
        while (room := min(engine.room, 65_536)) and (data := outgoing.next(room)):
            outgoing.written += engine.send(data)

    def deliver(self, flow: int, body: bytes) -> None:
        """Input of half a millisecond makes a batch."""
        engine = self.engines[flow]
        engine.input(body, self.clock.now)
        self.wake_at(self.clock.now + 0.0005)

    def wake_at(self, time: float) -> None:
        if self._lateness and self._due is not None:
            return
        if self._lateness:
            time += min(0.05, self._random.expovariate(1 / self._lateness))
        if self._due is None or time < self._due:
            self._due = time
            self._generation += 1
            generation = self._generation
            self.clock.at(time, lambda: self._wake(generation))

    def _wake(self, generation: int) -> None:
        if generation == self._generation:
            self._due = None
            self.pump()

    def pump(self) -> None:
        """As in a node: readers and writers have their turn only after what came was acknowledged."""
        self._leave()
        for flow, engine in self.engines.items():
            while engine.readable:
                self.contents[flow][1].take(engine.receive(1 << 20), self.clock.now)
            if engine.room > 65_536:
                self.fill(flow)
        self._leave()

    def _leave(self) -> None:
        now = self.clock.now
        batches, wake = self.path.pump(now)
        for engine, datagrams in batches:
            for datagram in datagrams:
                self.send(self._flow_of[engine], datagram)
        if wake is not None:
            self.wake_at(max(wake, now + WAKE_GRAIN))


class Stock:
    """One conversation of a stock node: acknowledges on a grid of 10 ms, sends all it may at once, 8 KiB a write."""

    def __init__(
        self,
        clock: Clock,
        send: Callable[[int, bytes], None],
        flow: int,
        outgoing: Content,
        incoming: Content,
        seed: int,
    ) -> None:
        self.clock, self.outgoing, self.incoming = clock, outgoing, incoming
        self._random = random.Random(seed)
        self._epoch = -self._random.random()
        self._una = self._pushed = 0
        self._kcp: Any = KCP(
            flow,
            max_transmission=1200,
            no_delay=True,
            update_interval=10,
            resend_count=2,
            no_congestion_control=True,
            send_window_size=1024,
            receive_window_size=1024,
        )
        self._kcp.include_outbound_handler(lambda _, datagram: send(flow, bytes(datagram)))
        self._kcp.update(self._ms())
        clock.at(clock.now + 0.010 * self._random.random(), self._tick)

    def _ms(self) -> int:
        return int((self.clock.now - self._epoch) * 1000)

    def _tick(self) -> None:
        # As much as 10 ms may have passed since the clock was last told: so it is in stock.
        self._kcp.update(self._ms())
        self._kcp.flush()
        self.clock.at(self.clock.now + 0.010 + 0.0012 * self._random.random(), self._tick)

    def write(self) -> None:
        while self._pushed - self._una <= 2048 and (data := self.outgoing.next(8192)):
            self.outgoing.written += len(data)
            for start in range(0, len(data), MSS):
                self._kcp.enqueue(data[start : start + MSS])
                self._pushed += 1
            self._kcp.flush()

    def deliver(self, flow: int, body: bytes) -> None:
        self._kcp.receive(body)
        self._una = max(self._una, int.from_bytes(body[16:20], "little"))
        while self._kcp.get_next_packet_size() > 0:
            self.incoming.take(self._kcp.get_received(), self.clock.now)
        self.write()


class Cubic:
    """A TCP flow with CUBIC (RFC 9438), as simple as it can be: each packet is acknowledged, and three later ones show a loss.
    `sink` is its other end."""

    def __init__(self, clock: Clock, there: Link, back: Link, flow: int) -> None:
        self.clock, self.sink = clock, CubicSink(back)
        self._there, self._flow = there, flow
        self._out: dict[int, None] = {}
        self._next = self._recover = 0
        self._window, self._peak, self._threshold = 10.0, 0.0, math.inf
        self._cut_at = 0.0

    def send(self) -> None:
        while len(self._out) < self._window:
            self._out[self._next] = None
            self._there.send(self._flow, self._next.to_bytes(8, "little") + bytes(1500 - HEADERS - 8))
            self._next += 1

    def deliver(self, flow: int, body: bytes) -> None:
        number = int.from_bytes(body, "little")
        if number not in self._out:
            return
        del self._out[number]
        lost = list(itertools.takewhile(lambda other: other <= number - 3, self._out))
        for other in lost:
            del self._out[other]
        if lost and lost[-1] >= self._recover:
            self._recover, self._cut_at, self._peak = self._next, self.clock.now, self._window
            self._window = self._threshold = 0.7 * self._window
        elif self._window < self._threshold:
            self._window += 1.0
        else:
            since = self.clock.now - self._cut_at - (0.3 * self._peak / 0.4) ** (1 / 3)
            self._window += max(0.01, 0.4 * since**3 + self._peak - self._window) / self._window
        self.send()


@dataclass
class CubicSink:
    """Acknowledges, and counts the bytes that came."""

    back: Link
    received: int = 0

    def deliver(self, flow: int, body: bytes) -> None:
        self.received += len(body)
        self.back.send(flow, body[:8])


End: TypeAlias = Ours | Stock | Cubic | CubicSink


@dataclass
class Scene:
    """Two nodes and their links; the left one sends.  `contents` by flow."""

    clock: Clock
    there: Link
    back: Link
    left: dict[int, End]
    right: dict[int, End]
    contents: dict[int, Content]
    mss: int

    @property
    def sender(self) -> Ours:
        end = self.left[1]
        assert isinstance(end, Ours)
        return end

    @property
    def content(self) -> Content:
        """Of the first flow."""
        return self.contents[1]

    @property
    def redundancy(self) -> float:
        """Datagrams sent for each that would have been enough."""
        return self.there.sent * self.mss / max(1, sum(content.read for content in self.contents.values()))


def scene(
    pair: str,
    rate: float = 100e6,
    rtt: float = 0.05,
    loss: float = 0.0,
    queue: int = 625 * 1024,
    seed: int = 1,
    sizes: tuple[float, ...] = (math.inf,),
    jitter: float = 0.0,
    stream: bool = False,
    lateness: float = 0.0,
    mss: int = MSS,
    burst: float = 1.0,
    loses_behind: bool = False,
    apart: bool = False,
) -> Scene:
    """`pair` is "ours-stock" and so on, sender first, "met-met" two of ours that know it; each flow begins to send as many
    bytes as `sizes` says at once.  `mss` is what ours puts into a segment.
    With `apart` each flow has a path of its own, as to another peer."""
    clock = Clock()
    left: dict[int, End] = {}
    right: dict[int, End] = {}
    there, back = (
        Link(clock, deliver, rate, rtt / 2, loss, queue, 7 * seed + number, jitter, stream, burst, loses_behind)
        for number, deliver in (
            (1, lambda flow, body: right[flow].deliver(flow, body)),
            (2, lambda flow, body: left[flow].deliver(flow, body)),
        )
    )
    contents = {flow: Content(size) for flow, size in enumerate(sizes, 1)}
    kinds = pair.split("-")
    for ends, kind, link in ((left, kinds[0], there), (right, kinds[1], back)):
        ours = None
        for flow, content in contents.items():
            outgoing, incoming = (content, Content(0)) if ends is left else (Content(0), content)
            if kind == "stock":
                ends[flow] = Stock(clock, link.send, flow, outgoing, incoming, seed + flow)
            else:
                if ours is None or apart:
                    ours = Ours(clock, link.send, lateness, seed + flow - 1, mss)
                    ours.path.sample_rtt(rtt)
                ends[flow] = ours
                ours.open(flow, outgoing, incoming, met=kind == "met")
    for end in dict.fromkeys(left.values()):
        if isinstance(end, Ours):
            end.pump()
        elif isinstance(end, Stock):
            end.write()
    return Scene(clock, there, back, left, right, contents, mss)
