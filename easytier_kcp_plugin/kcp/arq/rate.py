"""How fast to send on a path: the rate that it carries, the queue that we cause, and the modes that find both.  Sans-IO.

All conversations with one peer share one model.  It learns from acknowledged transmissions and answers with a pacing rate and a
window in bytes.  The reasons for the numbers are in docs/arq.md, The rate::

    STARTUP --rate stops growing, or a queue builds up--> DRAIN --queue gone, or 3 RTT--> CRUISE
       ^                                                                                    |  dips (dips.py) and surges
       +-------------------------------- 10 s without traffic ------------------------------+  within it
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from easytier_kcp_plugin.kcp.arq.dips import Dips, Surges
from easytier_kcp_plugin.kcp.arq.estimate import Loss, RecentMax, RoundTrips
from easytier_kcp_plugin.kcp.arq.redundancy import CRITICAL
from easytier_kcp_plugin.kcp.arq.transmission import FULL_SIZE, Moment

# Wire constants: stock decides.
TICK: Final = 0.010
"""Seconds; stock acknowledges on this grid (data plane 5.7)."""

# Ours.  Times in seconds, sizes in bytes on the wire.
FIRST_WINDOW: Final = 64 * FULL_SIZE
FIRST_RTT_SHARE: Final = 4.0
"""The first window leaves within an RTT divided by this."""
RESTART_AFTER: Final = 10.0
STARTUP_GAIN: Final = 2.0
DRAIN_GAIN: Final = 0.6
SURGE_GAIN: Final = 1.25
IDLE_LINK_GAIN: Final = 1.3
"""While the peer's window is the limit, nothing is lost and no queue builds up."""
GAIN_MAX: Final = 1.04
GAIN_MIN: Final = 0.80
GAIN_SLOPE: Final = 0.04
"""More of it swings at the delay of 1.5 RTT that the loop has."""
QUEUE_MIN: Final = 0.003
QUEUE_SHARE: Final = 0.05
QUEUE_BYTES: Final = 30_000.0
"""The queueing delay aimed at: of the RTT, at least, and at least this many bytes' worth (up to twice the former)."""
RATE_ROUNDS: Final = 10
CONGESTED_ROUNDS: Final = 2
CALM_EPOCHS: Final = 6
LATE_SHARE: Final = 0.05
"""Of a round; if the sender lost more, the round says nothing of the path."""
_GROWING: Final = 1.25
_FLAT_ROUNDS: Final = 3
_BUSY: Final = 40 * FULL_SIZE
_MAX_FLOOR: Final = 0.3
STALL_SHARE: Final = 1 / 3
"""Of the RTT: so long without any ACK, while more was being sent all the time, is a stall."""
STALL_TICKS: Final = 2.5
STALLED_FROM: Final = 0.10
STALLED_UNTIL: Final = 0.02
"""Shares of the time spent in stalls, from which on and until which the path counts as a stream."""
STREAM_LOSS: Final = 0.05
STREAM_GAIN: Final = 1.4
STREAM_WINDOW: Final = 2.0
_STALL_PERIOD: Final = 0.5
SMALL_FLIGHT: Final = 16 * FULL_SIZE
"""What is in flight at so small a rate says little of the path, and four hundredths more of it would take minutes."""


class Mode(Enum):
    """Of the whole path."""

    STARTUP = "startup"
    DRAIN = "drain"
    CRUISE = "cruise"


class Limit(Enum):
    """What stopped the last burst."""

    RATE = 0
    WINDOW = 1
    PEER_WINDOW = 2
    APPLICATION = 3


@dataclass(slots=True)
class RateModel:
    """The model of one path."""

    tick: float = TICK
    rtt: RoundTrips = field(default_factory=RoundTrips)
    loss: Loss = field(default_factory=Loss)
    dips: Dips = field(default_factory=Dips)
    surges: Surges = field(default_factory=Surges)
    mode: Mode = Mode.STARTUP
    bandwidth: float = 0.0
    """Bytes a second that arrive; 0 if unknown."""
    queueing: float = 0.0
    """Seconds that our datagrams wait at the bottleneck."""
    gain: float = 1.0
    inflight: int = 0
    delivered: int = 0
    reordering: float = 0.0
    """Seconds by which a datagram has been seen to overtake another."""
    window_bound: float = 0.0
    """Share of time spent waiting for the peers' windows."""
    waits_for_peer: bool = False
    active_flows: int = 0
    told_stream: bool = False
    """Whether the host says that the underlay is one; then all losses that were seen are those of somebody's queues."""
    stream: bool = False
    """Whether the path repeats what it loses and keeps the order, as an underlay of TCP does: delays are its own then."""
    _delivered_at: float = 0.0
    _first_sent_at: float = 0.0
    _last_sent_at: float = -math.inf
    _limited_until: int = -1
    _rates: RecentMax = field(default_factory=RecentMax)
    _round: int = 0
    _round_end: int = 0
    _round_sum: float = 0.0
    _round_samples: int = 0
    _round_rate: float = 0.0
    _last_round_rate: float = 0.0
    _plateau: float = 0.0
    _flat_rounds: int = 0
    _epoch_acks: int = 0
    _epoch_at: float = 0.0
    _epoch_before: float = math.inf
    _noise: float = 0.0
    _queued_epochs: int = 0
    _drain_at: float = 0.0
    _low_epochs: int = 0
    _calm_epochs: int = 0
    _lowest_seen: RecentMax = field(default_factory=RecentMax)
    """Of negated RTTs, so of the lowest ones."""
    _route_at: float = 0.0
    _route_queue: float = 0.0
    _route_round: int = 0
    _dip_rate: float = 0.0
    _limit: Limit = Limit.RATE
    _limit_at: float = 0.0
    _peer_limited: float = 0.0
    _peer_limited_before: float = 0.0
    _round_began_at: float = 0.0
    _acked_at: float = 0.0
    _longest_stall: float = 0.0
    _stalled: float = 0.0
    _stalled_share: float = 0.0
    _stalls_since: float = 0.0
    _lost_time: float = 0.0

    # What a path asks.

    def pacing_rate(self, now: float) -> float:
        """Bytes a second."""
        if not self.bandwidth:
            return FIRST_RTT_SHARE * FIRST_WINDOW / self.rtt.best
        if self.mode is Mode.STARTUP:
            return max(STARTUP_GAIN * self.bandwidth, FIRST_WINDOW / self.rtt.lowest)
        if self.stream:
            return max(STREAM_GAIN * self.bandwidth, FIRST_WINDOW / self.rtt.lowest)
        if self.mode is Mode.DRAIN:
            return DRAIN_GAIN * self.bandwidth
        if now < self.dips.until:
            return self._dip_rate
        if now < self.surges.until:
            return SURGE_GAIN * self.offered
        if self.bandwidth * self.rtt.lowest < SMALL_FLIGHT and self.queueing < self.target():
            return SURGE_GAIN * self.offered
        if self.loss.share < 0.003 and self.window_bound > 0.15 and self.queueing < self.target():
            return IDLE_LINK_GAIN * self.offered
        return self.gain * self.offered

    def window(self) -> float:
        """Bytes that may be in flight.  A guard: the rate is what normally limits."""
        if not self.bandwidth:
            return FIRST_WINDOW
        rate, lowest = self.offered, self.rtt.lowest
        if self.stream:
            return max(FIRST_WINDOW, STREAM_WINDOW * rate * (lowest + self._longest_stall + self.tick))
        if self.mode is Mode.STARTUP:
            return max(FIRST_WINDOW, rate * (1.6 * lowest + self.tick) + 16 * FULL_SIZE)
        return rate * (1.05 * lowest + 1.5 * self.tick + 2.5 * self.target()) + 4 * FULL_SIZE

    @property
    def offered(self) -> float:
        """Bytes a second to send so that the bandwidth arrives: a loss before the bottleneck leaves room there."""
        return self.bandwidth / (1.0 - min(self.loss.floor, _MAX_FLOOR))

    def target(self) -> float:
        """The queueing delay aimed at, in seconds.  Needs a bandwidth."""
        base = max(QUEUE_MIN, QUEUE_SHARE * self.rtt.lowest)
        by_bytes = max(base, min(2 * base, QUEUE_BYTES / self.bandwidth)) if self.bandwidth else base
        return min(3 * base, by_bytes + max(0.0, 2 * self._noise - QUEUE_MIN))

    def probe_timeout(self) -> float:
        """Seconds without an ACK after which the last segment is sent again."""
        rtt = self.rtt
        if not rtt.smoothed:
            return max(2 * rtt.best, 0.05) + self.tick
        return rtt.smoothed + max(4 * rtt.variance, 0.004) + self.tick

    def overdue(self) -> float:
        """Seconds after which a transmission before one that arrived is lost, whatever was acknowledged."""
        return self.rtt.smoothed + max(self.reordering, self.rtt.smoothed / 8, 0.002) + self.tick

    def critical(self, window: int) -> bool:
        """Whether a window of so many segments stalls when a repair is lost as well."""
        if not self.bandwidth:
            return False
        share = self.offered / max(1, self.active_flows)
        return window * 1400 / share < CRITICAL * (self.rtt.best + self.tick / 2)

    # What happens on it.

    def moment(self, now: float) -> Moment:
        """What a burst that leaves now has to remember; its bytes have to be added to `inflight`."""
        if not self.inflight:
            self._first_sent_at = self._delivered_at = now
            if now - self._last_sent_at > RESTART_AFTER:
                self._restart()
        self._last_sent_at = now
        slow = now < self.dips.until or self.mode is Mode.DRAIN
        # Equal still counts: what leaves on an idle path was held back by the application until then.
        limited = self._limited_until >= self.delivered
        return Moment(now, self.delivered, self._delivered_at, self._first_sent_at, limited, slow)

    def deliver(self, size: int, now: float) -> None:
        """So many bytes have left the path, at the right end."""
        self.inflight -= size
        self.delivered += size
        self._delivered_at = now

    def limit(self, reason: Limit, now: float) -> None:
        """Tell what stopped a burst."""
        if self._limit is Limit.PEER_WINDOW:
            self._peer_limited += now - self._limit_at
        self._limit, self._limit_at = reason, now
        if reason in (Limit.PEER_WINDOW, Limit.APPLICATION):
            self._limited_until = self.delivered + self.inflight
            self.waits_for_peer = reason is Limit.PEER_WINDOW
        elif reason is Limit.RATE:
            self.waits_for_peer = False

    def lose_time(self, seconds: float) -> None:
        """Nothing was sent for so long (if positive) though the rate would have allowed it: the sender's own turn came late."""
        self._lost_time += max(0.0, seconds)

    def widen_reordering(self, overtaken: float) -> None:
        """A transmission taken for lost arrived after one sent `overtaken` seconds later."""
        self.reordering = min(max(self.reordering, 1.25 * overtaken), self.rtt.smoothed / 3)

    def acknowledge(self, newest: Moment, rtt: float, acks: int, now: float) -> None:
        """Learn from the ACKs of a datagram: when the `newest` transmission among them left, lowest `rtt`."""
        if not self.rtt.smoothed:
            self._epoch_at = self._round_began_at = now
        self.rtt.sample(rtt, now)
        self._notice_stall(newest.limited and not self.waits_for_peer, now)
        self._epoch_acks += acks
        interval = max(newest.sent_at - newest.first_sent_at, now - newest.delivered_at)
        delivered = self.delivered - newest.delivered
        self._first_sent_at = newest.sent_at
        # A shorter interval saw only a part of the way.
        if interval >= 0.9 * self.rtt.lowest and delivered > 0 and interval > 0:
            self._take_rate(delivered / interval, newest.limited)
        if now - self._epoch_at >= self._epoch_length():
            self._end_epoch(now)
        if newest.delivered >= self._round_end:
            self._end_round(newest.limited, now)

    def _notice_stall(self, limited: bool, now: float) -> None:
        """A sender that never pauses hears nothing for a while only if something holds everything up: a loss that a stream
        repairs.  A queue is never silent, and other losses show as such."""
        gap, self._acked_at = now - self._acked_at, now
        # The first windows leave in bursts, with pauses between them.
        limited = limited or (self.mode is Mode.STARTUP and not self.stream)
        natural = STALL_TICKS * max(self.tick, FULL_SIZE / self.bandwidth) if self.bandwidth else math.inf
        if gap > max(natural, STALL_SHARE * self.rtt.lowest) and not limited and gap < RESTART_AFTER:
            self._stalled += gap
            self._longest_stall = max(self._longest_stall, gap)
        elapsed = now - self._stalls_since
        if elapsed < _STALL_PERIOD:
            return
        weight = min(1.0, elapsed / (4 * _STALL_PERIOD))
        self._stalled_share += weight * (min(1.0, self._stalled / elapsed) - self._stalled_share)
        self._stalled, self._stalls_since = 0.0, now
        self._longest_stall *= 0.9
        was, lossless = self.stream, self.told_stream or self.loss.share < STREAM_LOSS
        enough = STALLED_UNTIL if was or self.told_stream else STALLED_FROM
        self.stream = lossless and self._stalled_share > enough
        if self.stream and not was:
            # What was learnt before came from braking.
            self.mode, self._plateau, self._flat_rounds = Mode.STARTUP, 0.0, 0

    def _take_rate(self, rate: float, limited: bool) -> None:
        self._round_sum += rate
        self._round_samples += 1
        # A maximum of maxima is too high, and becomes a standing queue.
        mean = self._round_sum / self._round_samples
        self._round_rate = max(self._round_rate, rate) if self.window_bound > 0.1 else mean
        if self.mode is Mode.STARTUP and (not limited or rate > self.bandwidth):
            self._rates.add(self._round, rate)
            self.bandwidth = self._rates.value

    def _epoch_length(self) -> float:
        if self.mode is Mode.STARTUP:
            return max(0.004, 1.2 * self.tick)
        return max(0.5 * self.rtt.lowest, 2.2 * self.tick)

    def _end_round(self, limited: bool, now: float) -> None:
        limited = limited or self._lost_time > LATE_SHARE * (now - self._round_began_at)
        self._lost_time = 0.0
        if self._round_samples and self.mode is not Mode.STARTUP and (not limited or self._round_rate > self.bandwidth):
            self._rates.add(self._round, self._round_rate)
        self._last_round_rate, self._round_rate = self._round_rate, 0.0
        self._round_sum, self._round_samples = 0.0, 0
        self._round += 1
        self._round_end = self.delivered
        self.reordering = self.reordering * 31 / 32 if self.reordering > 0.0005 else 0.0
        self._rates.forget_before(self._round - RATE_ROUNDS)
        self.bandwidth = self._rates.value
        if now > self._round_began_at:
            waited = (self._peer_limited - self._peer_limited_before) / (now - self._round_began_at)
            self.window_bound += 0.2 * (min(1.0, waited) - self.window_bound)
        self._peer_limited_before, self._round_began_at = self._peer_limited, now
        self.loss.end_round()
        if now > self.dips.until + 1.5 * self.rtt.smoothed and self.mode is not Mode.DRAIN:
            self.loss.end_slow()
        calm = self._calm_epochs >= CALM_EPOCHS and self.window_bound < 0.1 and now > self.dips.until + self.rtt.smoothed
        if self.mode is Mode.CRUISE and calm and not limited:
            self.surges.consider(now, self._round, self.bandwidth, self.rtt.lowest)
        if self.mode is Mode.STARTUP and (not limited or self.waits_for_peer):
            self._consider_plateau()

    def _consider_plateau(self) -> None:
        if self.bandwidth > self._plateau * _GROWING:
            self._plateau, self._flat_rounds = self.bandwidth, 0
            return
        self._flat_rounds += 1
        if self._flat_rounds >= _FLAT_ROUNDS:
            self._drain()

    def _end_epoch(self, now: float) -> None:
        if self._epoch_acks < (8 if self.inflight > QUEUE_BYTES else 3):
            return
        lowest = self.rtt.epoch_lowest
        queueing = self.queueing = max(0.0, lowest - self.rtt.lowest)
        if self._epoch_before is not math.inf:
            self._noise += (abs(lowest - self._epoch_before) - self._noise) / 8
        self._epoch_before = lowest
        target = self.target()
        if self.mode is Mode.STARTUP and not self.stream:
            self._end_startup_if_queued(queueing, target)
        elif self.mode is Mode.DRAIN:
            self._end_drain(queueing, target, now)
        if self.mode is not Mode.STARTUP:
            self.gain = min(GAIN_MAX, max(GAIN_MIN, 1 + GAIN_SLOPE * (target - queueing) / target))
            self._calm_epochs = self._calm_epochs + 1 if queueing < target / 2 else 0
            self._lowest_seen.add(now, -lowest)
            self._lowest_seen.forget_before(now - 30)
            if queueing > 4 * target and not self.stream:
                self._rates.forget_before(self._round - CONGESTED_ROUNDS)
                self.bandwidth = self._rates.value
        if self.mode is Mode.CRUISE and not self.stream:
            self._low_epochs = self._low_epochs + 1 if self.gain < 0.985 else 0
            self._notice_longer_route(lowest, queueing, target, now)
            self._dip(lowest, queueing, target, now)
        self.rtt.epoch_lowest, self._epoch_acks, self._epoch_at = math.inf, 0, now

    def _end_startup_if_queued(self, queueing: float, target: float) -> None:
        # With little in flight a delay is the line's own, and the rate not yet known.
        if self.inflight <= _BUSY and self._limited_until >= self.delivered:
            self._queued_epochs = 0
            return
        queued = queueing > max(target, self.rtt.lowest / 8) and self.inflight > _BUSY
        self._queued_epochs = self._queued_epochs + 1 if queued else 0
        if self._queued_epochs >= 2 or queueing > self.rtt.lowest / 3 + 0.010:
            self._drain()

    def _drain(self) -> None:
        self.mode, self._drain_at = Mode.DRAIN, 0.0

    def _end_drain(self, queueing: float, target: float, now: float) -> None:
        if not self._drain_at:
            self._drain_at = now
            return
        way = self.rtt.lowest + self.tick
        # Somebody else's queue would never drain.
        if now - self._drain_at > 3 * way or (queueing < target and self.inflight <= self.offered * way):
            self.mode = Mode.CRUISE

    def _notice_longer_route(self, lowest: float, queueing: float, target: float, now: float) -> None:
        """A delay that neither braking nor three further RTTs make smaller is the way's own."""
        if queueing <= 4 * target or self.gain > 0.9:
            self._route_at = 0.0
        elif not self._route_at:
            self._route_at, self._route_queue, self._route_round = now, queueing, self._round
        elif self._round < self._route_round + 4:
            # After a drop of the rate the queue is our own, until the bandwidth has followed.
            self._route_at, self._route_queue = now, queueing
        elif now - self._route_at > 3 * (self.rtt.lowest + queueing) and queueing > 0.8 * self._route_queue:
            self.rtt.rebase(lowest)
            self._route_at = 0.0

    def _dip(self, lowest: float, queueing: float, target: float, now: float) -> None:
        found = self.dips.observe(now, lowest, self.rtt.lowest, target, self.rtt.lowest + self.tick)
        if found is not None:
            self.rtt.rebase(found)
            self._low_epochs = 0
        elif self.dips.due(now, self._low_epochs, self.rtt.smoothed):
            excess = self.rtt.lowest + self._lowest_seen.value
            self.dips.begin(now, queueing, excess, target, self.rtt.lowest)
            bandwidth = min(self.bandwidth, self._last_round_rate or self.bandwidth)
            self._dip_rate = self.dips.gain * bandwidth * self.offered / self.bandwidth
            self._low_epochs = 0

    def _restart(self) -> None:
        """What was learnt is too old: another may use the link, and the way may have changed."""
        if self.bandwidth:
            self.mode, self.bandwidth, self._plateau, self._flat_rounds = Mode.STARTUP, 0.0, 0.0, 0
            self._rates, self._lowest_seen, self.dips = RecentMax(), RecentMax(), Dips()
            self.rtt = RoundTrips(told=self.rtt.smoothed)
            self._epoch_before, self._noise, self.gain, self.queueing = math.inf, 0.0, 1.0, 0.0
            self._queued_epochs = 0
