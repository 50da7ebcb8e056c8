"""What the portal answers beyond stock: a destination explained, a flow closed, a peer pinged by a transport."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import pytest

from easytier_hooks.errors import DestinationUnreachable, TransportUnavailable
from easytier_hooks.services import TcpStack
from easytier_hooks.streams import SocketStream, TcpConnection
from easytier_hooks.types import TCP, Candidate, Failed, FlowKey, PeerInfo, Selection, TcpFlow
from easytier_host.config.model import Flags, ProxyNetwork
from easytier_host.instance import Node
from easytier_host.nic.memory import MemoryNic
from easytier_host.pb import common_pb2, portal_own_pb2, portal_pb2
from easytier_host.portal.caller import user_of
from easytier_host.portal.own_service import OwnService
from easytier_host.portal.session import PortalRefusal, Session
from easytier_host.rpc.client import PortalClient, RefusedError
from easytier_host.sockets import to_endpoint
from tests.unit.host.helpers import make_node, until
from tests.unit.host.portal.portals import portal_of

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Pigeon:
    """A transport that does what a test says."""

    name = "pigeon"

    def __init__(self, *, available: bool = True) -> None:
        self._available = available
        self.answer: Exception | None = None
        self.dialled: list[TcpFlow] = []

    def candidate(self, flow: TcpFlow, peer: PeerInfo | None) -> Candidate:
        return Candidate(self.name, self._available, "well rested" if self._available else "it rains")

    async def dial(self, flow: TcpFlow) -> TcpConnection:
        self.dialled.append(flow)
        if isinstance(self.answer, TimeoutError):
            await anyio.sleep_forever()
        if self.answer is not None:
            raise self.answer
        near, far = socket.socketpair()
        far.close()
        return SocketStream(near)


class EndsOwnFlows:
    """A stack that ends no flow of a host behind its node."""

    name = "fake"
    description = "for tests"
    carries_subnets = False

    def available(self) -> str:
        return ""


class Asker:
    """Asks a portal without holding up the loop."""

    def __init__(self, client: PortalClient) -> None:
        self._client = client

    async def __call__(self, question: Callable[[PortalClient], T]) -> T:
        return await anyio.to_thread.run_sync(question, self._client)


@asynccontextmanager
async def asked(pigeon: Pigeon, *, router: bool = False) -> AsyncIterator[tuple[Node, Node, Asker]]:
    """Nodes a and b that know each other; b has the transport, and questions go to b.  As a router b has a device, a stack, and
    hosts behind it."""
    settings: dict[str, Any] = {}
    if router:
        network = ProxyNetwork(IPv4Network("192.168.5.0/24"))
        settings = {"flags": Flags(no_tun=False, enable_ipv6=False), "proxy_networks": (network,)}
    nic = MemoryNic() if router else None
    async with make_node(1) as a, make_node(2, a.listeners[0], nic=nic, **settings) as b, portal_of(b) as portal:
        if router:
            b.gate.stack = cast("TcpStack", EndsOwnFlows())
        b.gate.transports.clear()
        b.gate.transports["pigeon"] = pigeon
        await until(lambda: b.peer_for(IPv4Address("10.144.0.1")))
        with PortalClient(port=portal.port) as client:
            yield a, b, Asker(client)


def address(text: str, port: int = 22) -> common_pb2.SocketAddr:
    return common_pb2.SocketAddr(ipv4=common_pb2.Ipv4Addr(addr=int(IPv4Address(text))), port=port)


# Why


async def test_a_destination_is_explained_as_a_new_flow_would_be() -> None:
    async with asked(Pigeon()) as (a, b, ask):
        told = await ask(lambda client: client.explain(address("10.144.0.1")))
        assert (told.peer_id, told.peer_hostname, told.hops, told.next_hop_hostname) == (a.peer_id, "node1", 1, "node1")
        # Without a device plain TCP needs a stack, which nobody offers here.
        assert [(each.transport, each.available) for each in told.candidates] == [("pigeon", True), (TCP, False)]
        assert (told.transport, told.reason, told.chosen_by) == ("pigeon", "well rested", "default")
        assert told.via_network == ""
        assert len(b.gate.table) == 0


async def test_a_flow_of_a_host_behind_this_node_is_explained_by_itself() -> None:
    async with asked(Pigeon(), router=True) as (_, _, ask):
        told = await ask(lambda client: client.explain(address("10.144.0.1")))
        assert (told.transport, list(told.own_networks)) == ("pigeon", ["192.168.5.0/24"])
        told = await ask(lambda client: client.explain(address("10.144.0.1"), source=address("192.168.5.9", 0)))
        assert (told.transport, told.candidates[0].reason) == (TCP, "subnet-to-subnet needs --use-smoltcp")


async def test_without_a_device_no_host_is_behind_this_node() -> None:
    async with asked(Pigeon()) as (_, _, ask):
        with pytest.raises(RefusedError, match="no device"):
            await ask(lambda client: client.explain(address("10.144.0.1"), source=address("192.168.5.9", 0)))


async def test_a_transport_that_cannot_is_explained() -> None:
    async with asked(Pigeon(available=False)) as (_, _, ask):
        told = await ask(lambda client: client.explain(address("10.144.0.1")))
        assert (told.candidates[0].reason, told.transport) == ("it rains", TCP)


async def test_a_destination_that_nobody_has() -> None:
    async with asked(Pigeon()) as (_, _, ask):
        told = await ask(lambda client: client.explain(address("10.99.0.1")))
        assert (told.peer_id, told.transport, told.reason, list(told.candidates)) == (0, TCP, "no peer has 10.99.0.1", [])
        with pytest.raises(RefusedError, match="no virtual IPv6 address"):
            await ask(lambda client: client.explain(common_pb2.SocketAddr(ipv6=common_pb2.Ipv6Addr(part4=1), port=1)))


# Close


def relayed(node: Node, tasks: anyio.abc.TaskGroup) -> tuple[int, socket.socket, socket.socket]:
    """A flow that a transport carries; its id, and what its two ends talk to."""
    near, application = socket.socketpair()
    far, target = socket.socketpair()
    key = FlowKey(IPv4Address("10.144.0.2"), 40000, IPv4Address("10.144.0.1"), 22)
    flow = node.gate.open_flow(key, "outbound", None, Selection("pigeon", "", "test"))
    tasks.start_soon(node.gate.relay, flow.id, SocketStream(near), SocketStream(far))
    return flow.id, application, target


async def test_a_flow_is_closed_at_both_ends() -> None:
    async with asked(Pigeon()) as (_, b, ask), anyio.create_task_group() as tasks:
        flow_id, application, target = relayed(b, tasks)
        with application, target:
            await anyio.wait_all_tasks_blocked()
            await ask(lambda client: client.close_flow(flow_id))
            for end in (application, target):
                end.settimeout(5)
                assert await anyio.to_thread.run_sync(end.recv, 1) == b""
        flow = b.gate.table.get(flow_id)
        assert flow is not None
        assert flow.ended == Failed("closed by the user")
        with pytest.raises(RefusedError, match="no living flow"):
            await ask(lambda client: client.close_flow(flow_id))


async def test_a_plain_flow_cannot_be_closed_from_here() -> None:
    async with asked(Pigeon()) as (_, b, ask):
        key = FlowKey(IPv4Address("10.144.0.2"), 40000, IPv4Address("10.144.0.1"), 22)
        flow = b.gate.open_flow(key, "outbound", None, Selection(TCP, "", "test"))
        with pytest.raises(RefusedError, match=r"ss -K dst 10\.144\.0\.1 dport = 22  on 10\.144\.0\.2"):
            await ask(lambda client: client.close_flow(flow.id))


@pytest.mark.parametrize(
    ("address", "user", "may"),
    [
        ("127.0.0.1", 0, True),
        ("127.0.0.1", os.geteuid(), True),
        ("127.0.0.1", 54_321, False),
        ("127.0.0.1", None, False),
        ("192.0.2.1", 0, False),
    ],
)
async def test_nobody_else_may_close_a_flow(address: str, user: int | None, may: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easytier_host.portal.caller.user_of", lambda _caller, _here: user)
    async with make_node(1) as node, anyio.create_task_group() as tasks:
        flow_id, application, target = relayed(node, tasks)
        await anyio.wait_all_tasks_blocked()
        request = portal_own_pb2.FlowRequest(flow_id=flow_id).SerializeToString()
        session = Session(((IPv4Address(address), 40_000), (IPv4Address("127.0.0.1"), 15_888)))
        if may:
            assert isinstance(await OwnService().methods[6](node, session, request), portal_pb2.EmptyResponse)
        else:
            with pytest.raises(PortalRefusal, match="root and for the user who runs the node"):
                await OwnService().methods[6](node, session, request)
            node.gate.close(flow_id, "the test is over")
        application.close()
        target.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_whose_program_has_connected(host: str) -> None:
    """The listener for all addresses of both families has IPv4 callers under mapped ones."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener, socket.socket(socket.AF_INET6 if host == "::1" else socket.AF_INET) as client:
        if host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, 0))
        listener.listen()
        client.connect(("127.0.0.1" if host == "::" else host, listener.getsockname()[1]))
        here, there = (to_endpoint(each[:2]) for each in (client.getpeername(), client.getsockname()))
        assert user_of(there, here) == os.geteuid()
        assert user_of((there[0], 1), here) is None


# Ping


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        (None, "connected", ""),
        (ConnectionRefusedError(), "refused", ""),
        (DestinationUnreachable("no way"), "refused", ""),
        (TransportUnavailable("the peer sleeps"), "failed", "the peer sleeps"),
        (TimeoutError(), "timeout", ""),
    ],
)
async def test_a_ping_is_a_connection_by_the_transport(answer: Exception | None, outcome: str, detail: str) -> None:
    pigeon = Pigeon()
    pigeon.answer = answer
    async with asked(pigeon) as (a, _, ask):
        told = await ask(lambda client: client.ping(address("10.144.0.1", 9), "pigeon", timeout=0.05))
        assert (told.outcome, told.detail) == (outcome, detail)
        assert told.rtt_us > 0
        (flow,) = pigeon.dialled
        assert (flow.key.destination_port, flow.peer and flow.peer.peer_id) == (9, a.peer_id)


@pytest.mark.parametrize("answer", [TimeoutError(), TransportUnavailable("KCP connect failed: no answer")])
async def test_a_ping_of_a_peer_that_takes_no_kcp_says_so(answer: Exception) -> None:
    pigeon = Pigeon()
    pigeon.answer = answer
    async with asked(pigeon) as (_, b, ask):
        b.gate.transports["kcp"] = pigeon
        told = await ask(lambda client: client.ping(address("10.144.0.1", 9), "kcp", timeout=0.05))
    assert told.outcome == "failed"
    assert "node1 takes no KCP: it is older than 2.2, or runs with --disable-kcp-input (version 2.6.4-py" in told.detail


async def test_a_ping_needs_a_transport_and_a_peer() -> None:
    async with asked(Pigeon()) as (_, _, ask):
        with pytest.raises(RefusedError, match="no plugin offers the transport 'owl'; offered: pigeon"):
            await ask(lambda client: client.ping(address("10.144.0.1"), "owl"))
        with pytest.raises(RefusedError, match=r"no peer has 10\.99\.0\.1"):
            await ask(lambda client: client.ping(address("10.99.0.1"), "pigeon"))
