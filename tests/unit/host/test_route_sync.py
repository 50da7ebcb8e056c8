"""Route synchronisation over RPC in memory: what is repeated, when it stops, and a neighbour that goes at a bad moment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from uuid import UUID

import anyio
import pytest
from anyio.abc import TaskGroup

from easytier_host import route_sync
from easytier_host.metrics import Metrics
from easytier_host.packet import PacketType
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.route import LinkState
from easytier_host.route_records import OwnRecord
from easytier_host.route_sync import RouteSync
from easytier_host.rpc.peer import PeerRpc
from easytier_host.turns import Pace
from tests.unit.host.helpers import FakeClock
from tests.unit.host.tunnel.helpers import running, until

pytestmark = pytest.mark.anyio

A, B, C = 0x8000_000A, 0x8000_000B, 0x8000_000C


class Net:
    """Nodes that hear each other at once; `lost` says which packets (source, target, type) are not delivered."""

    def __init__(self, tasks: TaskGroup, *ids: int) -> None:
        self.clock = FakeClock()
        self.sent: list[tuple[int, int, int, bytes]] = []
        self.lost: Callable[[int, int, int], bool] = lambda *_: False
        self.states: dict[int, LinkState] = {}
        self.rpcs: dict[int, PeerRpc] = {}
        self.syncs: dict[int, RouteSync] = {}
        self.changes: dict[int, int] = dict.fromkeys(ids, 0)
        for me in ids:
            numbers = iter(range(me, me + 1000))
            self.states[me] = LinkState(me, OwnRecord(UUID(int=me), f"host{me}"), partial(next, numbers), self.clock.now)
            self.rpcs[me] = PeerRpc(me, "lab", partial(self.carry, me), Metrics(), count(1).__next__, clock=self.clock)
            tasks.start_soon(self.rpcs[me].run, Pace())
            self.syncs[me] = RouteSync(self.states[me], self.rpcs[me], tasks, self.clock, self.clock, partial(self.count, me))

    def count(self, me: int) -> None:
        self.changes[me] += 1

    def carry(self, source: int, target: int, kind: int, payloads: list[bytes]) -> None:
        for payload in payloads:
            self.sent.append((source, target, kind, payload))
            if target in self.rpcs and not self.lost(source, target, kind):
                self.rpcs[target].receive(source, kind, payload, self.clock.now)

    def join(self, first: int, second: int) -> None:
        self.syncs[first].add_neighbour(second)
        self.syncs[second].add_neighbour(first)

    def requests(self, source: int) -> list[peer_rpc_pb2.SyncRouteInfoRequest]:
        packets = [common_pb2.RpcPacket.FromString(data) for who, _, kind, data in self.sent if (who, kind) == (source, 8)]
        contents = [peer_rpc_pb2.RpcRequest.FromString(packet.body).request for packet in packets]
        return [peer_rpc_pb2.SyncRouteInfoRequest.FromString(content) for content in contents]

    def known(self, me: int) -> set[int]:
        return {record.peer_id for record in self.states[me].peers()}


async def test_neighbours_learn_each_others_records() -> None:
    async with running() as tasks:
        net = Net(tasks, A, B)
        net.join(A, B)
        await until(lambda: net.known(A) == {B} and net.known(B) == {A})
        assert net.changes[A] >= 1
        assert all(request.is_initiator and request.my_peer_id == A for request in net.requests(A))


async def test_records_travel_through_a_neighbour() -> None:
    async with running() as tasks:
        net = Net(tasks, A, B, C)
        net.join(A, B)
        net.join(B, C)
        await until(lambda: net.known(A) == {B, C} and net.known(C) == {A, B})


async def test_a_change_is_told_at_once() -> None:
    async with running() as tasks:
        net = Net(tasks, A, B)
        net.join(A, B)
        await until(lambda: net.known(B) == {A} and not net.states[A].wants_sync(B))
        net.states[A].update_own(OwnRecord(UUID(int=A), "renamed"))
        net.syncs[A].announce()
        await until(lambda: {record.hostname for record in net.states[B].peers()} == {"renamed"})


async def test_a_quiet_session_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_sync, "KEEPALIVE_INTERVAL", 0.01)
    async with running() as tasks:
        net = Net(tasks, A, B)
        net.join(A, B)
        await until(lambda: len(net.requests(A)) >= 5)
        keepalive = net.requests(A)[-1]
        assert not keepalive.HasField("peer_infos")
        assert not keepalive.HasField("conn_bitmap")
        assert keepalive.my_session_id


async def test_a_lost_request_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_sync, "CALL_TIMEOUT", 0.01)
    monkeypatch.setattr(route_sync, "FIRST_RETRY", 0.001)
    async with running() as tasks:
        net = Net(tasks, A, B)
        net.lost = lambda source, *_: source == A and len(net.sent) < 8
        net.join(A, B)
        await until(lambda: net.known(B) == {A})
        assert net.states[A].counters.syncs_failed >= 1


async def test_a_stranger_is_told_that_it_has_no_session() -> None:
    async with running() as tasks:
        net = Net(tasks, A, B)
        net.syncs[A].add_neighbour(B)
        await until(lambda: any(who == B for who, *_ in net.sent))
        packet = common_pb2.RpcPacket.FromString(next(data for who, _, _, data in net.sent if who == B))
        response = peer_rpc_pb2.RpcResponse.FromString(packet.body)
        assert "not a neighbour" in response.error.execute_error.error_message
        assert net.known(B) == set()


async def test_no_answer_carries_an_error_field_that_ends_stock() -> None:
    async with running() as tasks:
        net = Net(tasks, A, B)
        net.join(A, B)
        await until(lambda: net.known(A) and net.known(B))
        packets = [common_pb2.RpcPacket.FromString(data) for _, _, kind, data in net.sent if kind == PacketType.RPC_RESP]
        assert packets
        for packet in packets:
            content = peer_rpc_pb2.RpcResponse.FromString(packet.body).response
            assert not peer_rpc_pb2.SyncRouteInfoResponse.FromString(content).HasField("error")


async def test_nothing_is_sent_to_a_neighbour_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_sync, "KEEPALIVE_INTERVAL", 0.001)
    async with running() as tasks:
        net = Net(tasks, A, B, C)
        net.join(A, B)
        net.join(A, C)
        await until(lambda: net.known(A) == {B, C})
        net.syncs[A].remove_neighbour(B)
        before = len(net.sent)
        await until(lambda: len(net.sent) > before + 20)
        assert not [target for source, target, kind, _ in net.sent[before + 2 :] if (source, target, kind) == (A, B, 8)]


async def test_a_neighbour_may_go_in_the_moment_of_its_answer() -> None:
    """The answer wakes the loop, and before it runs the neighbour is gone: that must not end the node."""
    async with running() as tasks:
        net = Net(tasks, A, B)
        net.lost = lambda *_: True
        net.syncs[A].add_neighbour(B)
        await until(lambda: net.sent)
        request = common_pb2.RpcPacket.FromString(net.sent[0][3])
        content = peer_rpc_pb2.SyncRouteInfoResponse(is_initiator=True, session_id=5).SerializeToString()
        response = common_pb2.RpcPacket(
            from_peer=B,
            to_peer=A,
            transaction_id=request.transaction_id,
            descriptor=request.descriptor,
            body=peer_rpc_pb2.RpcResponse(response=content).SerializeToString(),
            total_pieces=1,
        )
        net.rpcs[A].receive(B, PacketType.RPC_RESP, response.SerializeToString(), 0.0)
        net.syncs[A].remove_neighbour(B)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert net.syncs[A]._news == {}
        net.lost = lambda *_: False
        net.join(A, B)
        await until(lambda: net.known(B) == {A})


async def test_a_neighbour_may_go_before_its_loop_has_begun() -> None:
    async with running() as tasks:
        net = Net(tasks, A, B)
        net.syncs[A].add_neighbour(B)
        net.syncs[A].remove_neighbour(B)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert net.syncs[A]._news == {}
        net.join(A, B)
        await until(lambda: net.known(A) == {B} and net.known(B) == {A})
        net.syncs[A].remove_neighbour(B)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert net.syncs[A]._news == {}
