"""Which numbering a caller gets, and that no request is too odd for an answer."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_pb2
from easytier_host.portal.services import PortalServices
from easytier_host.portal.session import Session
from tests.unit.host.helpers import make_node

SERVICES = (
    *(
        "PeerManageRpc",
        "TcpProxyRpc",
        "WebClientService",
        "StatsRpc",
        "ConnectorManageRpc",
        "PythonNodeRpc",
        "AclManageRpc",
        "",
    ),
)


@given(
    st.sampled_from(SERVICES),
    st.integers(0, 2**32 - 1) | st.integers(0, 9),
    st.sampled_from(["", "tcp", "kcp_src", "quic_dst", "x"]),
    st.binary(max_size=60),
    st.booleans(),
)
def test_any_request_is_answered(service: str, method: int, domain: str, data: bytes, wrapped: bool) -> None:
    descriptor = common_pb2.RpcDescriptor(service_name=service, proto_name=service, method_index=method, domain_name=domain)
    content = peer_rpc_pb2.RpcRequest(request=data).SerializeToString() if wrapped else data
    response = anyio.run(PortalServices([]).answer, Session(), descriptor, content)
    assert "internal error" not in response.error.execute_error.error_message
    assert peer_rpc_pb2.RpcResponse.FromString(response.SerializeToString()) == response


async def ask(services: PortalServices, session: Session, method: int, request: portal_pb2.Request) -> bytes:
    descriptor = common_pb2.RpcDescriptor(service_name="PeerManageRpc", proto_name="PeerManageRpc", method_index=method)
    response = await services.answer(
        session, descriptor, peer_rpc_pb2.RpcRequest(request=request.SerializeToString()).SerializeToString()
    )
    assert not response.HasField("error")
    return response.response


def shows_node(encoded: bytes) -> bool:
    return portal_pb2.ShowNodeInfoResponse.FromString(encoded).node_info.hostname == "node1"


@pytest.mark.anyio
async def test_the_numbering_follows_the_caller() -> None:
    async with make_node(1) as node:
        services = PortalServices([node])
        nothing = portal_pb2.Request()
        selector = portal_pb2.InstanceIdentifier(instance_selector=portal_pb2.InstanceSelector(name="node1"))

        old = Session()
        assert shows_node(await ask(services, old, 6, nothing))
        assert not shows_node(await ask(services, old, 7, nothing))

        named = Session()
        assert shows_node(await ask(services, named, 7, portal_pb2.Request(instance=selector)))
        assert not shows_node(await ask(services, named, 6, nothing))

        listed = Session()
        await services.answer(listed, common_pb2.RpcDescriptor(service_name="WebClientService", method_index=5), b"")
        assert shows_node(await ask(services, listed, 7, nothing))
