"""One conversation: the face `kcp.engine.Engine` over a sender and a receiver.  Sans-IO; made by `path.py`, which pumps it.

Here is what concerns both halves: datagrams, the windows told and heard, WASK and WINS.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

from easytier_kcp_plugin.kcp.arq.edge import TOLD_EVERY
from easytier_kcp_plugin.kcp.arq.rate import RateModel
from easytier_kcp_plugin.kcp.arq.receiver import Receiver
from easytier_kcp_plugin.kcp.arq.redundancy import TailBudget
from easytier_kcp_plugin.kcp.arq.sender import Sender
from easytier_kcp_plugin.kcp.engine import EngineStatistics
from easytier_kcp_plugin.kcp.segment import SEGMENT, SEGMENT_SIZE, Command

_U32: Final = 0xFFFF_FFFF

# Wire constants: stock decides (data plane 5.7).
MTU: Final = 1200
WINDOW: Final = 1024

# Ours.  Times in seconds.
MAX_DATAGRAM: Final = 2048
"""Bytes.  A frame has at most 2000; a compressed one may unfold to 64 KiB, and a window full of these is too much."""
ASK_MIN: Final = 0.2
ASK_MAX: Final = 2.0
TELL_AGAIN: Final = (0.02, 0.06)
"""After a window that was shut has opened: it is told at once, and then once more after each of these."""
TELL_SHARE: Final = 8
"""A window that has opened by one of so many parts is told at once."""
_PUSH: Final = int(Command.PUSH)
_ACK: Final = int(Command.ACK)
_WASK: Final = int(Command.WASK)
_WINS: Final = int(Command.WINS)


class Owner(Protocol):
    """The path."""

    model: RateModel
    tail: TailBudget

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
        "_ask_wait",
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
        "_tell_at",
        "_told_at",
        "_told_edge",
        "_told_window",
        "is_ready",
        "receiver",
        "scheduled",
        "sender",
    )

    def __init__(self, path: Owner, conv: int, receive_window: int, mss: int, send_window: int, now: float) -> None:
        """Windows in segments, `mss` in bytes."""
        self.sender = Sender(path.model, path.tail, self, mss, send_window)
        self.receiver = Receiver(conv, receive_window)
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
        self._emptied_at: float | None = now
        self._ask_at = math.inf
        self._ask_wait = ASK_MIN
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
            peer_window=sender.peer_window,
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
        if self._closed:
            return
        segments = self._parse(datagram)
        if not segments:
            self._rejected += 1
            return
        self._received += 1
        self._heard = True
        sender, receiver = self.sender, self.receiver
        highest = sender.una
        base, last_number = sender.una, sender.detector.last_number
        acks: list[tuple[int, int]] = []
        for command, ts, sn, una, start, end in segments:
            ahead = ((una - base + 0x8000_0000) & _U32) - 0x8000_0000
            highest = max(highest, base + ahead)
            if command == _ACK:
                acks.append((last_number - ((last_number - ts) & _U32), base + _signed(sn - base)))
            elif command == _PUSH:
                self._got_payload = True
                receiver.push(sn, ts, datagram[start:end], now)
            elif command == _WASK:
                self._owes_window = True
        if sender.acknowledge(highest, acks, now):
            self._progress_at = now
        self._note_peer(now)
        self._path.touch(self)

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

    def ask(self, now: float) -> None:
        """Ask the peer for a segment (WASK) at the next pump and then at growing intervals, until one comes."""
        if self._ask_at is math.inf and not self._closed:
            self._ask_wait = min(max(2 * self._path.model.rtt.best, ASK_MIN), ASK_MAX)
            self._ask_at = now
            self._path.touch(self)

    def close(self) -> None:
        """Drop all buffers and leave the path."""
        if not self._closed:
            self._closed = True
            self.sender.close()
            self.receiver.close()
            self._out, self._tell_at, self._ask_at = [], [], math.inf
            self._path.leave(self)

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
            for body in receiver.acknowledge(now):
                self._emit(body, receiver.window(), now)
            self._owes_window = False
        if not sender.peer_window and sender.unsent and not sender.in_flight:
            self.ask(now)
        if self._ask_at <= now:
            self._signal(_WASK, now)
            self._ask_at = now + self._ask_wait
            self._ask_wait = min(self._ask_wait * 1.5, ASK_MAX)
        if self._tell_at and self._tell_at[0] <= now:
            self._tell_at.pop(0)
            self._owes_window = True
        if self._window_opened() or (self._edge_due(now) and receiver.window() > self._told_window):
            self._owes_window = True
        if self._owes_window:
            self._owes_window = False
            self._signal(_WINS, now)

    def transmit(self, now: float) -> int:
        """Send one segment; returns its bytes on the wire, 0 if there is nothing that may be sent."""
        was_idle = not self.sender.in_flight
        size = self.sender.transmit(now)
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

    def push(self, number: int, sn: int, payload: bytes) -> None:
        """For the sender: have a PUSH leave."""
        window, una = self.receiver.window(), self.receiver.next & _U32
        head = SEGMENT.pack(self._conv, _PUSH, 0, window, number & _U32, sn & _U32, una, len(payload))
        self._emit(head + payload, window, None)

    # Helpers.

    def _parse(self, datagram: bytes) -> list[tuple[int, int, int, int, int, int]]:
        """(command, ts, sn, una, start and end of the payload) of all that stock would act on.

        Nothing if any of it acknowledges what was never sent, or would stop a stream: empty segments and fragments.
        """
        size = len(datagram)
        if size > MAX_DATAGRAM:
            return []
        segments: list[tuple[int, int, int, int, int, int]] = []
        offset, conv = 0, self._conv
        base, in_flight = self.sender.una, self.sender.next - self.sender.una
        unpack = SEGMENT.unpack_from
        peer_window = self.sender.peer_window
        while size - offset >= SEGMENT_SIZE:
            their_conv, command, fragment, wnd, ts, sn, una, length = unpack(datagram, offset)
            start = offset + SEGMENT_SIZE
            offset = start + length
            if their_conv != conv or not _PUSH <= command <= _WINS or offset > size:
                break
            ahead = ((una - base + 0x8000_0000) & _U32) - 0x8000_0000
            if ahead > in_flight:
                return []
            if command == _PUSH and (not length or fragment):
                return []
            if ahead >= 0:
                # What is older was overtaken, and its window as well.
                peer_window = wnd
            segments.append((command, ts, sn, una, start, offset))
        self.sender.peer_window = peer_window
        return segments

    def _note_peer(self, now: float) -> None:
        sender = self.sender
        # The largest value seen is no measure by itself: a reader that was slow from the start never showed its whole window.
        self._full_window = max(self._full_window, sender.peer_window)
        if not self.drained or sender.peer_window < self._full_window:
            self._emptied_at = None
        elif self._emptied_at is None:
            self._emptied_at = now
        if sender.peer_window or not sender.unsent:
            self._ask_at = math.inf

    def _window_opened(self) -> bool:
        """Whether the application has read so much that the peer should know before the next ACK.

        What fills a gap makes hundreds of segments readable at once, and the ACK that follows tells of a small window.
        """
        receiver = self.receiver
        window = receiver.window()
        if not self._told_window:
            return window > 0
        return receiver.next + window - self._told_edge >= receiver.capacity // TELL_SHARE

    def _edge_due(self, now: float) -> bool:
        edge = self.receiver.edge
        return edge is not None and now >= self._told_at + TOLD_EVERY * 0.9

    def _signal(self, command: int, now: float) -> None:
        window = self.receiver.window()
        self._emit(SEGMENT.pack(self._conv, command, 0, window, 0, 0, self.receiver.next & _U32, 0), window, now)

    def _emit(self, body: bytes, window: int, now: float | None) -> None:
        """Append to the datagrams that leave; what fits into the last one goes with it."""
        if self._open_datagram and len(self._out[-1]) + len(body) <= MTU:
            self._out[-1] += body
        else:
            self._out.append(body)
            self._open_datagram = True
        if now is not None:
            self._told_at = now
            if not self._told_window and window:
                # Stock waits 7 s before it asks, should this one be lost.
                self._tell_at = [now + delay for delay in TELL_AGAIN]
        self._told_window = window
        self._told_edge = self.receiver.next + window


def _signed(difference: int) -> int:
    """The difference of two sequence numbers, one of which may have wrapped."""
    return ((difference + 0x8000_0000) & _U32) - 0x8000_0000
