"""The sending half of a conversation: segments out of bytes, what is sent next, and the peer's acknowledgements.  Sans-IO.

Order of what leaves: repairs, copies that are due, presumed ones when the window is critical, new segments, and, if the peer's
window is full, the segment that blocks it.  How fast is the path's affair; `path.py` calls `transmit` once per segment.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from easytier_kcp_plugin.kcp.arq.detection import Counters, Detector
from easytier_kcp_plugin.kcp.arq.memory import GrowingWindow
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
from easytier_kcp_plugin.kcp.arq.transmission import OVERHEAD, OutSegment
from easytier_kcp_plugin.kcp.segment_size import SegmentSize

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

    def push(self, number: int, segments: Sequence[OutSegment]) -> None:
        """Have a PUSH of each leave; `number` is that of the first transmission, and the others follow."""
        ...


class Sender:
    """Sequence numbers and transmission numbers are kept whole (they do not wrap), those of the wire are their low 32 bits."""

    __slots__ = (
        "_copies",
        "_copy_order",
        "_cut_size",
        "_largest",
        "_last_sent_at",
        "_output",
        "_pieces",
        "_probes",
        "_repairs",
        "_rest",
        "_segments",
        "_size",
        "_suspects",
        "_tail",
        "_tail_due",
        "_unsent_bytes",
        "detector",
        "model",
        "next",
        "peer_window",
        "una",
        "window",
        "window_limited",
    )

    def __init__(self, model: RateModel, tail: TailBudget, size: SegmentSize, output: Output, window: GrowingWindow) -> None:
        """`window` is what may be in flight whatever the peer allows."""
        self.model = model
        self.detector = Detector(model, size, self._repair, self._suspect)
        self.una = 0
        self.next = 0
        self.peer_window = FIRST_PEER_WINDOW
        self.window_limited = False
        self.window = window
        self._tail = tail
        self._output = output
        self._size = size
        self._cut_size = self._largest = size.mss
        """That pieces are cut to, and the largest so far."""
        self._pieces: deque[bytes] = deque()
        """Full payloads."""
        self._rest = bytearray()
        """What follows them, less than a full one."""
        self._unsent_bytes = 0
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
        self._follow_size()
        mss, start = self._cut_size, 0
        if self._rest:
            start = min(taken, mss - len(self._rest))
            self._rest += data[:start]
            if len(self._rest) == mss:
                self._pieces.append(bytes(self._rest))
                self._rest.clear()
        whole = taken - (taken - start) % mss
        self._pieces.extend([bytes(data[at : at + mss]) for at in range(start, whole, mss)])
        self._rest += data[whole:taken]
        self._unsent_bytes += taken
        return taken

    @property
    def room(self) -> int:
        """Bytes."""
        return SEND_BUFFER - self._unsent_bytes

    @property
    def unsent(self) -> bool:
        """Whether bytes wait that are in no segment."""
        return self._unsent_bytes > 0

    @property
    def in_flight(self) -> bool:
        """Whether segments are not acknowledged."""
        return self.una != self.next

    @property
    def shut_out(self) -> bool:
        """Whether something is to be sent, and all of it waits for the peer's window to open."""
        return not self.peer_window and (self.unsent or self.in_flight) and not self.detector.outstanding

    @property
    def waiting_bytes(self) -> int:
        """At most."""
        return self._unsent_bytes + (self.next - self.una) * self._largest

    @property
    def counters(self) -> Counters:
        """Of the detector."""
        return self.detector.counters

    def close(self) -> None:
        """Drop everything, and take it off the path's account."""
        self.detector.abandon()
        self._pieces.clear()
        self._rest.clear()
        self._unsent_bytes = 0
        self.window.shrink()
        for segment in self._segments.values():
            segment.sent.clear()
        self._segments.clear()
        self._repairs.clear()
        self._copies.clear()
        self._suspects.clear()
        self.una = self.next

    # What the path asks for.

    def transmit(self, count: int, now: float) -> int:
        """Send up to `count` (at least 1) segments.  Returns their bytes on the wire, 0 if nothing may be sent."""
        size = 0
        while count and (segment := self._repetition(now)) is not None:
            size += self._send(segment, now)
            count -= 1
        return size + self._send_new(count, now) if count else size

    def _repetition(self, now: float) -> OutSegment | None:
        # The window of a peer whose memory is needed elsewhere shrinks: what is beyond has to wait.
        edge = self.una + self.peer_window
        while self._repairs and self._repairs[0] < edge:
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

    def _send_new(self, count: int, now: float) -> int:
        self.window_limited = False
        if not self._unsent_bytes:
            if self._tail_due:
                self._copy_tail(now)
            return 0
        self._follow_size()
        first = self.next
        room = min(self.peer_window, self.window.size) - (first - self.una)
        if room <= 0:
            self.window_limited = True
            blocking = self._blocking_segment(now)
            return 0 if blocking is None else self._send(blocking, now)
        fresh = [OutSegment(sn, data, []) for sn, data in enumerate(self._cut(min(count, room)), first)]
        self._segments.update([(segment.sn, segment) for segment in fresh])
        self.next = first + len(fresh)
        self._tail_due = True
        return self._send_all(fresh, now)

    def _follow_size(self) -> None:
        """Cut what waits to the size that the path has become sure to carry, should that be a smaller one."""
        mss = self._size.mss
        if mss == self._cut_size:
            return
        if mss < self._cut_size:
            waiting = b"".join(self._pieces) + self._rest
            whole = len(waiting) - len(waiting) % mss
            self._pieces = deque(waiting[at : at + mss] for at in range(0, whole, mss))
            self._rest = bytearray(waiting[whole:])
        self._cut_size, self._largest = mss, max(mss, self._largest)

    def _cut(self, count: int) -> list[bytes]:
        """The next payloads, at most `count`, at least one: only the last of what was written may be short."""
        pieces = self._pieces
        payloads = [pieces.popleft() for _ in range(min(count, len(pieces)))]
        if len(payloads) < count and self._rest:
            payloads.append(bytes(self._rest))
            self._rest.clear()
        self._unsent_bytes -= sum(map(len, payloads))
        return payloads

    def _blocking_segment(self, now: float) -> OutSegment | None:
        head = self._segments.get(self.una)
        if head is None or len(head.sent) not in HEAD_TRANSMISSIONS:
            return None
        if now - head.sent[-1].moment.sent_at < max(0.004, self.model.rtt.best / 6):
            return None
        self.counters.head_of_line += 1
        return head

    def _plan_copies(self, segment: OutSegment, now: float) -> None:
        model = self.model
        count = repair_transmissions(model.loss.share, model.window_bound, model.critical(self.window.size))
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

    def _send(self, segment: OutSegment, now: float) -> int:
        return self._send_all((segment,), now)

    def _send_all(self, segments: Sequence[OutSegment], now: float) -> int:
        """Segments with consecutive numbers.  Returns their bytes on the wire."""
        self._last_sent_at = now
        number = self.detector.last_number + 1
        size = self.detector.send(segments, now)
        self._output.push(number, segments)
        return size

    # What the peer and the clock bring.

    def acknowledge(self, una: int, acks: Sequence[tuple[int, int]], runs: Sequence[tuple[int, int]], now: float) -> bool:
        """Take in what a datagram said: the highest una (at most `next`), (transmission number, sn) of its ACKs, (first
        transmission number, count) of its runs, all but una as on the wire.

        Returns whether anything was new.
        """
        segments, before = self._segments, self.una
        moved = una > before
        passed = [segments.pop(sn) for sn in range(before, una)]
        self.una = max(before, una)
        fresh = self.detector.acknowledge(acks, runs, passed, self.una, self.window.size, now)
        if fresh:
            self._probes = 0
        if moved:
            self.window.pass_on(self.next, self.model.rtt.best, now)
        if moved or acks or runs:
            self.detector.edge = self.una + self.peer_window
            self.detector.scan(self.una, fresh, now)
        return moved or fresh

    def tick(self, now: float) -> None:
        """Do what is due, and nothing before."""
        if self.model.rtt.smoothed:
            self.detector.scan(self.una, False, now)
        if self._probe_at() <= now:
            self._probe(now)
        head = self._segments.get(self.una)
        if head is not None and self._size.is_large(len(head.data)):
            self._size.waits(head.sent[0].moment.sent_at, self.model.rtt.best, now)

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
        edge = self.detector.edge = self.una + self.peer_window
        if edge < self.next:
            self.detector.take_back(now)
            if not self.peer_window:
                return
        found = (self._segments.get(sn) for sn in dict.fromkeys((self.una, min(edge, self.next) - 1)))
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
