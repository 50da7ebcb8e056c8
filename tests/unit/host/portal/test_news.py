"""Flows watched by the portal."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from easytier_hooks.types import Closed, Connected, Counters, Failed, HalfClosed
from easytier_host.flows import MAX_HISTORY
from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_own_pb2
from easytier_host.rpc.client import PortalClient, RefusedError
from tests.unit.host.helpers import make_node
from tests.unit.host.portal.portals import ask, flow, packet, portal_of, read_answer

pytestmark = pytest.mark.anyio


def watch(client: PortalClient, cursor: bytes = b"", wait: float = 5.0) -> portal_own_pb2.WatchFlowsResponse:
    return client.watch_flows(cursor=cursor, wait=wait)


async def test_flows_are_watched_from_a_snapshot_on() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        flow_id = flow(node, 1, "kcp")
        with PortalClient(port=portal.port) as client, anyio.fail_after(20):
            answers = client.stream_flows(wait=5)
            snapshot = await anext(answers)
            assert (snapshot.is_snapshot, [each.src.port for each in snapshot.flows], list(snapshot.updates)) == (True, [1], [])
            node.gate.report(flow_id, Connected())
            answer = await anext(answers)
            assert not answer.is_snapshot
            assert [(each.id, each.state) for each in answer.flows] == [(flow_id, "connected")]
            assert [(each.event, each.flow_id) for each in answer.updates] == [("connected", flow_id)]
            node.gate.report(flow_id, Closed("FIN both ways"))
            (update,) = (await anext(answers)).updates
            assert (update.event, update.detail, update.sequence) == ("closed", "FIN both ways", answer.updates[0].sequence + 1)
            await answers.aclose()
            assert (await anyio.to_thread.run_sync(client.node_info)).peer_id == node.peer_id


async def test_watching_can_be_cancelled_at_once() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        with PortalClient(port=portal.port) as client, anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                seen = anyio.Event()

                async def read() -> None:
                    async for _ in client.stream_flows(wait=20):
                        seen.set()

                tasks.start_soon(read)
                await seen.wait()
                tasks.cancel_scope.cancel()


async def test_other_answers_overtake_one_that_waits() -> None:
    async with make_node(1) as node, portal_of(node) as portal, await anyio.connect_tcp("127.0.0.1", portal.port) as stream:
        cursor = (await ask(portal, watch)).cursor
        request = portal_own_pb2.WatchFlowsRequest(cursor=cursor, wait_ms=20_000)
        waiting = peer_rpc_pb2.RpcRequest(request=request.SerializeToString()).SerializeToString()
        descriptor = common_pb2.RpcDescriptor(service_name="PythonNodeRpc", method_index=3)
        await stream.send(packet(transaction_id=1, descriptor=descriptor, body=waiting))
        await stream.send(packet(transaction_id=2))
        assert (await read_answer(stream))[0].transaction_id == 2
        flow(node, 1, "kcp")
        assert (await read_answer(stream))[0].transaction_id == 1


async def test_a_watch_ends_with_its_wait() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        cursor = (await ask(portal, watch)).cursor
        answer = await ask(portal, lambda client: watch(client, cursor, wait=0.02))
        assert (answer.is_snapshot, list(answer.flows), list(answer.updates)) == (False, [], [])


async def test_one_flow_is_shown_with_its_history() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        flow_id = flow(node, 1, "kcp")
        node.gate.report(flow_id, Connected())
        node.gate.report(flow_id, Counters(1, 2))
        for _ in range(40):
            node.gate.report(flow_id, HalfClosed("source"))
        node.gate.report(flow_id, Failed("reset"))
        shown = await ask(portal, lambda client: client.show_flow(flow_id))
        assert (shown.flow.id, shown.flow.state, shown.flow.chosen_by) == (flow_id, "failed", "test")
        assert [(each.event, each.detail) for each in shown.history][-2:] == [
            ("half-closed", "by the source"),
            ("failed", "reset"),
        ]
        assert len(shown.history) == MAX_HISTORY
        with pytest.raises(RefusedError, match="there is no flow 99"):
            await ask(portal, lambda client: client.show_flow(99))
