"""RPC calls between two nodes in memory: answers, errors, time-outs, and packets that nobody should send."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import count

import anyio
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.metrics import Metrics
from easytier_host.packet import PacketType
from easytier_host.pb import common_pb2, error_pb2, peer_rpc_pb2
from easytier_host.rpc import peer as rpc_module
from easytier_host.rpc.allowance import BURST_IN_STEPS, SHARE
from easytier_host.rpc.peer import PeerRpc, RpcError, RpcTimeoutError, ServiceError, ServiceNotOfferedError
from easytier_host.steps import Steps
from easytier_host.turns import SLICE, Pace
from tests.unit.host.helpers import FAR, OTHER, FakeClock

pytestmark = pytest.mark.anyio

A, B = 0x8000_000A, 0x8000_000B
Request, Reply = peer_rpc_pb2.GetGlobalPeerMapRequest, peer_rpc_pb2.GetGlobalPeerMapResponse


class Net:
    """Two nodes; what one sends the other receives at once, unless `filter` says otherwise."""

    def __init__(self) -> None:
        self.metrics = {A: Metrics(), B: Metrics()}
        self.sent: list[tuple[int, int, int, bytes]] = []
        self.filter: Callable[[list[bytes]], list[bytes]] = lambda payloads: payloads
        self.nodes = {me: PeerRpc(me, "lab", partial(self.carry, me), self.metrics[me], count(100).__next__) for me in (A, B)}

    def carry(self, source: int, target: int, kind: int, payloads: list[bytes]) -> None:
        self.sent += [(source, target, kind, payload) for payload in payloads]
        if target in self.nodes:
            for payload in self.filter(payloads):
                self.nodes[target].receive(source, kind, payload, 0.0)

    async def call(self, digest: int = 0, *, service: str = "S", method: int = 1, timeout: float = 5.0) -> Message:
        return await self.nodes[A].call(B, service, method, Request(digest=digest), Reply, timeout)


def serving(handler: Callable[[int, bytes], Message]) -> Net:
    net = Net()
    net.nodes[B].offer("S", {1: handler})
    return net


def echo(_peer: int, content: bytes) -> Message:
    return Reply(digest=Request.FromString(content).digest)


def packet(**changes: object) -> common_pb2.RpcPacket:
    """A request of A to B that would be served."""
    fields: dict[str, object] = {
        "from_peer": A,
        "to_peer": B,
        "transaction_id": -5,
        "descriptor": common_pb2.RpcDescriptor(domain_name="lab", proto_name="S", service_name="S", method_index=1),
        "body": peer_rpc_pb2.RpcRequest(request=Request(digest=3).SerializeToString(), timeout_ms=1000).SerializeToString(),
        "is_request": True,
        "total_pieces": 1,
        "trace_id": 9,
    }
    return common_pb2.RpcPacket(**(fields | changes))  # type: ignore[arg-type]


def answer(net: Net, request: common_pb2.RpcPacket) -> peer_rpc_pb2.RpcResponse:
    """What B answers to this packet."""
    net.nodes[B].receive(A, PacketType.RPC_REQ, request.SerializeToString(), 0.0)
    source, target, kind, payload = net.sent[-1]
    assert (source, target, kind) == (B, A, PacketType.RPC_RESP)
    response = common_pb2.RpcPacket.FromString(payload)
    assert (response.transaction_id, response.trace_id, response.is_request) == (-5, 9, False)
    assert response.descriptor == request.descriptor
    return peer_rpc_pb2.RpcResponse.FromString(response.body)


async def test_a_call_is_answered() -> None:
    net = serving(echo)
    assert await net.call(42) == Reply(digest=42)
    assert net.metrics[A].rpc_calls == net.metrics[B].rpc_requests_served == 1
    assert net.metrics[A].rpc_calls_failed == 0


async def test_the_caller_is_named_to_the_service() -> None:
    callers: list[int] = []

    def note(peer: int, _content: bytes) -> Message:
        callers.append(peer)
        return Reply()

    await serving(note).call()
    assert callers == [A]


async def test_a_long_answer_comes_in_reversed_and_doubled_pieces() -> None:
    reply = Reply()
    for peer_id in range(2000):
        reply.global_peer_map[peer_id].direct_peers[peer_id + 1].latency_ms = 5
    net = serving(lambda _peer, _content: reply)
    net.filter = lambda payloads: [payload for payload in reversed(payloads) for _ in range(2)]
    assert await net.call() == reply
    assert len(net.sent) > 10


@pytest.mark.parametrize("size", [0, 1, 1100, 5000])
async def test_no_request_leaves_without_descriptor_and_pieces(size: int) -> None:
    net = Net()
    request = peer_rpc_pb2.SyncRouteInfoRequest(my_peer_id=A)
    request.peer_infos.items.add(hostname="h" * size)
    with pytest.raises(RpcTimeoutError):
        await net.nodes[A].call(99, "S", 1, request, Reply, 0.001)
    assert net.sent
    for _, _, kind, payload in net.sent:
        sent = common_pb2.RpcPacket.FromString(payload)
        assert (kind, sent.is_request) == (PacketType.RPC_REQ, True)
        assert sent.descriptor == common_pb2.RpcDescriptor(domain_name="lab", proto_name="S", service_name="S", method_index=1)
        assert sent.total_pieces >= 1
    whole = b"".join(common_pb2.RpcPacket.FromString(payload).body for *_, payload in net.sent)
    assert peer_rpc_pb2.RpcRequest.FromString(whole).timeout_ms >= 1


async def test_transactions_differ() -> None:
    net = serving(echo)
    for _ in range(3):
        await net.call()
    assert len({common_pb2.RpcPacket.FromString(payload).transaction_id for _, _, kind, payload in net.sent if kind == 8}) == 3


async def test_no_answer_is_a_time_out() -> None:
    net = serving(echo)
    net.filter = lambda _payloads: []
    with pytest.raises(RpcTimeoutError, match="no answer"):
        await net.call(timeout=0.01)
    assert net.metrics[A].rpc_calls_failed == 1
    assert net.nodes[A]._calls == {}


async def test_a_service_that_is_not_offered() -> None:
    net = serving(echo)
    with pytest.raises(ServiceNotOfferedError):
        await net.call(service="Other")
    assert (net.metrics[A].rpc_calls_failed, net.metrics[B].rpc_requests_refused) == (1, 1)


async def test_an_error_of_the_service_is_told_to_the_caller() -> None:
    def refuse(_peer: int, _content: bytes) -> Message:
        raise ServiceError("not for you")

    with pytest.raises(RpcError, match="not for you"):
        await serving(refuse).call()


async def test_a_service_that_fails_says_no_more_than_that(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_peer: int, _content: bytes) -> Message:
        raise RuntimeError("password")

    with pytest.raises(RpcError, match="internal error") as caught:
        await serving(fail).call()
    assert "password" not in str(caught.value)
    assert "password" in caplog.text


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (error_pb2.Error(other_error=error_pb2.OtherError(error_message="x1")), RpcError, "x1"),
        (
            error_pb2.Error(invalid_service=error_pb2.InvalidService(service_name="S")),
            ServiceNotOfferedError,
            "not have this service",
        ),
        (error_pb2.Error(invalid_method_index=error_pb2.InvalidMethodIndex(method_index=7)), RpcError, "this method"),
        (error_pb2.Error(execute_error=error_pb2.ExecuteError(error_message="x2")), RpcError, "x2"),
        (error_pb2.Error(malformat_rpc_packet=error_pb2.MalformatRpcPacket(error_message="x3")), RpcError, "x3"),
        (error_pb2.Error(timeout=error_pb2.Timeout(error_message="x4")), RpcError, "x4"),
        (error_pb2.Error(), RpcError, "error without a name"),
    ],
)
async def test_errors_of_stock_become_exceptions(error: error_pb2.Error, kind: type[RpcError], said: str) -> None:
    net = Net()
    content = peer_rpc_pb2.RpcResponse(error=error).SerializeToString()

    def reply(payloads: list[bytes]) -> list[bytes]:
        request = common_pb2.RpcPacket.FromString(payloads[0])
        response = packet(from_peer=B, to_peer=A, transaction_id=request.transaction_id, body=content, is_request=False)
        net.nodes[A].receive(B, PacketType.RPC_RESP, response.SerializeToString(), 0.0)
        return []

    net.filter = reply
    with pytest.raises(kind, match=said):
        await net.call()


async def test_an_answer_that_does_not_decode_is_an_rpc_error() -> None:

    net = serving(lambda _peer, _content: peer_rpc_pb2.RpcResponse(response=b"\xff\xff\xff"))
    with pytest.raises(RpcError, match="decode"):
        await net.call()


async def test_answers_of_others_are_not_taken() -> None:
    """C knows the transaction number of a call to B, and answers first."""
    net = Net()
    result: list[Message] = []

    async def call() -> None:
        result.append(await net.call())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        while not net.sent:
            await anyio.lowlevel.checkpoint()
        request = common_pb2.RpcPacket.FromString(net.sent[0][3])
        body = peer_rpc_pb2.RpcResponse(response=Reply(digest=666).SerializeToString()).SerializeToString()
        for claimed, source in ((0xC, 0xC), (B, 0xC)):
            forged = packet(from_peer=claimed, to_peer=A, transaction_id=request.transaction_id, body=body, is_request=False)
            net.nodes[A].receive(source, PacketType.RPC_RESP, forged.SerializeToString(), 0.0)
        good = peer_rpc_pb2.RpcResponse(response=Reply(digest=1).SerializeToString()).SerializeToString()
        honest = packet(from_peer=B, to_peer=A, transaction_id=request.transaction_id, body=good, is_request=False)
        net.nodes[A].receive(B, PacketType.RPC_RESP, honest.SerializeToString(), 0.0)
    assert result == [Reply(digest=1)]
    assert net.metrics[A].dropped_rpc == 1


def test_stock_is_answered_in_its_own_words() -> None:
    net = serving(echo)
    assert answer(net, packet()).response == Reply(digest=3).SerializeToString()
    other = common_pb2.RpcDescriptor(domain_name="lab", proto_name="X", service_name="X", method_index=1)
    assert answer(net, packet(descriptor=other)).error.invalid_service.service_name == "X"
    domain = common_pb2.RpcDescriptor(domain_name="LAB", proto_name="S", service_name="S", method_index=1)
    assert answer(net, packet(descriptor=domain)).error.WhichOneof("error_kind") == "invalid_service"
    protocol = common_pb2.RpcDescriptor(domain_name="lab", proto_name="T", service_name="S", method_index=1)
    assert answer(net, packet(descriptor=protocol)).error.WhichOneof("error_kind") == "invalid_service"
    method = common_pb2.RpcDescriptor(domain_name="lab", proto_name="S", service_name="S", method_index=2)
    assert answer(net, packet(descriptor=method)).error.invalid_method_index.method_index == 2
    assert answer(net, packet(body=b"\xff\xff")).error.WhichOneof("error_kind") == "prost_decode_error"
    inner = peer_rpc_pb2.RpcRequest(request=b"\xff\xff").SerializeToString()
    assert answer(net, packet(body=inner)).error.WhichOneof("error_kind") == "prost_decode_error"
    assert (net.metrics[B].rpc_requests_served, net.metrics[B].rpc_requests_refused) == (1, 6)


@pytest.mark.parametrize(
    "changes",
    [
        {"from_peer": 0xC},
        {"to_peer": A},
        {"is_request": False},
        {"total_pieces": 0},
        {"total_pieces": 0, "descriptor": None},
        {"descriptor": None},
        {"piece_idx": 1},
        {"compression_info": common_pb2.RpcCompressionInfo(algo=common_pb2.CompressionZstd)},
    ],
)
def test_broken_requests_are_dropped_and_counted(changes: dict[str, object]) -> None:
    net = serving(echo)
    net.nodes[B].receive(A, PacketType.RPC_REQ, packet(**changes).SerializeToString(), 0.0)
    assert net.sent == []
    assert net.metrics[B].dropped_rpc == 1


def test_unfinished_calls_are_counted_when_they_expire() -> None:
    net = serving(echo)
    net.nodes[B].receive(A, PacketType.RPC_REQ, packet(total_pieces=2).SerializeToString(), 0.0)
    net.nodes[B].expire(60.0)
    assert net.metrics[B].dropped_rpc == 1


async def test_calls_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "MAX_CALLS", 3)
    net = Net()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(net.call)
        while len(net.sent) < 3:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(RpcError, match="under way"):
            await net.call()
        tasks.cancel_scope.cancel()
    assert net.nodes[A]._calls == {}


@given(st.binary(max_size=400), st.sampled_from([8, 9]))
def test_any_bytes_are_survived(payload: bytes, kind: int) -> None:
    net = serving(echo)
    net.nodes[B].receive(A, kind, payload, 0.0)
    mutated = packet(body=payload, piece_idx=0).SerializeToString()
    net.nodes[B].receive(A, kind, mutated, 0.0)
    assert net.nodes[B]._reassembler.unfinished <= 1


def test_a_neighbour_that_costs_too_much_goes_unheard() -> None:
    """OTHER asks in many names; each answer takes a tenth of a second."""
    clock = FakeClock()
    net = Net()

    def slow(_peer: int, _content: bytes) -> Message:
        clock.advance(0.1)
        return Reply()

    node = PeerRpc(B, "lab", lambda *_: None, net.metrics[B], count(1).__next__, clock=clock, work_clock=clock)
    node.offer("S", {1: slow})
    for name in range(1, 30):
        node.receive(name, PacketType.RPC_REQ, packet(from_peer=name).SerializeToString(), clock.now, OTHER)
    served = net.metrics[B].rpc_requests_served
    assert served == 6
    assert net.metrics[B].dropped_rpc == 29 - served
    node.receive(A, PacketType.RPC_REQ, packet().SerializeToString(), clock.now, A)
    assert net.metrics[B].rpc_requests_served == served + 1


def test_a_request_with_long_names_gets_no_long_answer() -> None:
    net = serving(echo)
    descriptor = common_pb2.RpcDescriptor(domain_name="lab", proto_name="S", service_name="s" * 600, method_index=1)
    net.nodes[B].receive(A, PacketType.RPC_REQ, packet(descriptor=descriptor).SerializeToString(), 0.0)
    assert (net.sent, net.metrics[B].dropped_rpc) == ([], 1)


class Slow:
    """A node whose service takes a slice for ten steps, and as many steps as the request says."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.answered: list[tuple[int, peer_rpc_pb2.RpcResponse]] = []
        self.steps: list[int] = []
        """Whose call each was for."""
        self.node = PeerRpc(B, "lab", self.note, self.metrics, count(1).__next__, clock=self.clock, work_clock=self.clock)
        self.node.offer_in_steps("S", {1: self.serve})

    def note(self, peer: int, _kind: PacketType, payloads: list[bytes]) -> None:
        body = b"".join(common_pb2.RpcPacket.FromString(payload).body for payload in payloads)
        self.answered.append((peer, peer_rpc_pb2.RpcResponse.FromString(body)))

    def serve(self, peer: int, content: bytes) -> Steps[Message]:
        request = Request.FromString(content)
        for _ in range(request.digest):
            self.steps.append(peer)
            self.clock.advance(SLICE / 9.5)
            yield
        if peer == OTHER:
            raise ServiceError("not for you")
        return Reply(digest=request.digest)

    def ask(self, peer: int, steps: int) -> None:
        request = peer_rpc_pb2.RpcRequest(request=Request(digest=steps).SerializeToString()).SerializeToString()
        payload = packet(from_peer=peer, body=request).SerializeToString()
        self.node.receive(peer, PacketType.RPC_REQ, payload, self.clock.now)


def test_a_call_in_steps_is_served_in_slices_by_turns_with_others() -> None:
    slow = Slow()
    assert slow.node.work(0.0) == math.inf
    slow.ask(A, 25)
    slow.ask(FAR, 10_000)
    assert slow.steps == []
    slices = []
    while len(slow.answered) < 1:
        before = len(slow.steps)
        assert slow.node.work(slow.clock.now) == 0.0
        slices.append(slow.steps[before:])
    assert slices == [[A] * 10, [FAR] * 10, [A] * 10, [FAR] * 10, [A] * 5]
    assert [(peer, response.error.WhichOneof("error_kind")) for peer, response in slow.answered] == [(A, None)]
    assert slow.answered[0][1].response == Reply(digest=25).SerializeToString()
    assert slow.metrics.rpc_requests_served == 1


def test_a_call_in_steps_waits_for_the_share_of_its_neighbour_and_then_goes_on() -> None:
    slow = Slow()
    slow.ask(A, 1_000_000)
    began = slow.clock.now
    while not (wait := slow.node.work(slow.clock.now)):
        pass
    worked = slow.clock.now - began
    assert worked == pytest.approx(BURST_IN_STEPS / (1 - SHARE), rel=0.01)
    # What is left is for its other calls, and for the steps of others.
    slow.ask(FAR, 3)
    assert slow.node.work(slow.clock.now) == 0.0
    assert slow.answered[-1][0] == FAR
    assert slow.node._allowance.permits(A, slow.clock.now)
    assert 0 < wait <= 1.1 * SLICE / SHARE
    done = len(slow.steps)
    slow.clock.advance(wait)
    assert slow.node.work(slow.clock.now) == 0.0
    assert len(slow.steps) == done + 10


def test_one_call_in_steps_of_a_neighbour_is_under_way() -> None:
    slow = Slow()
    for _ in range(3):
        slow.ask(A, 5)
    assert slow.metrics.dropped_rpc == 2
    assert slow.node.work(slow.clock.now) == 0.0
    assert slow.node.work(slow.clock.now) == math.inf
    slow.ask(A, 5)
    slow.node.work(slow.clock.now)
    assert [peer for peer, _ in slow.answered] == [A, A]


def test_calls_in_steps_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "MAX_WAITING_BYTES", 3 * len(Request(digest=1).SerializeToString()))
    slow = Slow()
    for peer in range(1, 6):
        slow.ask(peer, 1)
    assert slow.metrics.dropped_rpc == 2
    while slow.node.work(slow.clock.now) == 0.0:
        pass
    slow.ask(9, 1)
    slow.node.work(slow.clock.now)
    assert [peer for peer, _ in slow.answered] == [1, 2, 3, 9]


def test_what_a_call_in_steps_raises_is_told_to_the_caller() -> None:
    slow = Slow()
    slow.ask(OTHER, 15)
    while slow.node.work(slow.clock.now) == 0.0:
        pass
    assert [(peer, response.error.execute_error.error_message) for peer, response in slow.answered] == [(OTHER, "not for you")]
    assert slow.metrics.rpc_requests_refused == 1


async def test_calls_in_steps_are_served_while_it_runs() -> None:
    slow = Slow()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow.node.run, Pace())
        await anyio.lowlevel.checkpoint()
        slow.ask(A, 3)
        while not slow.answered:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


def test_a_call_of_which_a_piece_went_unheard_takes_no_room() -> None:
    """The neighbour used up its share between two pieces: neither what came before nor what comes after is kept."""
    clock = FakeClock()
    net = serving(echo)
    node = net.nodes[B]
    cut = [packet(total_pieces=3, piece_idx=index, body=bytes(10)).SerializeToString() for index in range(3)]
    node.receive(A, PacketType.RPC_REQ, cut[0], clock.now)
    assert node._reassembler.unfinished == 1
    node._allowance.spend(A, 1.0, clock.now)
    node.receive(A, PacketType.RPC_REQ, cut[1], clock.now)
    assert node._reassembler.unfinished == 0
    node._allowance.spend(A, -1.0, clock.now)
    node.receive(A, PacketType.RPC_REQ, cut[2], clock.now)
    assert node._reassembler.unfinished == 0
    # The one forgotten, the one unread, and the one too late.
    assert net.metrics[B].dropped_rpc == 3
