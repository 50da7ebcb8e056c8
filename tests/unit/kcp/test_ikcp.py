"""The engine over the PyPI package: what the wrapper adds to it, and what it keeps from it."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from easytier_kcp_plugin.kcp import ikcp
from easytier_kcp_plugin.kcp.engine import Engine
from easytier_kcp_plugin.kcp.engine import Path as EnginePath
from easytier_kcp_plugin.kcp.ikcp import MAX_DATAGRAM, MSS, MTU, SEND_BUFFER
from easytier_kcp_plugin.kcp.segment import SEGMENT_SIZE, Command, Segment, parse_segments

CONV = 0xDEAD_BEEF
DELAY = 0.02


class Pair:
    """Two engines 20 ms apart; a lost datagram is one that `drop` names."""

    def __init__(self, window: int = 1024, conv: int = CONV) -> None:
        make = ikcp.paths()
        self.now = 50.0
        self.conv = conv
        self.paths = {"a": make(), "b": make()}
        self.a = self.paths["a"].open(conv, window, self.now)
        self.b = self.paths["b"].open(conv, window, self.now)
        self.flying: list[tuple[float, Engine, bytes]] = []
        self.sent: dict[str, list[bytes]] = {"a": [], "b": []}
        self.wake: dict[str, float | None] = {}

    def step(self, seconds: float = 0.005) -> None:
        """Let time pass, deliver, pump."""
        self.now += seconds
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
                self.flying += [(self.now + DELAY, other, datagram) for datagram in datagrams]

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.005)):
            self.step()

    def segments(self, name: str) -> list[Segment]:
        return [segment for datagram in self.sent[name] for segment in parse_segments(datagram, self.conv)[0]]


def head(cmd: int, **fields: int) -> Segment:
    return Segment(CONV, cmd, 0, 1024, 0, 0, 0, 0)._replace(**fields)


def alone(window: int = 1024) -> tuple[EnginePath, Engine]:
    path = ikcp.paths()()
    return path, path.open(CONV, window, 0.0)


@pytest.mark.parametrize("conv", [0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_bytes_go_both_ways_under_any_conv(conv: int) -> None:
    pair = Pair(conv=conv)
    data = random.Random(1).randbytes(100_000)
    assert pair.a.send(data) == len(data)
    assert pair.b.send(b"back") == 4
    pair.run(0.5)
    assert (pair.b.receive(1 << 20), pair.a.receive(1 << 20)) == (data, b"back")
    assert pair.a.drained
    assert {len(datagram) > MTU for datagram in pair.sent["a"]} == {False}


def test_small_writes_of_one_turn_share_a_segment_and_none_is_empty() -> None:
    pair = Pair()
    for _ in range(MSS):
        pair.a.send(b"xy")
    pair.a.send(b"")
    pair.run(0.2)
    lengths = [segment.length for segment in pair.segments("a") if segment.cmd == Command.PUSH]
    assert lengths == [MSS, MSS]
    assert {segment.frg for segment in pair.segments("a")} == {0}


def test_small_writes_behind_a_full_window_share_segments() -> None:
    pair = Pair()
    pair.a.send(bytes(200 * MSS))
    pair.pump()
    for _ in range(MSS):
        pair.a.send(b"z")
        pair.pump()
    assert pair.a.statistics.segments_new == 128, "as many as a peer of which nothing is known will take"
    assert pair.a.statistics.segments_in_flight == pair.a.statistics.window == 128
    pair.run(0.3)
    assert pair.a.statistics.segments_new <= 202


def test_the_send_buffer_is_bounded() -> None:
    _, engine = alone()
    assert engine.send(bytes(10_000_000)) == SEND_BUFFER
    assert (engine.room, engine.send(b"x")) == (0, 0)
    assert engine.statistics.waiting_bytes == SEND_BUFFER


def test_the_rtt_is_taken_from_acknowledgements() -> None:
    pair = Pair()
    pair.a.send(bytes(50_000))
    pair.run(0.3)
    assert pair.paths["a"].rtt == pytest.approx(2 * DELAY, abs=0.012)
    assert pair.paths["b"].rtt is None


def test_an_idle_engine_asks_for_no_wake_up() -> None:
    pair = Pair()
    pair.a.send(b"hello")
    pair.pump()
    assert pair.wake["a"] == pytest.approx(pair.now + 0.01)
    pair.run(0.3)
    assert pair.wake == {"a": None, "b": None}
    sent = len(pair.sent["a"])
    pair.run(3.0)
    assert len(pair.sent["a"]) == sent


def test_acknowledgements_leave_with_the_pump_that_follows() -> None:
    pair = Pair()
    pair.a.send(bytes(20 * MSS))
    pair.pump()
    pair.now += DELAY
    for _, engine, datagram in pair.flying:
        engine.input(datagram, pair.now)
    ((_, datagrams),) = pair.paths["b"].pump(pair.now)[0]
    assert len(datagrams) == 1
    assert [segment.sn for segment in parse_segments(datagrams[0], CONV)[0]] == list(range(20))


def test_a_window_that_nobody_reads_shuts_and_opens_again() -> None:
    pair = Pair(window=128)
    data = random.Random(2).randbytes(250_000)
    pair.a.send(data)
    pair.run(1.0)
    assert pair.a.statistics.peer_window == 0
    assert pair.a.statistics.waiting_bytes > 0
    assert not pair.a.in_flight
    before = len(pair.sent["a"])
    pair.run(10.0)
    asked = [segment.cmd for datagram in pair.sent["a"][before:] for segment in parse_segments(datagram, CONV)[0]]
    assert set(asked) == {Command.WASK}
    assert 4 <= len(asked) <= 8
    got = b""
    told = len(pair.segments("b"))
    for _ in range(400):
        got += pair.b.receive(1 << 20)
        pair.step()
    assert got == data
    assert Command.WINS in [segment.cmd for segment in pair.segments("b")[told:]]
    assert pair.a.drained


def test_a_window_that_opens_is_told_three_times() -> None:
    path, engine = alone(window=128)
    for sn in range(128):
        engine.input(head(Command.PUSH, sn=sn, length=1).encode(b"x"), 1.0)
    path.pump(1.0)
    assert engine.receive(1 << 20) == b"x" * 128
    tellings = []
    for step in range(100):
        for _, datagrams in path.pump(1.0 + step / 1000)[0]:
            tellings += [(step, parse_segments(datagram, CONV)[0][0]) for datagram in datagrams]
    assert [(step, segment.cmd, segment.wnd, segment.una) for step, segment in tellings] == [
        (0, Command.WINS, 128, 128),
        (20, Command.WINS, 128, 128),
        (60, Command.WINS, 128, 128),
    ]


def test_asking_goes_on_until_a_segment_comes() -> None:
    path, engine = alone()
    engine.ask(0.0)
    engine.ask(0.0)
    times = []
    for step in range(500):
        times += [step / 100] * sum(len(datagrams) for _, datagrams in path.pump(step / 100)[0])
    assert times == pytest.approx([0.0, 0.2, 0.5, 0.95, 1.63, 2.64, 4.16], abs=0.04)
    assert not engine.heard
    engine.input(head(Command.WINS).encode(), 5.0)
    assert engine.heard
    assert not engine.got_payload
    assert path.pump(20.0) == ([], None)


def test_whether_the_peer_has_passed_everything_on() -> None:
    path, engine = alone()
    assert engine.emptied_at == 0.0
    engine.send(bytes(3 * MSS))
    path.pump(1.0)
    assert engine.emptied_at is None
    engine.input(head(Command.ACK, sn=0, una=1, wnd=1024).encode(), 1.1)
    engine.input(head(Command.ACK, sn=2, una=3, wnd=1022).encode(), 1.2)
    assert engine.drained
    assert engine.emptied_at is None
    # A late segment with a large window, from before everything came, proves nothing.
    engine.input(head(Command.WINS, una=1, wnd=1024).encode(), 1.3)
    assert engine.emptied_at is None
    engine.input(head(Command.WINS, una=3, wnd=1024).encode(), 1.4)
    assert engine.emptied_at == 1.4
    engine.input(head(Command.WINS, una=3, wnd=1024).encode(), 1.5)
    assert engine.emptied_at == 1.4


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"x" * 23,
        head(Command.PUSH, length=0).encode(),
        head(Command.PUSH, length=1, frg=1).encode(b"x"),
        head(Command.PUSH, length=2).encode(b"x"),
        head(99).encode(),
        head(Command.ACK, conv=1).encode(),
        head(Command.ACK, una=4).encode(),
        head(Command.PUSH, length=MAX_DATAGRAM).encode(bytes(MAX_DATAGRAM)),
    ],
    ids=["empty", "short", "no bytes", "fragment", "cut", "command", "conv", "future una", "large"],
)
def test_broken_datagrams_are_counted_and_have_no_effect(datagram: bytes) -> None:
    path, engine = alone()
    engine.send(bytes(3 * MSS))
    path.pump(0.0)
    engine.input(datagram, 0.1)
    assert engine.statistics.datagrams_rejected == 1
    assert (engine.heard, engine.readable, engine.drained) == (False, False, False)


def test_what_comes_before_a_broken_segment_counts() -> None:
    _, engine = alone()
    engine.input(head(Command.PUSH, length=2).encode(b"ok") + b"rest of it, which is long enough", 0.1)
    assert engine.receive(10) == b"ok"


def test_progress_counts_from_the_sending_after_a_pause_and_from_what_is_acknowledged() -> None:
    path, engine = alone()
    engine.send(bytes(MSS))
    path.pump(100.0)
    engine.send(bytes(MSS))
    path.pump(130.0)
    assert (engine.in_flight, engine.progress_at) == (True, 100.0)
    engine.input(head(Command.ACK, sn=0, una=1).encode(), 140.0)
    assert (engine.in_flight, engine.progress_at) == (True, 140.0)
    engine.input(head(Command.ACK, sn=0, una=1).encode(), 150.0)
    assert engine.progress_at == 140.0


def test_receive_gives_no_more_than_asked_for() -> None:
    pair = Pair()
    pair.a.send(bytes(range(256)) * 20)
    pair.run(0.2)
    pieces = []
    while piece := pair.b.receive(1000):
        pieces.append(piece)
    assert {len(piece) for piece in pieces[:-1]} == {1000}
    assert b"".join(pieces) == bytes(range(256)) * 20


def test_a_closed_engine_takes_and_gives_nothing() -> None:
    path, engine = alone()
    engine.send(b"abc")
    engine.close()
    engine.close()
    engine.input(head(Command.PUSH, length=2).encode(b"ok"), 0.1)
    engine.ask(0.1)
    assert (engine.send(b"abc"), engine.receive(10), engine.readable, engine.room) == (0, b"", False, 0)
    assert path.pump(1.0) == ([], None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_closing_gives_back_what_the_package_holds() -> None:
    """200 aborted transfers with 1 MB in flight and 1 MB out of order each: 400 MB, were it not for `close`."""

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def abort_one() -> None:
        path, engine = alone()
        engine.input(head(Command.WINS).encode(), 0.0)
        for _ in range(5):
            engine.send(bytes(SEND_BUFFER))
            path.pump(0.0)
        for sn in range(1, 1000):
            engine.input(head(Command.PUSH, sn=sn, length=MSS).encode(bytes(MSS)), 0.0)
        path.pump(0.0)
        engine.close()

    for _ in range(3):
        abort_one()
    before = resident_bytes()
    for _ in range(200):
        abort_one()
    assert resident_bytes() - before < 200 * 60_000


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kcp.extension", None)
    with pytest.raises(ikcp.EngineUnavailable, match=r"pip install 'kcp==0\.1\.6'"):
        ikcp.paths()


def test_the_segment_overhead_is_that_of_the_wire() -> None:
    assert MSS == MTU - SEGMENT_SIZE == 1176
