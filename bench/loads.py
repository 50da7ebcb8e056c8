"""What is sent over a bed, and what is measured meanwhile: bulk flows, small flows, flows that are silent.

Each load measures once and returns figures by name; `report` says what their names mean.  A figure that a bed cannot have
(queue drops of a veth, memory of no node) is absent.  `quick` gives the load that checks all the same but measures nothing.
Raises AssertionError when traffic does not arrive.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Protocol, Self

from bench import traffic
from bench.rivals import Bed
from tests.netns.tcp_games import finish, games
from tests.netns.topology import LoggedProcess, cpu_seconds, wait_for

Figures = dict[str, float]

PING_INTERVAL = 0.1
START_SECONDS = 0.6
"""For the client to start and connect; goes before what is omitted."""
DRAIN_SECONDS = 20.0
"""After its end, for what a bulk flow has in buffers to arrive."""
SETTLE_SECONDS = 3.0
"""Between the opening of idle flows and the count of what they cost."""
OPEN_SECONDS = 150.0
_ports = itertools.count(25_000)


class Load(Protocol):
    """One kind of traffic."""

    def measure(self, bed: Bed) -> Figures:
        """Send it once."""
        ...

    def quick(self) -> Self:
        """The same in about a second."""
        ...


@dataclass(frozen=True, slots=True)
class Bulk:
    """As many flows as fast as they go, with a ping beside them.

    The first `omit` seconds do not count, but for the cost of a byte and for the segments sent, which are those of the whole.
    """

    flows: int = 1
    seconds: float = 6.0
    omit: float = 2.0
    pings: int = 10
    """Before the load, for what a round trip takes without."""

    def quick(self) -> Self:
        return replace(self, seconds=0.4, omit=0.1, pings=2)

    def measure(self, bed: Bed) -> Figures:
        with _traffic_server(bed) as (server, port), _ping(bed) as answers:
            unloaded = wait_for(lambda: (found := answers())[self.pings - 1 :] and found, "a ping without load")
            before = Snapshot(bed)
            start = math.ceil((time.monotonic() + START_SECONDS) * traffic.TICKS) / traffic.TICKS
            marks = (start + self.omit, start + self.omit + self.seconds)
            end = marks[1] + DRAIN_SECONDS
            argv = [sys.executable, "-m", "bench.traffic", "send", bed.address, str(port), str(self.flows)]
            client = bed.source.spawn(*argv, repr(marks[1]), repr(end), *filter(None, [bed.congestion]), label="sender")
            _sleep_until(marks[0])
            counted, heard = Snapshot(bed), len(answers())
            _sleep_until(marks[1])
            stop, loaded = Snapshot(bed), answers()[heard:]
            wait_for(lambda: len(server.log().splitlines()) >= self.flows, "end of bulk flows", DRAIN_SECONDS + 5)
            wait_for(lambda: not client.running, "end of the sender")
            reports = [json.loads(line) for line in server.log().splitlines()]
            after = Snapshot(bed)
            transports = _by_kcp(bed)
        for report in reports:
            assert report["complete"] or report["fault"] == traffic.LATE, report["fault"]
        figures = _goodput(reports, marks)
        total_bytes = sum(count for report in reports for _, count in report["arrived"])
        figures |= after.cost_since(before, total_bytes) | stop.memory()
        figures |= after.sent_since(before, total_bytes) | stop.drops_since(counted)
        figures |= stop.line_since(counted, self.seconds)
        figures |= {"start_" + name: value for name, value in counted.drops_since(before).items()}
        return figures | _inflation(unloaded, loaded) | transports


@dataclass(frozen=True, slots=True)
class Small:
    """Connect, request, answer of 1000 bytes, close: `at_once` at a time, or as many a second whatever becomes of them."""

    count: int = 200
    at_once: int = 1
    per_second: float = 0.0

    def quick(self) -> Self:
        return replace(self, count=4, at_once=2)

    def measure(self, bed: Bed) -> Figures:
        with games(bed.source, bed.destination, bed.address) as played:
            before, begun = Snapshot(bed), time.monotonic()
            timeout = 60 + (self.count / self.per_second if self.per_second else self.count * 2 / self.at_once)
            options: dict[str, Any] = {"count": self.count, "at_once": self.at_once, "per_second": self.per_second}
            answer = played.play("flows", timeout=timeout, **options)
            after, elapsed = Snapshot(bed), time.monotonic() - begun
            transports = _by_kcp(bed)
        seconds: list[float] = answer["seconds"]
        assert seconds, f"no flow of {self.count} was answered: {answer['errors'][0]}"
        figures = {f"p{share}_ms": _percentile(seconds, share) * 1000 for share in (50, 90, 99)}
        figures |= {"flows": self.count, "failed": len(answer["errors"])}
        return figures | after.cores_since(before, elapsed) | after.memory() | transports


@dataclass(frozen=True, slots=True)
class Idle:
    """Flows that have said a word and then nothing for `seconds`; after that each has to say another one."""

    count: int = 10_000
    seconds: float = 20.0

    def quick(self) -> Self:
        return replace(self, count=20, seconds=0.2)

    def measure(self, bed: Bed) -> Figures:
        settle = min(SETTLE_SECONDS, self.seconds)
        with games(bed.source, bed.destination, bed.address) as played:
            played.play("banner")
            empty = Snapshot(bed)
            keep = settle + self.seconds + 5
            client = played.begin("idle", count=self.count, seconds=keep, at_once=16, limit=OPEN_SECONDS)
            opened = wait_for(lambda: client.log() or not client.running, "open flows", OPEN_SECONDS + 5)
            assert client.running, f"the flows did not open: {opened}{client.log_tail()}"
            time.sleep(settle)
            before = Snapshot(bed)
            time.sleep(self.seconds)
            after = Snapshot(bed)
            transports = _by_kcp(bed)
            opened_seconds = json.loads(client.log().splitlines()[0])["opened"]
            alive = finish(client, OPEN_SECONDS)["alive"]
        figures = {"flows": self.count, "failed": self.count - alive, "opened_seconds": opened_seconds}
        figures |= after.cores_since(before, self.seconds) | after.memory()
        sizes = zip(SIDES, after.resident_bytes, empty.resident_bytes, strict=False)
        return figures | transports | {f"{side}_kb_per_flow": (now - then) / self.count / 1000 for side, now, then in sizes}


SIDES = ("source", "destination")


class Snapshot:
    """Counters of a bed at one moment."""

    def __init__(self, bed: Bed) -> None:
        self.cpu_seconds = [each.process.cpu_seconds() for each in bed.nodes]
        self.resident_bytes = [each.process.resident_bytes() for each in bed.nodes]
        self.line = bed.link.statistics()[0] if bed.link else {}
        self.line_cpu_seconds = cpu_seconds(bed.link.pid) if bed.link else 0.0
        self.overhead_bytes = bed.overhead_bytes

    def cores_since(self, before: Snapshot, elapsed: float) -> Figures:
        """Processor time of the nodes a second."""
        return {f"{side}_cores": used / elapsed for side, used in self._used_since(before)}

    def cost_since(self, before: Snapshot, size_bytes: int) -> Figures:
        """Processor seconds of the nodes for each gigabyte (10^9 bytes) that arrived."""
        return {f"{side}_cpu_per_gb": used / size_bytes * 1e9 for side, used in self._used_since(before)} if size_bytes else {}

    def memory(self) -> Figures:
        return {f"{side}_mb": size_bytes / 1e6 for side, size_bytes in zip(SIDES, self.resident_bytes, strict=False)}

    def sent_since(self, before: Snapshot, size_bytes: int) -> Figures:
        """Bytes that full packets carried over the line for each byte that arrived: datagrams sent for each segment."""
        if not self.line or not size_bytes:
            return {}
        full, full_bytes = (self.line[name] - before.line[name] for name in ("full", "full_bytes"))
        return {"sent_per_segment": (full_bytes - full * self.overhead_bytes) / size_bytes}

    def drops_since(self, before: Snapshot) -> Figures:
        """Packets from source to destination that the queue of the line dropped."""
        return {"drops": self.line["overflowed"] - before.line["overflowed"]} if self.line else {}

    def line_since(self, before: Snapshot, elapsed: float) -> Figures:
        """Processor time of the line emulator a second: a full core is the end of what it can carry."""
        return {"line_cores": (self.line_cpu_seconds - before.line_cpu_seconds) / elapsed} if self.line else {}

    def _used_since(self, before: Snapshot) -> Iterator[tuple[str, float]]:
        for side, now, then in zip(SIDES, self.cpu_seconds, before.cpu_seconds, strict=False):
            yield side, now - then


def _by_kcp(bed: Bed) -> Figures:
    """Which share of the flows went by KCP."""
    transports = bed.transports()
    return {"by_kcp": transports["kcp"] / transports.total()} if transports else {}


def _goodput(reports: Sequence[dict[str, Any]], marks: tuple[float, float]) -> Figures:
    """Of the time between the marks; what has not arrived at the end is a flow that failed."""
    first, last = (round(mark * traffic.TICKS) for mark in marks)
    each = [sum(count for tick, count in report["arrived"] if first <= tick < last) for report in reports]
    figures = {
        "mbits": sum(each) * 8 / (marks[1] - marks[0]) / 1e6,
        "failed": sum(not report["complete"] for report in reports),
    }
    if len(each) > 1:
        figures["unfairness"] = max(each) / max(1, min(each))
    return figures


def _inflation(unloaded: Sequence[float], loaded: Sequence[float]) -> Figures:
    """By how many ms round trips beside the load are longer than the median without."""
    if not loaded:
        return {}
    base = median(unloaded)
    ordered = sorted(loaded)
    return {"ping_ms": base, **{f"ping_more_p{share}_ms": _percentile(ordered, share) - base for share in (50, 90)}}


def _percentile(ordered: Sequence[float], share: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


@contextmanager
def _traffic_server(bed: Bed) -> Iterator[tuple[LoggedProcess, int]]:
    port = next(_ports)
    argv = [sys.executable, "-m", "bench.traffic", "serve", "0.0.0.0", str(port)]
    server = bed.destination.spawn(*argv, label="receiver")
    try:
        wait_for(lambda: bed.destination.listens_on(port), "receiver listens")
        yield server, port
    finally:
        server.close()


@contextmanager
def _ping(bed: Bed) -> Iterator[Callable[[], list[float]]]:
    """A call that returns the round trips so far, in ms."""
    process = bed.source.spawn("ping", "-n", "-i", str(PING_INTERVAL), bed.address, label="ping")
    try:
        yield lambda: [float(found) for found in re.findall(r"time=([\d.]+) ms", process.log())]
    finally:
        process.close()


def _sleep_until(when: float) -> None:
    time.sleep(max(0.0, when - time.monotonic()))
