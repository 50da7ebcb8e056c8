"""Hooks, held TCP SYNs, transports and stacks that connect, refuse, fail or hang, and claims."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface

import anyio
import pytest
from anyio.abc import TaskGroup

from easytier_hooks.errors import DestinationUnreachable, TransportUnavailable
from easytier_hooks.loading import PluginInfo, PluginState
from easytier_hooks.selection import default
from easytier_hooks.services import Link
from easytier_hooks.streams import SocketStream, TcpConnection
from easytier_hooks.types import (
    Candidate,
    Closed,
    Connected,
    Connecting,
    Counters,
    Failed,
    FlowEvent,
    FlowKey,
    HalfClosed,
    Measures,
    PeerInfo,
    Seen,
    Selection,
    TcpFlow,
    TransportSelected,
)
from easytier_host import gate as gate_module
from easytier_host.flows import ENDED_LINGER, FlowTable, decode_key, segment_key
from easytier_host.gate import FlowGate, plain_alone
from easytier_host.links import DeviceLink
from easytier_host.nic.memory import MemoryNic
from tests.unit.host.helpers import ACK, FIN, PEER, PSH, RST, SYN, FakeClock, device_frame, tcp_segment
from tests.unit.host.tunnel.helpers import running, until

pytestmark = pytest.mark.anyio

NETWORK = IPv4Interface("10.144.0.1/24").network
PEER_INFO = PeerInfo(PEER, "b", IPv4Address("10.144.0.2"))
SYN_FRAME = device_frame(tcp_segment())
KEY = decode_key(segment_key(SYN_FRAME)[0])  # type: ignore[index]


class Hooks:
    """A plugin manager whose answer is `answer`, given when `release` is set."""

    def __init__(self) -> None:
        self.asks = False
        self.answer: Selection | None = None
        self.asked: list[tuple[TcpFlow, PeerInfo | None, tuple[Candidate, ...]]] = []
        self.told: list[tuple[TcpFlow, FlowEvent]] = []
        self.release = anyio.Event()

    @property
    def asks_for_transport(self) -> bool:
        return self.asks

    def notify_flow(self, flow: TcpFlow, event: FlowEvent) -> None:
        self.told.append((flow, event))

    async def select(self, flow: TcpFlow, peer: PeerInfo | None, candidates: Sequence[Candidate]) -> Selection:
        self.asked.append((flow, peer, tuple(candidates)))
        await self.release.wait()
        return self.answer if self.answer is not None else default(candidates)


class StreamOfTransport(SocketStream):
    """Ends no TCP connection, whatever carries it here."""

    stack = ""


class StreamOfStack(SocketStream):
    stack = "fake"


class FakeTransport:
    """Available or not; `dials` is what its `dial` does before it connects to `far`."""

    def __init__(self, name: str = "kcp", *, available: bool = True) -> None:
        self.name = name
        self.available = available
        self.dialled: list[TcpFlow] = []
        self.dials: Callable[[TcpFlow], object] = lambda _flow: None
        self.hangs = False
        self.far: list[SocketStream] = []
        """The destinations' ends of what was dialled."""

    def candidate(self, flow: TcpFlow, peer: PeerInfo | None) -> Candidate:
        assert peer == flow.peer
        return Candidate(self.name, self.available, f"{self.name} can" if self.available else f"{self.name} cannot")

    async def dial(self, flow: TcpFlow) -> TcpConnection:
        self.dialled.append(flow)
        if self.hangs:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        self.dials(flow)
        near, far = socket.socketpair()
        self.far.append(SocketStream(far))
        return StreamOfTransport(near)


class FakeStack:
    """Ends connections at once; `terminates` is what it does before."""

    name = "fake"
    description = "for tests"
    carries_subnets = False

    def __init__(self) -> None:
        self.taken: list[tuple[FlowKey, bytes]] = []
        self.terminates: Callable[[FlowKey], object] = lambda _key: None
        self.applications: list[SocketStream] = []
        self.obstacle: str | Exception = ""

    def available(self) -> str:
        if isinstance(self.obstacle, Exception):
            raise self.obstacle
        return self.obstacle

    async def terminate(self, link: Link, key: FlowKey, syn: bytes) -> TcpConnection:
        self.terminates(key)
        self.taken.append((key, syn))
        near, far = socket.socketpair()
        self.applications.append(SocketStream(far))
        return StreamOfStack(near)

    async def connect(self, link: Link, key: FlowKey) -> TcpConnection:
        raise AssertionError("nobody here begins a connection")


class World:
    """A gate between a device and an overlay in which 10.144.0.2 is a peer."""

    def __init__(self, tasks: TaskGroup, *, max_flows: int = 100) -> None:
        self.clock = FakeClock()
        self.hooks = Hooks()
        self.forwarded: list[bytes] = []
        self.gate = FlowGate(
            FlowTable(max_flows=max_flows),
            self.hooks,
            tasks,
            self.clock,
            lambda: 5000.0,
            forward=self.forwarded.extend,
            peer_for=lambda ip: PEER_INFO if ip == PEER_INFO.ipv4 else None,
            is_own=lambda ip: ip == IPv4Address("10.144.0.1"),
        )
        self.nic = MemoryNic()
        self.stack = FakeStack()
        self.gate.device = DeviceLink(self.nic, self.gate.claims)
        self.gate.stack = self.stack

    def offer(self, *transports: FakeTransport) -> FakeTransport:
        self.gate.transports.update({transport.name: transport for transport in transports})
        return transports[0]

    def events(self) -> list[FlowEvent]:
        return [event for _, event in self.hooks.told]

    def release(self, answer: Selection | None = None) -> None:
        self.hooks.answer = answer
        self.hooks.release.set()


@asynccontextmanager
async def world(*, max_flows: int = 100) -> AsyncIterator[World]:
    async with running() as tasks:
        made = World(tasks, max_flows=max_flows)
        yield made
        transports = made.gate.transports.values()
        for stream in (*made.stack.applications, *(far for t in transports if isinstance(t, FakeTransport) for far in t.far)):
            stream.reset()


def inbound(world: World, *flags: int) -> None:
    for value in flags:
        world.gate.watch_inbound([tcp_segment("10.144.0.2", "10.144.0.1", ports=(22, 40_000), flags=value)])


async def test_without_transports_a_flow_passes_and_is_told_in_order() -> None:
    async with world() as w:
        assert w.gate.admit([SYN_FRAME]) == [SYN_FRAME]
        inbound(w, SYN | ACK)
        w.gate.admit([device_frame(tcp_segment(flags=FIN | ACK))])
        inbound(w, FIN | ACK)
        kinds = [type(event) for event in w.events()]
        assert kinds == [Seen, TransportSelected, Connecting, Connected, HalfClosed, HalfClosed, Closed]
        flows = [flow for flow, _ in w.hooks.told]
        assert len({flow.id for flow in flows}) == 1
        assert [flow.transport for flow in flows] == [None, *["tcp"] * 6]
        assert {flow.peer for flow in flows} == {PEER_INFO}
        assert {flow.direction for flow in flows} == {"outbound"}
        assert w.hooks.asked == []


async def test_a_flow_that_arrives_came_as_plain_tcp() -> None:
    async with world() as w:
        w.gate.watch_inbound([tcp_segment("10.144.0.2", "10.144.0.1", ports=(5, 6))])
        assert w.events() == [Seen(), TransportSelected("tcp", "came as plain TCP", "peer"), Connecting()]
        assert w.hooks.told[0][0].direction == "inbound"
        assert w.hooks.told[0][0].peer == PEER_INFO
        assert w.hooks.told[0][0].transport is None


async def test_a_flow_to_nobody_fails_but_its_packet_goes_on() -> None:
    async with world() as w:
        frame = device_frame(tcp_segment(destination="10.144.0.99"))
        assert w.gate.admit([frame]) == [frame]
        assert w.events()[-1] == Failed("no peer has 10.144.0.99")


async def test_other_frames_pass_untouched_and_in_order() -> None:
    async with world() as w:
        frames = [b"", bytes(11), device_frame(tcp_segment(flags=ACK)), device_frame(b"\x60" * 50)]
        assert w.gate.admit(frames) == frames
        assert w.events() == []


async def test_an_unavailable_transport_leaves_tcp_with_its_reason() -> None:
    async with world() as w:
        w.offer(FakeTransport(available=False))
        assert w.gate.admit([SYN_FRAME]) == [SYN_FRAME]
        assert w.events()[1] == TransportSelected("tcp", "kcp cannot", "default")


async def test_a_syn_is_held_until_the_transport_has_opened() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        other = device_frame(tcp_segment(destination="10.144.0.2", ports=(1, 2), flags=ACK))
        assert w.gate.admit([SYN_FRAME, other]) == [other]
        assert w.gate.admit([SYN_FRAME]) == []
        await until(lambda: w.hooks.asked)
        (asked, peer, candidates) = w.hooks.asked[0]
        assert (asked.key, peer) == (KEY, PEER_INFO)
        assert [candidate.transport for candidate in candidates] == ["kcp", "tcp"]
        w.release()
        await until(lambda: w.stack.taken and not w.gate._held)
        (flow,) = transport.dialled
        assert (flow.key, flow.transport, flow.reason) == (KEY, "kcp", "kcp can")
        assert w.stack.taken == [(KEY, SYN_FRAME)]
        assert w.forwarded == []
        assert w.events() == [Seen(), TransportSelected("kcp", "kcp can", "default"), Connecting(), Connected()]
        assert len(w.hooks.asked) == 1


async def test_bytes_are_relayed_and_a_flow_that_ends_is_told() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: w.stack.applications)
        application, server = w.stack.applications[0], transport.far[0]
        await application.send(b"question")
        assert await server.receive() == b"question"
        await application.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await server.receive()
        await server.send(b"an answer")
        await server.aclose()
        assert await application.receive() == b"an answer"
        await until(lambda: isinstance(w.events()[-1], Closed))
        ends = [HalfClosed("source"), HalfClosed("destination"), Counters(8, 9, None, None), Closed("FIN both ways")]
        assert w.events()[4:] == ends


class GivingTransport(FakeTransport):
    """`gives` is what it takes for a connection."""

    gives: object = None

    async def dial(self, flow: TcpFlow) -> TcpConnection:
        return self.gives  # type: ignore[return-value]


class Faulty(TcpConnection):
    """A connection of a plugin that fails in one of its methods, as it may not; else it waits, sends nothing, takes all."""

    def __init__(self, method: str, answer: object = None) -> None:
        self.method = method
        self.answer = answer

    def fail(self, method: str) -> None:
        if method == self.method and self.answer is None:
            raise ZeroDivisionError(method)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        self.fail("receive")
        if self.method == "receive":
            return self.answer  # type: ignore[return-value]
        if self.method == "send":
            await anyio.sleep_forever()
        raise (anyio.BrokenResourceError if self.method == "end_reason" else anyio.EndOfStream)

    async def send(self, item: bytes) -> None:
        self.fail("send")

    async def send_eof(self) -> None:
        self.fail("send_eof")

    async def aclose(self) -> None:
        self.fail("aclose")

    def reset(self) -> None:
        self.fail("reset")

    @property
    def end_reason(self) -> str | None:
        self.fail("end_reason")
        return None

    def measure(self) -> Measures | None:
        self.fail("measure")
        return None


@pytest.mark.parametrize(
    ("method", "answer"),
    [*((name, None) for name in ("receive", "send", "send_eof", "aclose", "reset", "end_reason", "measure")), ("receive", 7)],
)
async def test_a_connection_of_a_plugin_that_fails_ends_its_own_flow_alone(method: str, answer: object) -> None:
    async with world() as w:
        honest, other = FakeTransport("good"), GivingTransport("bad")
        other.gives = Faulty(method, answer)
        w.offer(other, honest)
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: w.stack.applications)
        application = w.stack.applications[0]
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await application.send(b"question")
            await application.send_eof()
        if method == "reset":
            application.reset()
        await until(lambda: isinstance(w.events()[-1], Closed | Failed))
        assert "this node stops" not in str(w.events()[-1])
        # The node goes on: another flow is carried as ever.
        other.available = False
        w.gate.admit([device_frame(tcp_segment(ports=(40_001, 22)))])
        await until(lambda: len(w.stack.applications) == 2)
        await w.stack.applications[1].send(b"question")
        assert await honest.far[0].receive() == b"question"


@pytest.mark.parametrize("nonsense", [None, object(), b"bytes"])
async def test_what_is_no_connection_is_no_way(nonsense: object, caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        transport = GivingTransport()
        transport.gives = nonsense
        w.offer(transport)
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: w.forwarded == [SYN_FRAME])
        assert "transport kcp failed" in caplog.text


async def test_a_flow_tells_which_tcp_stacks_end_it_here() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: w.stack.applications)
        (flow,) = w.gate.table
        await until(lambda: flow.stack)
        assert flow.stack == "fake"
        transport.far[0].reset()


async def test_a_destination_that_refuses_is_a_refusal_for_the_application() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        transport.dials = refusing
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: w.events()[-1] == Failed("closed port"))
        (answer,) = w.nic.take_packets()
        assert answer[33] == RST | ACK
        assert w.forwarded == []


async def test_while_the_stack_cannot_flows_are_plain_at_once_and_why_says_so() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        w.stack.obstacle = "a firewall is in the way"
        assert w.gate.admit([SYN_FRAME]) == [SYN_FRAME]
        assert w.events()[1] == TransportSelected("tcp", "a firewall is in the way", "default")
        w.release()
        _, candidates, selection = await w.gate.explain(KEY)
        assert (candidates[0].available, candidates[0].reason) == (False, "a firewall is in the way")
        assert selection.transport == "tcp"
        # A stack is code of a plugin.
        w.stack.obstacle = RuntimeError("a bug")
        frame = device_frame(tcp_segment(ports=(40_001, 22)))
        assert w.gate.admit([frame]) == [frame]
        assert w.events()[-2] == TransportSelected("tcp", "stack fake failed, see the log", "default")
        assert transport.dialled == []


async def test_a_destination_out_of_the_peers_reach_is_no_route_for_the_application() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        transport.dials = out_of_reach
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: w.events()[-1] == Failed("no way there"))
        (answer,) = w.nic.take_packets()
        assert (answer[9], answer[20:22]) == (1, b"\x03\x01")
        # Plain TCP has the same peer, which would dial the same destination.
        assert w.forwarded == []
        (flow,) = w.gate.table
        assert flow.chosen_by == "default"


async def test_a_flow_of_a_host_behind_this_node_needs_a_stack_for_subnets() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        frame = device_frame(tcp_segment("192.168.1.5"))
        assert w.gate.admit([frame]) == [frame]
        assert w.events()[1] == TransportSelected("tcp", "subnet-to-subnet needs --use-smoltcp", "default")
        w.stack.carries_subnets = True
        w.release()
        assert w.gate.admit([device_frame(tcp_segment("192.168.1.6"))]) == []
        await until(lambda: w.stack.taken)
        assert transport.dialled


async def test_a_policy_without_an_answer_leaves_the_obstacle_as_the_reason() -> None:
    async with world() as w:
        w.offer(FakeTransport())
        w.hooks.asks = True
        w.release()
        assert w.gate.admit([device_frame(tcp_segment("192.168.1.5"))]) == []
        await until(lambda: w.forwarded)
        assert w.events()[1] == TransportSelected("tcp", "subnet-to-subnet needs --use-smoltcp", "default")


async def test_without_a_stack_every_flow_is_plain_and_told_why() -> None:
    async with world() as w:
        w.offer(FakeTransport())
        w.gate.stack, w.gate.stack_obstacle = None, "the stack is out"
        assert w.gate.admit([SYN_FRAME]) == [SYN_FRAME]
        assert w.events()[1] == TransportSelected("tcp", "the stack is out", "default")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(TransportUnavailable("full"), "kcp: full"), (ZeroDivisionError(), "kcp: stack fake failed, see the log")],
)
async def test_a_stack_that_cannot_end_the_connection_resets_the_other_side(error: Exception, reason: str) -> None:
    def fail(_key: FlowKey) -> None:
        raise error

    async with world() as w:
        transport = w.offer(FakeTransport())
        w.stack.terminates = fail
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: w.forwarded)
        assert w.forwarded == [SYN_FRAME]
        assert TransportSelected("tcp", reason, "fallback") in w.events()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await transport.far[0].receive()


async def test_a_plugin_may_choose_plain_tcp() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        assert w.gate.admit([SYN_FRAME]) == []
        w.release(Selection("tcp", "port 22", "policy"))
        await until(lambda: w.forwarded)
        assert w.forwarded == [SYN_FRAME]
        assert transport.dialled == []
        assert w.events()[1] == TransportSelected("tcp", "port 22", "policy")
        inbound(w, SYN | ACK)
        assert w.events()[-1] == Connected()


async def test_plugins_are_asked_even_if_only_tcp_is_left() -> None:
    async with world() as w:
        w.hooks.asks = True
        w.offer(FakeTransport(available=False))
        assert w.gate.admit([SYN_FRAME]) == []
        w.release(Selection("tcp", "as I say", "policy"))
        await until(lambda: w.forwarded == [SYN_FRAME])
        assert len(w.hooks.asked) == 1


def refusing(_flow: TcpFlow) -> None:
    raise ConnectionRefusedError("closed port")


def out_of_reach(_flow: TcpFlow) -> None:
    raise DestinationUnreachable("no way there")


def unavailable(_flow: TcpFlow) -> None:
    raise TransportUnavailable("no answer to the SYN")


def broken(_flow: TcpFlow) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("dials", "hangs", "reason"),
    [
        (unavailable, False, "kcp: no answer to the SYN"),
        (broken, False, "kcp: failed, see the log"),
        (None, True, "kcp: did not open in 0.02 s"),
    ],
)
async def test_what_cannot_open_falls_back_with_the_syn_untouched(
    monkeypatch: pytest.MonkeyPatch, dials: Callable[[TcpFlow], object] | None, hangs: bool, reason: str
) -> None:
    monkeypatch.setattr(gate_module, "OPEN_TIMEOUT", 0.02)
    async with world() as w:
        transport = w.offer(FakeTransport())
        transport.hangs = hangs
        transport.dials = dials or transport.dials
        w.release()
        assert w.gate.admit([SYN_FRAME]) == []
        await until(lambda: w.forwarded)
        assert w.forwarded == [SYN_FRAME]
        assert w.events() == [
            Seen(),
            TransportSelected("kcp", "kcp can", "default"),
            Connecting(),
            TransportSelected("tcp", reason, "fallback"),
            Connecting(),
        ]
        # From here on its segments are watched again, and the retransmitted SYN passes.
        assert w.gate.admit([SYN_FRAME]) == [SYN_FRAME]
        inbound(w, SYN | ACK)
        assert w.events()[-1] == Connected()


async def test_a_claim_left_behind_by_a_failed_stack_does_not_swallow_the_flow() -> None:
    async with world() as w:
        w.offer(FakeTransport())
        swallowed: list[bytes] = []

        def claim_and_fail(key: FlowKey) -> None:
            w.gate.claims.add(key, swallowed.extend)
            raise RuntimeError("half way")

        w.stack.terminates = claim_and_fail
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: w.forwarded)
        frame = device_frame(tcp_segment(flags=ACK))
        assert w.gate.admit([frame]) == [frame]
        assert swallowed == []


@pytest.mark.parametrize("answer", [None, "kcp", Candidate("other", True, "not mine"), Candidate("tcp", True, "")])
async def test_a_transport_whose_candidate_is_nonsense_is_not_available(answer: object) -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        transport.candidate = lambda *_: answer  # type: ignore[method-assign, assignment]
        assert w.gate.admit([SYN_FRAME]) == [SYN_FRAME]
        assert w.events()[1] == TransportSelected("tcp", "kcp failed, see the log", "default")


async def test_a_transport_that_fails_to_judge_leaves_the_choice_to_others(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        bad, good = FakeTransport("bad"), FakeTransport("good")
        bad.candidate = broken  # type: ignore[method-assign, assignment]
        w.offer(bad, good)
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: good.dialled)
        assert [candidate.available for candidate in w.hooks.asked[0][2]] == [False, True, True]
        assert "bad" in caplog.text


async def test_held_flows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MAX_HELD", 2)
    async with world() as w:
        w.offer(FakeTransport())
        frames = [device_frame(tcp_segment(ports=(port, 80))) for port in (1, 2, 3)]
        assert w.gate.admit(frames) == frames[2:]
        assert w.hooks.told[-2][1] == TransportSelected("tcp", "2 flows are being decided on already", "default")
        w.release(Selection("tcp", "", "policy"))
        await until(lambda: w.forwarded == frames[:2])
        assert w.gate._held == 0


async def test_flows_beyond_the_table_pass_unwatched() -> None:
    async with world(max_flows=1) as w:
        frames = [device_frame(tcp_segment(ports=(port, 80))) for port in (1, 2)]
        assert w.gate.admit(frames) == frames
        assert w.gate.table.unwatched == 1


async def test_a_claim_takes_the_frames_of_its_key_and_nothing_else() -> None:
    async with world() as w:
        taken: list[list[bytes]] = []
        end = w.gate.claims.add(KEY, taken.append)
        with pytest.raises(ValueError, match="claimed already"):
            w.gate.claims.add(KEY, taken.append)
        ours = [device_frame(tcp_segment(flags=PSH | ACK, data=bytes([number]))) for number in range(3)]
        back = device_frame(tcp_segment("10.144.0.2", "10.144.0.1", ports=(22, 40_000), flags=ACK))
        other = device_frame(tcp_segment(ports=(40_001, 22), flags=ACK))
        assert w.gate.admit([ours[0], other, ours[1], back, ours[2]]) == [other, back]
        assert taken == [ours]
        end()
        end()
        assert w.gate.admit(ours) == ours
        # The old end does not touch a later claim.
        w.gate.claims.add(KEY, taken.append)
        end()
        assert w.gate.admit(ours[:1]) == []


async def test_ports_used_again_after_the_end_are_judged_anew_in_spite_of_an_old_claim() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        taken: list[bytes] = []
        w.stack.terminates = lambda key: w.gate.claims.add(key, taken.extend)
        w.release()
        for count in (1, 2):
            assert w.gate.admit([device_frame(tcp_segment(sequence=count))]) == []
            await opened(w, count)
            w.gate.report(transport.dialled[-1].id, Closed("done"))
        assert transport.dialled[0].id != transport.dialled[1].id
        assert taken == []


async def test_a_claim_that_outlives_its_flow_swallows_no_new_one() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        w.stack.terminates = lambda key: w.gate.claims.add(key, lambda _frames: None)
        w.release()
        w.gate.admit([device_frame(tcp_segment(sequence=1))])
        await opened(w, 1)
        w.gate.report(transport.dialled[0].id, Closed("done"))
        w.clock.advance(ENDED_LINGER + 1)
        w.gate.tick()
        assert w.gate.admit([device_frame(tcp_segment(sequence=2))]) == []
        await opened(w, 2)


async def test_a_syn_of_another_connection_ends_a_claim_and_is_its_last_frame() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        taken: list[bytes] = []
        w.stack.terminates = lambda key: w.gate.claims.add(key, taken.extend)
        w.release()
        w.gate.admit([device_frame(tcp_segment(sequence=1))])
        await opened(w, 1)
        again, reset, anew = map(device_frame, (tcp_segment(), tcp_segment(flags=RST), tcp_segment(sequence=7)))
        assert w.gate.admit([again, reset, anew]) == []
        assert taken == [again, reset, anew]
        await opened(w, 2)
        assert transport.dialled[0].id != transport.dialled[1].id


async def test_an_application_that_begins_anew_while_its_syn_is_held_is_judged_by_the_new_one_only() -> None:
    async with world() as w:
        w.offer(FakeTransport())
        w.gate.admit([device_frame(tcp_segment(sequence=1))])
        await until(lambda: w.gate._held == 1)
        w.gate.admit([device_frame(tcp_segment(sequence=2))])
        w.release()
        await until(lambda: not w.gate._held)
        assert [segment for _, segment in w.stack.taken] == [device_frame(tcp_segment(sequence=2))]
        assert not w.gate._deciding


async def opened(world: World, count: int) -> None:
    await until(lambda: len(world.stack.taken) == count and not world.gate._held)


async def test_a_claim_may_end_inside_its_handler() -> None:
    async with world() as w:
        ends: list[Callable[[], None]] = []
        ends.append(w.gate.claims.add(KEY, lambda _frames: ends[0]()))
        assert w.gate.admit([device_frame(tcp_segment(flags=ACK))]) == []
        frame = device_frame(tcp_segment(flags=ACK))
        assert w.gate.admit([frame]) == [frame]


async def test_a_handler_that_fails_costs_its_frames_only(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        w.gate.claims.add(KEY, broken)  # type: ignore[arg-type]
        other = device_frame(tcp_segment(ports=(1, 2), flags=ACK))
        assert w.gate.admit([device_frame(tcp_segment(flags=ACK)), other]) == [other]
        assert "claimed flow failed" in caplog.text


async def test_a_transport_tells_the_rest_of_the_life() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        w.release()
        w.gate.admit([SYN_FRAME])
        await opened(w, 1)
        flow = transport.dialled[0]
        w.gate.admit([device_frame(tcp_segment(flags=RST))])
        for event in (Counters(1, 2), Closed("done"), Connected(), Failed("again")):
            w.gate.report(flow.id, event)
        w.gate.report(987_654, Connected())
        assert w.events()[3:] == [Connected(), Counters(1, 2), Closed("done")]


async def test_a_flow_opened_by_a_transport_is_announced() -> None:
    async with world(max_flows=1) as w:
        flow = w.gate.open_flow(KEY, "inbound", PEER_INFO, Selection("kcp", "the peer chose it", "peer"))
        assert (flow.key, flow.transport, flow.direction) == (KEY, "kcp", "inbound")
        assert w.events() == [Seen(), TransportSelected("kcp", "the peer chose it", "peer")]
        assert w.hooks.told[0][0].transport is None
        unwatched = w.gate.open_flow(KEY, "inbound", PEER_INFO, Selection("kcp", "", "peer"))
        assert unwatched.id == 0
        w.gate.report(0, Closed("nobody knows it"))
        assert len(w.events()) == 2


async def test_time_outs_are_told_by_the_tick() -> None:
    async with world() as w:
        w.gate.admit([SYN_FRAME])
        w.clock.advance(131)
        w.gate.tick()
        assert w.events()[-1] == Failed("no answer, the source has given up")


async def test_a_transport_whose_dial_is_no_coroutine_costs_its_flow_nothing() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        transport.dial = broken  # type: ignore[method-assign, assignment]
        w.release()
        w.gate.admit([SYN_FRAME])
        await until(lambda: w.forwarded)
        assert w.forwarded == [SYN_FRAME]
        assert TransportSelected("tcp", "kcp: failed, see the log", "fallback") in w.events()


class FakePlain:
    """Begins plain TCP connections unless there is an obstacle; `fails` is what it raises instead."""

    def __init__(self, obstacle: str = "", fails: OSError | None = None) -> None:
        self.obstacle = obstacle
        self.fails = fails
        self.keys: list[FlowKey] = []
        self.far: list[SocketStream] = []

    async def connect(self, key: FlowKey) -> TcpConnection:
        await anyio.lowlevel.checkpoint()
        self.keys.append(key)
        if self.fails is not None:
            raise self.fails
        near, far = socket.socketpair()
        self.far.append(SocketStream(far))
        return StreamOfTransport(near)


NO_STACK = "no TCP stack here"


@pytest.mark.parametrize(
    ("dials", "reason"),
    [(broken, f"kcp: failed, see the log; {NO_STACK}"), (refusing, "closed port"), (out_of_reach, "no way there")],
)
async def test_a_forwarded_connection_that_cannot_be_carried_is_reset(dials: Callable[[TcpFlow], object], reason: str) -> None:
    async with world() as w:
        w.gate.plain = FakePlain(NO_STACK)
        transport = w.offer(FakeTransport())
        transport.dials = dials
        w.release()
        near, far = socket.socketpair()
        with near, far:
            await w.gate.carry(KEY, SocketStream(near))
            assert near.fileno() == -1
        assert w.events()[-1] == Failed(reason)


async def test_a_flow_that_enters_here_takes_the_selected_transport() -> None:
    async with world() as w:
        plain = w.gate.plain = FakePlain()
        transport = w.offer(FakeTransport())
        w.release()
        flow_id, connection = await w.gate.dial(KEY)
        connection.reset()
        assert plain.keys == []
        (flow,) = transport.dialled
        assert (flow.id, flow.key, flow.direction, flow.transport) == (flow_id, KEY, "forwarded", "kcp")
        assert w.events() == [Seen(), TransportSelected("kcp", "kcp can", "default"), Connecting(), Connected()]


async def dial_plainly(w: World, plain: FakePlain) -> None:
    """Dial, and see the connection go by plain TCP."""
    w.gate.plain = plain
    w.release()
    _, connection = await w.gate.dial(KEY)
    connection.reset()
    for far in plain.far:
        far.reset()
    assert plain.keys == [KEY]
    assert w.events()[-1] == Connected()


async def test_without_a_transport_it_is_plain_tcp_and_why() -> None:
    async with world() as w:
        await dial_plainly(w, FakePlain())
        assert w.events()[1] == TransportSelected("tcp", "no plugin offers another transport", "default")


async def test_with_none_available_the_reason_is_theirs() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport(available=False))
        await dial_plainly(w, FakePlain())
        assert transport.dialled == []
        assert w.events()[1] == TransportSelected("tcp", "kcp cannot", "default")


async def test_a_transport_that_cannot_connect_falls_back_to_plain_tcp() -> None:
    def fail(_flow: TcpFlow) -> None:
        raise TransportUnavailable("no answer")

    async with world() as w:
        w.offer(FakeTransport()).dials = fail
        await dial_plainly(w, FakePlain())
        selected = [event for event in w.events() if isinstance(event, TransportSelected)]
        assert selected == [
            TransportSelected("kcp", "kcp can", "default"),
            TransportSelected("tcp", "kcp: no answer", "fallback"),
        ]


async def test_a_transport_that_hangs_falls_back_to_plain_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "OPEN_TIMEOUT", 0.01)
    async with world() as w:
        w.offer(FakeTransport()).hangs = True
        await dial_plainly(w, FakePlain())
        assert TransportSelected("tcp", "kcp: did not open in 0.01 s", "fallback") in w.events()


async def test_a_plugin_may_choose_plain_tcp_for_a_flow_that_enters_here() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        w.gate.plain = plain = FakePlain(fails=TimeoutError("no answer from 10.144.0.2:22"))
        w.release(Selection("tcp", "port 22", "policy"))
        with pytest.raises(TimeoutError, match="no answer from"):
            await w.gate.dial(KEY)
        assert (transport.dialled, plain.keys) == ([], [KEY])
        assert w.events()[-1] == Failed("no answer from 10.144.0.2:22")


@pytest.mark.parametrize(
    ("destination", "reason"),
    [("10.144.0.99", "no peer has 10.144.0.99"), ("10.144.0.2", f"kcp cannot; {NO_STACK}")],
)
async def test_where_nothing_leads_the_reason_is_said(destination: str, reason: str) -> None:
    async with world() as w:
        w.offer(FakeTransport(available=False))
        w.gate.plain = FakePlain(NO_STACK)
        w.release()
        with pytest.raises(OSError, match=f"^{reason}$"):
            await w.gate.dial(FlowKey(IPv4Address("127.0.0.1"), 5, IPv4Address(destination), 80))
        assert w.events()[-1] == Failed(reason)


async def test_our_own_address_needs_no_transport() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        w.gate.plain = plain = FakePlain(NO_STACK)
        _, connection = await w.gate.dial(FlowKey(IPv4Address("127.0.0.1"), 5, IPv4Address("10.144.0.1"), 80))
        connection.reset()
        plain.far[0].reset()
        assert transport.dialled == []
        assert w.events()[1] == TransportSelected("tcp", "the destination is this node", "default")


async def test_a_flow_whose_dialler_is_cancelled_has_ended() -> None:
    async with world() as w:
        w.offer(FakeTransport()).hangs = True
        w.release()
        with anyio.move_on_after(0.01):
            await w.gate.dial(KEY)
        assert w.events()[-1] == Failed("given up by the source")


async def test_with_a_full_table_nothing_enters_here() -> None:
    async with world(max_flows=1) as w:
        w.gate.admit([SYN_FRAME])
        with pytest.raises(OSError, match="as many flows as it can"):
            await w.gate.dial(KEY)


@pytest.mark.parametrize("obstacle", ["", "no TCP stack here"])
async def test_what_is_said_of_plain_tcp_where_flows_enter_at_a_port(obstacle: str) -> None:
    async with world() as w:
        w.offer(FakeTransport())
        w.gate.device, w.gate.plain = None, FakePlain(obstacle)
        w.release()
        _, candidates, selection = await w.gate.explain(KEY)
        assert candidates == [
            Candidate("kcp", available=True, reason="kcp can"),
            Candidate("tcp", available=not obstacle, reason=obstacle or "plain TCP is always there"),
        ]
        assert selection == Selection("kcp", "kcp can", "default")


async def test_what_a_flow_to_this_node_itself_would_get() -> None:
    async with world() as w:
        w.offer(FakeTransport())
        key = FlowKey(IPv4Address("10.144.0.1"), 1, IPv4Address("10.144.0.1"), 22)
        flow, candidates, selection = await w.gate.explain(key)
        assert (flow.peer, candidates) == (None, [])
        assert selection == Selection("tcp", "the destination is this node", "default")


def test_plain_tcp_alone_has_a_reason() -> None:
    def info(name: str, state: PluginState) -> PluginInfo:
        return PluginInfo(name, state)

    loaded = info("kernel", PluginState.LOADED)
    assert plain_alone([loaded]) == "no plugin offers another transport"
    assert plain_alone([info("kcp", PluginState.DISABLED), loaded]) == "no other transport: the plugin kcp is switched off"
