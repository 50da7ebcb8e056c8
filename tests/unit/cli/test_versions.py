"""Our command against cores of each version, by the numbers of the wire specification (CLI portal 10.3).

Of 2.2.4 and 2.6.4 there are captures, too; these tables speak for the versions between.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from easytier_cli.main import main
from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_pb2
from tests.unit.cli import replay
from tests.unit.cli.nodes import FLOW, answer, refusal, route

VERSIONS = ("2.2.0", "2.2.2", "2.3.2", "2.4.2", "2.5.0", "2.6.1", "2.6.4")
PROXY_SINCE, QUIC_SINCE, STATS_SINCE, INSTANCES_SINCE, NEW_NUMBERS_SINCE = "2.2.2", "2.3.2", "2.4.2", "2.5.0", "2.6.2"

# GetForeignNetworkSummary with one network of a peer 5: what 2.5.0 to 2.6.1 answer to the number of ShowNodeInfo in 2.6.2.
SUMMARY = peer_rpc_pb2.RpcResponse(response=bytes.fromhex("0a0c0a0a08051206080510011802")).SerializeToString()
# ListPublicIpv6Info, ListGlobalForeignNetwork and others that have nothing to tell.
NOTHING = answer(portal_pb2.EmptyResponse())


def core(version: str) -> dict[replay.Method, bytes]:
    """What a core of this version answers."""
    info = portal_pb2.NodeInfo(peer_id=1, ipv4_addr="10.144.0.1/24", hostname="old", version=version)
    peers = answer(portal_pb2.ListPeerResponse())
    routes = answer(portal_pb2.ListRouteResponse(routes=[route(2)]))
    shown = answer(portal_pb2.ShowNodeInfoResponse(node_info=info))
    if version >= NEW_NUMBERS_SINCE:
        methods = (peers, NOTHING, routes, NOTHING, NOTHING, NOTHING, shown, SUMMARY)
    else:
        methods = (peers, routes, NOTHING, NOTHING, NOTHING, shown, *((SUMMARY,) if version >= INSTANCES_SINCE else ()))
    known = {("", "PeerManageRpc", number): content for number, content in enumerate(methods, 1)}
    connector = portal_pb2.Connector(url=common_pb2.Url(url="udp://10.9.0.2:11010"), status=portal_pb2.CONNECTED)
    known["", "ConnectorManageRpc", 1] = answer(portal_pb2.ListConnectorResponse(connectors=[connector]))
    if version >= PROXY_SINCE:
        entry = portal_pb2.TcpProxyEntry(src=FLOW.src, dst=FLOW.dst, state=portal_pb2.Connected, transport_type=portal_pb2.Kcp)
        lists = {domain: answer(portal_pb2.ListTcpProxyEntryResponse()) for domain in ("tcp", "kcp_dst")}
        lists["kcp_src"] = answer(portal_pb2.ListTcpProxyEntryResponse(entries=[entry]))
        if version >= INSTANCES_SINCE:
            lists |= dict.fromkeys(("quic_src", "quic_dst"), refusal("TCP proxy service not found"))
        elif version >= QUIC_SINCE:
            lists |= dict.fromkeys(("quic_src", "quic_dst"), lists["tcp"])
        known |= {(domain, "TcpProxyRpc", 1): content for domain, content in lists.items()}
    if version >= STATS_SINCE:
        metric = portal_pb2.MetricSnapshot(name="traffic_bytes_rx", value=1024)
        known["", "StatsRpc", 1] = answer(portal_pb2.GetStatsResponse(metrics=[metric]))
    if version >= INSTANCES_SINCE:
        uuid = common_pb2.UUID(part4=1)
        known["", "WebClientService", 5] = answer(portal_pb2.ListNetworkInstanceResponse(inst_ids=[uuid]))
        metas = [portal_pb2.NetworkInstanceMeta(inst_id=uuid, instance_name="lab")]
        known["", "WebClientService", 8] = answer(portal_pb2.ListNetworkInstanceMetaResponse(metas=metas))
    return known


@pytest.mark.parametrize("version", VERSIONS)
def test_a_core_of_every_version_is_understood(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    with replay.portal(core(version)) as port:

        def ask(*command: str) -> Any:
            assert main([*command, "-p", f"127.0.0.1:{port}", "-o", "json"]) == 0, command
            return json.loads(capsys.readouterr().out)

        assert [each["hostname"] for each in ask("peer")] == ["old", "n2"]
        assert [each["hostname"] for each in ask("route")] == ["old", "n2"]
        assert ask("node")["version"] == version
        assert ask("connector") == [{"url": {"url": "udp://10.9.0.2:11010"}, "status": 0}]
        if version >= PROXY_SINCE:
            assert [each["transport_type"] for each in ask("proxy")] == ["Kcp"]
        else:
            assert main(["proxy", "-p", f"127.0.0.1:{port}"]) == 4
        if version >= STATS_SINCE:
            assert [each["value"] for each in ask("stats")] == [1024]
        else:
            assert main(["stats", "-p", f"127.0.0.1:{port}"]) == 4
        assert main(["doctor", "-p", f"127.0.0.1:{port}"]) == 0
