"""Portals of nodes in this process, and what tests ask them."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.abc import SocketStream

from easytier_hooks.types import FlowKey, TransportSelected
from easytier_host.instance import Node
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.portal.address import PortalAddress
from easytier_host.portal.server import Portal
from easytier_host.rpc import portal_wire
from easytier_host.rpc.client import PortalClient
from easytier_host.rpc.framing import Reassembler
from easytier_host.tunnel.tcp_framing import FrameParser
from tests.unit.host.helpers import make_node, until

T = TypeVar("T")
SERVICES = (
    *("PeerManageRpc", "TcpProxyRpc", "WebClientService", "StatsRpc", "ConnectorManageRpc", "PythonNodeRpc"),
    *("AclManageRpc", ""),
)
"""What a node answers for, and names that it has no service of."""
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


def flow(node: Node, port: int, transport: str, direction: str = "outbound") -> int:
    """A flow from port `port` of 10.144.0.1 in the node's table."""
    key = FlowKey(IPv4Address("10.144.0.1"), port, IPv4Address("10.144.0.2"), 22)
    found = node.gate.table.open(key, direction, None, 0.0, 1_700_000_000.5)  # type: ignore[arg-type]
    assert found is not None
    node.gate.table.report(found, TransportSelected(transport, f"because {transport}", "test"), 0.0)
    node.gate.publish()
    return found.id


def packet(**changes: object) -> bytes:
    """A request frame with its length."""
    fields: dict[str, object] = {
        "descriptor": common_pb2.RpcDescriptor(proto_name="StatsRpc", service_name="StatsRpc", method_index=1),
        "is_request": True,
        "total_pieces": 1,
    }
    body = common_pb2.RpcPacket(**(fields | changes)).SerializeToString()  # type: ignore[arg-type]
    return struct.pack("<IIIBBBBI", 16 + len(body), 1, 1, 8, 0, 1, 0, len(body)) + body
