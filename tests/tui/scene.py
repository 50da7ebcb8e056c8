"""A small network with a flow of every kind, at a fixed moment, and helpers to look at the program's screen.

a 10.144.0.1, asked      b 10.144.0.2, neighbour, takes KCP      c 10.144.0.3, behind b, too old for KCP
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
from msgspec.structs import replace
from textual.pilot import Pilot

from easytier_tui.app import MonitorApp
from easytier_tui.records import ConnectionRecord, FlowNote, FlowRecord, Link, NodeRecord, PeerRecord, Update

NOW = 1_750_000_000.0
LIVE = Link("live", "live events")
NODE = NodeRecord(1, "a", "10.144.0.1/24", "2.6.4", plugins=("kcp 0.1.0: on",))
STOCK = NodeRecord(1, "a", "10.144.0.1/24", "2.6.4", is_stock=True)
TUNNEL = ConnectionRecord("udp", "udp://203.0.113.7:11010", 0.0518, 0.051, 4_810_000_000, 39_000_000, True)
B = PeerRecord(2, "b", "10.144.0.2", "2.6.4", 1, "b", 0.0518, "b", (), "", ("accepts KCP",), (TUNNEL,))
C = PeerRecord(3, "c", "10.144.0.3", "2.1.2", 2, "b", 0.063, "b", ("10.1.2.0/24",), "it runs 2.1.2, KCP needs 2.2", ())

SSH = FlowRecord(
    *("1.1", 1, "10.144.0.1:51838", "10.144.0.2:22", "connected", "kcp", NOW - 131),
    *("outbound", 2, "b", "loss 5.1 % is 1 % or more", "auto"),
    sent=4_810_000_000,
    received=120_000,
    send_rate=38e6,
    receive_rate=1000.0,
    rtt=0.052,
    retransmitted=41_034,
    loss=0.051,
    stack="kernel",
    window=1024,
    in_flight=912,
)
DATABASE = FlowRecord(
    *("1.2", 2, "10.144.0.1:51840", "10.1.2.7:5432", "connected", "tcp", NOW - 14),
    *("outbound", 3, "c", "c runs 2.1.2: no KCP", "default"),
    sent=28_000,
    received=196_000,
    send_rate=2000.0,
    receive_rate=14_000.0,
    rtt=0.011,
)
WEB = FlowRecord(
    *("1.3", 3, "0.0.0.0:0", "10.144.0.1:8080", "half-closed", "kcp", NOW - 3),
    *("inbound", 2, "b", "opened by b", "peer"),
    sent=900,
    received=276_000,
    send_rate=0.0,
    receive_rate=92_000.0,
    rtt=0.0525,
    retransmitted=11,
)
OVER = FlowRecord(
    *("1.4", 4, "10.144.0.1:51790", "10.144.0.2:443", "closed", "kcp", NOW - 20),
    *("outbound", 2, "b", "b takes KCP", "default", "FIN both ways", NOW - 8),
    sent=1_200_000,
    received=4000,
    send_rate=0.0,
    receive_rate=0.0,
    rtt=0.052,
    retransmitted=7,
)
FAILED = FlowRecord(
    *("1.5", 5, "10.144.0.1:51788", "10.144.0.9:80", "failed", "tcp", NOW - 9),
    *("outbound", 0, "", "no peer has 10.144.0.9", "default", "no route to 10.144.0.9", NOW - 9),
    sent=0,
    received=0,
)
FLOWS = (SSH, DATABASE, WEB, OVER, FAILED)
NOTES = (FlowNote("1.1", NOW - 131, "seen"), FlowNote("1.1", NOW - 130.9, "connected"))
FIRST = Update(NOW, LIVE, NODE, (B, C), (("udp://203.0.113.7:11010", True),), FLOWS, is_whole=True, notes=NOTES)


class ScriptFeed:
    """A feed that tells what a test gives it, by a clock that a test sets."""

    acts = True

    def __init__(self, *updates: Update, address: str = "127.0.0.1:15888") -> None:
        self.address = address
        self.now = NOW
        self.woken = 0
        self.closed: list[int] = []
        self.past: Sequence[FlowNote] = ()
        self.ended = threading.Event()
        self._told: queue.SimpleQueue[Update] = queue.SimpleQueue()
        for update in updates:
            self.tell(update)

    def tell(self, update: Update) -> None:
        self._told.put(update)

    def step(self) -> Update:
        if self.ended.is_set():
            return Update(self.now)
        return self._told.get()

    def clock(self) -> float:
        return self.now

    def wake(self) -> None:
        self.woken += 1

    def close(self) -> None:
        self.ended.set()
        self._told.put(Update(self.now))

    def history(self, flow_id: int) -> Sequence[FlowNote]:
        return self.past

    def close_flow(self, flow_id: int) -> None:
        self.closed.append(flow_id)
        flow = next(flow for flow in FLOWS if flow.flow_id == flow_id)
        ended = replace(flow, state="closed", end_reason="closed by the user", ended_at=self.now)
        self.tell(Update(self.now, flows=(ended,)))


def app(*feeds: ScriptFeed, folder: Path | None = None) -> MonitorApp:
    """The program with these feeds, one that tells `FIRST` by default."""
    return MonitorApp(feeds or (ScriptFeed(FIRST),), folder=folder, wall=lambda: NOW)


def text_of(program: MonitorApp) -> str:
    """What is on the screen."""
    strips = program.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


def notices(program: MonitorApp) -> str:
    """What was said in the corner of the screen."""
    return "\n".join(notice.message for notice in program._notifications)


async def until(pilot: Pilot[Any], holds: Callable[[], object], what: str = "") -> None:
    """Wait until something holds; fails after 10 s with the screen."""
    program = pilot.app
    assert isinstance(program, MonitorApp)
    deadline = anyio.current_time() + 10
    while not holds():
        assert anyio.current_time() < deadline, f"{what or 'what was waited for'} did not come:\n{text_of(program)}"
        await pilot.pause(0.01)


async def until_shown(pilot: Pilot[Any], text: str) -> None:
    """Wait until `text` is on the screen."""
    program = pilot.app
    assert isinstance(program, MonitorApp)
    await until(pilot, lambda: text in text_of(program), repr(text))
