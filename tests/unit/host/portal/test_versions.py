"""What stock's commands of each version ask, by the numbers of the wire specification (CLI portal 10.3, 10.5 and 10.6).

Of 2.2.4 and 2.6.4 there are captures, too; these tables speak for the versions between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import pytest
from google.protobuf.message import Message

from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_pb2
from easytier_host.portal.numbering import Numbering
from easytier_host.portal.server import Portal
from tests.unit.host.helpers import make_node
from tests.unit.host.portal.portals import flow, packet, portal_of, read_answer, two_nodes


@dataclass(frozen=True)
class Generation:
    """Versions that number and ask alike."""

    versions: str
    routes: int
    node_info: int
    names_instances: bool
    has_stats: bool
    proxy_domains: Sequence[str]
    node_first: bool
    """Whether `peer` asks for the node before it asks for peers and routes."""


KCP, QUIC = ("tcp", "kcp_src", "kcp_dst"), ("quic_src", "quic_dst")
GENERATIONS = (
    Generation("2.2.2 to 2.3.1", 2, 6, names_instances=False, has_stats=False, proxy_domains=KCP, node_first=False),
    Generation("2.3.2 to 2.4.1", 2, 6, names_instances=False, has_stats=False, proxy_domains=KCP + QUIC, node_first=False),
    Generation("2.4.2 to 2.4.5", 2, 6, names_instances=False, has_stats=True, proxy_domains=KCP + QUIC, node_first=False),
    Generation("2.5.0", 2, 6, names_instances=False, has_stats=True, proxy_domains=KCP + QUIC, node_first=False),
    Generation("2.5.0 with -n", 2, 6, names_instances=True, has_stats=True, proxy_domains=KCP + QUIC, node_first=False),
    Generation("2.6.0 to 2.6.1", 2, 6, names_instances=True, has_stats=True, proxy_domains=KCP + QUIC, node_first=True),
    Generation("2.6.2 to 2.6.4", 3, 7, names_instances=True, has_stats=True, proxy_domains=KCP + QUIC, node_first=True),
)
each_generation = pytest.mark.parametrize("generation", GENERATIONS, ids=[each.versions for each in GENERATIONS])


async def run(portal: Portal, generation: Generation, calls: Sequence[tuple[str, int, type[Message], str]]) -> list[Message]:
    """The answers to what one run of a command asks over its connection: (service, method, response, domain)."""
    found: list[Message] = []
    async with await anyio.connect_tcp("127.0.0.1", portal.port) as stream:

        async def call(service: str, method: int, kind: type[Message], domain: str, request: Message) -> Message:
            descriptor = common_pb2.RpcDescriptor(
                domain_name=domain, proto_name=service, service_name=service, method_index=method
            )
            body = peer_rpc_pb2.RpcRequest(request=request.SerializeToString(), timeout_ms=5000).SerializeToString()
            await stream.send(packet(descriptor=descriptor, body=body))
            _, response = await read_answer(stream)
            assert not response.HasField("error"), (service, method, response.error)
            return kind.FromString(response.response)

        instance = portal_pb2.InstanceIdentifier(instance_selector=portal_pb2.InstanceSelector(name="node2"))
        if generation.versions.startswith("2.6") and not calls[0][3]:
            # Without -i and -n these ask for the list; `proxy` never does.
            empty = portal_pb2.EmptyResponse()
            listed = await call("WebClientService", 5, portal_pb2.ListNetworkInstanceResponse, "", empty)
            assert isinstance(listed, portal_pb2.ListNetworkInstanceResponse)
            wanted = portal_pb2.ListNetworkInstanceMetaRequest(inst_ids=listed.inst_ids)
            metas = await call("WebClientService", 8, portal_pb2.ListNetworkInstanceMetaResponse, "", wanted)
            assert isinstance(metas, portal_pb2.ListNetworkInstanceMetaResponse)
            instance = portal_pb2.InstanceIdentifier(id=metas.metas[0].inst_id)
        for service, method, kind, domain in calls:
            request = portal_pb2.Request(instance=instance if generation.names_instances and not domain else None)
            found.append(await call(service, method, kind, domain, request))
    return found


@each_generation
@pytest.mark.anyio
async def test_commands_of_every_version_get_what_they_ask_for(generation: Generation) -> None:
    node = ("PeerManageRpc", generation.node_info, portal_pb2.ShowNodeInfoResponse, "")
    lists = (
        ("PeerManageRpc", 1, portal_pb2.ListPeerResponse, ""),
        ("PeerManageRpc", generation.routes, portal_pb2.ListRouteResponse, ""),
    )
    async with two_nodes() as (a, b), portal_of(b) as portal:
        orders = [(node, *lists)] if generation.node_first else [(*lists, node), (node, *lists)]
        for order in orders:
            for message in await run(portal, generation, order):
                match message:
                    case portal_pb2.ShowNodeInfoResponse():
                        assert message.node_info.hostname == "node2"
                    case portal_pb2.ListPeerResponse():
                        assert [each.peer_id for each in message.peer_infos] == [a.peer_id]
                    case portal_pb2.ListRouteResponse():
                        assert [each.hostname for each in message.routes] == ["node1"]
        (shown,) = await run(portal, generation, [node])
        assert isinstance(shown, portal_pb2.ShowNodeInfoResponse)
        assert shown.node_info.hostname == "node2"
        connectors = ("ConnectorManageRpc", 1, portal_pb2.ListConnectorResponse, "")
        (listed,) = await run(portal, generation, [connectors])
        assert isinstance(listed, portal_pb2.ListConnectorResponse)
        assert [each.url.url for each in listed.connectors] == [a.listeners[0]]
        if generation.has_stats:
            metrics, text = await run(
                portal,
                generation,
                [
                    ("StatsRpc", 1, portal_pb2.GetStatsResponse, ""),
                    ("StatsRpc", 2, portal_pb2.GetPrometheusStatsResponse, ""),
                ],
            )
            assert isinstance(metrics, portal_pb2.GetStatsResponse)
            assert metrics.metrics
            assert isinstance(text, portal_pb2.GetPrometheusStatsResponse)
            assert "traffic_bytes_rx" in text.prometheus_text


@each_generation
@pytest.mark.anyio
async def test_proxy_of_every_version_lists_each_flow_once(generation: Generation) -> None:
    async with make_node(2) as node, portal_of(node) as portal:
        flow(node, 1, "tcp")
        flow(node, 2, "kcp")
        flow(node, 3, "kcp", "inbound")
        calls = [("TcpProxyRpc", 1, portal_pb2.ListTcpProxyEntryResponse, domain) for domain in generation.proxy_domains]
        lists = await run(portal, generation, calls)
        ports = [
            [entry.src.port for entry in each.entries]
            for each in lists
            if isinstance(each, portal_pb2.ListTcpProxyEntryResponse)
        ]
        assert ports == [[1], [2], [3], [], []][: len(calls)]


# Numbering

OLD, NEW = False, True


def assert_means(numbering: Numbering, calls: Sequence[int], meaning: bool) -> None:
    told = [(method, numbering.is_new(method)) for method in calls]
    # Method 1 is the same in both.
    assert {is_new for method, is_new in told if method != 1} == {meaning}


@pytest.mark.parametrize(
    ("calls", "meaning"),
    [
        *(((1, 2, 6), OLD), ((6, 1, 2), OLD), ((6,), OLD), ((6, 6), OLD), ((6, 1, 2, 6, 1, 2), OLD)),
        *(((7, 1, 3), NEW), ((7,), NEW), ((7, 3, 2), NEW), ((4,), NEW), ((5,), NEW), ((7, 1, 3, 7, 1, 3), NEW)),
    ],
)
def test_calls_of_2_6_tell_what_they_mean(calls: Sequence[int], meaning: bool) -> None:
    numbering = Numbering()
    numbering.names_instances = True
    assert_means(numbering, calls, meaning)


@pytest.mark.parametrize(
    ("calls", "meaning"),
    [
        *(((3,), OLD), ((4,), OLD), ((5,), OLD), ((1, 2, 6), OLD), ((6, 1, 2), OLD)),
        # No stock command does this; monitors of others do.
        *(((1, 3, 7), NEW), ((7, 3), NEW)),
    ],
)
def test_calls_that_name_no_instance_are_old_until_they_tell_otherwise(calls: Sequence[int], meaning: bool) -> None:
    numbering = Numbering()
    assert_means(numbering, calls, meaning)
