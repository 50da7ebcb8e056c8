"""Portals that say what a test wants, and the command run against them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping, Sequence

from google.protobuf.message import Message

from easytier_cli.main import main
from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_own_pb2, portal_pb2
from tests.unit.cli import replay

MODULE = [sys.executable, "-m", "easytier_cli.main"]


def answer(message: Message) -> bytes:
    return peer_rpc_pb2.RpcResponse(response=message.SerializeToString()).SerializeToString()


KCP_PLUGIN = portal_own_pb2.PluginInfo(name="kcp", version="1", status="loaded", hooks=["x", "y"])
FAULTY = portal_own_pb2.PluginInfo(
    name="lazy",
    status="loaded",
    raised=2,
    nonsense=3,
    missed=5,
    last_fault="select_transport was too slow",
    last_fault_ago_ms=4_200,
    rests_ms=11_500,
)
"""A plugin that did much wrong."""


def node(
    *,
    hostname: str = "a",
    routes: tuple[portal_pb2.Route, ...] = (),
    flows: tuple[portal_own_pb2.FlowInfo, ...] = (),
    explained: portal_own_pb2.ExplainResponse | None = None,
    finding: portal_own_pb2.Finding | None = None,
    plugins: Sequence[portal_own_pb2.PluginInfo] = (KCP_PLUGIN,),
) -> dict[replay.Method, bytes]:
    """What a node says that knows these routes and flows."""
    explained = explained or portal_own_pb2.ExplainResponse(peer_id=2)
    finding = finding or portal_own_pb2.Finding(status="ok", subject="device", text="tun0")
    info = portal_pb2.NodeInfo(peer_id=1, ipv4_addr="10.144.0.1/24", hostname=hostname, version="2.6.4-py0")
    instances = portal_pb2.ListNetworkInstanceResponse(inst_ids=[common_pb2.UUID(part4=1)])
    meta = portal_pb2.NetworkInstanceMeta(inst_id=common_pb2.UUID(part4=1), instance_name="lab")
    return {
        ("", "WebClientService", 5): answer(instances),
        ("", "WebClientService", 8): answer(portal_pb2.ListNetworkInstanceMetaResponse(metas=[meta])),
        ("", "PeerManageRpc", 1): answer(portal_pb2.ListPeerResponse()),
        ("", "PeerManageRpc", 3): answer(portal_pb2.ListRouteResponse(routes=routes)),
        ("", "PeerManageRpc", 7): answer(portal_pb2.ShowNodeInfoResponse(node_info=info)),
        ("", "ConnectorManageRpc", 1): answer(portal_pb2.ListConnectorResponse()),
        ("", "PythonNodeRpc", 1): answer(portal_own_pb2.ListFlowsResponse(flows=flows)),
        ("", "PythonNodeRpc", 5): answer(explained),
        ("", "PythonNodeRpc", 7): answer(portal_own_pb2.DiagnoseResponse(findings=[finding])),
        ("", "PythonNodeRpc", 2): answer(portal_own_pb2.ListPluginsResponse(plugins=plugins)),
    }


def refusal(text: str) -> bytes:
    response = peer_rpc_pb2.RpcResponse()
    response.error.execute_error.error_message = text
    return response.SerializeToString()


def run(known: Mapping[replay.Method, bytes | replay.Answers], command: str) -> int:
    with replay.portal(known) as port:
        return main([*command.split(), "-p", f"127.0.0.1:{port}"])


def route(number: int, *, kcp: bool = True) -> portal_pb2.Route:
    return portal_pb2.Route(
        peer_id=number,
        ipv4_addr=common_pb2.Ipv4Inet(address=common_pb2.Ipv4Addr(addr=0x0A900000 + number), network_length=24),
        next_hop_peer_id=2,
        cost=number - 1,
        path_latency_latency_first=7 * number,
        hostname=f"n{number}",
        version="2.6.4",
        proxy_cidrs=[f"10.{number}.0.0/16"],
        feature_flag=common_pb2.PeerFeatureFlag(kcp_input=kcp),
    )


FLOW = portal_own_pb2.FlowInfo(
    src=common_pb2.SocketAddr(ipv4=common_pb2.Ipv4Addr(addr=0x0A900001), port=40000),
    dst=common_pb2.SocketAddr(ipv4=common_pb2.Ipv4Addr(addr=0x0A900002), port=22),
    peer_hostname="n2",
    transport="kcp",
    state="connected",
    reason="the peer takes KCP",
    bytes_sent=1_500_000,
    rtt_us=51_840,
    retransmitted=3,
    send_rate=2000,
    loss=0.051,
    chosen_by="auto",
)


def stock(*routes: portal_pb2.Route) -> dict[replay.Method, bytes]:
    """A node that knows nothing beyond stock's services."""
    return {method: content for method, content in node(routes=routes).items() if method[1] != "PythonNodeRpc"}


def rows(output: str) -> list[list[str]]:
    """The cells of a table, without its heading."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines()[2:]]


def on_terminal(
    command: str, columns: int, known: Mapping[replay.Method, bytes | replay.Answers], *, status: int = 0
) -> list[str]:
    """What a terminal of this width gets."""
    master, slave = pty.openpty()
    with replay.portal(known) as port:
        environment = os.environ | {"COLUMNS": str(columns), "LINES": "24"}
        ended = subprocess.run(
            [*MODULE, *command.split(), "-p", f"127.0.0.1:{port}"], stdout=slave, env=environment, timeout=30, check=False
        )
        assert ended.returncode == status
    os.close(slave)
    data = b""
    try:
        while part := os.read(master, 10_000):
            data += part
    except OSError:
        pass
    os.close(master)
    return data.decode().splitlines()
