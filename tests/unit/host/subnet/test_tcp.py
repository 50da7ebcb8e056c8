"""Plain TCP of peers: held, dialled, ended by a stack; over a real overlay link and a stack that only claims."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface

import anyio
import pytest
from anyio.abc import TaskGroup

from easytier_hooks.errors import DialRefused, TransportUnavailable
from easytier_hooks.services import Endpoint, Link
from easytier_hooks.streams import SocketStream, TcpConnection
from easytier_hooks.types import (
    Closed,
    Connected,
    Connecting,
    Failed,
    FlowEvent,
    FlowKey,
    IPAddress,
    PeerInfo,
    Seen,
    TcpFlow,
    TransportSelected,
)
from easytier_host.batch import IN_PYTHON
from easytier_host.claims import Claims
from easytier_host.datapath import Outbound
from easytier_host.flows import FlowTable, decode_key, segment_key
from easytier_host.gate import FlowGate
from easytier_host.lookup import Lookup
from easytier_host.metrics import Metrics
from easytier_host.next_hop import Path
from easytier_host.packet import Flag
from easytier_host.peers import PeerMap
from easytier_host.subnet import tcp as tcp_module
from easytier_host.subnet.overlay import OverlayLink
from easytier_host.subnet.tcp import TcpProxy
from tests.unit.host.helpers import (
    ACK,
    FIN,
    ME,
    PEER,
    PSH,
    RST,
    SYN,
    FakeClock,
    device_frame,
    fake_tunnel,
    make_conn,
    split_frame,
    tcp_segment,
    until,
)
from tests.unit.host.subnet.parts import record

pytestmark = pytest.mark.anyio

PEER_INFO = PeerInfo(PEER, "b", IPv4Address("10.144.0.2"))
WANTED = (IPv4Address("10.1.2.9"), 80)


def segment(flags: int = SYN, *, sequence: int = 1, port: int = 40_000, data: bytes = b"") -> bytes:
    return tcp_segment("10.144.0.2", "10.1.2.9", ports=(port, 80), flags=flags, sequence=sequence, data=data)


KEY = decode_key(segment_key(segment(), 0)[0])  # type: ignore[index]


class Hooks:
    """Nobody asks; what plugins are told is kept."""

    asks_for_transport = False

    def __init__(self) -> None:
        self.told: list[tuple[TcpFlow, FlowEvent]] = []

    def notify_flow(self, flow: TcpFlow, event: FlowEvent) -> None:
        self.told.append((flow, event))


class Stack:
    """Claims a flow and ends it at once, unless `fails`; `frames` are what it got after the SYN."""

    name = "test"
    description = "for tests"
    carries_subnets = True

    def __init__(self) -> None:
        self.syns: list[bytes] = []
        self.frames: list[bytes] = []
        self.fails: Exception | None = None
        self.sources: list[SocketStream] = []
        self.unclaim: Callable[[], None] = lambda: None

    def available(self) -> str:
        return ""

    async def terminate(self, link: Link, key: FlowKey, syn: bytes) -> TcpConnection:
        self.syns.append(syn)
        await anyio.lowlevel.checkpoint()
        if self.fails is not None:
            raise self.fails
        self.unclaim = link.claim(key, self.frames.extend)
        near, far = socket.socketpair()
        self.sources.append(SocketStream(far))
        return SocketStream(near)

    async def connect(self, link: Link, key: FlowKey) -> TcpConnection:
        raise AssertionError("nobody here begins a connection")


class Bench:
    """A proxy between a peer and targets, which are dialled when `release` is set, unless `refusal` is raised instead."""

    def __init__(self, tasks: TaskGroup, *, is_alone: bool = False, max_flows: int = 100) -> None:
        self.metrics = Metrics()
        self.hooks = Hooks()
        self.stack = Stack()
        self.release = anyio.Event()
        self.release.set()
        self.refusal: Exception | None = None
        self.dialled: list[tuple[IPAddress, int, str]] = []
        self.targets: list[SocketStream] = []
        peers = PeerMap(lambda _conn: None, lambda _peer, _reason: None, self.metrics)
        self.conn = make_conn(PEER)
        peers.add(self.conn)
        outbound = Outbound(ME, peers, self.metrics, None, None, mtu=1360, latency_first=False)
        records = [record(PEER, "10.144.0.2/24", "10.50.0.0/16")]
        outbound.lookup = Lookup(records, {PEER: Path(PEER, 1, 5)}, IPv4Interface("10.144.0.1/24"))
        clock = self.clock = FakeClock()
        self.gate = FlowGate(
            FlowTable(max_flows=max_flows),
            self.hooks,  # type: ignore[arg-type]
            tasks,
            clock,
            clock,
            forward=outbound.send_device_frames,
            peer_for=lambda _ip: PEER_INFO,
            is_own=lambda _ip: False,
        )
        self.link = OverlayLink(outbound, Claims(self.gate.table), self.metrics, 1360, IN_PYTHON)
        self.proxy = TcpProxy(
            self.gate,
            self.stack,
            self.link,
            tasks,
            self.metrics,
            clock,
            clock,
            dial=self._dial,
            dial_as_exit=self._dial_as_exit,
            is_alone=is_alone,
        )

    async def _dial(self, ip: IPAddress, port: int, source: Endpoint, role: str = "offered") -> TcpConnection:
        assert source[0] == PEER_INFO.ipv4
        self.dialled.append((ip, port, role))
        await self.release.wait()
        await anyio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        near, far = socket.socketpair()
        self.targets.append(SocketStream(far))
        return SocketStream(near)

    async def _dial_as_exit(self, ip: IPAddress, port: int, source: Endpoint) -> TcpConnection:
        return await self._dial(ip, port, source, "exit")

    def take(self, *packets: bytes, exit_node: bool = False) -> list[bytes]:
        return self.proxy.take(packets, exit_node)

    def replies(self) -> list[bytes]:
        """Packets sent back to the peer, each with NO_PROXY."""
        frames = [split_frame(frame) for frame in fake_tunnel(self.conn).take()]
        assert all(header.flags & Flag.NO_PROXY for header, _ in frames)
        return [packet for _, packet in frames]

    def events(self, kind: type[FlowEvent] = object) -> list[FlowEvent]:  # type: ignore[assignment]
        return [event for _, event in self.hooks.told if isinstance(event, kind)]


@asynccontextmanager
async def bench(*, is_alone: bool = False, max_flows: int = 100) -> AsyncIterator[Bench]:
    async with anyio.create_task_group() as tasks:
        made = Bench(tasks, is_alone=is_alone, max_flows=max_flows)
        yield made
        tasks.cancel_scope.cancel()
        for stream in (*made.stack.sources, *made.targets):
            stream.reset()


def is_reset_of(reply: bytes, refused: bytes) -> bool:
    return (
        reply[33] & RST == RST
        and (reply[12:16], reply[16:20]) == (refused[16:20], refused[12:16])
        and (reply[20:22], reply[22:24]) == (refused[22:24], refused[20:22])
    )


async def test_a_flow_is_dialled_then_ended_then_relayed() -> None:
    async with bench() as b:
        assert b.take(segment()) == []
        await until(lambda: b.events(Connected))
        assert b.dialled == [(*WANTED, "offered")]
        assert b.stack.syns == [device_frame(segment())]
        await b.stack.sources[0].send(b"question")
        assert await b.targets[0].receive() == b"question"
        await b.targets[0].send(b"answer")
        assert await b.stack.sources[0].receive() == b"answer"
        await b.stack.sources[0].send_eof()
        await b.targets[0].send_eof()
        await until(lambda: b.events(Closed))
        kinds = [type(event) for event in b.events()]
        assert kinds[:4] == [Seen, TransportSelected, Connecting, Connected]
        flow = b.hooks.told[-1][0]
        assert (flow.key, flow.direction, flow.peer, flow.transport) == (KEY, "inbound", PEER_INFO, "tcp")


async def test_an_exit_dials_as_one() -> None:
    async with bench() as b:
        b.take(segment(), exit_node=True)
        await until(lambda: b.dialled)
        assert b.dialled == [(*WANTED, "exit")]


async def test_the_target_is_connected_before_the_source_is_answered() -> None:
    async with bench() as b:
        b.release = anyio.Event()
        b.take(segment())
        b.take(segment(), segment())
        await until(lambda: b.dialled)
        assert (b.stack.syns, b.replies(), len(b.dialled)) == ([], [], 1)
        b.release.set()
        await until(lambda: b.stack.syns)
        assert len(b.stack.syns) == 1
        assert b.metrics.dropped_subnet == 0


@pytest.mark.parametrize(
    "refusal",
    [ConnectionRefusedError(111, "Connection refused"), OSError(113, "No route to host"), DialRefused("not for peers")],
)
async def test_a_refusal_is_passed_on(refusal: Exception) -> None:
    async with bench() as b:
        b.refusal = refusal
        b.take(segment())
        await until(lambda: b.events(Failed))
        (reply,) = b.replies()
        assert is_reset_of(reply, segment())
        assert b.stack.syns == []


async def test_a_silent_target_leaves_the_source_waiting() -> None:
    async with bench() as b:
        b.refusal = TimeoutError("no answer in 10 s")
        b.take(segment())
        await until(lambda: b.events(Failed))
        assert b.replies() == []
        # What is repeated shortly after does not begin another attempt.
        b.take(segment())
        assert (len(b.dialled), b.metrics.dropped_subnet) == (1, 1)


@pytest.mark.parametrize("failure", [TransportUnavailable("full"), RuntimeError("broken")])
async def test_what_the_stack_does_not_take_is_reset_at_both_ends(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.stack.fails = failure
        with caplog.at_level(logging.ERROR, "easytier.subnet"):
            b.take(segment())
            await until(lambda: b.events(Failed))
        (reply,) = b.replies()
        assert is_reset_of(reply, segment())
        # What ends a socket pair, which knows no RST.
        with pytest.raises(anyio.EndOfStream):
            await b.targets[0].receive()
        assert bool(caplog.records) == isinstance(failure, RuntimeError)


async def test_segments_of_a_flow_reach_the_stack_joined() -> None:
    async with bench() as b:
        b.take(segment())
        await until(lambda: b.stack.sources)
        pieces = [segment(ACK, sequence=2 + 1000 * number, data=bytes([number]) * 1000) for number in range(3)]
        assert b.take(*pieces) == []
        (frame,) = b.stack.frames
        assert frame[-3000:] == b"\0" * 1000 + b"\1" * 1000 + b"\2" * 1000


async def test_segments_of_other_flows_come_back_as_they_were() -> None:
    async with bench() as b:
        pieces = [segment(ACK | PSH, sequence=2, data=b"x"), segment(FIN | ACK, sequence=3), segment(RST, port=7)]
        bulk = [segment(ACK, sequence=2 + 1000 * number, port=8, data=bytes(1000)) for number in range(3)]
        odd = [b"\x45" + bytes(30), segment()[:30]]
        left = b.take(*pieces, *bulk, *odd)
        # What was joined and cut again has other identifications.
        assert [packet[20:] for packet in left] == [packet[20:] for packet in (*pieces, *bulk, *odd)]
        assert b.events() == []


async def test_damaged_segments_that_were_joined_are_dropped() -> None:
    async with bench() as b:
        bulk = [segment(ACK, sequence=2 + 1000 * number, data=bytes(1000)) for number in range(2)]
        assert b.take(bulk[0][:-1] + b"\x01", bulk[1]) == []
        assert b.metrics.dropped_subnet == 1


async def test_where_nobody_else_is_stray_segments_get_rst() -> None:
    async with bench(is_alone=True) as b:
        stray = segment(ACK | PSH, data=b"x")
        assert b.take(stray) == []
        (reply,) = b.replies()
        assert is_reset_of(reply, stray)
        b.take(segment(RST))
        assert b.replies() == []


async def test_a_source_that_gives_up_ends_the_attempt() -> None:
    async with bench() as b:
        b.release = anyio.Event()
        b.take(segment())
        await until(lambda: b.dialled)
        assert b.take(segment(RST)) == []
        await until(lambda: b.events(Failed))
        assert b.events(Failed) == [Failed("given up by the source")]
        assert b.targets == []


async def test_a_source_that_begins_anew_gets_a_new_attempt() -> None:
    async with bench() as b:
        b.release = anyio.Event()
        b.take(segment(sequence=1))
        await until(lambda: b.dialled)
        b.take(segment(sequence=99))
        b.release.set()
        await until(lambda: b.stack.sources)
        assert b.stack.syns == [device_frame(segment(sequence=99))]
        assert len(b.dialled) == 2
        assert b.events(Failed) == [Failed("a new connection uses its ports")]


async def test_a_carried_flow_may_begin_anew_between_the_same_ends() -> None:
    async with bench() as b:
        b.take(segment(sequence=1))
        await until(lambda: b.stack.sources)
        b.take(segment(sequence=99))
        await until(lambda: len(b.stack.sources) == 2)
        # The stack learns of it, and ends the first one.
        assert b.stack.frames == [device_frame(segment(sequence=99))]


@pytest.mark.parametrize("cap", ["MAX_HELD", "MAX_HELD_PER_PEER"])
async def test_with_too_many_held_the_next_are_dropped(cap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_module, cap, 3)
    async with bench() as b:
        b.release = anyio.Event()
        for port in range(1, 6):
            b.take(segment(port=port))
        await until(lambda: len(b.dialled) == 3)
        assert (len(b.events(Failed)), b.metrics.dropped_subnet) == (2, 2)
        b.release.set()
        await until(lambda: len(b.stack.sources) == 3)
        b.take(segment(port=9))
        await until(lambda: len(b.stack.sources) == 4)


async def test_one_peer_begins_no_more_in_a_second_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_module, "SYN_BURST", 3.0)
    async with bench() as b:
        for port in range(1, 6):
            b.take(segment(port=port))
        await until(lambda: len(b.stack.sources) == 3)
        assert b.metrics.dropped_subnet == 2
        b.clock.advance(1)
        b.take(segment(port=5))
        await until(lambda: len(b.stack.sources) == 4)


async def test_with_a_full_table_of_flows_new_ones_are_dropped() -> None:
    async with bench(max_flows=1) as b:
        b.take(segment(port=1), segment(port=2))
        await until(lambda: b.stack.sources)
        assert (len(b.dialled), b.metrics.dropped_subnet) == (1, 1)
