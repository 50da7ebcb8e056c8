"""What a plugin may do with a node: sending, taking packets, claims, and what is not open to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address

import anyio
import pytest

from easytier_hooks.services import HostServices
from easytier_hooks.types import Closed, FlowKey
from easytier_host.instance import Node
from easytier_host.nic.memory import MemoryNic
from easytier_host.packet import PacketType
from easytier_host.plugin_services import OPEN_TYPES, PluginServices
from tests.unit.host.helpers import ACK, FakeTunnel, device_frame, make_node, tcp_segment, until

pytestmark = pytest.mark.anyio

KEY = FlowKey(IPv4Address("10.144.0.1"), 40_000, IPv4Address("10.144.0.2"), 22)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Node, PluginServices, Node, PluginServices]]:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1, nic=MemoryNic()))
        b = await stack.enter_async_context(make_node(2, a.listeners[0], nic=MemoryNic()))
        await until(lambda: a.routes() and b.routes())
        yield a, PluginServices(a, "test", {"window": 5}), b, PluginServices(b, "test", {})


async def test_payloads_travel_from_plugin_to_plugin() -> None:
    async with pair() as (a, first, b, second):
        taken: list[tuple[int, bytes]] = []
        second.handle(PacketType.KCP_SRC, lambda peer, payloads: taken.extend((peer, payload) for payload in payloads))
        payloads = [bytes([number]) * 100 for number in range(20)]
        assert first.send(b.peer_id, PacketType.KCP_SRC, payloads)
        await until(lambda: len(taken) == 20)
        assert taken == [(a.peer_id, payload) for payload in payloads]
        assert b.metrics.plugin_frames == 20


async def test_a_handler_that_fails_is_logged_by_name_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as (_, first, b, second):
        calls: list[int] = []

        def fail(_peer: int, payloads: list[bytes]) -> None:
            calls.append(len(payloads))
            raise ZeroDivisionError

        second.handle(PacketType.KCP_DST, fail)
        first.send(b.peer_id, PacketType.KCP_DST, [b"x"])
        await until(lambda: len(calls) == 1)
        first.send(b.peer_id, PacketType.KCP_DST, [b"y"])
        await until(lambda: len(calls) == 2)
        assert "plugin test" in caplog.text
        assert b.peers()


@pytest.mark.parametrize("kind", sorted(set(PacketType) - OPEN_TYPES))
async def test_other_types_are_not_open(kind: PacketType) -> None:
    async with make_node(1) as node:
        services = PluginServices(node, "test", {})
        with pytest.raises(ValueError, match="not open"):
            services.send(5, kind, [b"x"])
        with pytest.raises(ValueError, match="not open"):
            services.handle(kind, lambda _peer, _payloads: None)


async def test_a_type_has_one_handler() -> None:
    async with make_node(1) as node:
        services = PluginServices(node, "test", {})
        services.handle(PacketType.KCP_SRC, lambda _peer, _payloads: None)
        with pytest.raises(ValueError, match="already"):
            services.handle(PacketType.KCP_SRC, lambda _peer, _payloads: None)


async def test_a_congested_way_is_told_and_nobody_is_dropped_silently() -> None:
    async with pair() as (a, first, b, _):
        conn = a.outbound.connection_to(b.peer_id)
        assert conn is not None
        slow = FakeTunnel()
        slow.slow = True
        conn.tunnel, real = slow, conn.tunnel
        assert not first.send(b.peer_id, PacketType.KCP_SRC, [b"x"])
        assert slow.sent == []
        conn.tunnel = real
        before = a.metrics.dropped_no_route
        assert first.send(99, PacketType.KCP_SRC, [b"x", b"y"])
        assert a.metrics.dropped_no_route == before + 2
        with anyio.fail_after(5):
            await first.wait_writable(b.peer_id)
            await first.wait_writable(99)


async def test_the_view_of_the_node() -> None:
    async with pair() as (a, services, b, _):
        first: HostServices = services
        assert first.peer_id == a.peer_id
        assert list(first.addresses) == [IPv4Address("10.144.0.1")]
        assert first.options == {"window": 5}
        assert first.logger.name.endswith("test")
        assert first.task_group is a.plugin_tasks
        assert first.is_own_address(IPv4Address("10.144.0.1"))
        assert not first.is_own_address(IPv4Address("10.144.0.2"))
        peer = first.peer_for(IPv4Address("10.144.0.2"))
        assert peer is not None
        assert peer.peer_id == b.peer_id
        assert first.next_hop_of(b.peer_id) == peer
        assert first.next_hop_of(99) is None
        assert first.capabilities_of(b.peer_id) is not None
        assert first.capabilities_of(99) is None


async def test_frames_and_packets_reach_the_device() -> None:
    async with pair() as (a, first, _, _second):
        packet = tcp_segment("10.144.0.2", "10.144.0.1")
        first.write_packets([packet])
        first.write_device([device_frame(packet)])
        assert isinstance(a.nic, MemoryNic)
        assert a.nic.take_packets() == [packet, packet]
    async with make_node(1) as node:
        without = PluginServices(node, "test", {})
        without.write_packets([packet])
        without.write_device([device_frame(packet)])


async def test_claims_and_flows() -> None:
    async with pair() as (a, first, _, _second):
        taken: list[bytes] = []
        end = first.claim(KEY, taken.extend)
        assert isinstance(a.nic, MemoryNic)
        a.nic.inject_packets([tcp_segment(flags=ACK)])
        await until(lambda: taken == [device_frame(tcp_segment(flags=ACK))])
        end()
        flow = first.open_flow(KEY, "inbound", None, "kcp", "it came so")
        assert (flow.transport, flow.reason) == ("kcp", "it came so")
        first.flow_event(flow, Closed("done"))
        (kept,) = a.gate.table
        assert kept.ended == Closed("done")
