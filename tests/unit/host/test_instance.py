"""Whole nodes in one process, over loopback sockets and in-memory devices; no root."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import anyio
import pytest

from easytier_hooks import hookimpl
from easytier_hooks.manager import PluginManager
from easytier_hooks.types import Capability, PeerCapabilities, PeerInfo
from easytier_host import peers
from easytier_host.config.model import Flags, PluginSetting, ProxyNetwork
from easytier_host.echo import echo_request
from easytier_host.events import NodeEvent
from easytier_host.instance import Node, NodeError
from easytier_host.nic.base import Nic
from easytier_host.nic.memory import MemoryNic
from easytier_host.packet import PacketType, PeerHeader, build_frame
from easytier_host.tunnel.udp_socket import UdpTunnel
from tests.unit.host.helpers import ACK, FROM_FRAME, SYN, make_node, no_plugins, tcp_segment, udp_packet, until

pytestmark = pytest.mark.anyio


async def ping(source: Node, target: str) -> float:
    """A ping that is repeated until it is answered: a route may be known to one side a moment earlier."""
    await until(lambda: source.peer_for(IPv4Address(target)))
    patience = 0.05
    with anyio.fail_after(20):
        while True:
            try:
                return await source.ping(IPv4Address(target), timeout=patience)
            except TimeoutError:
                patience *= 2


def listener(node: Node, scheme: str) -> str:
    return next(url for url in node.listeners if url.startswith(scheme))


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
async def test_two_nodes_ping_each_other(scheme: str) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1))
        b = await stack.enter_async_context(make_node(2, listener(a, scheme)))
        assert 0 < await ping(b, "10.144.0.1") < 5
        assert 0 < await ping(a, "10.144.0.2") < 5
        (conn,) = b.peers()
        assert (conn.peer_id, conn.tunnel.info.scheme, conn.is_initiator) == (a.peer_id, scheme, True)
        assert [(record.hostname, str(record.ipv4)) for record in a.routes()] == [("node2", "10.144.0.2/24")]
        assert a.hops_to(b.peer_id) == 1
        info = a.peer_for(IPv4Address("10.144.0.2"))
        assert info is not None
        assert info.peer_id == b.peer_id
        assert a.capabilities_of(b.peer_id) is not None
        assert a.capabilities_of(1) is None
        for node in (a, b):
            counters = node.metrics.as_dict()
            assert sum(counters[name] for name in FROM_FRAME) == counters["received_frames"]


@pytest.mark.parametrize("algorithm", ["aes-256-gcm", "chacha20", "xor", ""])
async def test_every_cipher_and_none(algorithm: str) -> None:
    flags = Flags(
        no_tun=True, enable_ipv6=False, enable_encryption=bool(algorithm), encryption_algorithm=algorithm or "aes-gcm"
    )
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1, flags=flags))
        b = await stack.enter_async_context(make_node(2, listener(a, "udp"), flags=flags))
        await ping(b, "10.144.0.1")


async def test_compression_on_one_side_is_enough() -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1))
        flags = Flags(no_tun=True, enable_ipv6=False, data_compress_algo=2)
        b = await stack.enter_async_context(make_node(2, listener(a, "udp"), flags=flags))
        await ping(b, "10.144.0.1")
        before = b.metrics.sent_bytes
        await b.ping(IPv4Address("10.144.0.1"), size=1000, timeout=20)
        assert b.metrics.sent_bytes - before < 900


async def test_three_nodes_in_a_row() -> None:
    async with AsyncExitStack() as stack:
        middle = await stack.enter_async_context(make_node(2))
        no_p2p = Flags(no_tun=True, enable_ipv6=False, disable_p2p=True)
        a = await stack.enter_async_context(make_node(1, listener(middle, "tcp"), flags=no_p2p))
        c = await stack.enter_async_context(make_node(3, listener(middle, "udp"), flags=no_p2p))
        await ping(a, "10.144.0.3")
        assert a.hops_to(c.peer_id) == 2
        next_hop = a.next_hop_of(c.peer_id)
        assert next_hop is not None
        assert next_hop.peer_id == middle.peer_id
        assert middle.metrics.relayed_frames >= 2


async def test_events_tell_of_peers_and_routes() -> None:
    seen: list[NodeEvent] = []
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1))
        reader = a.events()
        async with make_node(2, listener(a, "udp")) as b:
            await until(lambda: a.routes())
            peer_id = b.peer_id
            (conn,) = a.peers()
        # Over UDP nothing says that the other is gone; here its connection is ended by hand.
        conn.tunnel.close("test")
        await until(lambda: not a.routes())
    seen = [event async for event in reader]
    kinds = [event.kind for event in seen]
    assert kinds[:2] == ["peer_joined", "route_added"]
    assert sorted(kinds[2:]) == ["peer_left", "route_removed"]
    assert {event.peer_id for event in seen} == {peer_id}


async def test_a_wrong_secret_is_no_peer(caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1))
        b = await stack.enter_async_context(make_node(2, listener(a, "tcp"), network_secret="other"))
        await until(lambda: a.metrics.handshakes_refused and b.metrics.handshakes_refused)
        assert a.peers() == b.peers() == []
    assert "another secret" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_node_reconnects_when_the_other_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easytier_host.connector.FIRST_PAUSE", 0.02)
    async with make_node(1, listeners=("tcp://127.0.0.1:0",)) as first:
        (url,) = first.listeners
    async with make_node(2, url) as b:
        async with make_node(1, listeners=(url,)) as a:
            await until(lambda: [conn.peer_id for conn in b.peers()] == [a.peer_id])
        await until(lambda: not b.peers())
        async with make_node(1, listeners=(url,)) as again:
            await until(lambda: [conn.peer_id for conn in b.peers()] == [again.peer_id])


async def test_a_silent_neighbour_is_left_by_the_clock_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The underlay swallows everything from one moment on; the node's clock runs a hundred times as fast."""
    monkeypatch.setattr(peers, "TICK", 0.005)
    began = anyio.current_time()
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1))
        b = make_node(2, listener(a, "udp"))
        b._clock = lambda: 1000.0 + 100 * (anyio.current_time() - began)
        await stack.enter_async_context(b)
        await until(lambda: b.routes())
        (conn,) = b.peers()
        conn.tunnel.on_frames = lambda _frames: None
        await until(lambda: conn.gone.is_set())


async def test_devices_of_two_nodes_are_joined() -> None:
    nics = [MemoryNic("m1"), MemoryNic("m2")]
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1, nic=nics[0]))
        b = await stack.enter_async_context(make_node(2, listener(a, "udp"), nic=nics[1]))
        await until(lambda: a.routes() and b.routes() and a.peer_for(IPv4Address("10.144.0.2")))
        packets = [udp_packet("10.144.0.1", "10.144.0.2", bytes([number]) * 1200) for number in range(100)]
        nics[0].inject_packets(packets)
        received: list[bytes] = []
        with anyio.fail_after(20):
            while len(received) < 100:
                await nics[1].wait_written()
                received += nics[1].take_packets()
        assert received == packets
        assert (a.metrics.device_packets, b.metrics.delivered_packets) == (100, 100)
        nics[0].inject_packets([tcp_segment(flags=SYN)])
        await until(lambda: len(b.gate.table) == 1 and len(a.gate.table) == 1)
        nics[1].inject_packets([tcp_segment("10.144.0.2", "10.144.0.1", ports=(22, 40_000), flags=SYN | ACK)])
        await until(lambda: all(flow.connected for node in (a, b) for flow in node.gate.table))


async def test_a_device_that_goes_away_ends_the_node() -> None:
    nic = MemoryNic()
    async with make_node(1, nic=nic) as node:
        nic.close()
        with anyio.fail_after(20), pytest.raises(NodeError, match="closed"):
            await node.wait_closed()
        assert node.failure is not None


async def test_stop_makes_wait_closed_return() -> None:
    async with make_node(1) as node:
        node.stop()
        with anyio.fail_after(20):
            await node.wait_closed()


async def test_leaving_a_node_closes_its_ports_and_its_device() -> None:
    nic = MemoryNic()
    async with make_node(1, nic=nic) as node:
        urls = tuple(node.listeners)
    with pytest.raises(Exception, match="closed"):
        nic.inject_packets([b"x"])
    async with make_node(1, listeners=urls) as again:
        assert tuple(again.listeners) == urls


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"listeners": ("udp://192.0.2.1:1",)}, "192.0.2.1"),
        ({"listeners": ("nonsense",)}, "nonsense"),
        ({"peers": ("wg://192.0.2.1:1",)}, "wg"),
    ],
)
async def test_what_cannot_start_says_why(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(NodeError, match=said):
        async with make_node(1, **changes):
            pass


async def test_a_busy_port_is_named() -> None:
    async with make_node(1) as first:
        with pytest.raises(NodeError, match=listener(first, "tcp").rsplit(":", 1)[1]):
            async with make_node(2, listeners=(listener(first, "tcp"),)):
                pass


async def test_ping_needs_an_address_and_no_device() -> None:
    async with make_node(1, ipv4=None) as node:
        with pytest.raises(ValueError, match="address"):
            await node.ping(IPv4Address("10.144.0.2"))
    async with make_node(1, nic=MemoryNic()) as node:
        with pytest.raises(ValueError, match="device"):
            await node.ping(IPv4Address("10.144.0.2"))
    async with make_node(1) as node:
        with pytest.raises(TimeoutError):
            await node.ping(IPv4Address("10.144.0.2"), timeout=0.01)


async def test_proxy_networks_are_announced_canonically() -> None:
    networks = (
        ProxyNetwork(IPv4Network("192.168.7.0/24")),
        ProxyNetwork(IPv4Network("10.9.0.0/16"), IPv4Network("10.8.0.0/16")),
    )
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1, proxy_networks=networks))
        b = await stack.enter_async_context(make_node(2, listener(a, "udp")))
        await until(lambda: b.routes())
        assert list(map(str, b.routes()[0].proxy_cidrs)) == ["192.168.7.0/24", "10.8.0.0/16"]
        found = b.peer_for(IPv4Address("10.8.3.3"))
        assert found is not None
        assert found.peer_id == a.peer_id
        assert b.peer_for(IPv4Address("10.9.3.3")) is None


class Telling:
    """A plugin that announces KCP and hears what others announce."""

    def __init__(self) -> None:
        self.heard: dict[int, PeerCapabilities] = {}

    @hookimpl
    def advertise_capabilities(self) -> list[Capability]:
        return [Capability.KCP_INPUT]

    @hookimpl
    def on_peer_capabilities(self, peer: PeerInfo, capabilities: PeerCapabilities) -> None:
        self.heard[peer.peer_id] = capabilities


def with_plugin(plugin: object) -> PluginManager:
    manager = no_plugins()
    manager.register("telling", plugin)
    return manager


async def test_plugins_announce_and_hear_capabilities() -> None:
    first, second = Telling(), Telling()
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1, plugins=with_plugin(first)))
        flags = Flags(no_tun=True, enable_ipv6=False, disable_kcp_input=True, disable_relay_data=True)
        b = await stack.enter_async_context(make_node(2, listener(a, "udp"), plugins=with_plugin(second), flags=flags))
        await until(lambda: a.peer_id in second.heard and b.peer_id in first.heard)
        assert second.heard[a.peer_id].kcp_input
        assert not first.heard[b.peer_id].kcp_input
        assert first.heard[b.peer_id].avoid_relay_data


@pytest.mark.parametrize("nic", [None, "memory"])
async def test_every_received_frame_is_counted_once(nic: str | None) -> None:
    device: Nic | None = MemoryNic() if nic else None
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1, nic=device))
        b = await stack.enter_async_context(make_node(2, listener(a, "udp")))
        await until(lambda: a.routes())
        (conn,) = b.peers()
        frames = [
            build_frame(b.peer_id, target, kind, payload)
            for target in (0, a.peer_id, b.peer_id, 77)
            for kind in (*PacketType, 99)
            for payload in (b"", b"\x45" + bytes(40), tcp_segment())
        ]
        before = a.metrics.received_frames
        conn.tunnel.send(frames)
        await until(lambda: a.metrics.received_frames >= before + len(frames))
        counters = a.metrics.as_dict()
        assert sum(counters[name] for name in FROM_FRAME) == counters["received_frames"]
        assert {field.name for field in fields(a.metrics)} >= set(FROM_FRAME)


async def test_the_log_of_a_node_names_peer_ids_and_ports(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "easytier"):
        async with make_node(1) as node:
            urls = node.listeners
    assert str(node.peer_id) in caplog.text
    assert all(url in caplog.text for url in urls)


async def test_an_echo_request_that_claims_to_come_from_everybody_is_not_answered() -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1))
        b = await stack.enter_async_context(make_node(2, listener(a, "udp")))
        await ping(b, "10.144.0.1")
        (conn,) = a.peers()
        sent = conn.sent_frames
        assert a.inbound.subnet is not None
        for source in ("10.144.0.255", "255.255.255.255", "224.0.0.1", "10.144.0.1", "10.144.0.77", "192.0.2.1"):
            request = echo_request(IPv4Address(source), IPv4Address("10.144.0.1"), 7, 1, b"")
            assert a.inbound.subnet([(request, b.peer_id, 0)]) == []
        assert conn.sent_frames == sent
        request = echo_request(IPv4Address("10.144.0.2"), IPv4Address("10.144.0.1"), 7, 1, b"")
        assert a.inbound.subnet([(request, b.peer_id, 0)]) == []
        assert conn.sent_frames == sent + 1


async def test_a_lost_answer_to_the_handshake_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[bytes] = []
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(make_node(1))
        send = UdpTunnel.send

        def lossy(tunnel: UdpTunnel, frames: Sequence[bytes]) -> bool:
            for frame in frames:
                header = PeerHeader.parse(frame)
                if not lost and header.packet_type == PacketType.HANDSHAKE and header.from_peer_id == a.peer_id:
                    lost.append(frame)
                    return True
            return send(tunnel, frames)

        monkeypatch.setattr(UdpTunnel, "send", lossy)
        b = await stack.enter_async_context(make_node(2, listener(a, "udp")))
        await ping(b, "10.144.0.1")
        assert len(lost) == 1
        assert (b.metrics.tunnels_opened, b.metrics.handshakes_refused, len(a.peers())) == (1, 0, 1)


async def test_the_device_that_closes_with_its_node_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    nic = MemoryNic()
    async with make_node(1, nic=nic) as node:
        await anyio.wait_all_tasks_blocked()
        nic.inject_packets([tcp_segment()])
    assert node.failure is None
    assert "cannot go on" not in caplog.text


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "TCP from here goes by plain TCP; KCP of peers is accepted"),
        ({"kcp": {}}, "TCP from here goes by KCP where it can; KCP of peers is accepted"),
        ({"kcp": False}, "TCP from here goes by plain TCP; KCP of peers is refused"),
    ],
)
async def test_the_start_is_logged_with_what_tcp_flows_get(
    table: dict[str, PluginSetting], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    manager = PluginManager(table, defaults=("kcp",), environ={})
    manager.load()
    node = make_node(1, plugins=manager)
    node.config = replace(node.config, plugins=table)
    async with node:
        pass
    assert f"{said}; TCP stack: none, no TCP stack is loaded" in caplog.text
