"""Which question goes to which view: services, their method numbers, and the node that is meant.

Domain names are empty but for TcpProxyRpc.  A service that is not here gets stock's error for an unknown one, on which the
CLIs of 2.6 rely.  PeerManageRpc has two numberings; `numbering` tells which one a caller means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError, Message

from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_pb2
from easytier_host.portal import flow_views, own_service, views
from easytier_host.portal.own_service import OwnService
from easytier_host.portal.pace import gradually
from easytier_host.portal.session import PortalRefusal, Session

if TYPE_CHECKING:
    from easytier_host.instance import Node

logger = logging.getLogger("easytier.portal")

View = Callable[["Node"], Message]

# Wire: stock decides (CLI portal 10.3).
_DOMAINS: Final[Mapping[str, tuple[str, bool | None]]] = {
    "tcp": ("tcp", None),
    "kcp_src": ("kcp", False),
    "kcp_dst": ("kcp", True),
    "quic_src": ("quic", False),
    "quic_dst": ("quic", True),
}
"""Transport and direction of each list; None is both."""


def _nothing(_node: Node) -> Message:
    return portal_pb2.EmptyResponse()


def _list_peer(node: Node) -> Message:
    return portal_pb2.ListPeerResponse(peer_infos=views.peer_infos(node))


def _list_route(node: Node) -> Message:
    return portal_pb2.ListRouteResponse(routes=views.routes(node))


def _dump_route(node: Node) -> Message:
    return portal_pb2.DumpRouteResponse(result="\n".join(str(route) for route in views.routes(node)))


def _show_node_info(node: Node) -> Message:
    return portal_pb2.ShowNodeInfoResponse(node_info=views.node_info(node))


def _list_connector(node: Node) -> Message:
    return portal_pb2.ListConnectorResponse(connectors=views.connectors(node))


def _get_stats(node: Node) -> Message:
    return portal_pb2.GetStatsResponse(metrics=views.metric_snapshots(node))


def _get_prometheus(node: Node) -> Message:
    metrics = (*views.metric_snapshots(node), *views.gauges(node))
    return portal_pb2.GetPrometheusStatsResponse(prometheus_text=views.prometheus(metrics))


_OLD_PEER_METHODS: Final[tuple[View, ...]] = (
    *(_list_peer, _list_route, _dump_route, _nothing, _nothing, _show_node_info, _nothing),
)
_NEW_PEER_METHODS: Final[tuple[View, ...]] = (
    *(_list_peer, _nothing, _list_route, _dump_route, _nothing, _nothing, _show_node_info, _nothing),
)
"""Empty are public IPv6 addresses and foreign networks, which this node has none of."""

_SERVICES: Final[Mapping[str, tuple[View, ...]]] = {
    "ConnectorManageRpc": (_list_connector,),
    "StatsRpc": (_get_stats, _get_prometheus),
}
"""Methods from number 1 on, of services that concern one node."""


class PortalServices:
    """Answers for `nodes`, a list that its owner keeps current: all nodes of the process."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._own = OwnService()

    async def answer(self, session: Session, descriptor: common_pb2.RpcDescriptor, content: bytes) -> peer_rpc_pb2.RpcResponse:
        """The response to one request; never raises."""
        response = peer_rpc_pb2.RpcResponse()
        try:
            request = peer_rpc_pb2.RpcRequest.FromString(content).request
            answer = await self._dispatch(session, descriptor, request)
            if isinstance(answer, Message):
                response.response = answer.SerializeToString()
            elif answer is _NO_SERVICE:
                response.error.invalid_service.service_name = descriptor.service_name
            else:
                response.error.invalid_method_index.service_name = descriptor.service_name
                response.error.invalid_method_index.method_index = descriptor.method_index
        except DecodeError:
            response.error.prost_decode_error.SetInParent()
        except PortalRefusal as refusal:
            response.error.execute_error.error_message = str(refusal)
        except Exception:
            logger.exception("the portal failed on %s method %d", descriptor.service_name[:64], descriptor.method_index)
            response.error.execute_error.error_message = "internal error, see the node's log"
        return response

    async def _dispatch(self, session: Session, descriptor: common_pb2.RpcDescriptor, encoded: bytes) -> Message | object:
        service, method = descriptor.service_name, descriptor.method_index
        if service == "TcpProxyRpc":
            if descriptor.domain_name not in _DOMAINS:
                return _NO_SERVICE
            return await self._list_proxy_entries(descriptor.domain_name, encoded) if method == 1 else _NO_METHOD
        if descriptor.domain_name:
            return _NO_SERVICE
        if service == "WebClientService":
            session.numbering.names_instances = True
            return self._web_client(method, encoded)
        if service == own_service.NAME:
            found = self._own.methods.get(method)
            node = self._the_node(portal_pb2.Request.FromString(encoded))
            return _NO_METHOD if found is None else await found(node, session, encoded)
        if service == "PeerManageRpc":
            numbering = session.numbering
            numbering.names_instances = numbering.names_instances or portal_pb2.Request.FromString(encoded).HasField("instance")
            methods = _NEW_PEER_METHODS if numbering.is_new(method) else _OLD_PEER_METHODS
        elif service in _SERVICES:
            methods = _SERVICES[service]
        else:
            return _NO_SERVICE
        if not 1 <= method <= len(methods):
            return _NO_METHOD
        return methods[method - 1](self._the_node(portal_pb2.Request.FromString(encoded)))

    async def _list_proxy_entries(self, domain: str, encoded: bytes) -> Message:
        # Stock's CLI never says which instance it means here, so all of them answer.
        request = portal_pb2.Request.FromString(encoded)
        nodes = [self._the_node(request)] if request.HasField("instance") else list(self._nodes)
        transport, inbound = _DOMAINS[domain]
        found = (entry for node in nodes for entry in flow_views.proxy_entries(node, transport, inbound=inbound))
        return portal_pb2.ListTcpProxyEntryResponse(entries=await gradually(found))

    def _web_client(self, method: int, encoded: bytes) -> Message | object:
        if method == 5:
            return portal_pb2.ListNetworkInstanceResponse(
                inst_ids=[views.uuid_message(node.config.instance_id) for node in self._nodes]
            )
        if method == 8:
            wanted = list(portal_pb2.ListNetworkInstanceMetaRequest.FromString(encoded).inst_ids)
            return portal_pb2.ListNetworkInstanceMetaResponse(metas=self._metas(wanted))
        return _NO_METHOD

    def _metas(self, wanted: Sequence[common_pb2.UUID]) -> Iterator[portal_pb2.NetworkInstanceMeta]:
        for node in self._nodes:
            inst_id = views.uuid_message(node.config.instance_id)
            if inst_id in wanted:
                yield portal_pb2.NetworkInstanceMeta(
                    inst_id=inst_id,
                    network_name=views.clean(node.config.network_name),
                    instance_name=views.clean(node.config.instance_name),
                    source=1,
                )

    def _the_node(self, request: portal_pb2.Request) -> Node:
        selector = request.instance
        match selector.WhichOneof("selector"):
            case "id":
                found = [node for node in self._nodes if views.uuid_message(node.config.instance_id) == selector.id]
            case "instance_selector" if selector.instance_selector.HasField("name"):
                name = selector.instance_selector.name
                found = [node for node in self._nodes if views.clean(node.config.instance_name) == name]
            case _:
                found = list(self._nodes)
        if len(found) == 1:
            return found[0]
        running = ", ".join(views.clean(node.config.instance_name) for node in self._nodes) or "none"
        raise PortalRefusal(f"{'no' if not found else 'more than one'} instance fits; running: {running}")


_NO_SERVICE: Final = object()
_NO_METHOD: Final = object()
