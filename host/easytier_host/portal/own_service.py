"""`PythonNodeRpc`: what this node answers beyond stock, to its own command and monitor.  Format: proto/.../portal_own.proto.

Stock's commands never ask for it, and stock's cores refuse it as unknown, which is how ours are told from them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import anyio
from google.protobuf.message import Message

from easytier_hooks.errors import DestinationUnreachable, TransportUnavailable
from easytier_hooks.types import FlowKey, PeerInfo, TcpFlow
from easytier_host.pb import common_pb2, portal_own_pb2, portal_pb2
from easytier_host.portal import diagnosis, flow_views, views
from easytier_host.portal.feed import FlowFeed
from easytier_host.portal.pace import gradually
from easytier_host.portal.session import PortalRefusal, Session

if TYPE_CHECKING:
    from easytier_host.instance import Node

NAME: Final = "PythonNodeRpc"
KCP: Final = "kcp"
"""The transport of which nodes announce whether they take it."""

# Ours, in seconds.
MAX_WAIT: Final = 25.0
"""Longest wait for news of flows, well below the minute after which a silent connection is closed."""
MAX_PING: Final = 10.0
GATHER: Final = 0.05
"""Wait after the first update for those that come with it: so a reader gets at most twenty answers a second."""

Method = Callable[["Node", Session, bytes], Awaitable[Message]]


class OwnService:
    """The methods by number."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._feeds: WeakKeyDictionary[Node, FlowFeed] = WeakKeyDictionary()
        self.methods: Final[Mapping[int, Method]] = {
            1: self._list_flows,
            2: self._list_plugins,
            3: self._watch_flows,
            4: self._show_flow,
            5: self._explain,
            6: self._close_flow,
            7: self._diagnose,
            8: self._ping,
        }

    async def _list_flows(self, node: Node, _session: Session, _request: bytes) -> Message:
        table = node.gate.table
        flows = await gradually(flow_views.flow_infos(node, table, self._clock()))
        return portal_own_pb2.ListFlowsResponse(flows=flows, unwatched=table.unwatched)

    async def _list_plugins(self, node: Node, _session: Session, _request: bytes) -> Message:
        return portal_own_pb2.ListPluginsResponse(plugins=views.plugin_infos(node))

    async def _watch_flows(self, node: Node, _session: Session, encoded: bytes) -> Message:
        request = portal_own_pb2.WatchFlowsRequest.FromString(encoded)
        feed = self._feeds.get(node)
        if feed is None:
            # Whoever never watches never pays for a journal.
            feed = self._feeds[node] = FlowFeed(node.gate, secrets.randbits(64), self._wall_clock)
        with anyio.move_on_after(min(request.wait_ms / 1000, MAX_WAIT)):
            await feed.wait(request.cursor)
            await anyio.sleep(GATHER)
        news = feed.read(request.cursor)
        return portal_own_pb2.WatchFlowsResponse(
            cursor=news.cursor,
            is_snapshot=news.is_snapshot,
            flows=await gradually(flow_views.flow_infos(node, news.flows, self._clock())),
            updates=flow_views.updates(news.updates),
            missed=news.missed,
            unwatched=node.gate.table.unwatched,
        )

    async def _show_flow(self, node: Node, _session: Session, encoded: bytes) -> Message:
        flow_id = portal_own_pb2.FlowRequest.FromString(encoded).flow_id
        flow = node.gate.table.get(flow_id)
        if flow is None:
            raise PortalRefusal(f"there is no flow {flow_id}; one that ended is forgotten after 10 s")
        (info,) = flow_views.flow_infos(node, [flow], self._clock())
        return portal_own_pb2.ShowFlowResponse(flow=info, history=flow_views.history(flow))

    async def _explain(self, node: Node, _session: Session, encoded: bytes) -> Message:
        request = portal_own_pb2.ExplainRequest.FromString(encoded)
        key = _key_from(node, request.src, request.dst) if request.HasField("src") else _key_to(node, request.dst)
        flow, candidates, selection = await node.gate.explain(key)
        answer = portal_own_pb2.ExplainResponse(
            candidates=[
                portal_own_pb2.Candidate(
                    transport=views.clean(each.transport), available=each.available, reason=views.clean(each.reason)
                )
                for each in candidates
            ],
            transport=selection.transport,
            reason=views.clean(selection.reason),
            chosen_by=selection.chosen_by,
            own_networks=map(str, node.own_record.proxy_cidrs),
        )
        if flow.peer is not None:
            next_hop = node.next_hop_of(flow.peer.peer_id)
            answer.peer_id = flow.peer.peer_id
            answer.peer_hostname = views.clean(flow.peer.hostname)
            answer.peer_version = views.clean(flow.peer.version)
            answer.hops = node.hops_to(flow.peer.peer_id) or 0
            answer.next_hop_hostname = "" if next_hop is None else views.clean(next_hop.hostname)
            if key.destination_ip not in (flow.peer.ipv4, flow.peer.ipv6):
                around = [each for each in flow.peer.proxy_networks if key.destination_ip in each]
                answer.via_network = str(max(around, key=lambda each: each.prefixlen)) if around else ""
        return answer

    async def _close_flow(self, node: Node, session: Session, encoded: bytes) -> Message:
        if not await session.may_change():
            raise PortalRefusal(
                "flows are closed for root and for the user who runs the node only, over the loopback address of its machine"
            )
        flow_id = portal_own_pb2.FlowRequest.FromString(encoded).flow_id
        flow = node.gate.table.get(flow_id)
        if flow is None or flow.ended is not None:
            raise PortalRefusal(f"there is no living flow {flow_id}")
        if not node.gate.close(flow_id, "closed by the user"):
            raise PortalRefusal(
                f"flow {flow_id} passes this node as plain TCP, which ends where its connections are:  "
                f"ss -K dst {flow.key.destination_ip} dport = {flow.key.destination_port}  on {flow.key.source_ip}"
            )
        return portal_pb2.EmptyResponse()

    async def _diagnose(self, node: Node, _session: Session, _request: bytes) -> Message:
        return portal_own_pb2.DiagnoseResponse(findings=await diagnosis.findings(node))

    async def _ping(self, node: Node, _session: Session, encoded: bytes) -> Message:
        request = portal_own_pb2.PingRequest.FromString(encoded)
        transport = node.gate.transports.get(request.transport)
        if transport is None:
            offered = ", ".join(node.gate.transports) or "none"
            raise PortalRefusal(f"no plugin offers the transport {request.transport[:32]!r}; offered: {offered}")
        key = _key_to(node, request.dst)
        peer = node.peer_for(key.destination_ip)
        if peer is None:
            raise PortalRefusal(f"no peer has {key.destination_ip}")
        flow = TcpFlow(0, key, "forwarded", peer, self._wall_clock(), request.transport)
        outcome, detail = "timeout", ""
        began = self._clock()
        with anyio.move_on_after(min(request.timeout_ms / 1000, MAX_PING)):
            try:
                connection = await transport.dial(flow)
            except (ConnectionRefusedError, DestinationUnreachable):
                # Whatever became of the destination, the peer has answered.
                outcome = "refused"
            except TransportUnavailable as error:
                outcome, detail = "failed", views.clean(error.reason)
            else:
                outcome = "connected"
                connection.reset()
        rtt_us = max(0, round((self._clock() - began) * 1e6))
        if request.transport == KCP and outcome in ("timeout", "failed") and (refusal := _refusal_of(node, peer)):
            outcome, detail = "failed", refusal
        return portal_own_pb2.PingResponse(rtt_us=rtt_us, outcome=outcome, detail=detail)


def _refusal_of(node: Node, peer: PeerInfo) -> str:
    """Why a peer does not answer by KCP, as far as it says so itself; "" if it says that it does."""
    capabilities = node.capabilities_of(peer.peer_id)
    if capabilities is None or capabilities.kcp_input:
        return ""
    name, version = views.clean(peer.hostname) or str(peer.peer_id), views.clean(capabilities.version) or "unknown"
    return f"{name} takes no KCP: it is older than 2.2, or runs with --disable-kcp-input (version {version})"


def _key_from(node: Node, source: common_pb2.SocketAddr, destination: common_pb2.SocketAddr) -> FlowKey:
    """A flow of a host behind this node; raises `PortalRefusal` where there can be none."""
    if node.nic is None:
        raise PortalRefusal("this node has no device: flows of hosts behind it cannot enter here")
    try:
        return FlowKey(views.read_address(source), source.port, views.read_address(destination), destination.port)
    except ValueError as error:
        raise PortalRefusal(str(error)) from None


def _key_to(node: Node, destination: common_pb2.SocketAddr) -> FlowKey:
    """A flow from this node, without a port of its own yet; raises `PortalRefusal` where there can be none."""
    is_ipv6 = destination.WhichOneof("ip") == "ipv6"
    interface = node.config.ipv6 if is_ipv6 else node.config.ipv4
    if interface is None:
        raise PortalRefusal(f"this node has no virtual IPv{6 if is_ipv6 else 4} address to start from; set ipv4 or ipv6")
    target = views.read_address(destination)
    try:
        return FlowKey(interface.ip, 0, target, destination.port)
    except ValueError as error:
        raise PortalRefusal(str(error)) from None
