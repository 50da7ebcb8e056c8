"""Two stacks and the line between them, in virtual time: the time jumps to whatever happens next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from easytier_kcp_plugin._native import Stack
from tests.unit.native.segments import CLIENT, SERVER, Endpoint

if TYPE_CHECKING:
    from easytier_kcp_plugin._native import Event

MTU = 1380


@dataclass
class Side:
    """One stack and an application that does what its flags say."""

    stack: Stack
    accepting: bool = True
    reading: bool = True
    finishing: bool = False  # answer the end of the other's stream with our own
    max_packets: int = 64
    events: list[Event] = field(default_factory=list)
    received: dict[int, bytearray] = field(default_factory=dict)
    unsent: dict[int, memoryview] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)
    unclaimed: list[bytes] = field(default_factory=list)
    deadline: float | None = None

    @property
    def connection(self) -> int:
        """The last one to be established."""
        return [event[1] for event in self.events if event[0] == "established"][-1]

    def kinds(self) -> list[str]:
        return [event[0] for event in self.events]

    def closed(self) -> list[str]:
        """The reasons of all ends so far."""
        return [event[2] for event in self.events if event[0] == "closed"]

    def send(self, connection: int, data: bytes) -> None:
        """Send all of it, as the stack takes it."""
        self.unsent[connection] = memoryview(data)
        self.push(connection)

    def push(self, connection: int) -> None:
        if data := self.unsent.get(connection):
            self.unsent[connection] = data[self.stack.send(connection, data) :]

    def drain(self, connection: int) -> None:
        while data := self.stack.receive(connection, 65_536):
            self.received.setdefault(connection, bytearray()).extend(data)

    def act(self, event: Event, now: float) -> None:
        match event:
            case ("incoming", pending, _, _) if self.accepting:
                self.stack.accept(pending, now)
            case ("readable", connection) if self.reading:
                self.drain(connection)
            case ("established" | "writable", connection):
                self.push(connection)
            case ("end_of_stream", connection) if self.finishing:
                self.stack.finish(connection)
            case _:
                pass


class Pair:
    """`left` connects, `right` accepts."""

    def __init__(
        self,
        *,
        latency: float = 0.0,
        lose: Callable[[bytes], bool] = lambda packet: False,
        jitter: float = 0.0,
        duplicates: float = 0.0,
        random: Random | None = None,
        right: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """`latency` one way and `jitter` on top, in seconds; `duplicates` is a share; `right` overrules `settings`."""
        settings = {"mtu": MTU, **settings}
        self.left = Side(Stack(seed=1, **settings))
        self.right = Side(Stack(seed=2, **(settings | (right or {}))))
        self.now = 1.0
        self.latency, self.jitter, self.duplicates, self.lose = latency, jitter, duplicates, lose
        self.random = random or Random(0)
        self.on_the_way: list[tuple[float, int, int, bytes]] = []
        self.count = 0
        self.steps = 0

    def connect(self, source: Endpoint = CLIENT, destination: Endpoint = SERVER) -> tuple[int, int]:
        """The connection as left and right know it, once both are established."""
        connection = self.left.stack.connect(source, destination)
        before = self.right.kinds().count("established")
        self.run(lambda: self.right.kinds().count("established") > before)
        return connection, self.right.connection

    def run(self, done: Callable[[], bool], *, seconds: float = 3600.0) -> None:
        """Until `done`; AssertionError if it does not come within so much virtual time."""
        end = self.now + seconds
        self.settle()
        while not done():
            assert self.advance(end), "nothing will happen any more"

    def deliver(self, to: Side, connection: int, size: int, *, seconds: float = 3600.0) -> None:
        """Until an application has received so many bytes of a connection."""
        self.run(lambda: len(to.received.get(connection, b"")) >= size, seconds=seconds)

    def rest(self, seconds: float = 3600.0) -> None:
        """Until nothing happens any more, or so much virtual time has passed."""
        end = self.now + seconds
        self.settle()
        while self.advance(end):
            pass

    def advance(self, end: float) -> bool:
        """Go to the next thing that happens. False if there is none until `end`, which then is the time."""
        times = [self.left.deadline, self.right.deadline, self.on_the_way[0][0] if self.on_the_way else None]
        following = min((time for time in times if time is not None), default=end + 1)
        if following > end:
            self.now = end
            return False
        assert following >= self.now, "a deadline in the past while nothing was left to do"
        self.now = following
        self.steps += 1
        assert self.steps < 200_000, "no end in sight"
        self.settle()
        return True

    def settle(self) -> None:
        """Let everything happen that can at this moment."""
        for _ in range(10_000):
            busy = False
            for index, side in enumerate((self.left, self.right)):
                packets = self.arrivals(index)
                output, events, unclaimed, side.deadline = side.stack.step(packets, self.now, side.max_packets)
                side.sent += output
                side.unclaimed += [packets[position] for position in unclaimed or ()]
                for packet in output:
                    self.transmit(1 - index, packet)
                for event in events:
                    side.events.append(event)
                    side.act(event, self.now)
                busy = busy or bool(packets or output or events)
            if not busy:
                return
        raise AssertionError("the stacks never come to rest")

    def arrivals(self, index: int) -> list[bytes]:
        due = [item for item in self.on_the_way if item[0] <= self.now and item[2] == index]
        for item in due:
            self.on_the_way.remove(item)
        heapq.heapify(self.on_the_way)
        return [packet for _, _, _, packet in sorted(due)]

    def transmit(self, to: int, packet: bytes) -> None:
        if self.lose(packet):
            return
        for _ in range(2 if self.random.random() < self.duplicates else 1):
            self.count += 1
            arrival = self.now + self.latency + self.random.uniform(0, self.jitter)
            heapq.heappush(self.on_the_way, (arrival, self.count, to, packet))
