"""The portal of running nodes: who gets in, what is answered, and what happens to those who break the rules."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from typing import TypeVar
from uuid import UUID

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketStream
from google.protobuf.message import Message

from easytier_hooks.errors import DialRefused
from easytier_hooks.types import Closed, Connected, Counters, Failed, FlowKey, HalfClosed, TransportSelected
from easytier_host.config.model import Flags
from easytier_host.dial import dial_target
from easytier_host.instance import Node
from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_pb2
from easytier_host.portal.address import PortalAddress
from easytier_host.portal.server import MAX_CONNECTIONS, Portal, PortalError
from easytier_host.rpc import portal_wire
from easytier_host.rpc.client import ConnectError, MethodMissingError, PortalClient, RefusedError, ServiceMissingError
from easytier_host.rpc.framing import Reassembler
from easytier_host.tunnel.tcp_framing import FrameParser
from tests.unit.cli.replay import VERSIONS, Line, conversations
from tests.unit.host.helpers import SECRET, make_node, until

pytestmark = pytest.mark.anyio

T = TypeVar("T")
ANY_PORT = PortalAddress("127.0.0.1", (0,), required=True)


@asynccontextmanager
async def portal_of(*nodes: Node, whitelist: Sequence[str] = (), idle_timeout: float = 60.0) -> AsyncIterator[Portal]:
    portal = Portal(ANY_PORT, whitelist, nodes, idle_timeout=idle_timeout)
    await portal.open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(portal.run)
        yield portal
        tasks.cancel_scope.cancel()


async def ask(portal: Portal, question: Callable[[PortalClient], T]) -> T:
    def run() -> T:
        with PortalClient(port=portal.port) as client:
            return question(client)

    return await anyio.to_thread.run_sync(run)


async def read_answer(stream: SocketStream) -> tuple[common_pb2.RpcPacket, peer_rpc_pb2.RpcResponse]:
    """The next answer, and its first packet; nothing may come after it."""
    parser, reassembler = FrameParser(), Reassembler()
    with anyio.fail_after(10):
        while True:
            found = [
                complete
                for frame in parser.feed(await stream.receive())
                if (complete := reassembler.add(portal_wire.decode_frame(frame, is_request=False), 0.0)) is not None
            ]
            if found:
                ((packet, content),) = found
                return packet, peer_rpc_pb2.RpcResponse.FromString(content)


async def is_closed(stream: SocketStream) -> bool:
    with anyio.fail_after(10):
        try:
            await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True
    return False


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Node, Node]]:
    """a = node1 listens, b = node2 has dialled it by UDP, and both know each other's routes."""
    async with make_node(1) as a, make_node(2, a.listeners[0]) as b:
        await until(lambda: a.routes() and b.routes() and all(conn.latency is not None for conn in (*a.peers(), *b.peers())))
        yield a, b


# What is answered


async def test_peers_routes_and_connectors_agree_with_the_node() -> None:
    async with two_nodes() as (a, b), portal_of(b) as portal:
        info = await ask(portal, lambda client: client.node_info())
        assert (info.peer_id, info.ipv4_addr, info.hostname) == (b.peer_id, "10.144.0.2/24", "node2")
        assert list(info.listeners) == b.listeners
        (peer,) = await ask(portal, lambda client: client.peers())
        (conn,) = peer.conns
        assert (peer.peer_id, conn.my_peer_id, conn.tunnel.tunnel_type) == (a.peer_id, b.peer_id, "udp")
        assert conn.tunnel.remote_addr.url == a.listeners[0]
        assert conn.is_client
        assert conn.stats.rx_bytes > 0
        assert conn.stats.latency_us > 0
        assert UUID(int=int("".join(f"{part:08x}" for part in words(peer.default_conn_id)), 16)) == UUID(conn.conn_id)
        (route,) = await ask(portal, lambda client: client.routes())
        assert (route.peer_id, route.next_hop_peer_id, route.cost, route.hostname) == (a.peer_id, a.peer_id, 1, "node1")
        assert IPv4Address(route.ipv4_addr.address.addr) == IPv4Address("10.144.0.1")
        (connector,) = await ask(portal, lambda client: client.connectors())
        assert (connector.url.url, connector.status) == (a.listeners[0], portal_pb2.CONNECTED)


def words(message: common_pb2.UUID) -> tuple[int, int, int, int]:
    return message.part1, message.part2, message.part3, message.part4


async def test_a_peer_that_is_not_there_is_still_being_connected() -> None:
    async with make_node(1, "udp://127.0.0.1:9", "tcp://nowhere.invalid:9") as node, portal_of(node) as portal:
        statuses = [each.status for each in await ask(portal, lambda client: client.connectors())]
        assert statuses == [portal_pb2.CONNECTING, portal_pb2.CONNECTING]


def flow(node: Node, port: int, transport: str, direction: str = "outbound") -> int:
    """A flow from port `port` of 10.144.0.1 in the node's table."""
    key = FlowKey(IPv4Address("10.144.0.1"), port, IPv4Address("10.144.0.2"), 22)
    found = node.gate.table.open(key, direction, None, 0.0, 1_700_000_000.5)  # type: ignore[arg-type]
    assert found is not None
    node.gate.table.report(found, TransportSelected(transport, f"because {transport}", "test"), 0.0)
    return found.id


async def test_flows_are_listed_by_transport_and_direction() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        plain, _, half, destination, over = (
            *(flow(node, 1, "tcp"), flow(node, 2, "kcp"), flow(node, 3, "kcp"), flow(node, 4, "kcp", "inbound")),
            flow(node, 5, "kcp", "inbound"),
        )
        flow(node, 6, "pigeon")
        for flow_id in (half, destination, over):
            node.gate.report(flow_id, Connected())
        node.gate.report(half, Counters(5, 6, 0.0518, 7))
        node.gate.report(half, HalfClosed("source"))
        node.gate.report(over, Closed("FIN both ways"))
        node.gate.report(plain, Failed("no answer"))

        entries = await ask(portal, lambda client: client.proxy_entries())
        assert [(entry.src.port, entry.transport_type, entry.state) for entry in entries] == [
            (1, portal_pb2.Tcp, portal_pb2.Closed),
            (2, portal_pb2.Kcp, portal_pb2.ConnectingDst),
            (3, portal_pb2.Kcp, portal_pb2.ClosingSrc),
            (4, portal_pb2.Kcp, portal_pb2.Connected),
        ]
        assert entries[0].start_time == 1_700_000_000
        assert IPv4Address(entries[0].dst.ipv4.addr) == IPv4Address("10.144.0.2")

        flows = {each.src.port: each for each in (await ask(portal, lambda client: client.flows())).flows}
        assert {port: each.state for port, each in flows.items()} == {
            1: "failed",
            2: "connecting",
            3: "half-closed",
            4: "connected",
            5: "closed",
            6: "connecting",
        }
        assert (flows[6].transport, flows[6].reason) == ("pigeon", "because pigeon")
        assert (flows[3].bytes_sent, flows[3].bytes_received, flows[3].rtt_us, flows[3].retransmitted) == (5, 6, 51_800, 7)
        assert not flows[4].HasField("rtt_us")
        assert (flows[1].end_reason, flows[1].start_time_ms) == ("no answer", 1_700_000_000_500)


async def test_counters_have_stock_names_too() -> None:
    async with two_nodes() as (a, _), portal_of(a) as portal:
        values = {each.name: each.value for each in await ask(portal, lambda client: client.stats())}
        assert 0 < values["traffic_bytes_rx"] <= values["node_received_bytes"] == values["traffic_bytes_rx"]
        text = await ask(portal, lambda client: client.prometheus())
        assert 'traffic_bytes_rx{network_name="lab"} ' in text
        assert "# TYPE node_dropped_malformed counter\n" in text


async def test_no_answer_holds_a_secret() -> None:
    async with two_nodes() as (_, b), portal_of(b) as portal:
        answers = await ask(
            portal,
            lambda client: [
                *(client.node_info(), *client.instances(), *client.peers(), *client.routes(), *client.connectors()),
                *(*client.stats(), client.flows(), *client.plugins()),
            ],
        )
        assert len(answers) > 5
        assert all(SECRET.encode() not in answer.SerializeToString() for answer in answers)


async def test_the_configuration_is_told_as_toml() -> None:
    from easytier_host.config import load_text

    flags = Flags(no_tun=True, enable_ipv6=False, mtu=1300, encryption_algorithm="xor")
    async with make_node(1, "udp://127.0.0.1:9", flags=flags, hostname='a"b\\\udc80') as node, portal_of(node) as portal:
        text = (await ask(portal, lambda client: client.node_info())).config
        config = load_text(text).configs[0]
        assert (config.hostname, config.instance_id, config.flags) == ('a"b\\?', node.config.instance_id, flags)
        assert (config.peers, config.ipv4, config.network_name) == (node.config.peers, node.config.ipv4, "lab")


# Stock's command asks


async def replayed(portal: Portal, conversation: list[Line]) -> list[tuple[Line, peer_rpc_pb2.RpcResponse]]:
    """What our portal answers to the very bytes of stock's command, each beside what stock's core answered."""
    found = []
    async with await anyio.connect_tcp("127.0.0.1", portal.port) as stream:
        for request, answer in zip(conversation[::2], conversation[1::2], strict=True):
            await stream.send(request.wire)
            packet, response = await read_answer(stream)
            assert packet.transaction_id == request.packet.transaction_id
            assert packet.descriptor == request.packet.descriptor
            assert (packet.from_peer, packet.to_peer) == (1, 1)
            assert packet.compression_info.algo == packet.compression_info.accepted_algo == common_pb2.CompressionNone
            found.append((answer, response))
    return found


NODE_OF_THE_CAPTURE = {"2.2.4": UUID(int=0), "2.6.4": UUID("2a436833-8038-4bc8-8663-cdb18eba012e")}


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_command_of_stock_gets_answers_of_the_same_shape(version: str) -> None:
    """The same fields are there, though not with the same values; of the lists, the first entry is looked at."""
    kinds: dict[tuple[str, int], type[Message]] = {
        ("PeerManageRpc", 1): portal_pb2.ListPeerResponse,
        ("ConnectorManageRpc", 1): portal_pb2.ListConnectorResponse,
        ("PeerManageRpc", 2): portal_pb2.ListRouteResponse,
        ("PeerManageRpc", 3): portal_pb2.ListRouteResponse,
        ("PeerManageRpc", 6): portal_pb2.ShowNodeInfoResponse,
        ("PeerManageRpc", 7): portal_pb2.ShowNodeInfoResponse,
        ("StatsRpc", 1): portal_pb2.GetStatsResponse,
        ("TcpProxyRpc", 1): portal_pb2.ListTcpProxyEntryResponse,
        ("WebClientService", 5): portal_pb2.ListNetworkInstanceResponse,
        ("WebClientService", 8): portal_pb2.ListNetworkInstanceMetaResponse,
    }
    async with make_node(1) as a, make_node(2, a.listeners[0], instance_id=NODE_OF_THE_CAPTURE[version]) as b:
        await until(lambda: b.routes() and all(conn.latency is not None for conn in b.peers()))
        flow(b, 1, "kcp")
        flow(b, 1, "tcp")
        async with portal_of(b) as portal:
            for conversation in conversations(version):
                for answer, ours in await replayed(portal, conversation):
                    kind = kinds[answer.method[1:]]
                    stock = peer_rpc_pb2.RpcResponse.FromString(answer.content)
                    assert not ours.HasField("error"), answer.method
                    missing = fields_of(kind.FromString(stock.response)) - fields_of(kind.FromString(ours.response))
                    # What this node does not look for, and what it has by another name.
                    assert {name.rpartition(".")[2] for name in missing} <= {
                        *("last_update_time", "max_port", "resolved_remote_addr", "url", "ip_list", "default_conn_id"),
                        *(
                            "kcp_input",
                            "no_relay_kcp",
                            "quic_input",
                            "disable_p2p",
                            "support_conn_list_sync",
                            "config_permission",
                        ),
                    }, answer.method


def fields_of(message: object, path: str = "") -> set[str]:
    """The names of the fields that are set, however deep."""
    found: set[str] = set()
    for descriptor, value in message.ListFields():  # type: ignore[attr-defined]
        name = f"{path}.{descriptor.name}"
        found.add(name)
        if descriptor.message_type is not None and not descriptor.message_type.GetOptions().map_entry:
            found |= fields_of(value[0] if descriptor.is_repeated else value, name)
    return found


async def test_an_unknown_service_domain_or_method_gets_stock_errors() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        nothing = portal_pb2.Request()
        for service, domain in (("AclManageRpc", ""), ("TcpProxyRpc", "pigeon"), ("StatsRpc", "lab")):
            with pytest.raises(ServiceMissingError):
                await ask(portal, lambda client, s=service, d=domain: client.call(s, 1, nothing, nothing.__class__, domain=d))  # type: ignore[misc]
        for service, method in (("StatsRpc", 3), ("StatsRpc", 0), ("PeerManageRpc", 99), ("WebClientService", 2)):
            with pytest.raises(MethodMissingError):
                await ask(portal, lambda client, s=service, m=method: client.call(s, m, nothing, nothing.__class__))  # type: ignore[misc]


# Several networks


async def test_one_portal_answers_for_all_nodes_of_the_process() -> None:
    async with make_node(1) as a, make_node(2) as b, portal_of(a, b) as portal:
        flow(a, 1, "tcp")
        flow(b, 2, "tcp")
        metas = await ask(portal, lambda client: client.instances())
        assert [meta.instance_name for meta in metas] == ["node1", "node2"]
        for node, meta in ((a, metas[0]), (b, metas[1])):
            by_id = portal_pb2.InstanceIdentifier(id=meta.inst_id)
            by_name = portal_pb2.InstanceIdentifier(instance_selector=portal_pb2.InstanceSelector(name=meta.instance_name))
            for selector in (by_id, by_name):
                info = await ask(portal, lambda client, s=selector: client.node_info(s))  # type: ignore[misc]
                assert info.peer_id == node.peer_id
        assert len(await ask(portal, lambda client: client.proxy_entries())) == 2
        with pytest.raises(RefusedError, match="more than one instance fits; running: node1, node2"):
            await ask(portal, lambda client: client.peers())
        stranger = portal_pb2.InstanceIdentifier(instance_selector=portal_pb2.InstanceSelector(name="c"))
        with pytest.raises(RefusedError, match="no instance fits"):
            await ask(portal, lambda client: client.peers(stranger))


async def test_nobody_is_led_to_the_portal_through_the_overlay() -> None:
    node = make_node(1)
    node.portal_port = 15888
    async with node:
        with pytest.raises(DialRefused, match="port 15888"):
            dial_target(node.config, node.listener_ports(), IPv4Address("10.144.0.1"), 15888)


# Who gets in, and who does not


@pytest.mark.parametrize(("whitelist", "lets_in"), [(("127.0.0.0/8",), True), (("10.0.0.0/8", "::/0"), False)])
async def test_only_the_whitelist_gets_answers(whitelist: Sequence[str], lets_in: bool) -> None:
    async with make_node(1) as node, portal_of(node, whitelist=whitelist) as portal:
        if lets_in:
            assert (await ask(portal, lambda client: client.node_info())).peer_id == node.peer_id
            return
        with pytest.raises(RefusedError, match="rpc_portal_whitelist"):
            await ask(portal, lambda client: client.node_info())
        assert portal.refused == 1


def packet(**changes: object) -> bytes:
    """A request frame with its length."""
    fields: dict[str, object] = {
        "descriptor": common_pb2.RpcDescriptor(proto_name="StatsRpc", service_name="StatsRpc", method_index=1),
        "is_request": True,
        "total_pieces": 1,
    }
    body = common_pb2.RpcPacket(**(fields | changes)).SerializeToString()  # type: ignore[arg-type]
    return struct.pack("<IIIBBBBI", 16 + len(body), 1, 1, 8, 0, 1, 0, len(body)) + body


BAD_FRAMES = {
    "too short": struct.pack("<I", 15),
    "too long": struct.pack("<I", 2001),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no packet": struct.pack("<I", 20) + bytes(16) + b"\xff\xff\xff\xff",
    "a response": packet(is_request=False),
    "no descriptor": packet(descriptor=None),
    "impossible piece": packet(total_pieces=2, piece_idx=2),
    "compressed": packet(compression_info=common_pb2.RpcCompressionInfo(algo=common_pb2.CompressionZstd)),
}


@pytest.mark.parametrize("data", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_a_bad_frame_closes_its_connection_only(data: bytes) -> None:
    async with (
        make_node(1) as node,
        portal_of(node) as portal,
        await anyio.connect_tcp("127.0.0.1", portal.port) as good,
        await anyio.connect_tcp("127.0.0.1", portal.port) as bad,
    ):
        await bad.send(data)
        assert await is_closed(bad)
        await good.send(packet(transaction_id=7))
        answer, _ = await read_answer(good)
        assert answer.transaction_id == 7


async def test_a_request_that_does_not_decode_is_answered_with_an_error() -> None:
    async with make_node(1) as node, portal_of(node) as portal, await anyio.connect_tcp("127.0.0.1", portal.port) as stream:
        await stream.send(packet(body=b"\xff\xff"))
        _, response = await read_answer(stream)
        assert response.error.WhichOneof("error_kind") == "prost_decode_error"


async def test_any_bytes_leave_the_portal_working() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        for _ in range(20):
            async with await anyio.connect_tcp("127.0.0.1", portal.port) as stream:
                await stream.send(struct.pack("<I", 200) + os.urandom(200))
                assert await is_closed(stream)
        assert (await ask(portal, lambda client: client.node_info())).peer_id == node.peer_id


async def test_connections_are_bounded() -> None:
    async with make_node(1) as node, portal_of(node) as portal, AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stream = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", portal.port))
            await stream.send(packet())
            await read_answer(stream)
        extra = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", portal.port))
        assert await is_closed(extra)
        assert portal.refused == 1


async def test_a_silent_connection_is_closed() -> None:
    async with make_node(1) as node, portal_of(node, idle_timeout=0.05) as portal:
        stream = await anyio.connect_tcp("127.0.0.1", portal.port)
        async with stream:
            assert await is_closed(stream)


async def test_large_answers_come_in_pieces() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        for port in range(1, 2000):
            flow(node, port, "tcp")
        entries = await ask(portal, lambda client: client.proxy_entries())
        assert [entry.src.port for entry in entries] == list(range(1, 2000))


# The address


async def test_the_next_free_port_is_taken() -> None:
    async with portal_of() as first:
        second = Portal(PortalAddress("127.0.0.1", (first.port, 0), required=True), (), [])
        await second.open()
        assert second.port not in (0, first.port)
        third = Portal(PortalAddress("127.0.0.1", (first.port,), required=True), (), [])
        with pytest.raises(PortalError, match=rf"rpc_portal: cannot listen on 127\.0\.0\.1 port {first.port}"):
            await third.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second.run)
            await until(lambda: second.address)
            tasks.cancel_scope.cancel()
    with pytest.raises(ConnectError, match="no node answers"):
        await ask(second, lambda client: client.node_info())
