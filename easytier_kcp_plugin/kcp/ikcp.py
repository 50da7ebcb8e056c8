"""Engines over the PyPI package `kcp` 0.1.6 (skywind3000's ikcp.c), with stock's settings.  Sans-IO.

The simplest engine there is: no pacing, no model of the path beyond its RTT.  The package is optional; `load` says what to
install if it is missing.  How its traps are avoided is in docs/kcp.md, The engine.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, Final

from easytier_kcp_plugin.kcp.conn_data import Offer
from easytier_kcp_plugin.kcp.engine import Engine, EngineStatistics, PathFactory
from easytier_kcp_plugin.kcp.segment import SEGMENT, SEGMENT_SIZE, Command, Segment, parse_segments

# Wire constants: stock decides (data plane 5.7).
MTU: Final = 1200
MSS: Final = MTU - SEGMENT_SIZE
WINDOW: Final = 1024
INTERVAL_MS: Final = 10
RESEND: Final = 2
FIRST_PEER_WINDOW: Final = 128
_U32: Final = 0xFFFF_FFFF

# Ours.
MAX_DATAGRAM: Final = 2048
"""Bytes.  A frame has at most 2000; a compressed one may unfold to 64 KiB, and a window full of these is too much."""
SEND_BUFFER: Final = 256 * 1024
"""Bytes that wait behind a full window: some RTTs of work for the writer's wake-up, little memory."""
QUIET_AFTER: Final = 1.0
QUIET_INTERVAL: Final = 0.05
_INTERVAL: Final = INTERVAL_MS / 1000
ASK_MIN: Final = 0.2
ASK_MAX: Final = 2.0
ASK_GAP: Final = 0.02
_MAX_RTT_MS: Final = 60_000
_ALL: Final = 1 << 30
TELL_AGAIN: Final = (0.02, 0.06)
"""Seconds after which a window that has opened again is told once more."""


class EngineUnavailable(ImportError):
    """The package behind this engine is not installed."""


def paths() -> PathFactory:
    """Makes paths with these engines.  Raises `EngineUnavailable`, with what to do about it, if the package is missing."""
    try:
        control_block = importlib.import_module("kcp.extension").KCP
    except ImportError as error:
        raise EngineUnavailable(
            f"the ikcp engine needs the package kcp, which cannot be imported ({error}); "
            "pip install 'kcp==0.1.6' builds it with a C compiler and the Python headers"
        ) from error
    return lambda: IkcpPath(control_block)


class IkcpPath:
    """The conversations with one peer, and their RTT."""

    def __init__(self, control_block: Any) -> None:
        self._control_block = control_block
        self._rtt: float | None = None
        self._active: dict[IkcpEngine, None] = {}

    @property
    def offer(self) -> Offer:
        return Offer(window=WINDOW)

    @property
    def size(self) -> None:
        return None

    @property
    def rtt(self) -> float | None:
        return self._rtt

    def sample_rtt(self, seconds: float) -> None:
        self._rtt = seconds if self._rtt is None else self._rtt + (seconds - self._rtt) / 8

    def open(self, conv: int, receive_window: int, now: float, *, largest: int = 0, stream: bool = False) -> Engine:
        return IkcpEngine(self, self._control_block, conv, receive_window, now)

    def pump(self, now: float) -> tuple[list[tuple[Engine, list[bytes]]], float | None]:
        batches: list[tuple[Engine, list[bytes]]] = []
        wake: float | None = None
        for engine in list(self._active):
            datagrams, again = engine.flush(now)
            if datagrams:
                batches.append((engine, datagrams))
            if again is None:
                del self._active[engine]
            elif wake is None or again < wake:
                wake = again
        return batches, wake

    def activate(self, engine: IkcpEngine) -> None:
        """Have `engine` asked at the next pump."""
        self._active[engine] = None

    def leave(self, engine: IkcpEngine) -> None:
        """Forget a closed engine."""
        self._active.pop(engine, None)


class IkcpEngine:
    """One control block.  Sequence numbers are kept whole (they do not wrap), those of the wire are their low 32 bits."""

    def __init__(self, path: IkcpPath, control_block: Any, conv: int, receive_window: int, now: float) -> None:
        self._path = path
        self._conv = conv
        self._epoch = now
        self._kcp = control_block(
            # The package takes the u32 as a C int.
            conv - (1 << 32) if conv >> 31 else conv,
            max_transmission=MTU,
            no_delay=True,
            update_interval=INTERVAL_MS,
            resend_count=RESEND,
            no_congestion_control=True,
            send_window_size=WINDOW,
            receive_window_size=receive_window,
        )
        self._out: list[bytes] = []
        self._kcp.include_outbound_handler(lambda _kcp, datagram: self._out.append(datagram))
        # Without one update before it, flush does nothing.
        self._clock_ms = 0
        self._kcp.update(0)
        self._unsent = bytearray()
        self._unread = b""
        self._pushed = 0
        self._una = 0
        self._peer_window = FIRST_PEER_WINDOW
        self._full_window = WINDOW
        self._told_window, self._told_una = receive_window, 0
        self._newest_sn = -1
        self._heard = self._got_payload = self._closed = False
        self._heard_at = self._progress_at = now
        self._shut_at = -math.inf
        self._emptied_at: float | None = now
        self._ask_at: float | None = None
        self._ask_wait = ASK_MIN
        self._asked_at, self._ask_gap = -math.inf, 0.0
        self._tell_at: list[float] = []
        self._sent = self._received = self._rejected = 0

    @property
    def readable(self) -> bool:
        return bool(self._unread) or (not self._closed and self._kcp.get_next_packet_size() >= 0)

    @property
    def room(self) -> int:
        return 0 if self._closed else max(0, SEND_BUFFER - len(self._unsent))

    @property
    def drained(self) -> bool:
        return not self._unsent and not self.in_flight

    @property
    def heard(self) -> bool:
        return self._heard

    @property
    def got_payload(self) -> bool:
        return self._got_payload

    @property
    def emptied_at(self) -> float | None:
        return self._emptied_at

    @property
    def in_flight(self) -> bool:
        return self._una != self._pushed

    @property
    def waiting_bytes(self) -> int:
        return len(self._unsent) + (self._pushed - self._una) * MSS

    @property
    def progress_at(self) -> float:
        return self._progress_at

    @property
    def alive_at(self) -> float:
        return max(self._progress_at, self._shut_at)

    @property
    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            datagrams_sent=self._sent,
            datagrams_received=self._received,
            datagrams_rejected=self._rejected,
            segments_new=self._pushed,
            segments_repeated=None,
            segments_in_flight=self._pushed - self._una,
            peer_window=self._peer_window,
            window=min(WINDOW, self._peer_window),
            waiting_bytes=self.waiting_bytes,
        )

    def input_all(self, datagrams: Sequence[bytes], now: float) -> None:
        for datagram in datagrams:
            self.input(datagram, now)

    def input(self, datagram: bytes, now: float) -> None:
        if self._closed:
            return
        segments, size = parse_segments(datagram, self._conv) if len(datagram) <= MAX_DATAGRAM else ([], 0)
        if not segments or not self._plausible(segments):
            self._rejected += 1
            return
        self._tell_time(now)
        self._feed(datagram[:size])
        self._received += 1
        self._heard, self._heard_at = True, now
        rtt_ms: int | None = None
        for segment in segments:
            if segment.cmd == Command.PUSH:
                self._got_payload = True
                ahead = _signed(segment.sn - self._told_una)
                if ahead <= 2 * WINDOW:
                    self._newest_sn = max(self._newest_sn, self._told_una + ahead)
            elif segment.cmd == Command.ACK:
                waited = (self._clock_ms - segment.ts) & _U32
                rtt_ms = waited if rtt_ms is None else min(rtt_ms, waited)
        if rtt_ms is not None and rtt_ms <= _MAX_RTT_MS:
            self._path.sample_rtt(rtt_ms / 1000)
        self._note_peer(segments[-1], now)
        self._path.activate(self)

    def send(self, data: bytes | memoryview) -> int:
        taken = min(len(data), self.room)
        if taken:
            self._unsent += data[:taken]
            self._emptied_at = None
            self._path.activate(self)
        return taken

    def receive(self, limit: int) -> bytes:
        if len(self._unread) < limit and not self._closed:
            parts, size = [self._unread], len(self._unread)
            while size < limit and self._kcp.get_next_packet_size() >= 0:
                part = self._kcp.get_received()
                parts.append(part)
                size += len(part)
            self._unread = b"".join(parts)
            if self._told_window == 0:
                # ikcp tells that its window opens again, but only when it is flushed.
                self._path.activate(self)
        data, self._unread = self._unread[:limit], self._unread[limit:]
        return data

    def release(self) -> None:
        """There is no account of memory."""

    def meet(self, offer: Offer) -> None:
        """Nothing that the package does depends on it."""

    def ask(self, now: float, *, again: bool = False) -> None:
        if (again or self._ask_at is None) and not self._closed:
            self._ask_wait = ASK_MIN if self._path.rtt is None else min(max(2 * self._path.rtt, ASK_MIN), ASK_MAX)
            self._ask_at = now if again else max(now, self._asked_at + self._ask_gap)
            self._path.activate(self)

    def flush(self, now: float) -> tuple[list[bytes], float | None]:
        """Datagrams that leave now, and when to flush again; for the path."""
        self._tell_time(now)
        window = min(WINDOW, self._peer_window)
        if not self.in_flight and self._unsent and window:
            self._progress_at = now
        while self._unsent and self._pushed - self._una < window:
            self._kcp.enqueue(bytes(self._unsent[:MSS]))
            del self._unsent[:MSS]
            self._pushed += 1
        self._kcp.flush()
        self._note_told(now)
        if self._unsent and self._peer_window == 0:
            self.ask(now)
        if self._ask_at is not None and now >= self._ask_at:
            self._out.append(self._signal(Command.WASK))
            self._asked_at, self._ask_at = now, now + self._ask_wait
            # One that had an answer which was no news waits as well: see arq/engine.py, ASK_GAP.
            self._ask_gap = min(max(1.5 * self._ask_gap, self._path.rtt or 0.0, ASK_GAP), ASK_MAX)
            self._ask_wait = min(self._ask_wait * 1.5, ASK_MAX)
        if self._tell_at and now >= self._tell_at[0]:
            self._tell_at.pop(0)
            self._out.append(self._signal(Command.WINS))
        datagrams, self._out = self._out, []
        self._sent += len(datagrams)
        return datagrams, self._next_flush(now)

    def close(self) -> bytes:
        """The package never frees a control block, nor what its queues hold: empty them, as a peer could."""
        if self._closed:
            return b""
        rest = self.receive(_ALL)
        self._closed = True
        self._path.leave(self)
        self._unsent.clear()
        acknowledge_all = Segment(self._conv, Command.WINS, 0, 0xFFFF, 0, 0, self._pushed & _U32, 0).encode()
        self._feed(acknowledge_all)
        self._kcp.flush()
        # What waited behind the window has moved into it.
        self._feed(acknowledge_all)
        self._drop_received()
        self._out.clear()
        self._feed(Segment(self._conv, Command.WASK, 0, 0xFFFF, 0, 0, self._pushed & _U32, 0).encode())
        self._kcp.flush()
        self._note_told(0.0)
        missing = range(self._told_una, self._newest_sn + 1)
        self._feed(b"".join(Segment(self._conv, Command.PUSH, 0, 0, 0, sn & _U32, 0, 0).encode() for sn in missing))
        self._drop_received()
        self._kcp.flush()
        self._out.clear()
        return rest

    def _plausible(self, segments: list[Segment]) -> bool:
        """Whether nobody acknowledges what was never sent, or sends what stops a stream: empty segments and fragments."""
        in_flight = self._pushed - self._una
        for segment in segments:
            if _signed(segment.una - self._una) > in_flight:
                return False
            if segment.cmd == Command.PUSH and (segment.length == 0 or segment.frg):
                return False
        return True

    def _note_peer(self, last: Segment, now: float) -> None:
        """Learn from the newest segment of a datagram; ikcp has acted on all of them."""
        ahead = _signed(last.una - self._una)
        self._peer_window = last.wnd
        self._full_window = max(self._full_window, last.wnd)
        if ahead > 0:
            self._una += ahead
            self._progress_at, self._ask_gap = now, 0.0
        elif not last.wnd:
            self._shut_at = now
        # The largest value seen is no measure by itself: a reader that was slow from the start never showed its whole window.
        emptied = self.drained and ahead >= 0 and last.wnd == self._full_window
        if not emptied:
            self._emptied_at = None
        elif self._emptied_at is None:
            self._emptied_at = now
        if last.wnd or not self._unsent:
            self._ask_at = None

    def _note_told(self, now: float) -> None:
        """Learn from our newest segment what the peer knows of our side."""
        if not self._out:
            return
        _conv, _cmd, _frg, window, _ts, _sn, una, _length = SEGMENT.unpack_from(self._out[-1])
        if self._told_window == 0 and window:
            # Stock waits 7 s before it asks, should this one be lost.
            self._tell_at = [now + delay for delay in TELL_AGAIN]
        self._told_window = window
        self._told_una += _signed(una - self._told_una)

    def _signal(self, command: Command) -> bytes:
        """A WASK or WINS that says what the peer has been told before, and so can do no harm when it is late."""
        return Segment(self._conv, command, 0, self._told_window, 0, 0, self._told_una & _U32, 0).encode()

    def _next_flush(self, now: float) -> float | None:
        times = self._tell_at[:1]
        if self._ask_at is not None:
            times.append(self._ask_at)
        if self.in_flight:
            times.append(now + (_INTERVAL if now - self._heard_at < QUIET_AFTER else QUIET_INTERVAL))
        return min(times, default=None)

    def _tell_time(self, now: float) -> None:
        milliseconds = int((now - self._epoch) * 1000) & _U32
        if milliseconds != self._clock_ms:
            self._clock_ms = milliseconds
            self._kcp.update(milliseconds)

    def _feed(self, datagram: bytes) -> None:
        # Its complaints (about lengths and convs) cannot come: only whole segments of this conversation are fed.
        if datagram:
            self._kcp.receive(datagram)

    def _drop_received(self) -> None:
        while self._kcp.get_next_packet_size() >= 0:
            self._kcp.get_received()


def _signed(difference: int) -> int:
    """The difference of two sequence numbers, one of which may have wrapped."""
    return ((difference + 0x8000_0000) & _U32) - 0x8000_0000
