"""Every protobuf message that stock nodes were seen to send decodes, and encodes to the same bytes again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from google.protobuf.message import Message

from easytier_host.packet import PEER_HEADER_SIZE, Flag, PacketType, PeerHeader
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.route import LinkState
from easytier_host.route_records import OwnRecord
from easytier_host.route_tables import RouteCounters

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
UDP_HEADER_SIZE = 8
KCP_HEADER_SIZE = 14

METHODS: dict[tuple[str, int], tuple[type[Message], type[Message]]] = {
    ("OspfRouteRpc", 1): (peer_rpc_pb2.SyncRouteInfoRequest, peer_rpc_pb2.SyncRouteInfoResponse),
    ("PeerCenterRpc", 1): (peer_rpc_pb2.ReportPeersRequest, peer_rpc_pb2.ReportPeersResponse),
    ("PeerCenterRpc", 2): (peer_rpc_pb2.GetGlobalPeerMapRequest, peer_rpc_pb2.GetGlobalPeerMapResponse),
}

M = TypeVar("M", bound=Message)


def payloads(file: str) -> list[tuple[PeerHeader, bytes]]:
    """The unencrypted frames of a capture, without their headers."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (VECTORS / file).read_text().splitlines()]
    frames = [bytes.fromhex(line["hex"])[UDP_HEADER_SIZE:] for line in lines if line["udp"] == "Data"]
    parsed = [(PeerHeader.parse(frame), frame[PEER_HEADER_SIZE:]) for frame in frames]
    return [(header, payload) for header, payload in parsed if not header.flags & (Flag.ENCRYPTED | Flag.COMPRESSED)]


def round_trip(message_type: type[M], encoded: bytes) -> M:
    message = message_type.FromString(encoded)
    again = message.SerializeToString()
    if again != encoded:
        # Maps have no order on the wire, and stock 81487c36 writes the members of a one-of before the fields around it.
        assert isinstance(message, peer_rpc_pb2.GetGlobalPeerMapResponse | peer_rpc_pb2.SyncRouteInfoRequest)
        assert sorted(again) == sorted(encoded)
        assert message_type.FromString(again) == message
    known_only = message_type()
    known_only.CopyFrom(message)
    known_only.DiscardUnknownFields()
    assert known_only == message, f"{message_type.__name__} has fields that the .proto file lacks"
    return message


def check_rpc(header: PeerHeader, payload: bytes) -> str:
    """Check one RPC frame and what is in it; returns what was in it."""
    packet = round_trip(common_pb2.RpcPacket, payload)
    assert (packet.from_peer, packet.to_peer) == (header.from_peer_id, header.to_peer_id)
    assert packet.is_request == (header.packet_type == PacketType.RPC_REQ)
    if packet.total_pieces != 1:
        return "piece"
    if packet.compression_info.algo == common_pb2.CompressionZstd:
        return "compressed"
    key = (packet.descriptor.service_name, packet.descriptor.method_index)
    if packet.is_request:
        round_trip(METHODS[key][0], round_trip(peer_rpc_pb2.RpcRequest, packet.body).request)
    else:
        response = round_trip(peer_rpc_pb2.RpcResponse, packet.body)
        assert not response.HasField("error")
        round_trip(METHODS[key][1], response.response)
    return f"{key[0]}.{key[1]} {'request' if packet.is_request else 'response'}"


@pytest.mark.parametrize("file", sorted(path.name for path in VECTORS.glob("underlay-*.jsonl")))
def test_handshakes_round_trip(file: str) -> None:
    handshakes = [payload for header, payload in payloads(file) if header.packet_type == PacketType.HANDSHAKE]
    assert len(handshakes) == 2
    for payload in handshakes:
        handshake = round_trip(peer_rpc_pb2.HandshakeRequest, payload)
        assert handshake.network_name == "lab"
        assert len(handshake.network_secret_digest) == 32


@pytest.mark.parametrize(
    "file", ["underlay-2.2.4-plaintext.jsonl", "underlay-2.6.4-81487c36-plaintext.jsonl", "underlay-2.6.4-plaintext.jsonl"]
)
def test_rpc_packets_round_trip_with_what_is_in_them(file: str) -> None:
    rpc = [frame for frame in payloads(file) if frame[0].packet_type in (PacketType.RPC_REQ, PacketType.RPC_RESP)]
    checked = Counter(check_rpc(header, payload) for header, payload in rpc)
    # None of them came in pieces or compressed, so that none was checked from the outside alone.
    assert checked == {
        "OspfRouteRpc.1 request": 4,
        "OspfRouteRpc.1 response": 4,
        "PeerCenterRpc.1 request": 1,
        "PeerCenterRpc.1 response": 1,
        "PeerCenterRpc.2 request": 1,
        "PeerCenterRpc.2 response": 1,
    }


@pytest.mark.parametrize(
    ("file", "version"),
    [
        ("underlay-2.2.4-plaintext.jsonl", "2.2.4"),
        ("underlay-2.6.4-81487c36-plaintext.jsonl", "2.6.4-81487c36"),
        ("underlay-2.6.4-plaintext.jsonl", "2.6.4"),
    ],
)
def test_route_requests_of_stock_are_understood(file: str, version: str) -> None:
    """Our node in the place of one of the two learns all about the other from what it said."""
    frames = payloads(file)
    shake = next(header for header, _ in frames if header.packet_type == PacketType.PING)
    stock, us = shake.from_peer_id, shake.to_peer_id
    state = LinkState(us, OwnRecord(UUID(int=1)), lambda: 1, now=0.0)
    state.add_neighbour(stock)
    for header, payload in frames:
        if header.packet_type == PacketType.RPC_REQ and header.from_peer_id == stock:
            packet = common_pb2.RpcPacket.FromString(payload)
            if packet.descriptor.service_name == "OspfRouteRpc":
                body = peer_rpc_pb2.RpcRequest.FromString(packet.body)
                state.handle_request(stock, peer_rpc_pb2.SyncRouteInfoRequest.FromString(body.request), now=1.0)

    (peer,) = state.peers()
    assert peer.peer_id == stock
    assert str(peer.ipv4) in ("10.144.0.1/24", "10.144.0.2/24")
    assert peer.hostname in ("a", "b")
    assert peer.easytier_version.startswith(version)
    assert peer.feature_flag.kcp_input
    assert state.connections() == {stock: {us}}
    assert state.reachable() == {stock}
    assert state.counters == RouteCounters()


@pytest.mark.parametrize(
    "file", ["underlay-2.2.4-plaintext.jsonl", "underlay-2.6.4-81487c36-plaintext.jsonl", "underlay-2.6.4-plaintext.jsonl"]
)
def test_kcp_connection_data_round_trips(file: str) -> None:
    syn = 0x01
    bodies = [
        payload[KCP_HEADER_SIZE:]
        for header, payload in payloads(file)
        if header.packet_type == PacketType.KCP_SRC and payload[KCP_HEADER_SIZE - 2] == syn
    ]
    assert bodies
    for body in bodies:
        data = round_trip(peer_rpc_pb2.KcpConnData, body)
        assert data.src.ipv4.addr == 0x0A90_0001
        assert data.dst.ipv4.addr == 0x0A90_0002
