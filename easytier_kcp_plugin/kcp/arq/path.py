"""All conversations with one peer: who may send next, and when.  The face `kcp.engine.Path`.  Sans-IO.

One pump has three steps: what is due by time, then acknowledgements and windows, then segments, of each conversation as many
as of any other, until the rate, the window or the data is used up.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from typing import Final

from easytier_kcp_plugin.kcp.arq.engine import ArqEngine
from easytier_kcp_plugin.kcp.arq.memory import LARGEST_WINDOW, PathMemory, WindowMemory
from easytier_kcp_plugin.kcp.arq.rate import Limit, RateModel
from easytier_kcp_plugin.kcp.arq.redundancy import TailBudget
from easytier_kcp_plugin.kcp.arq.transmission import FULL_SIZE
from easytier_kcp_plugin.kcp.conn_data import ACK_RUNS, Offer
from easytier_kcp_plugin.kcp.engine import Engine
from easytier_kcp_plugin.kcp.segment_size import STOCK_MSS, SegmentSize

# Ours.
CATCH_UP: Final = 0.002
"""Seconds that a late pump may make up for; so bursts are no longer than this."""
CATCH_UP_SHARE: Final = 4
CATCH_UP_BYTES: Final = 64 * FULL_SIZE
"""When only the rate held us, a burst may be longer, a quarter of the RTT, if it is of no more bytes: on a busy machine pumps
come late, and what is not made up for is lost.  The model is told of that: our lateness is not the path's rate."""
NAP: Final = 0.0005
"""Seconds; a loop that is woken more often does nothing else."""
UNPACED: Final = 16 * FULL_SIZE
"""The first bytes of a path leave at once."""


_OFFER: Final = Offer(window=LARGEST_WINDOW, features=ACK_RUNS)


class ArqPath:
    """The path to one peer."""

    __slots__ = (
        "_engines",
        "_next_send_at",
        "_order",
        "_rate_limited",
        "_ready",
        "_sent",
        "_timers",
        "_touched",
        "_waiting",
        "memory",
        "model",
        "size",
        "tail",
    )

    def __init__(self, memory: WindowMemory, mss: int = STOCK_MSS) -> None:
        """`memory` is shared by all paths of a node; `mss` in bytes, to begin with."""
        self.memory = PathMemory(memory)
        self.model = RateModel()
        self.tail = TailBudget()
        self.size = SegmentSize(mss)
        self._engines: dict[ArqEngine, None] = {}
        self._touched: dict[ArqEngine, None] = {}
        self._ready: deque[ArqEngine] = deque()
        self._waiting: set[ArqEngine] = set()
        """Those that wait for their peer's window."""
        self._timers: list[tuple[float, int, ArqEngine]] = []
        self._order = itertools.count()
        self._next_send_at = -math.inf
        self._rate_limited = False
        """Whether the last pump had more to send."""
        self._sent = 0

    @property
    def offer(self) -> Offer:
        """What to tell a peer of our kind."""
        return _OFFER

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; None before the first sample."""
        return self.model.rtt.smoothed or self.model.rtt.told

    def sample_rtt(self, seconds: float) -> None:
        """Tell of a round trip that was measured outside of engines; of use until there are samples of our own."""
        self.model.rtt.tell(seconds)

    def open(self, conv: int, receive_window: int, now: float, *, largest: int = 0, stream: bool = False) -> Engine:
        """A new engine on this path; both windows are in segments."""
        self.model.told_stream = stream
        engine = ArqEngine(self, conv, receive_window, largest, now)
        self._engines[engine] = None
        return engine

    def pump(self, now: float) -> tuple[list[tuple[Engine, list[bytes]]], float | None]:
        """What may leave now, by conversation, and when to ask again; None means after the next call to one of its engines."""
        self._run_timers(now)
        seen, self._touched = self._touched, {}
        for engine in seen:
            engine.control(now)
            self._waiting.discard(engine)
            if not engine.is_ready:
                engine.is_ready = True
                self._ready.append(engine)
        wake = self._serve(seen, now)
        for engine in seen:
            deadline = engine.deadline(now)
            if deadline < engine.scheduled:
                engine.scheduled = deadline
                heapq.heappush(self._timers, (deadline, next(self._order), engine))
        if self._timers:
            wake = min(wake, max(self._timers[0][0], now + NAP))
        batches: list[tuple[Engine, list[bytes]]] = []
        for engine in seen:
            datagrams = engine.take()
            if datagrams:
                batches.append((engine, datagrams))
        return batches, None if wake == math.inf else wake

    def _run_timers(self, now: float) -> None:
        """A timer that turns out to be early costs one look; one that was put off is skipped when its time comes."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            time, _, engine = heapq.heappop(timers)
            if time == engine.scheduled and not engine.closed:
                engine.scheduled = math.inf
                self._touched[engine] = None
                engine.tick(now)

    def _serve(self, seen: dict[ArqEngine, None], now: float) -> float:
        """To each in turn an equal part of what may leave.  Returns when more may; infinite if that depends on input."""
        model, ready = self.model, self._ready
        window, rate = model.window(), model.pacing_rate(now)
        catch_up = CATCH_UP
        if self._rate_limited:
            catch_up = max(CATCH_UP, min(model.rtt.best / CATCH_UP_SHARE, CATCH_UP_BYTES / rate))
            model.lose_time(now - catch_up - self._next_send_at)
        self._next_send_at = max(self._next_send_at, now - catch_up)
        limit = Limit.RATE
        while self._next_send_at <= now:
            room = window - model.inflight
            if room < FULL_SIZE:
                limit = Limit.WINDOW
                break
            if not ready:
                limit = Limit.PEER_WINDOW if self._waiting else Limit.APPLICATION
                break
            engine = ready[0]
            allowed = min(room, FULL_SIZE + (now - self._next_send_at) * rate) if self._sent >= UNPACED else FULL_SIZE
            size = engine.transmit(max(1, int(allowed / FULL_SIZE) // len(ready)), now)
            if size:
                ready.rotate(-1)
                seen[engine] = None
                if self._sent >= UNPACED:
                    self._next_send_at += size / rate
                self._sent += size
            else:
                ready.popleft()
                engine.is_ready = False
                if engine.sender.window_limited:
                    self._waiting.add(engine)
        model.limit(limit, now)
        if limit is not Limit.APPLICATION and self._sent >= UNPACED and model.rtt.smoothed:
            self.size.want(now)
        self._rate_limited = limit is Limit.RATE and bool(ready)
        return max(self._next_send_at, now + NAP) if self._rate_limited else math.inf

    # For engines.

    def touch(self, engine: ArqEngine) -> None:
        """Have `engine` looked at during the next pump."""
        self._touched[engine] = None

    def leave(self, engine: ArqEngine) -> None:
        """Forget a closed engine."""
        self._engines.pop(engine, None)
        self._touched.pop(engine, None)
        self._waiting.discard(engine)
        if engine.is_ready:
            engine.is_ready = False
            self._ready.remove(engine)
        if not self._engines:
            self._timers.clear()
