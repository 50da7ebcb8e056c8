"""Which transmissions of a conversation are lost, and which only have a lost ACK.  Sans-IO; `sender.py` feeds it and repairs.

A transmission is lost once one sent three numbers later has arrived and more time has passed than datagrams were seen to
overtake each other.  Stock forgets an ACK once it is sent, so a lost datagram of ACKs leaves a gap as well, one between two
such datagrams: its transmissions are *presumed* to have arrived until the peer's una shows the contrary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from easytier_kcp_plugin.kcp.arq.rate import RateModel
from easytier_kcp_plugin.kcp.arq.transmission import Fate, OutSegment, Transmission

# Ours.
THRESHOLD: Final = 3
GAP_MIN: Final = 4
"""Numbers; a shorter gap at a border is taken for lost data."""
KEEP: Final = 2.0
"""Seconds that a transmission which has ended is remembered for a late ACK."""
KEEP_MAX: Final = 8192
"""Of those; the oldest are forgotten beyond it."""


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
    repair: Callable[[OutSegment], None]
    suspect: Callable[[OutSegment], None]
    counters: Counters = field(default_factory=Counters)
    newest: int = -1
    """The highest number that has arrived."""
    newest_sent_at: float = 0.0
    last_number: int = 0
    overdue_at: float = math.inf
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

    def send(self, segment: OutSegment, size: int, now: float) -> Transmission:
        """Number a transmission and note it."""
        self.last_number += 1
        transmission = self.model.send(self.last_number, segment, size, now)
        self._by_number[self.last_number] = transmission
        self._order.append(transmission)
        segment.sent.append(transmission)
        segment.outstanding += 1
        self.counters.sent += 1
        if not self._counted_active:
            self._counted_active = True
            self.model.active_flows += 1
        return transmission

    def acknowledge(self, number: int, sn: int, now: float) -> Transmission | None:
        """Take an ACK in.  None if it names nothing that was sent, or something else than it says."""
        transmission = self._by_number.get(number)
        if transmission is None or transmission.segment.sn != sn:
            return None
        del self._by_number[number]
        fate, segment = transmission.fate, transmission.segment
        if fate == Fate.OUT:
            self._credit(transmission, now)
        elif fate == Fate.LOST:
            self.counters.spurious += 1
            self.model.loss.lost -= 1
            if self.newest > number:
                self.model.widen_reordering(self.newest_sent_at - transmission.sent_at)
        elif fate == Fate.PRESUMED:
            segment.outstanding -= 1
        transmission.fate = Fate.ACKED
        segment.acked = True
        return transmission

    def confirm(self, segment: OutSegment, now: float) -> None:
        """The peer's una has passed `segment`."""
        if segment.acked:
            return
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

    def advance(self, newest: Transmission, first_new: int | None, una: int, window: int, now: float) -> None:
        """After the ACKs of one datagram: `newest` among them, the lowest number above what had arrived, and the peer's una."""
        before = self.newest
        if newest.number > before:
            self.newest, self.newest_sent_at = newest.number, newest.sent_at
        if first_new is not None and before >= 0 and first_new - before > GAP_MIN:
            self._presume(range(before + 1, first_new), una, window, now)

    def scan(self, una: int, fresh: bool, now: float) -> None:
        """Find what is lost.  `fresh`: with ACKs that have just come."""
        self._resolve_presumed(una, fresh, now)
        self.overdue_at = math.inf
        order, newest = self._order, self.newest
        reordering = self.model.reordering
        while order:
            transmission = order[0]
            if transmission.fate == Fate.OUT:
                if transmission.number >= newest:
                    break
                proven = newest - transmission.number >= THRESHOLD
                if not proven or self.newest_sent_at - transmission.sent_at < reordering:
                    due = transmission.sent_at + self.model.overdue()
                    if due > now:
                        self.overdue_at = due
                        break
                self._lose(transmission, now)
            order.popleft()
        if not order:
            self._note_idle()
        self._forget_ended(now)

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
        if transmission.slow:
            model.loss.slow_acked += 1

    def _settle(self, transmission: Transmission) -> None:
        """A presumed one did arrive, or does not matter."""
        transmission.fate = Fate.ACKED
        transmission.segment.outstanding -= 1

    def _lose(self, transmission: Transmission, now: float) -> None:
        model = self.model
        model.inflight -= transmission.size
        model.loss.lost += 1
        self.counters.lost += 1
        if transmission.slow:
            model.loss.slow_lost += 1
        self._give_up(transmission, now)

    def _give_up(self, transmission: Transmission, now: float) -> None:
        transmission.fate = Fate.LOST
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
            if transmission.slow:
                model.loss.slow_lost += 1
        self._give_up(transmission, now)

    def _end(self, transmission: Transmission, now: float) -> None:
        self._ended.append((now, transmission.number))

    def _forget_ended(self, now: float) -> None:
        ended = self._ended
        while ended and (ended[0][0] < now - KEEP or len(ended) > KEEP_MAX):
            self._by_number.pop(ended.popleft()[1], None)
