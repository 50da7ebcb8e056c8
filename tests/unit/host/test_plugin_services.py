"""What a plugin may do with a node: sending, taking packets, claims, serving, and what is not open to it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.abc import SocketStream as AnyioSocketStream

from easytier_hooks import hookimpl
from easytier_hooks.services import HostServices, Transport
from easytier_hooks.streams import SocketStream
from easytier_hooks.types import Closed, Failed, FlowKey
from easytier_host import targets
from easytier_host.config.model import AccessRule
from easytier_host.instance import Node
from easytier_host.nic.memory import MemoryNic
from easytier_host.packet import Flag, PacketType
from easytier_host.plugin_services import OPEN_TYPES, PluginServices
from easytier_host.targets import Targets
from tests.unit.host.helpers import ACK, RST, FakeTunnel, device_frame, make_node, no_plugins, tcp_segment, until

pytestmark = pytest.mark.anyio

KEY = FlowKey(IPv4Address("10.144.0.1"), 40_000, IPv4Address("10.144.0.2"), 22)


@asynccontextmanager
async def pair(**first: object) -> AsyncIterator[tuple[Node, PluginServices, Node, PluginServices]]:
    """Two nodes; `first` are settings of the first one."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1, nic=MemoryNic(), **first))  # type: ignore[arg-type]
        b = await stack.enter_async_context(make_node(2, a.listeners[0], nic=MemoryNic()))
        await until(lambda: a.routes() and b.routes())
        yield a, PluginServices(a, {}, "test", {"window": 5}), b, PluginServices(b, {}, "test", {})


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


class Tasks:
    """A plugin that keeps the services it gets, and runs tasks."""

    def __init__(self) -> None:
        self.running = 0

    @hookimpl
    def register_transports(self, host: HostServices) -> list[Transport]:
        self.host = host
        host.task_group.start_soon(self.live)
        return []

    async def live(self) -> None:
        self.running += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.running -= 1

    async def fail(self) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("way", ["raises", "cancels"])
async def test_tasks_of_a_plugin_end_without_those_of_others(way: str, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Tasks(), Tasks()
    plugins = no_plugins()
    plugins.register("bad", bad)
    plugins.register("good", good)
    async with make_node(1, plugins=plugins) as node:
        await until(lambda: bad.running and good.running)
        if way == "raises":
            bad.host.task_group.start_soon(bad.fail)
        else:
            bad.host.task_group.cancel_scope.cancel()
        await until(lambda: not bad.running)
        # It goes on living, and may start again.
        bad.host.task_group.start_soon(bad.live)
        await until(lambda: bad.running)
        assert good.running
        assert node.failure is None
        assert ("plugin bad" in caplog.text) == (way == "raises")
    # Whatever was left behind ended with the node.
    assert (bad.running, good.running) == (0, 0)
    with pytest.raises(RuntimeError, match="plugin bad"):
        _ = bad.host.task_group


@pytest.mark.parametrize("kind", sorted(set(PacketType) - OPEN_TYPES))
async def test_other_types_are_not_open(kind: PacketType) -> None:
    async with make_node(1) as node:
        services = PluginServices(node, {}, "test", {})
        with pytest.raises(ValueError, match="not open"):
            services.send(5, kind, [b"x"])
        with pytest.raises(ValueError, match="not open"):
            services.handle(kind, lambda _peer, _payloads: None)


async def test_a_type_has_one_handler() -> None:
    async with make_node(1) as node:
        services = PluginServices(node, {}, "test", {})
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
        peer = first.peer_for(IPv4Address("10.144.0.2"))
        assert peer is not None
        assert peer.peer_id == b.peer_id
        assert first.next_hop_of(b.peer_id) == peer
        assert first.next_hop_of(99) is None
        assert not first.is_stream(b.peer_id)
        assert not first.is_stream(99)
        assert first.capabilities_of(b.peer_id) is not None
        assert first.capabilities_of(99) is None


async def test_what_fits_into_one_packet_of_the_underlay() -> None:
    async with pair() as (a, services, b, _):
        overhead = a.outbound.sealing_overhead
        assert services.largest_payload(b.peer_id) == 1500 - 28 - 8 - 16 - overhead
        assert services.largest_payload(99) == 0
        a.outbound.next_hops[99] = b.peer_id
        assert services.largest_payload(99) == 1500 - 48 - 8 - 16 - overhead
        services.allow_fragments(99)
        services.allow_fragments(100)
        tunnel = a.outbound.connection_to(b.peer_id)
        assert tunnel is not None
        if tunnel.tunnel.info.scheme == "udp":
            assert services.largest_payload(b.peer_id) == 0


async def test_the_device_takes_frames_and_gives_claimed_ones() -> None:
    async with pair() as (a, first, _, _second):
        device = first.device
        assert device is not None
        assert isinstance(a.nic, MemoryNic)
        packet = tcp_segment("10.144.0.2", "10.144.0.1")
        device.write([device_frame(packet)])
        assert a.nic.take_packets() == [packet]
        taken: list[bytes] = []
        end = device.claim(KEY, taken.extend)
        a.nic.inject_packets([tcp_segment(flags=ACK)])
        await until(lambda: taken == [device_frame(tcp_segment(flags=ACK))])
        end()
    async with make_node(1) as node:
        assert PluginServices(node, {}, "test", {}).device is None


async def test_a_connection_of_a_peer_is_dialled_carried_and_told() -> None:
    async with (
        pair() as (a, first, b, _second),
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        port = listener.extra(SocketAttribute.local_port)
        a.targets = Targets(a.gate, a.metrics, lambda _ip, _port: (IPv4Address("127.0.0.1"), port), a.owners, a.guard)
        tasks.start_soon(listener.serve, echo)
        near, far = socket.socketpair()
        source, destination = (IPv4Address("10.144.0.2"), 40_000), (IPv4Address("10.144.0.1"), port)
        tasks.start_soon(first.serve, SocketStream(far), b.peer_id, "kcp", source, destination)
        async with SocketStream(near) as application:
            await application.send(b"ping")
            assert await application.receive() == b"ping"
            (flow,) = a.gate.table
            assert (flow.transport, flow.direction, flow.connected) == ("kcp", "inbound", True)
            assert flow.reason == f"opened by {b.config.hostname}"
            await application.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await application.receive()
        await until(lambda: flow.ended == Closed("FIN both ways"))
        assert (flow.bytes_sent, flow.bytes_received) == (4, 4)
        tasks.cancel_scope.cancel()


async def test_a_dial_that_its_transport_gives_up_is_the_end_of_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as (a, first, b, _second):
        monkeypatch.setattr(a.targets, "dial", lambda *_: anyio.sleep_forever())
        near, far = socket.socketpair()
        with near:
            async with anyio.create_task_group() as tasks:
                destination = (IPv4Address("10.144.0.1"), 80)
                tasks.start_soon(first.serve, SocketStream(far), b.peer_id, "kcp", None, destination)
                await until(lambda: bool(list(a.gate.table)))
                (flow,) = a.gate.table
                assert flow.ended is None
                tasks.cancel_scope.cancel()
            assert flow.ended == Failed("given up before its destination was reached")
            assert near.recv(1) == b""


async def test_a_connection_to_what_is_not_for_peers_is_reset_and_counted() -> None:
    async with pair() as (a, first, b, _second):
        near, far = socket.socketpair()
        with near:
            connection = SocketStream(far)
            await first.serve(connection, b.peer_id, "kcp", None, (IPv4Address("192.0.2.1"), 22))
            assert near.recv(1) == b""
        assert a.metrics.refused_dials == 1
        (flow,) = a.gate.table
        assert isinstance(flow.ended, Failed)
        assert "192.0.2.1:22 is refused to peers: 192.0.2.1 is neither" in flow.ended.reason


async def echo(stream: AnyioSocketStream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send(chunk)


@pytest.mark.parametrize(
    ("claimed", "shown", "forged"),
    [
        ("10.144.0.2", "10.144.0.2", False),
        # A client of stock's SOCKS5 server, which tells of it in good faith: the peer stands for it.
        ("127.0.0.1", "10.144.0.2", False),
        # Of other nodes, among them such as are clients of a SOCKS5 server at the peer.
        ("10.144.0.1", "10.144.0.2", True),
        ("10.144.0.77", "10.144.0.2", True),
    ],
)
async def test_a_peer_speaks_for_itself_alone(claimed: str, shown: str, forged: bool) -> None:
    async with pair() as (a, first, b, _second), await a.listen_tcp(80) as listener, anyio.create_task_group() as tasks:
        near, far = socket.socketpair()
        with near:
            source, destination = (IPv4Address(claimed), 40_000), (IPv4Address("10.144.0.1"), 80)
            tasks.start_soon(first.serve, SocketStream(far), b.peer_id, "kcp", source, destination)
            with anyio.fail_after(10):
                async with await listener.accept() as taken:
                    # The program is told of the peer that it is, whatever that said.
                    assert taken.extra(SocketAttribute.remote_address) == (shown, 40_000)
        (flow,) = a.gate.table
        assert str(flow.key.source_ip) == shown
        assert flow.peer is not None
        assert flow.peer.peer_id == b.peer_id
        assert a.metrics.forged_sources == forged


@pytest.mark.parametrize("access", [(), (AccessRule(False, ports=((22, 22),)),)])
async def test_a_first_flow_that_overtakes_the_record_of_its_peer_waits_for_it(
    access: tuple[AccessRule, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        pair(access=access) as (a, first, b, _second),
        await a.listen_tcp(80) as listener,
        anyio.create_task_group() as tasks,
    ):
        record = a.topology.record
        monkeypatch.setattr(a.topology, "record", lambda _peer_id: None)
        near, far = socket.socketpair()
        with near:
            source, destination = (IPv4Address("10.144.0.2"), 40_000), (IPv4Address("10.144.0.1"), 80)
            tasks.start_soon(first.serve, SocketStream(far), b.peer_id, "kcp", source, destination)
            await anyio.wait_all_tasks_blocked()
            assert not list(a.gate.table)
            monkeypatch.setattr(a.topology, "record", record)
            a.topology.changed()
            with anyio.fail_after(10):
                async with await listener.accept() as taken:
                    assert taken.extra(SocketAttribute.remote_address) == ("10.144.0.2", 40_000)
        assert a.metrics.forged_sources == 0


async def test_a_peer_of_which_nothing_comes_to_be_known_reaches_nothing_where_there_are_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(targets, "RECORD_PATIENCE", 0.01)
    async with pair(access=(AccessRule(False, ports=((22, 22),)),)) as (a, first, _b, _second):
        near, far = socket.socketpair()
        with near:
            await first.serve(SocketStream(far), 999, "kcp", None, (IPv4Address("10.144.0.1"), 80))
            assert near.recv(1) == b""
        (flow,) = a.gate.table
        assert isinstance(flow.ended, Failed)
        assert "nothing is known of the peer" in flow.ended.reason


async def test_a_peer_without_an_address_can_claim_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "RECORD_PATIENCE", 0.01)
    async with pair() as (a, first, _, _second):
        near, far = socket.socketpair()
        with near:
            source, destination = (IPv4Address("10.144.0.2"), 40_000), (IPv4Address("10.144.0.1"), 80)
            await first.serve(SocketStream(far), 999, "kcp", source, destination)
            assert near.recv(1) == b""
        (flow,) = a.gate.table
        assert isinstance(flow.ended, Failed)
        assert "10.144.0.2 is not an address of the peer that claims it" in flow.ended.reason
        assert str(flow.key.source_ip) == "0.0.0.0"
        assert (a.metrics.forged_sources, a.metrics.refused_dials) == (1, 1)


async def test_what_the_users_rules_refuse_is_shown_with_the_reason() -> None:
    async with pair(tcp_whitelist=((22, 22),)) as (a, first, b, _second):
        near, far = socket.socketpair()
        with near:
            source, destination = (IPv4Address("10.144.0.2"), 40_000), (IPv4Address("10.144.0.1"), 80)
            await first.serve(SocketStream(far), b.peer_id, "kcp", source, destination)
            assert near.recv(1) == b""
        (flow,) = a.gate.table
        assert flow.ended == Failed("10.144.0.1:80 is refused to peers: port 80 is not in tcp_whitelist")
        assert a.metrics.refused_dials == 1


@pytest.mark.parametrize("flags", [0, Flag.NO_PROXY])
async def test_packets_for_the_device_are_held_to_the_rules_too(flags: int) -> None:
    async with pair(tcp_whitelist=((22, 22),)) as (a, _first, b, _second):
        assert isinstance(a.nic, MemoryNic)
        assert isinstance(b.nic, MemoryNic)
        taken, answers = a.nic, b.nic
        closed, opened = (tcp_segment("10.144.0.2", "10.144.0.1", ports=(40_000, port)) for port in (80, 22))
        b.outbound.send(a.peer_id, PacketType.DATA, [closed, opened], flags)
        with anyio.fail_after(20):
            await taken.wait_written()
            await answers.wait_written()
        assert taken.take_packets() == [opened]
        (reset,) = answers.take_packets()
        assert (reset[12:20], reset[33]) == (closed[16:20] + closed[12:16], RST | ACK)
        refused = next(flow for flow in a.gate.table if flow.key.destination_port == 80)
        assert refused.ended == Failed("refused to peers: port 80 is not in tcp_whitelist")
        assert refused.peer is not None
        assert refused.peer.peer_id == b.peer_id
        assert (a.metrics.dropped_access, a.metrics.refused_dials) == (1, 1)
