"""No request is too odd for an answer."""

from __future__ import annotations

import anyio
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.portal.services import PortalServices
from easytier_host.portal.session import Session
from tests.unit.host.portal.portals import SERVICES


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
