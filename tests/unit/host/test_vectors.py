"""Whole conversations of stock nodes: each datagram is taken apart to its innermost layer and put together again.

Network `lab`, secret `s3cret`, a = 10.144.0.1, b = 10.144.0.2: a ping, a KCP flow of 3000 bytes and an idle one.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from google.protobuf.message import Message

from easytier_host import echo
from easytier_host.crypto import NONCE_SIZE, AeadCipher, key_128, make_cipher, network_digest
from easytier_host.handshake import Identity, encode_hello, judge_as_acceptor, judge_as_initiator, parse_hello
from easytier_host.nic.offload import ones_complement_sum
from easytier_host.packet import PEER_HEADER_SIZE, Flag, PacketType, PeerHeader
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.peer_conn import PeerConn
from easytier_host.route_records import decode_bitmap, decode_peer_list, decode_record
from easytier_host.rpc.framing import Reassembler, split_call
from easytier_host.tunnel.udp_wire import KIND_DATA, KIND_SACK, KIND_SYN, UDP_HEADER, UDP_HEADER_SIZE, build_control, is_sack
from tests.unit.host.helpers import FakeTunnel

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
FILES = sorted(path.name for path in VECTORS.glob("underlay-*.jsonl"))
ADDRESSES = {"a": IPv4Address("10.144.0.1"), "b": IPv4Address("10.144.0.2")}
DIGEST = network_digest("lab", "s3cret")
SESSION_HEADER = struct.Struct("<IIIBB")
SEGMENT_HEADER_SIZE = 24
PING_OR_PONG = 0x20

METHODS: dict[tuple[str, int], tuple[type[Message], type[Message]]] = {
    ("OspfRouteRpc", 1): (peer_rpc_pb2.SyncRouteInfoRequest, peer_rpc_pb2.SyncRouteInfoResponse),
    ("PeerCenterRpc", 1): (peer_rpc_pb2.ReportPeersRequest, peer_rpc_pb2.ReportPeersResponse),
    ("PeerCenterRpc", 2): (peer_rpc_pb2.GetGlobalPeerMapRequest, peer_rpc_pb2.GetGlobalPeerMapResponse),
}


@dataclass(frozen=True)
class Line:
    """One datagram, and the frame inside it if it carries one."""

    sender: str
    time: float
    datagram: bytes

    @property
    def frame(self) -> bytes:
        return self.datagram[UDP_HEADER_SIZE:]

    @property
    def kind(self) -> int:
        return int(UDP_HEADER.unpack_from(self.datagram)[1])


def conversation(file: str) -> list[Line]:
    lines = [json.loads(text) for text in (VECTORS / file).read_text().splitlines()]
    return [Line(line["sender"], line["t"], bytes.fromhex(line["hex"])) for line in lines]


def frames(file: str, *kinds: PacketType) -> list[tuple[Line, PeerHeader, bytes]]:
    """The frames of these types with their payloads, opened."""
    cipher = make_cipher("aes-gcm", "s3cret", bytes)
    found = []
    for line in conversation(file):
        if line.kind != KIND_DATA:
            continue
        header, payload = PeerHeader.parse(line.frame), line.frame[PEER_HEADER_SIZE:]
        if header.packet_type in kinds:
            found.append((line, header, cipher.open(payload) if header.flags & Flag.ENCRYPTED else payload))
    return found


def peer_ids(file: str) -> dict[str, int]:
    return {line.sender: header.from_peer_id for line, header, _ in frames(file, PacketType.HANDSHAKE)}


class Checker:
    """Takes a conversation apart; every layer has a method that fails on what it does not understand."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.ids = peer_ids(file)
        self.seen: Counter[str] = Counter()
        self.reassembler = Reassembler()
        self.calls: dict[int, tuple[str, int]] = {}
        self.sessions: dict[int, str] = {}

    def check(self, line: Line) -> None:
        conn_id, kind, length = UDP_HEADER.unpack_from(line.datagram)
        assert length == len(line.datagram) - UDP_HEADER_SIZE
        # All but the padding byte, which stock leaves as it finds it.
        again = UDP_HEADER.pack(conn_id, kind, length)
        assert again[:5] + again[6:] == line.datagram[:5] + line.datagram[6:UDP_HEADER_SIZE]
        if kind == KIND_DATA:
            self.check_frame(line)
            return
        magic = line.datagram[UDP_HEADER_SIZE:]
        assert build_control(conn_id, kind, magic) == again + magic
        assert is_sack(again + magic, conn_id, magic) == (kind == KIND_SACK)
        assert kind in (KIND_SYN, KIND_SACK)
        self.seen["Syn" if kind == KIND_SYN else "Sack"] += 1

    def check_frame(self, line: Line) -> None:
        header, payload = PeerHeader.parse(line.frame), line.frame[PEER_HEADER_SIZE:]
        encoded = header.encode()
        # All but the reserved byte.
        assert encoded[:11] + encoded[12:] == line.frame[:11] + line.frame[12:PEER_HEADER_SIZE]
        assert not header.flags & ~Flag.ENCRYPTED
        if header.flags & Flag.ENCRYPTED:
            payload = self.open(payload)
        assert header.length == len(payload)
        kind = PacketType(header.packet_type)
        self.seen[kind.name] += 1
        match kind:
            case PacketType.HANDSHAKE:
                self.check_handshake(line)
            case PacketType.PING | PacketType.PONG:
                assert len(payload) == 4
            case PacketType.RPC_REQ | PacketType.RPC_RESP:
                self.check_rpc(header, payload)
            case PacketType.DATA:
                self.check_ip(line, payload)
            case PacketType.KCP_SRC | PacketType.KCP_DST:
                self.check_session(line, kind, payload)
            case _:
                raise AssertionError(kind)

    def open(self, sealed: bytes) -> bytes:
        cipher = make_cipher("aes-gcm", "s3cret", lambda size: sealed[-NONCE_SIZE:][:size])
        plain = cipher.open(sealed)
        assert isinstance(cipher, AeadCipher)
        cipher._nonces._next = int.from_bytes(sealed[-4:], "big")
        assert cipher.seal(plain) == sealed
        return plain

    def check_handshake(self, line: Line) -> None:
        hello = parse_hello(line.frame)
        assert (hello.network_name, hello.digest) == ("lab", DIGEST)
        again = encode_hello(Identity(hello.peer_id, "lab", DIGEST))
        if "81487c36" in self.file:
            message = peer_rpc_pb2.HandshakeRequest.FromString(line.frame[PEER_HEADER_SIZE:])
            assert list(message.features) == ["liveness-echo-v1"]
            message.ClearField("features")
            assert message.SerializeToString() == again[PEER_HEADER_SIZE:]
        else:
            assert again == line.frame[:11] + b"\0" + line.frame[12:]

    def check_rpc(self, header: PeerHeader, payload: bytes) -> None:
        packet = common_pb2.RpcPacket.FromString(payload)
        assert (packet.from_peer, packet.to_peer) == (header.from_peer_id, header.to_peer_id)
        assert packet.is_request == (header.packet_type == PacketType.RPC_REQ)
        assert header.forward_counter == 2
        complete = self.reassembler.add(packet, 0.0)
        assert complete is not None
        first, content = complete
        assert first.descriptor.domain_name == "lab"
        method = (first.descriptor.service_name, first.descriptor.method_index)
        if packet.is_request:
            self.calls[packet.transaction_id] = method
            request = peer_rpc_pb2.RpcRequest.FromString(content)
            assert request.timeout_ms > 0
            inner: Message = METHODS[method][0].FromString(request.request)
        else:
            assert self.calls[packet.transaction_id] == method
            response = peer_rpc_pb2.RpcResponse.FromString(content)
            assert not response.HasField("error")
            inner = METHODS[method][1].FromString(response.response)
        self.check_own_pieces(packet, content)
        if isinstance(inner, peer_rpc_pb2.SyncRouteInfoRequest):
            self.check_routes(header, inner)
        elif isinstance(inner, peer_rpc_pb2.SyncRouteInfoResponse):
            assert inner.session_id
            assert not inner.HasField("error")
        self.seen[type(inner).__name__] += 1

    def check_own_pieces(self, packet: common_pb2.RpcPacket, content: bytes) -> None:
        """What we would send of the same call differs in the compression that we accept, and in nothing else."""
        ours = common_pb2.RpcPacket.FromString(split_call(packet, content)[0])
        ours.compression_info.CopyFrom(packet.compression_info)
        assert ours == packet

    def check_routes(self, header: PeerHeader, request: peer_rpc_pb2.SyncRouteInfoRequest) -> None:
        assert request.my_peer_id == header.from_peer_id
        assert request.my_session_id
        for message in request.peer_infos.items:
            record = decode_record(message, 0.0)
            name = next(name for name, peer_id in self.ids.items() if peer_id == record.peer_id)
            assert record.ipv4 is not None
            assert record.ipv4.ip == ADDRESSES[name]
            assert record.feature_flag.kcp_input
            assert record.easytier_version.startswith(("2.6.4", "2.2.4"))
        rows = [*decode_bitmap(request.conn_bitmap, {}), *decode_peer_list(request.conn_peer_list, {})]
        for peer_id, version, neighbours in rows:
            assert version > 0
            assert {peer_id, *neighbours} <= set(self.ids.values())

    def check_ip(self, line: Line, packet: bytes) -> None:
        assert ones_complement_sum(packet[:20]) % 0xFFFF == 0
        assert ones_complement_sum(packet[20:]) % 0xFFFF == 0
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        assert packet[9] == 1
        if line.sender == "a":
            reply = echo.answer(packet, ADDRESSES["b"])
            assert reply is not None
            assert reply[28:] == packet[28:]
        else:
            parsed = echo.parse_reply(packet)
            assert parsed is not None
            assert parsed[0] == ADDRESSES["b"]

    def check_session(self, line: Line, kind: PacketType, payload: bytes) -> None:
        conv, source, target, flags, reserved = SESSION_HEADER.unpack_from(payload)
        body = payload[SESSION_HEADER.size :]
        # The ids are those of opener and acceptor in both directions.
        assert (source, target, reserved) == (self.ids["a"], self.ids["b"], 0)
        assert kind == (PacketType.KCP_SRC if line.sender == "a" else PacketType.KCP_DST)
        self.sessions.setdefault(conv, line.sender)
        if flags == 0x01:
            data = peer_rpc_pb2.KcpConnData.FromString(body)
            assert IPv4Address(data.dst.ipv4.addr) == ADDRESSES["b"]
            assert data.SerializeToString() == body
        elif flags == 0x0A and body:
            self.check_segments(conv, body)
        else:
            assert flags in (0x03, 0x04, 0x0A, 0x20, 0x60)
            assert not body or flags & PING_OR_PONG

    def check_segments(self, conv: int, body: bytes) -> None:
        while body:
            segment_conv, command, _, _, _, _, _, length = struct.unpack_from("<IBBHIIII", body)
            assert segment_conv == conv
            assert 81 <= command <= 84
            assert len(body) >= SEGMENT_HEADER_SIZE + length
            body = body[SEGMENT_HEADER_SIZE + length :]
            self.seen["segments"] += 1


@pytest.mark.parametrize("file", FILES)
def test_every_line_is_understood_to_its_innermost_layer(file: str) -> None:
    checker = Checker(file)
    lines = conversation(file)
    for line in lines:
        checker.check(line)
    seen = checker.seen
    assert seen["Syn"] == seen["Sack"] == 1
    assert seen["HANDSHAKE"] == seen["DATA"] == 2
    assert seen["PING"] == seen["PONG"] >= 6
    assert seen["SyncRouteInfoRequest"] == seen["SyncRouteInfoResponse"] == 4
    assert seen["GetGlobalPeerMapResponse"] == seen["ReportPeersRequest"] == 1
    assert seen["segments"] >= 6
    assert len(checker.sessions) in (1, 2)
    whole = ("Syn", "Sack", "HANDSHAKE", "PING", "PONG", "RPC_REQ", "RPC_RESP", "DATA", "KCP_SRC", "KCP_DST")
    assert sum(seen[name] for name in whole) == len(lines)


@pytest.mark.parametrize("file", FILES)
def test_our_pong_is_that_of_stock(file: str) -> None:
    pings = {}
    answered = 0
    for line, header, payload in frames(file, PacketType.PING, PacketType.PONG):
        if header.packet_type == PacketType.PING:
            conn = PeerConn(
                FakeTunnel(), header.to_peer_id, header.from_peer_id, is_foreign_relay=False, is_initiator=False, now=0
            )
            pings[header.from_peer_id, payload] = conn.answer_ping(line.frame)
        else:
            assert pings[header.from_peer_id, payload] == line.frame
            answered += 1
    assert answered == len(pings) >= 6


@pytest.mark.parametrize("file", FILES)
def test_our_ping_is_that_of_stock(file: str) -> None:
    line, header, _ = frames(file, PacketType.PING)[0]
    conn = PeerConn(FakeTunnel(), header.from_peer_id, header.to_peer_id, is_foreign_relay=False, is_initiator=True, now=0)
    assert conn.tick(0.0) == line.frame[:11] + b"\0" + line.frame[12:]


@pytest.mark.parametrize("file", FILES)
def test_either_side_of_the_handshake_could_have_been_ours(file: str) -> None:
    (first, asked, _), (second, answered, _) = frames(file, PacketType.HANDSHAKE)
    initiator = Identity(asked.from_peer_id, "lab", DIGEST)
    acceptor = Identity(answered.from_peer_id, "lab", DIGEST)
    assert judge_as_initiator(initiator, second.frame).peer_id == acceptor.peer_id
    answer, outcome = judge_as_acceptor(acceptor, first.frame)
    assert answer == encode_hello(acceptor)
    assert getattr(outcome, "peer_id", None) == initiator.peer_id


def test_the_encrypted_file_is_encrypted_where_the_specification_says() -> None:
    by_flag: dict[int, set[int]] = {0: set(), 1: set()}
    for line in conversation("underlay-2.6.4-aes-gcm.jsonl"):
        if line.kind == KIND_DATA:
            header = PeerHeader.parse(line.frame)
            by_flag[header.flags].add(header.packet_type)
    assert by_flag == {0: {2, 4, 5}, 1: {1, 8, 9, 11, 12}}


# Appendix A of the specification: network spec-net, secret spec-secret-1

SELF, THEM = 0xA1B2C3D4, 0x11223344
A4_PACKET = bytes.fromhex("4500002400010000400166350a4d00090a4d000108003314123400016561737974696572")
A4_BODY = bytes.fromhex(
    "d4c3b2a1443322110101010024000000"
    "5f9150386cd7ee9fdff3d65d2a84c75ca2460042e89cf271ee9b8bdf95a68251ddfd1715"
    "fa28d1635abd1652d8fe1bd725d6fc59"
    "000102030405060708090a0b"
)
A5 = bytes.fromhex(
    "08d487cb8d0a12180891a2c4880110b38689910218d58a91a20820d5aad5aa052205088980b452320670796e6f6465"
    "380642060880e2cfaa0648015208322e362e342d70795a0610012801500160888e98a8c0e08081016818"
)
A6 = (
    bytes.fromhex("08d487cb8d0a1088ef99abc5e88c91111801225b0a59")
    + A5
    + bytes.fromhex("2a150a0808d487cb8d0a10010a0608c4e6888901120102")
)
DESCRIPTOR = bytes.fromhex("22280a08737065632d6e6574120c4f737066526f7574655270631a0c4f737066526f7574655270632001")
A7 = (
    bytes.fromhex("08d487cb8d0a10c4e68889011885888c9010")
    + DESCRIPTOR
    + bytes.fromhex("2a8c01128601")
    + A6
    + bytes.fromhex("18b81730013801520408011001")
)


def specification_packet(*, is_request: bool) -> common_pb2.RpcPacket:
    return common_pb2.RpcPacket(
        from_peer=SELF,
        to_peer=THEM,
        transaction_id=0x0102030405,
        descriptor=common_pb2.RpcDescriptor(
            domain_name="spec-net", proto_name="OspfRouteRpc", service_name="OspfRouteRpc", method_index=1
        ),
        is_request=is_request,
    )


def test_a2_udp_open() -> None:
    magic = bytes(range(0x10, 0x18))
    assert build_control(0xDEADBEEF, KIND_SYN, magic).hex() == "efbeadde010008001011121314151617"
    assert build_control(0xDEADBEEF, KIND_SACK, magic).hex() == "efbeadde020008001011121314151617"


def test_a3_ping_and_pong() -> None:
    ping = bytes.fromhex("d4c3b2a144332211040001000400000007000000")
    conn = PeerConn(FakeTunnel(), SELF, THEM, is_foreign_relay=False, is_initiator=True, now=0)
    conn._sequence = 7
    assert conn.tick(0.0) == ping
    assert conn.answer_ping(ping) == bytes.fromhex("d4c3b2a144332211050001000400000007000000")


def test_a4_data_packet() -> None:
    assert key_128("spec-secret-1").hex() == "163afbd27eb2a2b68722e82e6c7a283f"
    cipher = make_cipher("aes-gcm", "spec-secret-1", lambda size: bytes(range(size)))
    assert isinstance(cipher, AeadCipher)
    cipher._nonces._next = 0x08090A0B
    header = PeerHeader(SELF, THEM, PacketType.DATA, Flag.ENCRYPTED, 1, len(A4_PACKET)).encode()
    assert header + cipher.seal(A4_PACKET) == A4_BODY
    assert cipher.open(A4_BODY[PEER_HEADER_SIZE:]) == A4_PACKET


def test_a5_record() -> None:
    record = decode_record(peer_rpc_pb2.RoutePeerInfo.FromString(A5), 0.0)
    assert (record.peer_id, str(record.ipv4), record.hostname) == (SELF, "10.77.0.9/24", "pynode")
    assert (record.inst_id.int, record.easytier_version) == (0x11111111_22224333_84444555_55555555, "2.6.4-py")
    assert peer_rpc_pb2.RoutePeerInfo.FromString(A5).SerializeToString() == A5


def test_a6_sync_request() -> None:
    request = peer_rpc_pb2.SyncRouteInfoRequest.FromString(A6)
    assert len(A6) == 134
    assert (request.my_session_id, request.is_initiator) == (0x1122334455667788, True)
    assert list(decode_bitmap(request.conn_bitmap, {})) == [(SELF, 1, frozenset({THEM}))]
    assert request.SerializeToString() == A6


def test_a7_rpc_request() -> None:
    content = peer_rpc_pb2.RpcRequest(request=A6, timeout_ms=3000).SerializeToString()
    assert len(content) == 140
    assert split_call(specification_packet(is_request=True), content) == [A7]
    assert len(A7) == 213


def test_a8_rpc_response() -> None:
    response = peer_rpc_pb2.SyncRouteInfoResponse(is_initiator=True, session_id=0x99).SerializeToString()
    assert response.hex() == "0801109901"
    content = peer_rpc_pb2.RpcResponse(response=response, runtime_us=5).SerializeToString()
    assert content.hex() == "0a0508011099011805"
    wanted = bytes.fromhex("08d487cb8d0a10c4e68889011885888c9010") + DESCRIPTOR
    wanted += bytes.fromhex("2a090a05080110990118053801520408011001")
    assert split_call(specification_packet(is_request=False), content) == [wanted]
    assert len(wanted) == 79


def test_a9_service_not_offered() -> None:
    response = peer_rpc_pb2.RpcResponse(runtime_us=1)
    response.error.invalid_service.service_name = "UdpHolePunchRpc"
    assert response.SerializeToString().hex() == "12131a110a0f556470486f6c6550756e63685270631801"
