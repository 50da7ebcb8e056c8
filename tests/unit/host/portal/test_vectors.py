"""Captured conversations of stock's command with stock's core, taken apart and put together again by our code."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from easytier_host.packet import PEER_HEADER_SIZE, PacketType, PeerHeader
from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_pb2
from easytier_host.rpc import portal_wire
from easytier_host.tunnel.tcp_framing import FrameParser
from tests.unit.cli.replay import VERSIONS, Line, conversations

PEER_METHODS: dict[str, dict[int, type[Message]]] = {
    "2.2.4": {1: portal_pb2.ListPeerResponse, 2: portal_pb2.ListRouteResponse, 6: portal_pb2.ShowNodeInfoResponse},
    "2.6.4": {1: portal_pb2.ListPeerResponse, 3: portal_pb2.ListRouteResponse, 7: portal_pb2.ShowNodeInfoResponse},
}
RESPONSES: dict[tuple[str, int], type[Message]] = {
    ("TcpProxyRpc", 1): portal_pb2.ListTcpProxyEntryResponse,
    ("ConnectorManageRpc", 1): portal_pb2.ListConnectorResponse,
    ("StatsRpc", 1): portal_pb2.GetStatsResponse,
    ("WebClientService", 5): portal_pb2.ListNetworkInstanceResponse,
    ("WebClientService", 8): portal_pb2.ListNetworkInstanceMetaResponse,
}


def lines(version: str) -> list[Line]:
    return [line for conversation in conversations(version) for line in conversation]


def response_type(version: str, line: Line) -> type[Message]:
    _, service, method = line.method
    return PEER_METHODS[version][method] if service == "PeerManageRpc" else RESPONSES[service, method]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_frame_is_understood(version: str) -> None:
    for line in lines(version):
        (frame,) = FrameParser().feed(line.wire)
        is_request = line.sender == "cli"
        packet = portal_wire.decode_frame(frame, is_request=is_request)
        assert packet == line.packet
        header = PeerHeader.parse(frame)
        assert (header.from_peer_id, header.to_peer_id, header.flags, header.forward_counter) == (1, 1, 0, 1)
        assert header.packet_type == (PacketType.RPC_REQ if is_request else PacketType.RPC_RESP)
        assert header.length == len(frame) - PEER_HEADER_SIZE
        assert portal_wire.check_length(line.wire[:4]) == len(frame)


@pytest.mark.parametrize("version", VERSIONS)
def test_frames_are_built_to_the_byte(version: str) -> None:
    """But for the reserved byte, which stock leaves as it was, and for what stock offers to take."""
    for line in lines(version):
        if line.packet.compression_info.algo != common_pb2.CompressionNone:
            continue
        template = common_pb2.RpcPacket()
        template.CopyFrom(line.packet)
        built = portal_wire.encode_call(template, line.packet.body)
        assert built[15] == 0
        accepted = bytes([common_pb2.CompressionNone])
        assert line.wire.endswith(bytes([common_pb2.CompressionZstd]))
        assert built == line.wire[:15] + b"\0" + line.wire[16:-1] + accepted


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_and_answers_are_built_to_the_byte(version: str) -> None:
    for line in lines(version):
        if line.sender == "cli":
            request = peer_rpc_pb2.RpcRequest.FromString(line.content)
            assert request.timeout_ms == 5000
            kind: type[Message] = portal_pb2.ListNetworkInstanceMetaRequest if line.method[2] == 8 else portal_pb2.Request
            assert kind.FromString(request.request).SerializeToString() == request.request
            assert request.SerializeToString() == line.content
            continue
        envelope = peer_rpc_pb2.RpcResponse.FromString(line.content)
        assert envelope.SerializeToString() == line.content
        message = response_type(version, line).FromString(envelope.response)
        rebuilt = message.SerializeToString(deterministic=True)
        if line.method[1] == "StatsRpc":
            # Labels are a map, which has no order.
            assert len(rebuilt) == len(envelope.response)
            assert type(message).FromString(rebuilt) == message
        else:
            assert rebuilt == envelope.response
        assert not unknown_fields(message), line.method


def unknown_fields(message: Message) -> bool:
    """Whether anything in it, however deep, has no name here."""
    before = message.ByteSize()
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()  # type: ignore[attr-defined, unused-ignore]
    return copy.ByteSize() != before
