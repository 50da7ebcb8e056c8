"""The sending half of a conversation: segments out of bytes, what is sent next, and the peer's acknowledgements.  Sans-IO.

Order of what leaves: repairs, copies that are due, presumed ones when the window is critical, new segments, and, if the peer's
window is full, the segment that blocks it.  How fast is the path's affair; `path.py` calls `transmit` once per segment.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Final, Protocol

from easytier_kcp_plugin.kcp.arq.detection import Counters, Detector
from easytier_kcp_plugin.kcp.arq.rate import RateModel
from easytier_kcp_plugin.kcp.arq.redundancy import (
    SUSPECT_SPACING,
    TAIL_SEGMENTS,
    TailBudget,
    copy_spacing,
    repair_transmissions,
    suspect_copy_pays,
    tail_delay,
    tail_pays,
)
from easytier_kcp_plugin.kcp.arq.transmission import OVERHEAD, OutSegment, Transmission

# Wire constants: stock decides.
FIRST_PEER_WINDOW: Final = 128

# Ours.
SEND_BUFFER: Final = 256 * 1024
"""Bytes that wait behind a full window: some RTTs of work for the writer's wake-up, little memory."""
PROBE_MAX: Final = 1.0
"""Seconds between probes at most."""
_PROBE_DOUBLINGS: Final = 4
HEAD_TRANSMISSIONS: Final = range(2, 8)
"""Of the segment that blocks the window, while it is repeated in idle time."""


class Output(Protocol):
    """Where segments go."""

    def push(self, number: int, sn: int, payload: bytes) -> None:
        """Have a PUSH leave."""
        ...


class Sender:
    """Sequence numbers and transmission numbers are kept whole (they do not wrap), those of the wire are their low 32 bits."""

    __slots__ = (
        "_copies",
        "_copy_order",
        "_last_sent_at",
        "_limit",
        "_mss",
        "_output",
        "_probes",
        "_repairs",
        "_segments",
        "_suspects",
        "_tail",
        "_tail_due",
        "_unsent",
        "detector",
        "model",
        "next",
        "peer_window",
        "una",
        "window_limited",
    )

    def __init__(self, model: RateModel, tail: TailBudget, output: Output, mss: int, limit: int) -> None:
        """`mss` in bytes; `limit` in segments is what may be in flight whatever the peer allows."""
        self.model = model
        self.detector = Detector(model, self._repair, self._suspect)
        self.una = 0
        self.next = 0
        self.peer_window = FIRST_PEER_WINDOW
        self.window_limited = False
        self._tail = tail
        self._output = output
        self._mss = mss
        self._limit = limit
        self._unsent = bytearray()
        self._segments: dict[int, OutSegment] = {}
        self._repairs: list[int] = []
        self._copies: list[tuple[float, int, OutSegment]] = []
        self._copy_order = 0
        self._suspects: deque[OutSegment] = deque()
        self._tail_due = False
        self._last_sent_at = 0.0
        self._probes = 0

    # The application's side.

    def write(self, data: bytes | memoryview) -> int:
        """Take what there is room for."""
        taken = min(len(data), self.room)
        self._unsent += data[:taken]
        return taken

    @property
    def room(self) -> int:
        """Bytes."""
        return max(0, SEND_BUFFER - len(self._unsent))

    @property
    def unsent(self) -> bool:
        """Whether bytes wait that are in no segment."""
        return bool(self._unsent)

    @property
    def in_flight(self) -> bool:
        """Whether segments are not acknowledged."""
        return self.una != self.next

    @property
    def waiting_bytes(self) -> int:
        """At most."""
        return len(self._unsent) + (self.next - self.una) * self._mss

    @property
    def counters(self) -> Counters:
        """Of the detector."""
        return self.detector.counters

    def close(self) -> None:
        """Drop everything, and take it off the path's account."""
        self.detector.abandon()
        self._unsent.clear()
        self._segments.clear()
        self._repairs.clear()
        self._copies.clear()
        self._suspects.clear()
        self.una = self.next

    # What the path asks for.

    def transmit(self, now: float) -> int:
        """Send one segment.  Returns its bytes on the wire, 0 if there is nothing that may be sent."""
        segment = self._repetition(now) or self._new_segment(now)
        return 0 if segment is None else self._send(segment, now).size

    def _repetition(self, now: float) -> OutSegment | None:
        while self._repairs:
            segment = self._segments.get(heapq.heappop(self._repairs))
            if segment is None or segment.acked or not segment.in_repair:
                continue
            segment.in_repair = False
            self.counters.repairs += 1
            self._plan_copies(segment, now)
            return segment
        while self._copies and self._copies[0][0] <= now:
            segment = heapq.heappop(self._copies)[2]
            segment.copies_due -= 1
            if not segment.acked:
                self.counters.copies += 1
                return segment
        while self._suspects:
            segment = self._suspects.popleft()
            segment.copies_due -= 1
            if not segment.acked:
                self.counters.repairs += 1
                if suspect_copy_pays(self.model.loss.share, self.model.window_bound):
                    self._copy(segment, now + SUSPECT_SPACING)
                return segment
        return None

    def _new_segment(self, now: float) -> OutSegment | None:
        self.window_limited = False
        if not self._unsent:
            if self._tail_due:
                self._copy_tail(now)
            return None
        if self.next - self.una >= min(self.peer_window, self._limit):
            self.window_limited = True
            return self._blocking_segment(now)
        segment = OutSegment(self.next, bytes(self._unsent[: self._mss]))
        del self._unsent[: self._mss]
        self._segments[self.next] = segment
        self.next += 1
        self._tail_due = True
        return segment

    def _blocking_segment(self, now: float) -> OutSegment | None:
        head = self._segments.get(self.una)
        if head is None or len(head.sent) not in HEAD_TRANSMISSIONS:
            return None
        if now - head.sent[-1].sent_at < max(0.004, self.model.rtt.best / 6):
            return None
        self.counters.head_of_line += 1
        return head

    def _plan_copies(self, segment: OutSegment, now: float) -> None:
        model = self.model
        count = repair_transmissions(model.loss.share, model.window_bound, model.critical(self._limit))
        spacing = copy_spacing(model.rtt.best)
        for index in range(1, count):
            self._copy(segment, now + index * spacing)

    def _copy_tail(self, now: float) -> None:
        """The application has nothing more for now."""
        self._tail_due = False
        model = self.model
        if not tail_pays(model.loss.share, model.loss.resolved):
            return
        self._tail.refill(model.bandwidth, now)
        for sn in range(max(self.una, self.next - TAIL_SEGMENTS), self.next):
            segment = self._segments[sn]
            if segment.acked or len(segment.sent) != 1:
                continue
            if not self._tail.take(len(segment.data) + OVERHEAD):
                break
            self._copy(segment, now + tail_delay(model.rtt.best))

    def _copy(self, segment: OutSegment, due: float) -> None:
        segment.copies_due += 1
        self._copy_order += 1
        heapq.heappush(self._copies, (due, self._copy_order, segment))

    def _repair(self, segment: OutSegment) -> None:
        segment.in_repair = True
        heapq.heappush(self._repairs, segment.sn)

    def _suspect(self, segment: OutSegment) -> None:
        segment.copies_due += 1
        self._suspects.append(segment)

    def _send(self, segment: OutSegment, now: float) -> Transmission:
        transmission = self.detector.send(segment, len(segment.data) + OVERHEAD, now)
        self._last_sent_at = now
        self._output.push(transmission.number, segment.sn, segment.data)
        return transmission

    # What the peer and the clock bring.

    def acknowledge(self, una: int, acks: list[tuple[int, int]], now: float) -> bool:
        """Take in what a datagram said: the highest una (at most `next`), and (transmission number, sn) of its ACKs.

        Returns whether anything was new.
        """
        detector = self.detector
        before = detector.newest
        newest: Transmission | None = None
        first_new: int | None = None
        latest, count = -math.inf, 0
        for number, sn in acks:
            transmission = detector.acknowledge(number, sn, now)
            if transmission is None:
                continue
            count += 1
            latest = max(latest, transmission.sent_at)
            if newest is None or number > newest.number:
                newest = transmission
            if number > before and (first_new is None or number < first_new):
                first_new = number
        moved = una > self.una
        for sn in range(self.una, una):
            detector.confirm(self._segments.pop(sn), now)
        self.una = max(self.una, una)
        if newest is not None:
            self._probes = 0
            detector.advance(newest, first_new, self.una, self._limit, now)
            self.model.acknowledge(newest, now - latest, count, now)
        if moved or acks:
            detector.scan(self.una, newest is not None, now)
        return moved or newest is not None

    def tick(self, now: float) -> None:
        """Do what is due, and nothing before."""
        if self.model.rtt.smoothed:
            self.detector.scan(self.una, False, now)
        if self._probe_at() <= now:
            self._probe(now)

    def deadline(self) -> float:
        """When `tick` or `transmit` wants to be called; infinite if only input can change anything."""
        copies_at = self._copies[0][0] if self._copies else math.inf
        return min(self.detector.overdue_at, self.detector.presumed_until(), self._probe_at(), copies_at)

    def _probe_at(self) -> float:
        if not self.detector.outstanding:
            return math.inf
        timeout = self.model.probe_timeout() * (1 << min(self._probes, _PROBE_DOUBLINGS))
        return self._last_sent_at + min(timeout, max(PROBE_MAX, self.model.probe_timeout()))

    def _probe(self, now: float) -> None:
        """No ACK came: its answer will show what is lost."""
        found = (self._segments.get(sn) for sn in dict.fromkeys((self.una, self.next - 1)))
        live = [segment for segment in found if segment is not None and not segment.acked]
        if not live:
            # Only repetitions of what has arrived are out.
            if not self.in_flight:
                self.detector.abandon()
            else:
                self._last_sent_at = now
            return
        self._probes += 1
        self.counters.probes += 1
        for segment in live:
            self._send(segment, now)
