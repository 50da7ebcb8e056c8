"""Asks a running node by its portal: what `easytier-cli` and `easytier-tui` are built on.

Blocking, so that a command starts at once; a program with a loop calls it in a thread, but for `watch_flows`, which is awaited.
One `PortalClient` is one connection and one call at a time.  It works with our node and with stock 2.2 to 2.6, which number
some methods differently (wire specification, CLI portal 10.3).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from functools import partial
from typing import Final, NamedTuple

from easytier_host.pb import common_pb2, portal_own_pb2, portal_pb2
from easytier_host.rpc.portal_connection import (
    CallTimeoutError,
    ConnectError,
    MethodMissingError,
    PortalConnection,
    PortalError,
    RefusedError,
    ServiceMissingError,
)

__all__ = [
    "CallTimeoutError",
    "ConnectError",
    "MethodMissingError",
    "PortalClient",
    "PortalError",
    "ProxyLists",
    "RefusedError",
    "ServiceMissingError",
    "common_pb2",
    "portal_own_pb2",
    "portal_pb2",
]

Instance = portal_pb2.InstanceIdentifier | None

# Ours.
PROXY_DOMAINS: Final = ("tcp", "kcp_src", "kcp_dst", "quic_src", "quic_dst")
"""In stock's order of asking, which is the order of its listing."""
NO_LIST: Final = "TCP proxy service not found"
"""How stock since 2.5 says that it runs nothing which could have flows in this list."""
OWN_SERVICE: Final = "PythonNodeRpc"
NEWS_INTERVAL: Final = 1.0
"""Seconds after which a node tells current figures of flows, if nothing happens."""


class ProxyLists(NamedTuple):
    """The flows that were told, and the lists that were not: domain -> why."""

    entries: list[portal_pb2.TcpProxyEntry]
    failures: dict[str, str]


class PortalClient(PortalConnection):
    """The questions.  `instance` says which network is meant, where the process runs several; None: the only one.

    All raise `ConnectError`, `CallTimeoutError`, `RefusedError` or one of its children.
    """

    _peer_methods: tuple[int, int] | None = None
    """Numbers of ListRoute and ShowNodeInfo at this node, once known."""

    def close(self) -> None:
        """End the connection; idempotent.  A call that waits in another thread raises `RefusedError`."""
        # Behind the next one may be a node of another version.
        self._peer_methods = None
        super().close()

    def instances(self) -> list[portal_pb2.NetworkInstanceMeta]:
        """The networks that the process runs; `ServiceMissingError` from nodes that run one and have no name for it."""
        listed = self.call("WebClientService", 5, portal_pb2.EmptyResponse(), portal_pb2.ListNetworkInstanceResponse)
        request = portal_pb2.ListNetworkInstanceMetaRequest(inst_ids=listed.inst_ids)
        return list(self.call("WebClientService", 8, request, portal_pb2.ListNetworkInstanceMetaResponse).metas)

    def node_info(self, instance: Instance = None) -> portal_pb2.NodeInfo:
        """The node itself."""
        if self._peer_methods is not None:
            return self._show_node_info(self._peer_methods[1], instance)
        # Stock has moved the numbers in 2.6.2 without a sign: a version is in the right answer only.
        try:
            info = self._show_node_info(7, instance)
        except MethodMissingError:
            info = portal_pb2.NodeInfo()
        if info.version:
            self._peer_methods = 3, 7
            return info
        info = self._show_node_info(6, instance)
        self._peer_methods = 2, 6
        return info

    def peers(self, instance: Instance = None) -> list[portal_pb2.PeerInfo]:
        """The neighbours with their connections."""
        return list(self.call("PeerManageRpc", 1, _request(instance), portal_pb2.ListPeerResponse).peer_infos)

    def routes(self, instance: Instance = None) -> list[portal_pb2.Route]:
        """All other nodes of the network."""
        if self._peer_methods is None:
            self.node_info(instance)
        method = self._peer_methods[0] if self._peer_methods is not None else 3
        return list(self.call("PeerManageRpc", method, _request(instance), portal_pb2.ListRouteResponse).routes)

    def connectors(self, instance: Instance = None) -> list[portal_pb2.Connector]:
        """The peers that the configuration names."""
        return list(self.call("ConnectorManageRpc", 1, _request(instance), portal_pb2.ListConnectorResponse).connectors)

    def proxy_entries(self, instance: Instance = None) -> list[portal_pb2.TcpProxyEntry]:
        """The flows, in stock's form, as far as the node tells them; see `proxy_lists`."""
        return self.proxy_lists(instance).entries

    def proxy_lists(self, instance: Instance = None) -> ProxyLists:
        """The flows, in stock's form, from one list for each transport and direction.

        A list that the node does not have is empty: it is too old for that transport, or has it off.  One that it has and
        refuses is a failure.  If it refuses all of them, that is raised.
        """
        lists = ProxyLists([], {})
        refusal: RefusedError | None = None
        answered = 0
        for domain in PROXY_DOMAINS:
            try:
                answer = self.call("TcpProxyRpc", 1, _request(instance), portal_pb2.ListTcpProxyEntryResponse, domain=domain)
            except RefusedError as error:
                # Without a connection the next list would hide why.
                if not self.connected:
                    raise
                refusal = error
                if not isinstance(error, ServiceMissingError) and NO_LIST not in str(error):
                    lists.failures[domain] = str(error)
                continue
            answered += 1
            lists.entries.extend(answer.entries)
        if refusal is not None and not answered:
            raise refusal
        return lists

    def stats(self, instance: Instance = None) -> list[portal_pb2.MetricSnapshot]:
        """Counters."""
        return list(self.call("StatsRpc", 1, _request(instance), portal_pb2.GetStatsResponse).metrics)

    def prometheus(self, instance: Instance = None) -> str:
        """Counters in the text format of Prometheus."""
        return self.call("StatsRpc", 2, _request(instance), portal_pb2.GetPrometheusStatsResponse).prometheus_text

    def flows(self, instance: Instance = None) -> portal_own_pb2.ListFlowsResponse:
        """The flows with reasons and bytes; `ServiceMissingError` from stock."""
        return self.call(OWN_SERVICE, 1, _request(instance), portal_own_pb2.ListFlowsResponse)

    def plugins(self, instance: Instance = None) -> list[portal_own_pb2.PluginInfo]:
        """The plugins of the node; `ServiceMissingError` from stock."""
        return list(self.call(OWN_SERVICE, 2, _request(instance), portal_own_pb2.ListPluginsResponse).plugins)

    def show_flow(self, flow_id: int, instance: Instance = None) -> portal_own_pb2.ShowFlowResponse:
        """One flow with what happened to it; `RefusedError` if it is unknown, or forgotten."""
        request = portal_own_pb2.FlowRequest(instance=instance, flow_id=flow_id)
        return self.call(OWN_SERVICE, 4, request, portal_own_pb2.ShowFlowResponse)

    def close_flow(self, flow_id: int, instance: Instance = None) -> None:
        """Reset a flow at both ends; `RefusedError` if it cannot be, or this is not the node's own machine."""
        self.call(OWN_SERVICE, 6, portal_own_pb2.FlowRequest(instance=instance, flow_id=flow_id), portal_pb2.EmptyResponse)

    def explain(
        self, destination: common_pb2.SocketAddr, instance: Instance = None, *, source: common_pb2.SocketAddr | None = None
    ) -> portal_own_pb2.ExplainResponse:
        """What a new flow to `destination` would get now, and why: one of the node itself, or of a host behind it."""
        request = portal_own_pb2.ExplainRequest(instance=instance, dst=destination, src=source)
        return self.call(OWN_SERVICE, 5, request, portal_own_pb2.ExplainResponse)

    def diagnose(self, instance: Instance = None) -> list[portal_own_pb2.Finding]:
        """What the node finds out about itself and its machine."""
        return list(self.call(OWN_SERVICE, 7, _request(instance), portal_own_pb2.DiagnoseResponse).findings)

    def ping(
        self, destination: common_pb2.SocketAddr, transport: str, instance: Instance = None, *, timeout: float = 2.0
    ) -> portal_own_pb2.PingResponse:
        """Connect to a peer by a transport and measure how long its answer takes; `timeout` in seconds, at most 10."""
        request = portal_own_pb2.PingRequest(
            instance=instance, dst=destination, transport=transport, timeout_ms=int(timeout * 1000)
        )
        return self.call(OWN_SERVICE, 8, request, portal_own_pb2.PingResponse, wait=timeout)

    # News

    def watch_flows(
        self, instance: Instance = None, *, cursor: bytes = b"", wait: float = NEWS_INTERVAL
    ) -> portal_own_pb2.WatchFlowsResponse:
        """What happened to flows since the answer that `cursor` is from; without one, a snapshot of all.

        The node answers when there is an update, at the latest after `wait` seconds (at most 25).  `ServiceMissingError` from
        stock.
        """
        request = portal_own_pb2.WatchFlowsRequest(instance=instance, cursor=cursor, wait_ms=int(wait * 1000))
        return self.call(OWN_SERVICE, 3, request, portal_own_pb2.WatchFlowsResponse, wait=wait)

    def follow_flows(
        self, instance: Instance = None, *, wait: float = NEWS_INTERVAL
    ) -> Iterator[portal_own_pb2.WatchFlowsResponse]:
        """`watch_flows` for ever: a snapshot first, then what changes.  Other calls may be made between two answers."""
        cursor = b""
        while True:
            answer = self.watch_flows(instance, cursor=cursor, wait=wait)
            cursor = answer.cursor
            yield answer

    async def stream_flows(
        self, instance: Instance = None, *, wait: float = NEWS_INTERVAL
    ) -> AsyncGenerator[portal_own_pb2.WatchFlowsResponse]:
        """The same for a program with an event loop, asyncio's or trio's; the client serves nothing else meanwhile.

        Cancelling it ends the connection.
        """
        from anyio import get_cancelled_exc_class, to_thread

        cursor = b""
        while True:
            ask = partial(self.watch_flows, instance, cursor=cursor, wait=wait)
            try:
                answer = await to_thread.run_sync(ask, abandon_on_cancel=True)
            except get_cancelled_exc_class():
                self.close()
                raise
            cursor = answer.cursor
            yield answer

    def _show_node_info(self, method: int, instance: Instance) -> portal_pb2.NodeInfo:
        return self.call("PeerManageRpc", method, _request(instance), portal_pb2.ShowNodeInfoResponse).node_info


def _request(instance: Instance) -> portal_pb2.Request:
    return portal_pb2.Request(instance=instance)
