"""Engines over the PyPI package `kcp` 0.1.6 (skywind3000's ikcp.c), with stock's settings.  Sans-IO.

The simplest engine there is: no pacing, no model of the path beyond its RTT.  The package is optional; `load` says what to
install if it is missing.  How its traps are avoided is in docs/kcp.md, The engine.
"""

from __future__ import annotations

import importlib
from collections import deque
from typing import Any, Final

from easytier_kcp_plugin.kcp.engine import Engine, EngineStatistics
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
_MAX_RTT: Final = 60.0


class EngineUnavailable(ImportError):
    """The package behind this engine is not installed."""


def load() -> Any:
    """The class of the package; raises `EngineUnavailable` with what to do about it."""
    try:
        return importlib.import_module("kcp.extension").KCP
    except ImportError as error:
        raise EngineUnavailable(
            f"the ikcp engine needs the package kcp, which cannot be imported ({error}): pip install 'kcp==0.1.6' (builds with
            a C compiler)"
        ) from error


class IkcpPath:
    """The conversations with one peer, and their RTT."""

    def __init__(self) -> None:
        self._make = load()
        self._rtt: float | None = None
        self._active: dict[IkcpEngine, None] = {}

    @property
    def rtt(self) -> float | None:
        return self._rtt

    def sample_rtt(self, seconds: float) -> None:
        seconds = min(max(seconds, 0.0), _MAX_RTT)
        self._rtt = seconds if self._rtt is None else self._rtt + (seconds - self._rtt) / 8

    def open(self, conv: int, receive_window: int, now: float) -> Engine:
        return IkcpEngine(self, self._make, conv, receive_window, now)

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
    """One control block."""

    def __init__(self, path: IkcpPath, make: Any, conv: int, receive_window: int, now: float) -> None:
        self._path = path
        self._conv = conv
        self._epoch = now
        self._kcp = make(
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
        self._kcp.update(0)
        self._clock_ms = 0
        self._receive_window = receive_window
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._rest = b""
        self._pushed = 0
        self._una = 0
        self._peer_window = self._largest_window = FIRST_PEER_WINDOW
        self._told_window, self._told_una = receive_window, 0
        self._newest_sn = -1
        self._heard = self._got_payload = self._closed = False
        self._heard_at = self._progress_at = now
        self._emptied_at: float | None = now
        self._ask_at: float | None = None
        self._ask_wait = ASK_MIN
        self._sent = self._received = self._rejected = 0

    @property
    def readable(self) -> bool:
        return bool(self._rest) or (not self._closed and self._kcp.get_next_packet_size() > 0)

    @property
    def room(self) -> int:
        return 0 if self._closed else max(0, SEND_BUFFER - self._buffered)

    @property
    def drained(self) -> bool:
        return not self._buffered and self._una == self._pushed

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
    def progress_at(self) -> float:
        return self._progress_at

    @property
    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            segments_sent=self._sent,
            segments_received=self._received,
            retransmitted=None,
            duplicates=None,
            rejected_datagrams=self._rejected,
            peer_window=self._peer_window,
            waiting_bytes=self._buffered + (self._pushed - self._una) * MSS,
        )

    def input(self, datagram: bytes, now: float) -> None:
        if self._closed:
            return
        segments, size = parse_segments(datagram, self._conv) if len(datagram) <= MAX_DATAGRAM else ([], 0)
        if not segments or not self._plausible(segments):
            self._rejected += 1
            return
        self._tell_time(now)
        self._feed(datagram[:size])
        self._heard = True
        self._heard_at = now
        self._received += len(segments)
        for segment in segments:
            if segment.cmd == Command.PUSH:
                self._got_payload = True
                self._newest_sn = max(self._newest_sn, segment.sn)
            elif segment.cmd == Command.ACK:
                self._path.sample_rtt(((self._clock_ms - segment.ts) & _U32) / 1000)
        self._acknowledged(segments[-1], now)
        self._path.activate(self)

    def send(self, data: bytes | memoryview) -> int:
        taken = min(len(data), self.room)
        if taken:
            if self.drained:
                self._progress_at = max(self._progress_at, self._heard_at)
            self._chunks.append(bytes(data[:taken]))
            self._buffered += taken
            self._emptied_at = None
            self._path.activate(self)
        return taken

    def receive(self, limit: int) -> bytes:
        if len(self._rest) < limit and not self._closed:
            parts, size = [self._rest], len(self._rest)
            while size < limit and self._kcp.get_next_packet_size() >= 0:
                part = bytes(self._kcp.get_received())
                parts.append(part)
                size += len(part)
            self._rest = b"".join(parts)
            # ikcp tells a window that opens again, but only when it is flushed.
            self._path.activate(self)
        data, self._rest = self._rest[:limit], self._rest[limit:]
        return data

    def ask(self, now: float) -> None:
        if self._ask_at is None and not self._closed:
            self._ask_wait = self._first_ask_wait()
            self._ask_at = now
            self._path.activate(self)
