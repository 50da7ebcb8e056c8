"""What the portal of running nodes answers."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from uuid import UUID

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from easytier_cli import output
from easytier_cli.commands.proxy import stock_cells
from easytier_hooks import hookimpl
from easytier_hooks.errors import DialRefused
from easytier_hooks.types import Capability, Closed, Connected, Counters, Failed, HalfClosed, Selection
from easytier_host.config.model import Flags
from easytier_host.dial import dial_target
from easytier_host.instance import Node
from easytier_host.next_hop import NextHops, Path
from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_own_pb2, portal_pb2
from easytier_host.pipe import pipe
from easytier_host.portal import own_service
from easytier_host.portal.services import PortalServices
from easytier_host.portal.session import Session
from easytier_host.portal.views import socket_address
from easytier_host.rpc.client import PortalClient, RefusedError
from tests.unit.host.helpers import SECRET, make_node, no_plugins, until
from tests.unit.host.portal.portals import ask, flow, portal_of, two_nodes

pytestmark = pytest.mark.anyio

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


async def test_a_latency_that_is_assumed_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_nodes() as (a, b), portal_of(b) as portal:
        assumed, measured = Path(7, 2, 500 + 3, is_measured=False), Path(7, 3, 1003)
        monkeypatch.setattr(Node, "paths", lambda _: NextHops({a.peer_id: assumed}, {a.peer_id: measured}))
        (route,) = await ask(portal, lambda client: client.routes())
        assert (route.cost, route.path_latency, route.path_latency_latency_first) == (2, 0, 1003)


async def test_a_peer_that_is_not_there_is_still_being_connected() -> None:
    async with make_node(1, "udp://127.0.0.1:9", "tcp://nowhere.invalid:9") as node, portal_of(node) as portal:
        statuses = [each.status for each in await ask(portal, lambda client: client.connectors())]
        assert statuses == [portal_pb2.CONNECTING, portal_pb2.CONNECTING]


async def test_a_flow_whose_opener_told_no_source_is_shown_with_none() -> None:
    """Stock 2.2.0 and 2.2.1 tell none; the destination's list has 0.0.0.0:0 there, as stock's."""

    async def hold(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()

    async with (
        make_node(1) as node,
        portal_of(node) as portal,
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, hold)
        target = IPv4Address("10.144.0.1"), int(listener.extra(SocketAttribute.local_port))
        ours, application = pipe((IPv4Address("10.144.0.2"), 5), target)
        tasks.start_soon(node.targets.serve, application, 7, Selection("kcp", "opened by n2", "peer"), None, target)
        await until(lambda: [each for each in node.gate.table if each.connected])
        (entry,) = await ask(portal, PortalClient.proxy_entries)
        cells = ("0.0.0.0:0", f"10.144.0.1:{target[1]}", output.local_time(entry.start_time), "Connected", "Kcp")
        assert stock_cells(entry) == cells
        await ours.aclose()
        tasks.cancel_scope.cancel()


async def test_a_flow_that_reaches_nobody_says_so_in_words() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            target = IPv4Address("10.144.0.1"), closed.getsockname()[1]
            _, application = pipe((IPv4Address("10.144.0.2"), 5), target)
            await node.targets.serve(application, 7, Selection("kcp", "opened by n2", "peer"), None, target)
        (told,) = (await ask(portal, PortalClient.flows)).flows
        assert told.end_reason == f"10.144.0.1:{target[1]} cannot be reached: Connection refused"


async def test_flows_are_listed_by_transport_and_direction() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        plain, _, half, destination, over = (
            *(flow(node, 1, "tcp"), flow(node, 2, "kcp"), flow(node, 3, "kcp"), flow(node, 4, "kcp", "inbound")),
            flow(node, 5, "kcp", "inbound"),
        )
        flow(node, 6, "pigeon")
        for flow_id in (half, destination, over):
            node.gate.report(flow_id, Connected())
        node.gate.report(half, Counters(5, 6, 0.0518, 7, 1024, 0))
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
        assert (flows[3].window, flows[3].HasField("in_flight"), flows[3].in_flight) == (1024, True, 0)
        assert not any(flows[4].HasField(name) for name in ("rtt_us", "retransmitted", "window", "in_flight"))
        assert (flows[1].end_reason, flows[1].start_time_ms) == ("no answer", 1_700_000_000_500)


async def test_a_transport_that_measures_nonsense_does_not_break_the_list() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        node.gate.report(flow(node, 1, "kcp"), Counters(1, 2, -1.0, -5, 1 << 40, -1))
        (shown,) = (await ask(portal, lambda client: client.flows())).flows
        assert (shown.rtt_us, shown.retransmitted, shown.window, shown.in_flight) == (0, 0, 0xFFFF_FFFF, 0)


async def test_counters_have_stock_names_too() -> None:
    async with two_nodes() as (a, _), portal_of(a) as portal:
        values = {each.name: each.value for each in await ask(portal, lambda client: client.stats())}
        assert 0 < values["traffic_bytes_rx"] <= values["node_received_bytes"] == values["traffic_bytes_rx"]
        text = await ask(portal, lambda client: client.prometheus())
        assert 'traffic_bytes_rx{network_name="lab"} ' in text
        assert "# TYPE node_dropped_malformed counter\n" in text


class Faulty:
    @hookimpl
    def advertise_capabilities(self) -> None:
        raise ValueError(SECRET)


async def test_what_plugins_do_wrong_is_told_and_counted() -> None:
    plugins = no_plugins()
    plugins.register("faulty", Faulty())
    plugins.register("sound", Keeper())
    async with make_node(1, plugins=plugins) as node, portal_of(node) as portal:
        faulty, sound = await ask(portal, lambda client: client.plugins())
        assert (faulty.raised, faulty.nonsense, faulty.rests_ms) == (1, 0, 0)
        assert faulty.last_fault.startswith(f"advertise_capabilities raised ValueError at {__file__}:")
        assert (sound.raised, sound.last_fault) == (0, "")
        counted = [each for each in await ask(portal, lambda client: client.stats()) if each.name == "node_plugin_faults"]
        faults = {(each.labels["plugin"], each.labels["kind"]): each.value for each in counted}
        assert (faults["faulty", "raised"], faults["sound", "raised"], sum(faults.values())) == (1, 0, 1)
        assert SECRET not in str(faulty)


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


class Keeper:
    """A plugin with options."""

    @hookimpl
    def advertise_capabilities(self) -> list[Capability]:
        return []


@pytest.mark.parametrize("service", ["PeerManageRpc", "ConnectorManageRpc", "StatsRpc", "WebClientService", own_service.NAME])
async def test_no_method_of_any_service_tells_a_secret(service: str) -> None:
    """Neither the network's, nor what plugins have among their options."""
    plugins = no_plugins()
    plugins.register("kept", Keeper(), {"password": SECRET + "2"})
    async with make_node(1, plugins=plugins) as node:
        services = PortalServices([node])
        answered = 0
        for method in range(1, 20):
            for request in (
                b"",
                portal_own_pb2.ExplainRequest(dst=socket_address(IPv4Address("10.144.0.2"), 80)).SerializeToString(),
            ):
                descriptor = common_pb2.RpcDescriptor(service_name=service, proto_name=service, method_index=method)
                response = await services.answer(
                    Session(), descriptor, peer_rpc_pb2.RpcRequest(request=request).SerializeToString()
                )
                assert SECRET.encode() not in response.SerializeToString()
                answered += not response.HasField("error")
        assert answered


async def test_the_configuration_is_told_as_toml() -> None:
    from easytier_host.config import load_text

    flags = Flags(no_tun=True, enable_ipv6=False, mtu=1300, encryption_algorithm="xor")
    async with make_node(1, "udp://127.0.0.1:9", flags=flags, hostname='a"b\\\udc80') as node, portal_of(node) as portal:
        text = (await ask(portal, lambda client: client.node_info())).config
        config = load_text(text).configs[0]
        assert (config.hostname, config.instance_id, config.flags) == ('a"b\\?', node.config.instance_id, flags)
        assert (config.peers, config.ipv4, config.network_name) == (node.config.peers, node.config.ipv4, "lab")


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
