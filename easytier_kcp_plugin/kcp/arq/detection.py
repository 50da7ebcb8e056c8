"""Which transmissions of a conversation are lost, and which only have a lost ACK.  Sans-IO; `sender.py` feeds it and repairs.

A transmission is lost once one sent three numbers later has arrived and more time has passed than datagrams were seen to
overtake each other.  Stock forgets an ACK once it is sent, so a lost datagram of ACKs leaves a gap as well, one between two
such datagrams: its transmissions are *presumed* to have arrived until the peer's una shows the contrary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from easytier_kcp_plugin.kcp.arq.rate import RateModel
from easytier_kcp_plugin.kcp.arq.transmission import OVERHEAD, Fate, OutSegment, Transmission
from easytier_kcp_plugin.kcp.segment_size import STOCK_MSS, SegmentSize

_U32: Final = 0xFFFF_FFFF

# Ours.
THRESHOLD: Final = 3
GAP_MIN: Final = 4
"""Numbers; a shorter gap at a border is taken for lost data."""
KEEP: Final = 2.0
"""Seconds that a transmission which has ended is remembered for a late ACK."""
KEEP_MAX: Final = 8192
"""Of those; the oldest are forgotten beyond it."""
_STOCK_SIZE: Final = STOCK_MSS + OVERHEAD
"""With a mean above it, at least one was larger."""
# Plain numbers: members of an enum are slow to get at, and every segment comes by here.
_OUT: Final = int(Fate.OUT)
_ACKED: Final = int(Fate.ACKED)


@dataclass(slots=True)
class Counters:
    """Of the transmissions of one conversation, since its start."""

    sent: int = 0
    repairs: int = 0
    copies: int = 0
    """Second and further transmissions of a repair, and of last segments."""
    presumed: int = 0
    presumed_wrongly: int = 0
    head_of_line: int = 0
    """Repetitions of the segment that blocks the peer's window."""
    probes: int = 0
    """Timeouts; each sends one or two segments."""
    lost: int = 0
    spurious: int = 0
    """Taken for lost, and arrived."""


@dataclass(slots=True)
class Detector:
    """The transmissions of one conversation.

    `repair` is called with each segment that has to be sent again, `suspect` with those that are presumed to have arrived when
    waiting for proof would stall the window.
    """

    model: RateModel
    size: SegmentSize
    repair: Callable[[OutSegment], None]
    suspect: Callable[[OutSegment], None]
    counters: Counters = field(default_factory=Counters)
    newest: int = -1
    """The highest number that has arrived."""
    newest_sent_at: float = 0.0
    last_number: int = 0
    overdue_at: float = math.inf
    edge: float = math.inf
    """Segments from this number on find no room at the peer: what is out of them is not lost by the path."""
    _by_number: dict[int, Transmission] = field(default_factory=dict)
    _order: deque[Transmission] = field(default_factory=deque)
    _presumed: deque[tuple[float, list[Transmission]]] = field(default_factory=deque)
    _ended: deque[tuple[float, int]] = field(default_factory=deque)
    _counted_active: bool = False

    @property
    def outstanding(self) -> bool:
        """Whether anything sent has no known fate."""
        return bool(self._order)

    @property
    def held(self) -> int:
        """Transmissions remembered, for bounds."""
        return len(self._by_number)

    def send(self, segments: Sequence[OutSegment], now: float) -> int:
        """Number a transmission of each and note it.  Returns their bytes on the wire."""
        model, number, total = self.model, self.last_number, 0
        moment = model.moment(now)
        by_number, order = self._by_number, self._order
        for segment in segments:
            number += 1
            size = len(segment.data) + OVERHEAD
            total += size
            transmission = by_number[number] = Transmission(number, segment, size, moment)
            order.append(transmission)
            segment.sent.append(transmission)
            segment.outstanding += 1
        self.counters.sent += number - self.last_number
        self.last_number = number
        model.inflight += total
        if not self._counted_active:
            self._counted_active = True
            model.active_flows += 1
        return total

    def acknowledge(
        self,
        acks: Iterable[tuple[int, int]],
        runs: Collection[tuple[int, int]],
        passed: Iterable[OutSegment],
        una: int,
        window: int,
        now: float,
    ) -> bool:
        """Take in what one datagram acknowledged: (transmission number, sn) of its ACKs, (first number, count) of its runs, all
        as on the wire, and the segments that its una has `passed`.  `window` is in segments.

        ACKs that name nothing that was sent, or something else than they say, are ignored.  Returns whether any was new.
        """
        before = self.newest
        newest: Transmission | None = None
        first_new: int | None = None
        latest, credited, slow, size = -math.inf, 0, 0, 0
        found = self._named(acks, runs)
        for transmission in found:
            segment, moment, number = transmission.segment, transmission.moment, transmission.number
            if transmission.fate == _OUT:
                size += transmission.size
                credited += 1
                slow += moment.slow
                segment.outstanding -= 1
            else:
                self._acknowledge_late(transmission)
            transmission.fate = _ACKED
            segment.acked = True
            if moment.sent_at > latest:
                latest = moment.sent_at
            if newest is None or number > newest.number:
                newest = transmission
            if number > before and (first_new is None or number < first_new):
                first_new = number
        model = self.model
        if credited:
            model.deliver(size, now)
            model.loss.acked += credited
            model.loss.slow_acked += slow
            if size > credited * _STOCK_SIZE:
                self.size.delivered(now)
        for segment in passed:
            if not segment.acked:
                self._confirm(segment, now)
            # Segment and transmission know each other: a circle that only the garbage collector would open, in long pauses.
            segment.sent.clear()
        if newest is None:
            return False
        if newest.number > before:
            self.newest, self.newest_sent_at = newest.number, newest.moment.sent_at
        # Runs are told several times, so that none is missing because a datagram with them is.
        if not runs and first_new is not None and before >= 0 and first_new - before > GAP_MIN:
            self._presume(range(before + 1, first_new), una, window, now)
        model.acknowledge(newest.moment, now - latest, len(found), now)
        return True

    def _named(self, acks: Iterable[tuple[int, int]], runs: Iterable[tuple[int, int]]) -> list[Transmission]:
        """What was acknowledged for the first time; it needs no number any more."""
        by_number, last_number = self._by_number, self.last_number
        found: list[Transmission] = []
        for wire_number, wire_sn in acks:
            number = last_number - ((last_number - wire_number) & _U32)
            transmission = by_number.get(number)
            if transmission is not None and not (transmission.segment.sn ^ wire_sn) & _U32:
                del by_number[number]
                found.append(transmission)
        for first, count in runs:
            start = last_number - ((last_number - first) & _U32)
            found += [by_number.pop(number) for number in range(start, start + count) if number in by_number]
        return found

    def _acknowledge_late(self, transmission: Transmission) -> None:
        """It was given up, or presumed to have arrived."""
        if transmission.fate == Fate.LOST:
            self.counters.spurious += 1
            self.model.loss.lost -= 1
            if self.newest > transmission.number:
                self.model.widen_reordering(self.newest_sent_at - transmission.moment.sent_at)
        elif transmission.fate == Fate.PRESUMED:
            transmission.segment.outstanding -= 1

    def _confirm(self, segment: OutSegment, now: float) -> None:
        """The peer's una has passed `segment`, of which no ACK has come."""
        segment.acked = True
        for transmission in segment.sent:
            if transmission.fate == Fate.OUT:
                self._credit(transmission, now)
            elif transmission.fate == Fate.PRESUMED:
                self._settle(transmission)
            else:
                continue
            self._end(transmission, now)
            break

    def scan(self, una: int, fresh: bool, now: float) -> None:
        """Find what is lost.  `fresh`: with ACKs that have just come."""
        self._resolve_presumed(una, fresh, now)
        self.overdue_at = math.inf
        order, newest = self._order, self.newest
        reordering = self.model.reordering
        while order:
            transmission = order[0]
            if transmission.fate == _OUT:
                if transmission.number >= newest:
                    break
                proven = newest - transmission.number >= THRESHOLD
                sent_at = transmission.moment.sent_at
                if not proven or self.newest_sent_at - sent_at < reordering:
                    due = sent_at + self.model.overdue()
                    if due > now:
                        self.overdue_at = due
                        break
                self._lose(transmission, now)
            order.popleft()
        if not order:
            self._note_idle()
        self._forget_ended(now)

    def take_back(self, now: float) -> None:
        """No ACK comes: what finds no room at the peer is not on its way any more."""
        for transmission in self._order:
            if transmission.fate == Fate.OUT and transmission.segment.sn >= self.edge:
                self._lose(transmission, now)
        self.scan(-1, False, now)

    def presumed_until(self) -> float:
        """When the oldest presumed run has to be resolved."""
        if not self._presumed:
            return math.inf
        return self._presumed[0][0] + 3 * self.model.rtt.smoothed + 2 * self.model.tick

    def abandon(self) -> None:
        """All has arrived, or nobody cares any more."""
        for transmission in self._order:
            if transmission.fate == Fate.OUT:
                self.model.inflight -= transmission.size
                transmission.fate = Fate.ACKED
        self._order.clear()
        self._presumed.clear()
        self._by_number.clear()
        self._ended.clear()
        self.overdue_at = math.inf
        self._note_idle()

    def _note_idle(self) -> None:
        if self._counted_active:
            self._counted_active = False
            self.model.active_flows -= 1

    def _credit(self, transmission: Transmission, now: float) -> None:
        model = self.model
        transmission.fate = Fate.ACKED
        transmission.segment.outstanding -= 1
        model.deliver(transmission.size, now)
        model.loss.acked += 1
        if transmission.moment.slow:
            model.loss.slow_acked += 1

    def _settle(self, transmission: Transmission) -> None:
        """A presumed one did arrive, or does not matter."""
        transmission.fate = Fate.ACKED
        transmission.segment.outstanding -= 1

    def _lose(self, transmission: Transmission, now: float) -> None:
        model = self.model
        model.inflight -= transmission.size
        if transmission.segment.sn >= self.edge:
            self._give_up(transmission, now, Fate.REFUSED)
            return
        model.loss.lost += 1
        self.counters.lost += 1
        if transmission.moment.slow:
            model.loss.slow_lost += 1
        self._give_up(transmission, now)

    def _give_up(self, transmission: Transmission, now: float, fate: Fate = Fate.LOST) -> None:
        transmission.fate = fate
        self._end(transmission, now)
        segment = transmission.segment
        segment.outstanding -= 1
        if not segment.acked and not segment.outstanding and not segment.in_repair and not segment.copies_due:
            self.repair(segment)

    def _presume(self, numbers: range, una: int, window: int, now: float) -> None:
        found = [self._by_number.get(number) for number in numbers]
        run = [transmission for transmission in found if transmission is not None and transmission.fate == Fate.OUT]
        if len(run) < GAP_MIN or any(transmission.segment.sn == una for transmission in run):
            # The peer waits for one of them, so they are lost.
            return
        for transmission in run:
            transmission.fate = Fate.PRESUMED
            self.model.deliver(transmission.size, now)
        self.counters.presumed += len(run)
        self._presumed.append((now, run))
        if self.model.critical(window):
            for transmission in run:
                segment = transmission.segment
                if not segment.acked and segment.outstanding == 1 and not segment.copies_due and not segment.in_repair:
                    self.suspect(segment)

    def _resolve_presumed(self, una: int, fresh: bool, now: float) -> None:
        if not self._presumed:
            return
        keep: deque[tuple[float, list[Transmission]]] = deque()
        patience = 3 * self.model.rtt.smoothed + 2 * self.model.tick
        for since, run in self._presumed:
            open_ones: list[Transmission] = []
            for transmission in run:
                if transmission.fate != Fate.PRESUMED:
                    continue
                if transmission.segment.acked:
                    self._settle(transmission)
                    self._end(transmission, now)
                elif now > since + patience or (fresh and now > since and transmission.segment.sn == una):
                    self._unpresume(transmission, overdue=now > since + patience, now=now)
                else:
                    open_ones.append(transmission)
            if open_ones:
                keep.append((since, open_ones))
        self._presumed = keep

    def _unpresume(self, transmission: Transmission, overdue: bool, now: float) -> None:
        """It has not arrived after all.  One that is merely overdue says nothing about the path's losses."""
        model = self.model
        model.delivered -= transmission.size
        self.counters.presumed_wrongly += 1
        if not overdue:
            model.loss.lost += 1
            self.counters.lost += 1
            if transmission.moment.slow:
                model.loss.slow_lost += 1
        self._give_up(transmission, now)

    def _end(self, transmission: Transmission, now: float) -> None:
        self._ended.append((now, transmission.number))

    def _forget_ended(self, now: float) -> None:
        ended = self._ended
        while ended and (ended[0][0] < now - KEEP or len(ended) > KEEP_MAX):
            self._by_number.pop(ended.popleft()[1], None)
