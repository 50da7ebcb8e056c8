"""The receiving half of a conversation: bytes in order, and what is said about them.  Sans-IO.

ACKs leave with the batch of input that caused them; those above a gap are repeated, since the sender could otherwise not learn
of a receipt whose ACK was lost.  Two kinds of senders are told apart by their `ts`: a clock shows the same value twice in a
burst, transmission numbers never do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from easytier_kcp_plugin.kcp.arq.edge import WindowEdge
from easytier_kcp_plugin.kcp.arq.memory import GrowingWindow
from easytier_kcp_plugin.kcp.segment import ACK_RUNS, RUN, SEGMENT, SEGMENT_HEAD, SEGMENT_SIZE, SEGMENT_TAIL, Command

_U32: Final = 0xFFFF_FFFF

# Wire constants: stock decides.
ACKS_PER_DATAGRAM: Final = 50
RUNS_PER_DATAGRAM: Final = 147

# Ours.
MAX_DATAGRAM: Final = 2048
"""Bytes.  A frame has at most 2000; a compressed one may unfold to 16 KiB, and a window full of these is too much."""
REPEATS: Final = 24
BUSY_BATCH: Final = 20
BUSY_REPEATS: Final = 96
"""A batch with so many new ACKs repeats as many as it has, up to this."""
RUNS_RETOLD: Final = 2
"""With 10 % loss one run of a thousand stays untold."""
MAX_ACKS: Final = 4096
"""Kept for the next pump; a PUSH beyond them goes unacknowledged."""
DAMPING: Final = 2
DAMPING_AGE: Final = 0.030
"""Seconds.  So many ACKs of that age end each datagram for a clock sender; see docs/arq.md, A stock sender."""
MAX_DAMPING: Final = 256
"""ACKs that wait to become so old: pumps are half a millisecond apart at least."""
UNKNOWN_WINDOW: Final = 128
"""Segments offered until it is known what kind of sender this is."""
NUMBERED_AFTER: Final = 8
"""PUSHes with a `ts` of their own."""
_ACK: Final = int(Command.ACK)


class Receiver:
    """Sequence numbers are kept whole (they do not wrap), those of the wire are their low 32 bits."""

    __slots__ = (
        "_acks",
        "_ahead",
        "_clock_ms",
        "_conv",
        "_damping",
        "_distinct",
        "_last_sn",
        "_last_ts",
        "_leftover",
        "_queue",
        "_recent",
        "_runs_told",
        "duplicates",
        "edge",
        "limit",
        "next",
        "numbered",
        "refused",
        "space",
        "tells_runs",
    )

    def __init__(self, conv: int, space: GrowingWindow) -> None:
        """`space` is for segments in order and unread and for those out of order, together."""
        self.next = 0
        self.edge: WindowEdge | None = None
        """Of a sender with a clock."""
        self.duplicates = 0
        self.refused = False
        """Whether a PUSH has come for which there is no room; whoever has told the sender so resets it."""
        self.space = space
        self.limit = space.limit()
        """Segments that may be unread; as of the last `begin` or `window`."""
        self.numbered = False
        """Whether the sender is known to number its transmissions."""
        self.tells_runs = False
        """Whether the sender understands acknowledgements of runs."""
        self._conv = conv
        self._runs_told: deque[list[bytes]] = deque(maxlen=RUNS_RETOLD)
        self._queue: deque[bytes] = deque()
        self._leftover = b""
        self._ahead: dict[int, bytes] = {}
        self._acks: list[tuple[int, int]] = []
        self._recent: deque[tuple[int, int]] = deque(maxlen=BUSY_REPEATS)
        self._damping: deque[tuple[float, int, int]] = deque(maxlen=MAX_DAMPING)
        self._last_ts = self._last_sn = -1
        self._distinct = 0
        self._clock_ms = 0

    @property
    def readable(self) -> bool:
        """Whether `read` would return something."""
        return bool(self._queue) or bool(self._leftover)

    @property
    def owes_acks(self) -> bool:
        """Whether `acknowledge` has something to say."""
        return bool(self._acks)

    def begin(self) -> None:
        """A batch of input follows, at the end of which `settle` is to be called."""
        self.limit = self.space.limit()

    def settle(self) -> None:
        """Have what is unread counted."""
        held = len(self._queue) + len(self._ahead)
        if held != self.space.held:
            self.space.hold(held)

    def push(self, sn: int, ts: int, payload: bytes, now: float) -> None:
        """Take a PUSH in; both numbers as on the wire."""
        following = self.next
        ahead = ((sn - following + 0x8000_0000) & _U32) - 0x8000_0000
        if ahead >= self.limit - len(self._queue):
            self.refused = True
            return
        if not self.numbered:
            self._tell_kinds_apart(sn, ts)
        if self.edge is not None:
            self._clock_ms += _signed(ts - self._clock_ms)
            self.edge.arrive(self._clock_ms, now)
        number = following + ahead
        if len(self._acks) < MAX_ACKS:
            self._acks.append((number, ts))
        if ahead == 0:
            self._queue.append(payload)
            self.next = number + 1
            if self._ahead:
                self._queue_what_is_in_order()
        elif ahead < 0 or number in self._ahead:
            self.duplicates += 1
        else:
            self._ahead[number] = payload

    def push_lone(self, datagrams: Sequence[bytes], start: int, head: bytes, una: int) -> int:
        """Take in datagrams from number `start` on, as long as each is one PUSH, not a repetition, of a numbered sender.

        Its first fields (conv, command, fragment, window) have to be `head`, and its una to be `una`.  Returns how many were.
        """
        acks, queue, waiting, following = self._acks, self._queue, self._ahead, self.next
        room = min(self.limit - len(queue), MAX_ACKS - len(acks)) if self.numbered else 0
        unpack, tail_at, first = SEGMENT_TAIL.unpack_from, SEGMENT_HEAD.size, len(acks)
        for index in range(start, min(len(datagrams), start + max(0, room))):
            datagram = datagrams[index]
            if not SEGMENT_SIZE < len(datagram) <= MAX_DATAGRAM or datagram[:tail_at] != head:
                break
            ts, sn, their_una, length = unpack(datagram, tail_at)
            ahead = (sn - following) & _U32
            if their_una != una or length != len(datagram) - SEGMENT_SIZE or ahead >= room:
                break
            number = following + ahead
            if not ahead:
                queue.append(datagram[SEGMENT_SIZE:])
                following += 1
                if waiting:
                    self.next = following
                    self._queue_what_is_in_order()
                    following = self.next
                    room = self.limit - len(queue)
                else:
                    room -= 1
            elif number in waiting:
                break
            else:
                waiting[number] = datagram[SEGMENT_SIZE:]
            acks.append((number, ts))
        self.next = following
        return len(acks) - first

    def read(self, limit: int) -> bytes:
        """Up to `limit` bytes."""
        parts, size = [self._leftover], len(self._leftover)
        queue = self._queue
        while size < limit and queue:
            part = queue.popleft()
            parts.append(part)
            size += len(part)
        self.settle()
        joined = b"".join(parts)
        if size <= limit:
            self._leftover = b""
            return joined
        self._leftover = joined[limit:]
        return joined[:limit]

    def advance(self, rtt: float, now: float) -> None:
        """Let the window grow, or its edge move; before `window` is asked for."""
        # What has been read: for a reader that sleeps nothing has to grow.
        self.space.pass_on(self.next - len(self._queue), rtt, now)
        if self.edge is not None:
            self.edge.capacity = self.space.size
            self.edge.advance(self.next, rtt, now)

    def window(self) -> int:
        """Segments to advertise."""
        self.limit = self.space.limit()
        free = max(0, self.limit - len(self._queue))
        if self.edge is not None:
            return min(free, self.edge.window(self.next))
        return free if self.numbered or self._distinct >= NUMBERED_AFTER else min(free, UNKNOWN_WINDOW)

    def acknowledge(self, window: int, now: float) -> list[bytes]:
        """Bodies of the datagrams that acknowledge what came since the last call, and tell of `window`."""
        fresh, self._acks = self._acks, []
        if self.tells_runs:
            return self._acknowledge_runs([ts for _, ts in fresh], window)
        above = [ack for ack in reversed(self._recent) if ack[0] > self.next]
        room = REPEATS if len(fresh) < BUSY_BATCH else min(BUSY_REPEATS, len(fresh) + 8)
        damping = self._damping_acks(now) if self.edge is not None else []
        # The damping ones come last: a stock sender's estimates are those of the last ACK it reads.
        told = fresh + above[: room - len(damping)] + damping
        if self.edge is not None:
            # No datagram repeats more of a batch.
            self._damping.extend((now, sn, ts) for sn, ts in fresh[-DAMPING:])
        self._recent.extend(ack for ack in fresh if ack[0] > self.next)
        una, conv = self.next & _U32, self._conv
        encode = SEGMENT.pack
        encoded = [encode(conv, _ACK, 0, window, ts, sn & _U32, una, 0) for sn, ts in told]
        return [b"".join(encoded[start : start + ACKS_PER_DATAGRAM]) for start in range(0, len(encoded), ACKS_PER_DATAGRAM)]

    def close(self) -> bytes:
        """Drop everything; returns what came in order and was not read, which counts until `release`."""
        rest = b"".join((self._leftover, *self._queue))
        self.space.hold(len(self._queue))
        self._queue.clear()
        self._ahead.clear()
        self._recent.clear()
        self._damping.clear()
        self._runs_told.clear()
        self._acks = []
        self._leftover = b""
        return rest

    def release(self) -> None:
        """What `close` has returned is gone as well."""
        self.space.hold(0)
        self.space.shrink()

    def _acknowledge_runs(self, numbers: list[int], window: int) -> list[bytes]:
        """Each run is told in so many datagrams more, since the sender forgets nothing but learns of it in no other way."""
        runs = _runs(sorted(numbers))
        told = runs + [run for earlier in self._runs_told for run in earlier]
        self._runs_told.append(runs[-RUNS_PER_DATAGRAM:])
        bodies = []
        for start in range(0, len(told), RUNS_PER_DATAGRAM):
            payload = b"".join(told[start : start + RUNS_PER_DATAGRAM])
            head = SEGMENT.pack(self._conv, ACK_RUNS, 0, window, 0, 0, self.next & _U32, len(payload))
            bodies.append(head + payload)
        return bodies

    def _damping_acks(self, now: float) -> list[tuple[int, int]]:
        old: deque[tuple[int, int]] = deque(maxlen=DAMPING)
        while self._damping and self._damping[0][0] <= now - DAMPING_AGE:
            _, sn, ts = self._damping.popleft()
            old.append((sn, ts))
        return list(old)

    def _queue_what_is_in_order(self) -> None:
        ahead, queue = self._ahead, self._queue
        while self.next in ahead:
            queue.append(ahead.pop(self.next))
            self.next += 1

    def _tell_kinds_apart(self, sn: int, ts: int) -> None:
        if self.edge is None:
            if ts == self._last_ts and sn != self._last_sn:
                self.edge = WindowEdge(self.space.size, cap=float(min(UNKNOWN_WINDOW, self.space.size)))
                self._clock_ms = ts
            elif ts != self._last_ts:
                self._distinct += 1
            self._last_ts, self._last_sn = ts, sn


def _signed(difference: int) -> int:
    """The difference of two sequence numbers, one of which may have wrapped."""
    return ((difference + 0x8000_0000) & _U32) - 0x8000_0000


def _runs(numbers: list[int]) -> list[bytes]:
    """Runs, encoded, of sorted numbers, which may come twice."""
    runs: list[bytes] = []
    first = following = numbers[0]
    for number in numbers:
        if number == following:
            following += 1
        elif number > following:
            runs.append(RUN.pack(first, following - first))
            first, following = number, number + 1
    runs.append(RUN.pack(first, following - first))
    return runs
