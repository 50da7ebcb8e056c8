"""Engines of two paths, some milliseconds apart, and segments by hand."""

from __future__ import annotations

from collections.abc import Callable

from easytier_kcp_plugin.kcp import arq
from easytier_kcp_plugin.kcp.arq.engine import ArqEngine
from easytier_kcp_plugin.kcp.arq.path import ArqPath
from easytier_kcp_plugin.kcp.segment import SEGMENT_SIZE, Segment, parse_segments

CONV = 0xDEAD_BEEF
DELAY = 0.02


def new_path(mss: int = 1176) -> ArqPath:
    path = arq.paths(mss)()
    assert isinstance(path, ArqPath)
    return path


def open_on(path: ArqPath, conv: int = CONV, window: int = 1024, now: float = 0.0) -> ArqEngine:
    engine = path.open(conv, window, now)
    assert isinstance(engine, ArqEngine)
    return engine


def alone(window: int = 1024) -> tuple[ArqPath, ArqEngine]:
    path = new_path()
    return path, open_on(path, window=window)


def head(cmd: int, **fields: int) -> Segment:
    return Segment(CONV, cmd, 0, 1024, 0, 0, 0, 0)._replace(**fields)


def sent_by(path: ArqPath, now: float) -> list[Segment]:
    """What leaves in one pump."""
    return [
        segment for _, datagrams in path.pump(now)[0] for datagram in datagrams for segment in parse_segments(datagram, CONV)[0]
    ]


def payload_of(datagram: bytes) -> bytes:
    """Of its only segment."""
    return datagram[SEGMENT_SIZE:]


class Pair:
    """Two engines 20 ms apart, a step being 1 ms; a datagram arrives if `keep` says so."""

    def __init__(self, window: int = 1024, conv: int = CONV) -> None:
        self.now = 50.0
        self.conv = conv
        self.paths = {"a": new_path(), "b": new_path()}
        self.a = open_on(self.paths["a"], conv, window, self.now)
        self.b = open_on(self.paths["b"], conv, window, self.now)
        self.flying: list[tuple[float, ArqEngine, bytes]] = []
        self.sent: dict[str, list[bytes]] = {"a": [], "b": []}
        self.wake: dict[str, float | None] = {}
        self.keep: Callable[[str, bytes], bool] = lambda name, datagram: True

    def step(self) -> None:
        """Let a millisecond pass, deliver, pump."""
        self.now += 0.001
        due = [item for item in self.flying if item[0] <= self.now]
        self.flying = [item for item in self.flying if item[0] > self.now]
        for _, engine, datagram in due:
            engine.input(datagram, self.now)
        self.pump()

    def pump(self) -> None:
        for name, other in (("a", self.b), ("b", self.a)):
            batches, self.wake[name] = self.paths[name].pump(self.now)
            for _, datagrams in batches:
                self.sent[name] += datagrams
                kept = [datagram for datagram in datagrams if self.keep(name, datagram)]
                self.flying += [(self.now + DELAY, other, datagram) for datagram in kept]

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        for _ in range(round(seconds / 0.001)):
            if done():
                return
            self.step()

    def segments(self, name: str) -> list[Segment]:
        return [segment for datagram in self.sent[name] for segment in parse_segments(datagram, self.conv)[0]]
