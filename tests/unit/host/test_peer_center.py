"""The table of latencies: serving it, reporting to it, and what a hostile peer may put in."""

from __future__ import annotations

from functools import partial
from itertools import count

import anyio
import pytest
from google.protobuf.message import Message

from easytier_host import peer_center
from easytier_host.metrics import Metrics
from easytier_host.packet import PacketType
from easytier_host.pb import peer_rpc_pb2
from easytier_host.peer_center import (
    GET_GLOBAL_PEER_MAP,
    MAX_PEERS_PER_REPORT,
    REPORT_LIFETIME,
    REPORT_PEERS,
    SERVICE,
    PeerCenter,
)
from easytier_host.rpc.peer import PeerRpc, RpcError
from tests.unit.host.helpers import FakeClock
from tests.unit.host.tunnel.helpers import running, until

pytestmark = pytest.mark.anyio

A, B, C = 0x8000_000A, 0x8000_000B, 0x8000_000C


class Net:
    """Nodes with a peer center each; `center` is the one that all of them believe in."""

    def __init__(self, *ids: int) -> None:
        self.clock = FakeClock()
        self.center = min(ids)
        self.latencies: dict[int, dict[int, int]] = {me: {} for me in ids}
        self.changes = dict.fromkeys(ids, 0)
        self.rpcs: dict[int, PeerRpc] = {}
        self.centers: dict[int, PeerCenter] = {}
        for me in ids:
            self.rpcs[me] = PeerRpc(me, "lab", partial(self.carry, me), Metrics(), count(1).__next__)
            self.centers[me] = PeerCenter(
                me,
                self.rpcs[me],
                self.clock,
                lambda: self.center,
                partial(self.latencies.__getitem__, me),
                partial(self.count, me),
            )

    def count(self, me: int) -> None:
        self.changes[me] += 1

    def carry(self, source: int, target: int, kind: PacketType, payloads: list[bytes]) -> None:
        for payload in payloads:
            if target in self.rpcs:
                self.rpcs[target].receive(source, kind, payload, self.clock.now)

    async def report(self, me: int, claimed: int, neighbours: dict[int, int]) -> None:
        request = peer_rpc_pb2.ReportPeersRequest(my_peer_id=claimed)
        for peer_id, latency in neighbours.items():
            request.peer_infos.direct_peers[peer_id].latency_ms = latency
        await self.rpcs[me].call(self.center, SERVICE, REPORT_PEERS, request, peer_rpc_pb2.ReportPeersResponse)

    async def fetch(self, me: int, digest: int = 0) -> peer_rpc_pb2.GetGlobalPeerMapResponse:
        request = peer_rpc_pb2.GetGlobalPeerMapRequest(digest=digest)
        return await self.rpcs[me].call(
            self.center, SERVICE, GET_GLOBAL_PEER_MAP, request, peer_rpc_pb2.GetGlobalPeerMapResponse
        )


async def test_reports_make_a_map_with_a_digest() -> None:
    net = Net(A, B)
    await net.report(B, B, {A: 7})
    answer = await net.fetch(B)
    assert answer.global_peer_map[B].direct_peers[A].latency_ms == 7
    assert answer.digest
    assert await net.fetch(B, answer.digest) == peer_rpc_pb2.GetGlobalPeerMapResponse()
    await net.report(B, B, {A: 8})
    assert (await net.fetch(B, answer.digest)).digest not in (0, answer.digest)


async def test_an_empty_map_has_a_digest_too() -> None:
    net = Net(A, B)
    assert (await net.fetch(B)).digest != 0


async def test_reports_are_forgotten_after_three_minutes() -> None:
    net = Net(A, B)
    await net.report(B, B, {A: 7})
    net.clock.advance(REPORT_LIFETIME - 1)
    assert B in (await net.fetch(B)).global_peer_map
    net.clock.advance(1)
    assert B not in (await net.fetch(B)).global_peer_map


async def test_nobody_reports_for_another() -> None:
    net = Net(A, B, C)
    with pytest.raises(RpcError, match="itself"):
        await net.report(B, C, {A: 1})
    assert not (await net.fetch(B)).global_peer_map


async def test_reports_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(A, B, C)
    with pytest.raises(RpcError, match="neighbours"):
        await net.report(B, B, dict.fromkeys(range(1, MAX_PEERS_PER_REPORT + 2), 5))
    monkeypatch.setattr(peer_center, "MAX_REPORTS", 1)
    await net.report(B, B, {A: 1})
    with pytest.raises(RpcError, match="full"):
        await net.report(C, C, {A: 1})
    await net.report(B, B, {A: 2})


async def test_every_node_learns_every_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_center, "CHECK_INTERVAL", 0.005)
    monkeypatch.setattr(peer_center, "FETCH_INTERVAL", 0.0)
    net = Net(A, B, C)
    net.latencies.update({A: {B: 10}, B: {A: 10, C: 30}, C: {B: 0}})
    wanted = {(A, B): 10, (B, A): 10, (B, C): 30, (C, B): 1}
    async with running() as tasks:
        for center in net.centers.values():
            tasks.start_soon(center.run)
        await until(lambda: all(center.latencies == wanted for center in net.centers.values()))
        net.latencies[B] = {A: 99}
        await until(lambda: net.centers[C].latencies.get((B, A)) == 99)
        assert (B, C) not in net.centers[C].latencies
        assert net.changes[C] >= 2


async def test_a_center_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_center, "CHECK_INTERVAL", 0.005)
    net = Net(A, B)
    net.latencies[B] = {A: 4}
    refuse = True
    original = net.rpcs[B].call

    async def call(*arguments: object) -> Message:
        if refuse:
            raise RpcError("no way")
        return await original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(net.rpcs[B], "call", call)
    async with running() as tasks:
        tasks.start_soon(net.centers[B].run)
        await anyio.wait_all_tasks_blocked()
        refuse = False
        await until(lambda: net.centers[B].latencies == {(B, A): 4})


@pytest.mark.parametrize("latency", [-5, 0, 2**31 - 1])
async def test_impossible_latencies_become_at_least_one(monkeypatch: pytest.MonkeyPatch, latency: int) -> None:
    monkeypatch.setattr(peer_center, "CHECK_INTERVAL", 0.001)
    net = Net(A, B)
    await net.report(B, B, {A: latency})
    async with running() as tasks:
        tasks.start_soon(net.centers[A].run)
        await until(lambda: net.centers[A].latencies == {(B, A): max(1, latency)})
