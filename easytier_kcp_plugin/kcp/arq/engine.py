"""One conversation: the face `kcp.engine.Engine` over a sender and a receiver.  Sans-IO; made by `path.py`, which pumps it.

Here is what concerns both halves: datagrams, the windows told and heard, WASK and WINS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

from easytier_kcp_plugin.kcp import conn_data
from easytier_kcp_plugin.kcp.arq.edge import TOLD_EVERY
from easytier_kcp_plugin.kcp.arq.memory import LARGEST_WINDOW, GrowingWindow, PathMemory
from easytier_kcp_plugin.kcp.arq.rate import RateModel
from easytier_kcp_plugin.kcp.arq.receiver import MAX_ACKS, MAX_DATAGRAM, RUNS_RETOLD, Receiver
from easytier_kcp_plugin.kcp.arq.redundancy import TailBudget
from easytier_kcp_plugin.kcp.arq.sender import Sender
from easytier_kcp_plugin.kcp.arq.transmission import OutSegment
from easytier_kcp_plugin.kcp.conn_data import Offer
from easytier_kcp_plugin.kcp.engine import EngineStatistics
from easytier_kcp_plugin.kcp.segment import ACK_RUNS, RUN, SEGMENT, SEGMENT_HEAD, SEGMENT_SIZE, Command
from easytier_kcp_plugin.kcp.segment_size import SegmentSize

_U32: Final = 0xFFFF_FFFF

# Wire constants: stock decides (data plane 5.7).
MTU: Final = 1200
"""Of datagrams with several segments."""
WINDOW: Final = 1024

# Ours.  Times in seconds.
ASK_MIN: Final = 0.2
ASK_MAX: Final = 2.0
ASK_GAP: Final = 0.02
"""At least, and a round trip, between two that had an answer, and half as long again with each: an answer that is no news must
not draw the next question at once, for where the network makes copies both would multiply."""
TELL_AGAIN: Final = (0.02, 0.06)
"""After a window that was shut has opened: it is told at once, and then once more after each of these."""
TELL_SHARE: Final = 8
"""A window that has opened by one of so many parts is told at once."""
MAX_NUMBERS: Final = (1 + RUNS_RETOLD) * MAX_ACKS
"""That one datagram may acknowledge."""
_PUSH: Final = int(Command.PUSH)
_ACK: Final = int(Command.ACK)
_WASK: Final = int(Command.WASK)
_WINS: Final = int(Command.WINS)


class Owner(Protocol):
    """The path."""

    model: RateModel
    tail: TailBudget
    memory: PathMemory
    size: SegmentSize

    def touch(self, engine: ArqEngine) -> None:
        """Have `engine` looked at during the next pump."""
        ...

    def leave(self, engine: ArqEngine) -> None:
        """`engine` is closed."""
        ...


class ArqEngine:
    """Engine of the conversation `conv`."""

    __slots__ = (
        "_ask_at",
        "_ask_gap",
        "_ask_wait",
        "_asked_at",
        "_closed",
        "_conv",
        "_emptied_at",
        "_full_window",
        "_got_payload",
        "_heard",
        "_open_datagram",
        "_out",
        "_owes_window",
        "_path",
        "_progress_at",
        "_received",
        "_rejected",
        "_sent",
        "_shut_at",
        "_tell_at",
        "_told_at",
        "_told_edge",
        "_told_window",
        "is_ready",
        "receiver",
        "scheduled",
        "sender",
    )

    def __init__(self, path: Owner, conv: int, receive_window: int, largest: int, now: float) -> None:
        """The first receive window, and what it may grow to while the peer is not known to be ours, in segments."""
        self.sender = Sender(path.model, path.tail, path.size, self, GrowingWindow(path.memory, WINDOW))
        self.receiver = Receiver(conv, GrowingWindow(path.memory, receive_window))
        self.receiver.space.allow(largest)
        self.is_ready = False
        """Whether the path has it in its round."""
        self.scheduled = math.inf
        """When the path will call `tick`."""
        self._path = path
        self._conv = conv
        self._out: list[bytes] = []
        self._open_datagram = False
        self._full_window = WINDOW
        self._told_window = self._told_edge = receive_window
        self._told_at = -math.inf
        self._owes_window = False
        self._tell_at: list[float] = []
        self._heard = self._got_payload = self._closed = False
        self._progress_at = now
        self._shut_at = -math.inf
        self._emptied_at: float | None = now
        self._ask_at = math.inf
        self._ask_wait = ASK_MIN
        self._asked_at, self._ask_gap = -math.inf, 0.0
        self._sent = self._received = self._rejected = 0

    # The face.

    @property
    def readable(self) -> bool:
        """Whether `receive` would return something."""
        return self.receiver.readable

    @property
    def room(self) -> int:
        """Bytes that `send` would take."""
        return 0 if self._closed else self.sender.room

    @property
    def waiting_bytes(self) -> int:
        """Bytes taken and not acknowledged, at most."""
        return 0 if self._closed else self.sender.waiting_bytes

    @property
    def drained(self) -> bool:
        """Whether all that was taken has been acknowledged."""
        return not self.sender.unsent and not self.sender.in_flight

    @property
    def heard(self) -> bool:
        """Whether any valid segment of the peer has come."""
        return self._heard

    @property
    def got_payload(self) -> bool:
        """Whether any byte of the peer has come, in order or not."""
        return self._got_payload

    @property
    def emptied_at(self) -> float | None:
        """Since when it is known that the peer has passed on everything."""
        return self._emptied_at

    @property
    def in_flight(self) -> bool:
        """Whether segments have been sent and are not acknowledged."""
        return self.sender.in_flight

    @property
    def progress_at(self) -> float:
        """When the peer last acknowledged something new, or when a flight began."""
        return self._progress_at

    @property
    def alive_at(self) -> float:
        """The same, or when the peer last said that its window is shut."""
        return max(self._progress_at, self._shut_at)

    @property
    def statistics(self) -> EngineStatistics:
        """As of now."""
        sender, model = self.sender, self._path.model
        counters = sender.counters
        measured = bool(model.rtt.smoothed)
        return EngineStatistics(
            datagrams_sent=self._sent,
            datagrams_received=self._received,
            datagrams_rejected=self._rejected,
            segments_new=sender.next,
            segments_repeated=counters.sent - sender.next,
            segments_in_flight=sender.next - sender.una,
            peer_window=sender.peer_window,
            window=min(sender.peer_window, sender.window.size),
            waiting_bytes=sender.waiting_bytes,
            rtt=model.rtt.smoothed if measured else None,
            lowest_rtt=model.rtt.lowest if measured and model.rtt.lowest < math.inf else None,
            rate=model.bandwidth or None,
            path_inflight_bytes=model.inflight,
            loss=model.loss.share if model.loss.resolved else None,
            repairs=counters.repairs + counters.head_of_line,
            copies=counters.copies,
            probes=counters.probes,
            spurious_losses=counters.spurious,
            duplicates_received=self.receiver.duplicates,
        )

    def input(self, datagram: bytes, now: float) -> None:
        """Take a body in.  Never raises: what is broken is counted and skipped."""
        self.receiver.begin()
        self._input(datagram, now)
        self.receiver.settle()

    def _input(self, datagram: bytes, now: float) -> None:
        if self._closed:
            return
        sender = self.sender
        una = before = sender.una
        in_flight = sender.next - before
        peer_window = sender.peer_window
        acks: list[tuple[int, int]] = []
        runs: list[tuple[int, int]] = []
        pushes: list[tuple[int, int, int, int]] = []
        asked = False
        size = len(datagram)
        conv, unpack, offset = self._conv, SEGMENT.unpack_from, 0
        # What stock would act on.  Nothing at all if any of it acknowledges what was never sent, or would stop a stream: empty
        # segments and fragments.
        while size - offset >= SEGMENT_SIZE and size <= MAX_DATAGRAM:
            their_conv, command, fragment, wnd, ts, sn, their_una, length = unpack(datagram, offset)
            start = offset + SEGMENT_SIZE
            end = start + length
            if their_conv != conv or not _PUSH <= command <= ACK_RUNS or end > size:
                break
            offset = end
            ahead = ((their_una - before + 0x8000_0000) & _U32) - 0x8000_0000
            if ahead > in_flight or (command == _PUSH and (not length or fragment)):
                self._rejected += 1
                return
            if command == ACK_RUNS and not _take_runs(runs, datagram[start:end]):
                self._rejected += 1
                return
            if ahead >= 0:
                # What is older was overtaken, and its window as well.
                peer_window = wnd
                if before + ahead > una:
                    una = before + ahead
            if command == _ACK:
                acks.append((ts, sn))
            elif command == _PUSH:
                pushes.append((sn, ts, start, end))
            elif command == _WASK:
                asked = True
        if not offset:
            self._rejected += 1
            return
        self._received += 1
        self._heard = True
        if pushes:
            self._got_payload = True
            for sn, ts, start, end in pushes:
                self.receiver.push(sn, ts, datagram[start:end], now)
        if asked or self.receiver.refused:
            # A sender that has not yet heard how small the window is would take what is dropped here for a path that is dead.
            self.receiver.refused = False
            self._owes_window = True
        if (acks or runs or una > before) and sender.acknowledge(una, acks, runs, now):
            self._progress_at, self._ask_gap = now, 0.0
        elif not peer_window:
            self._shut_at = now
        if self._emptied_at is None or peer_window != sender.peer_window or self._ask_at is not math.inf:
            sender.peer_window = peer_window
            self._note_peer(now)
        self._path.touch(self)

    def input_all(self, datagrams: Sequence[bytes], now: float) -> None:
        """`input` for each of a batch; quick for what a bulk flow of our kind consists of."""
        sender, receiver, index = self.sender, self.receiver, 0
        receiver.begin()
        while index < len(datagrams) and not self._closed:
            if self._emptied_at is not None and self._ask_at is math.inf and self._heard:
                # The only news of each is its payload: our window, una and the rest stay as they are.
                head = SEGMENT_HEAD.pack(self._conv, _PUSH, 0, sender.peer_window)
                taken = receiver.push_lone(datagrams, index, head, sender.una & _U32)
                if taken:
                    self._received += taken
                    self._got_payload = True
                    self._path.touch(self)
                    index += taken
                    continue
            self._input(datagrams[index], now)
            index += 1
        receiver.settle()

    def send(self, data: bytes | memoryview) -> int:
        """Take bytes to send; returns how many were taken, 0 if the buffer is full."""
        if self._closed:
            return 0
        taken = self.sender.write(data)
        if taken:
            self._emptied_at = None
            self._path.touch(self)
        return taken

    def receive(self, limit: int) -> bytes:
        """Up to `limit` bytes that arrived in order."""
        data = self.receiver.read(limit)
        if not self._closed and self._window_opened():
            self._path.touch(self)
        return data

    def meet(self, offer: Offer) -> None:
        """The peer is of our kind.  If it understands runs its engine is like this one, and numbers its transmissions."""
        if not self._closed and offer.features & conn_data.ACK_RUNS:
            self.receiver.numbered = self.receiver.tells_runs = True
            self.receiver.space.allow(LARGEST_WINDOW)
            self.sender.window.allow(offer.window)

    def ask(self, now: float, *, again: bool = False) -> None:
        """Ask the peer for a segment (WASK) at the next pump and then at growing intervals, until one comes."""
        if (again or self._ask_at is math.inf) and not self._closed:
            self._ask_wait = min(max(2 * self._path.model.rtt.best, ASK_MIN), ASK_MAX)
            self._ask_at = now if again else max(now, self._asked_at + self._ask_gap)
            self._path.touch(self)

    def close(self) -> bytes:
        """Drop all buffers and leave the path; returns what can still be read."""
        if self._closed:
            return b""
        self._closed = True
        self.sender.close()
        self._out, self._tell_at, self._ask_at = [], [], math.inf
        self._path.leave(self)
        return self.receiver.close()

    def release(self) -> None:
        """After `close`: give back what the receive window has reserved, and held."""
        self.receiver.release()

    # What the path asks for.

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def control(self, now: float) -> None:
        """Have ACKs and window updates leave, as far as they are due."""
        receiver, sender = self.receiver, self.sender
        receiver.advance(self._path.model.rtt.best, now)
        if receiver.owes_acks:
            for body in receiver.acknowledge(self._tell(now), now):
                self._emit(body)
            self._owes_window = False
        if sender.shut_out:
            self.ask(now)
        if self._ask_at <= now:
            self._signal(_WASK, now)
            self._asked_at, self._ask_at = now, now + self._ask_wait
            self._ask_gap = min(max(1.5 * self._ask_gap, self._path.model.rtt.best, ASK_GAP), ASK_MAX)
            self._ask_wait = min(self._ask_wait * 1.5, ASK_MAX)
        if self._tell_at and self._tell_at[0] <= now:
            self._tell_at.pop(0)
            self._owes_window = True
        if self._window_opened() or (self._edge_due(now) and receiver.window() > self._told_window):
            self._owes_window = True
        if self._owes_window:
            self._owes_window = False
            self._signal(_WINS, now)

    def transmit(self, count: int, now: float) -> int:
        """Send up to `count` segments; returns their bytes on the wire, 0 if there is nothing that may be sent."""
        was_idle = not self.sender.in_flight
        size = self.sender.transmit(count, now)
        if size and was_idle:
            self._progress_at = now
        return size

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.sender.tick(now)

    def deadline(self, now: float) -> float:
        """When to be looked at again."""
        told_at = self._tell_at[0] if self._tell_at else math.inf
        edge = self.receiver.edge
        edge_at = math.inf
        if edge is not None and self._told_window < edge.cap and edge.moving(self.receiver.next):
            edge_at = max(now, self._told_at) + TOLD_EVERY
        return min(self.sender.deadline(), told_at, self._ask_at, edge_at)

    def take(self) -> list[bytes]:
        """The datagrams that leave."""
        out, self._out = self._out, []
        self._open_datagram = False
        self._sent += len(out)
        return out

    def push(self, number: int, segments: Sequence[OutSegment]) -> None:
        """For the sender: have a PUSH of each leave; `number` is that of the first transmission, and the others follow."""
        window, una, conv = self._told(), self.receiver.next & _U32, self._conv
        pack, out, joins = SEGMENT.pack, self._out, self._open_datagram
        for segment in segments:
            payload = segment.data
            body = pack(conv, _PUSH, 0, window, number & _U32, segment.sn & _U32, una, len(payload)) + payload
            number += 1
            if joins and len(out[-1]) + len(body) <= MTU:
                out[-1] += body
            else:
                out.append(body)
                joins = True
        self._open_datagram = joins

    # Helpers.

    def _note_peer(self, now: float) -> None:
        sender = self.sender
        # The largest value seen is no measure by itself: a reader that was slow from the start never showed its whole window.
        self._full_window = max(self._full_window, sender.peer_window)
        if not self.drained or sender.peer_window < self._full_window:
            self._emptied_at = None
        elif self._emptied_at is None:
            self._emptied_at = now
        if sender.peer_window or not (sender.unsent or sender.shut_out):
            self._ask_at = math.inf

    def _window_opened(self) -> bool:
        """Whether the application has read so much that the peer should know before the next ACK.

        What fills a gap makes hundreds of segments readable at once, and the ACK that follows tells of a small window.
        """
        receiver = self.receiver
        window = receiver.window()
        if not self._told_window:
            return window > 0
        return receiver.next + window - self._told_edge >= max(1, receiver.limit // TELL_SHARE)

    def _edge_due(self, now: float) -> bool:
        edge = self.receiver.edge
        return edge is not None and now >= self._told_at + TOLD_EVERY * 0.9

    def _signal(self, command: int, now: float) -> None:
        window = self._tell(now)
        self._emit(SEGMENT.pack(self._conv, command, 0, window, 0, 0, self.receiver.next & _U32, 0))

    def _emit(self, body: bytes) -> None:
        """Append to the datagrams that leave; what fits into the last one goes with it."""
        if self._open_datagram and len(self._out[-1]) + len(body) <= MTU:
            self._out[-1] += body
        else:
            self._out.append(body)
            self._open_datagram = True

    def _tell(self, now: float) -> int:
        """The window for a segment that leaves for its sake or with ACKs."""
        shut = not self._told_window
        self._told_at = now
        window = self._told()
        if shut and window:
            # Stock waits 7 s before it asks, should this one be lost.
            self._tell_at = [now + delay for delay in TELL_AGAIN]
        return window

    def _told(self) -> int:
        """The window for a segment that leaves."""
        window = self._told_window = self.receiver.window()
        self._told_edge = self.receiver.next + window
        return window


def _take_runs(runs: list[tuple[int, int]], payload: bytes) -> bool:
    """Append those of `payload`; whether they are whole and all together name no more than a peer can have received."""
    if len(payload) % RUN.size:
        return False
    runs += RUN.iter_unpack(payload)
    return sum(count for _, count in runs) <= MAX_NUMBERS
