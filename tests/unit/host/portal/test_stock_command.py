"""What stock's command gets, as captured: the very bytes that it sent, asked once more."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from uuid import UUID

import anyio
import anyio.to_thread
import pytest
from google.protobuf.message import Message

from easytier_hooks.types import Closed, Connected, FlowKey, TransportSelected
from easytier_host.instance import Node
from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_pb2
from easytier_host.portal.server import Portal
from easytier_host.rpc.client import MethodMissingError, ServiceMissingError
from tests.unit.cli.replay import VERSIONS, Line, conversations
from tests.unit.host.helpers import make_node, until
from tests.unit.host.portal.portals import ask, flow, portal_of, read_answer

pytestmark = pytest.mark.anyio


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
                    # What this node does not look for, what it has by another name, and a latency that nobody has measured yet.
                    assert {name.rpartition(".")[2] for name in missing} <= {
                        "path_latency",
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


def reopen(node: Node, entry: portal_pb2.TcpProxyEntry) -> None:
    """A flow in the node's table as a listed one was."""
    source, destination = (IPv4Address(end.ipv4.addr) for end in (entry.src, entry.dst))
    key = FlowKey(source, entry.src.port, destination, entry.dst.port)
    found = node.gate.table.open(key, "outbound", None, 0.0, float(entry.start_time))
    assert found is not None
    transport = {portal_pb2.Tcp: "tcp", portal_pb2.Kcp: "kcp"}[entry.transport_type]
    node.gate.table.report(found, TransportSelected(transport, "", "test"), 0.0)
    node.gate.table.report(found, Connected(), 0.0)
    if entry.state == portal_pb2.Closed:
        # It lingers from now on.
        node.gate.table.report(found, Closed("FIN both ways"), time.monotonic())


@pytest.mark.parametrize("version", VERSIONS)
async def test_answers_about_the_same_things_are_those_of_stock_to_the_byte(version: str) -> None:
    conversation = conversations(version)[0]
    told = [peer_rpc_pb2.RpcResponse.FromString(line.content) for line in conversation if line.sender == "core"]
    async with make_node(1, instance_id=NODE_OF_THE_CAPTURE["2.6.4"]) as node, portal_of(node) as portal:
        for before in told:
            for entry in portal_pb2.ListTcpProxyEntryResponse.FromString(before.response).entries:
                reopen(node, entry)
        assert len(node.gate.table) >= 1
        compared = 0
        wanted = [conversation, *(each[:2] for each in conversations(version) if each[0].method[1] == "WebClientService")]
        for each in wanted:
            for answer, ours in await replayed(portal, each):
                stock = peer_rpc_pb2.RpcResponse.FromString(answer.content)
                # What stock runs no proxy for, it refuses; here such a list is empty.
                if not stock.HasField("error"):
                    assert ours.response == stock.response, answer.method
                    compared += len(stock.response) > 0
        assert compared >= 1


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
