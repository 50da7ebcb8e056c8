"""Fuzz targets for what has a state: the input is a story of packets, calls and pauses.  Nothing raises, everything held stays
within its caps, and in the end nothing is left."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address
from typing import Any, Final
from uuid import UUID

from google.protobuf.message import DecodeError

from easytier_hooks import types as flow_events
from easytier_host import ipv4
from easytier_host.batch import choose_batch
from easytier_host.flows import FlowTable
from easytier_host.ipv4 import UdpDatagram, build_udp
from easytier_host.metrics import Metrics
from easytier_host.packet import PacketType, PeerHeader
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.peer_center import PeerCenter
from easytier_host.route import LinkState, RouteError
from easytier_host.route_records import OwnRecord
from easytier_host.rpc.framing import MAX_PEER_BYTES, MAX_PEER_CALLS
from easytier_host.rpc.peer import PeerRpc, ServiceError
from easytier_host.subnet.fragments import Reassembler
from easytier_kcp_plugin.kcp import arq, ikcp
from easytier_kcp_plugin.kcp.conn_data import ConnData, Offer, SocketAddress
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.engine import Engine, PathFactory
from easytier_kcp_plugin.kcp.header import PacketType as KcpType
from easytier_kcp_plugin.kcp.header import SessionHeader
from easytier_kcp_plugin.kcp.limits import Limits
from easytier_kcp_plugin.kcp.segment import SEGMENT
from easytier_kcp_plugin.kcp.session import Session
from tests.fuzz.script import Script
from tests.unit.host import helpers
from tests.unit.host.test_datapath import Host
from tests.unit.kcp.network import settle

ME, PEER = 2002, 1001
MY_ADDRESS: Final = IPv4Address("10.144.0.1").packed
PEER_ADDRESS: Final = IPv4Address("10.144.0.2").packed
PEERS: Final = (0, helpers.ME, helpers.ME, helpers.PEER, helpers.PEER, helpers.OTHER, helpers.FAR, 99)
PAUSES: Final = (0.0, 0.001, 0.01, 0.3, 2.0, 11.0, 61.0)
TURNS: Final = 20_000
LIMITS: Final = Limits(sessions=12, sessions_per_peer=8, half_open=8, half_open_per_peer=6)
REQUEST: Final = ConnData(SocketAddress(IPv4Address("10.144.0.1"), 50_000), SocketAddress(IPv4Address("10.144.0.2"), 80))


# One conversation's engine.


def _segment(script: Script) -> bytes:
    """Fields near those that are in use, and now and then any."""
    cmd = script.choose((81, 81, 82, 82, 83, 84, 85, 80))
    numbers = [script.number() if script.below(8) else script.number(4) for _ in range(3)]
    payload = script.take(script.choose((0, 1, 8, 24, 80)))
    length = len(payload) + script.choose((0, 0, 0, 0, 0, 0, 1, 0xFFFF_FFFF))
    return SEGMENT.pack(1, cmd, script.choose((0, 0, 0, 1)), script.number(2), *numbers, length & 0xFFFF_FFFF) + payload


def _drive(engine: Engine, pump: Callable[[float], object], script: Script) -> None:
    now = 10.0
    while script:
        match script.below(8):
            case 0 | 1 | 2:
                engine.input(b"".join(_segment(script) for _ in range(1 + script.below(4))), now)
            case 3:
                engine.input_all([_segment(script) for _ in range(1 + script.below(6))], now)
            case 4:
                engine.input(script.string(), now)
            case 5:
                assert engine.send(bytes(min(8000, engine.room))) <= 8000
            case 6:
                engine.receive(1 + script.number(2))
            case _:
                now += script.choose(PAUSES)
                if not script.below(4):
                    engine.ask(now)
        pump(now)
        assert 0 <= engine.room <= 1 << 18
        statistics = engine.statistics
        assert 0 <= statistics.segments_in_flight <= 1 << 15
    engine.close()


def arq_engine(data: bytes) -> None:
    script = Script(data)
    path = arq.paths()()
    engine = path.open(1, script.choose((32, 128, 1024)), 10.0, largest=1024)
    if script.below(2):
        engine.meet(path.offer)
    _drive(engine, path.pump, script)
    engine.release()
    held: Any = path
    assert held.model.inflight == 0
    assert held.memory.reserved == 0
    assert not any((held._engines, held._ready, held._waiting))


def kcp_engine(data: bytes) -> None:
    """The package never frees its control blocks of 4 KB (docs/kcp.md, The engine)."""
    script = Script(data)
    path = _ikcp()()
    _drive(path.open(1, 128, 10.0), path.pump, script)


# The sessions of a node.


class _Victim:
    """An endpoint whose peer sends anything, and whose application does anything."""

    def __init__(self, paths: PathFactory, *, holds: bool) -> None:
        self.now = 10.0
        self.endpoint = Endpoint(ME, paths, first_conv=0, limits=LIMITS, holds=holds)
        self.sessions: list[Session] = []
        self.closed: list[Session] = []

    def packet(self, script: Script) -> None:
        as_source = script.below(2)
        packet_type = KcpType.KCP_DST if as_source else KcpType.KCP_SRC
        ids = (ME, PEER) if as_source else (PEER, ME)
        payloads = []
        for _ in range(1 + script.below(3)):
            conv = script.below(4)
            flags = script.choose((1, 1, 3, 10, 10, 10, 4, 16, 32, 96, 64, 255))
            body = b""
            match script.below(6):
                case 0:
                    body = (
                        REQUEST.encode() if script.below(2) else ConnData(REQUEST.src, REQUEST.dst, Offer(16_384, 1)).encode()
                    )
                case 1:
                    body = script.string()
                case 2 | 3:
                    body = b"".join(_segment(script) for _ in range(1 + script.below(3)))
                    body = b"".join((conv.to_bytes(4, "little"), body[4:]))
                case _:
                    body = script.choose((b"", b"?", b"held", b"size"))
            payloads.append(SessionHeader(conv, *ids, flags).encode() + body)
        if not script.below(16):
            payloads.append(script.string())
        self.endpoint.receive(PEER, packet_type, payloads, self.now)

    def call(self, script: Script) -> None:
        which, number, endpoint = script.below(7), script.number(), self.endpoint
        if which == 0 and len(endpoint.sessions) < 4:
            self.sessions.append(endpoint.connect(PEER, REQUEST, self.now))
        if not self.sessions:
            return
        session = self.sessions[number % len(self.sessions)]
        match which:
            case 1:
                endpoint.read(session, 1 + number)
            case 2 if session.reason is None and not session.ended:
                endpoint.write(session, bytes(3000))
            case 3:
                endpoint.finish(session, self.now)
            case 4:
                endpoint.close(session, self.now)
            case 5:
                endpoint.reset(session, self.now)
            case 6:
                endpoint.confirm(session, self.now)
            case _:
                pass

    def poll(self) -> float:
        """Until it rests; returns the deadline."""
        return settle(self.endpoint, self.now, self.sessions, self.closed)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(TURNS):
            deadline = self.poll()
            if deadline > end:
                self.now = end
                return
            self.now = deadline
        raise AssertionError("an endpoint is too busy")


def sessions(data: bytes) -> None:
    script = Script(data)
    victim = _Victim(arq.paths(), holds=bool(script.below(2)))
    while script:
        match script.below(8):
            case 0 | 1:
                victim.call(script)
            case 2:
                victim.wait(script.choose(PAUSES))
            case _:
                victim.packet(script)
        victim.poll()
        assert len(victim.endpoint.sessions) <= LIMITS.sessions
    for session in victim.sessions:
        victim.endpoint.close(session, victim.now)
    victim.wait(200.0)
    assert victim.endpoint.sessions == []
    assert victim.endpoint.held_entries == 0
    assert sorted(map(id, victim.closed)) == sorted(map(id, victim.sessions))
    assert victim.poll() == float("inf")


# RPC, routes and the peer centre.


def rpc(data: bytes) -> None:
    script = Script(data)
    sent: list[bytes] = []
    peer = PeerRpc(ME, "lab", lambda _peer, _kind, packets: sent.extend(packets), Metrics(), lambda: 1)
    peer.offer("Echo", {1: lambda _peer, content: common_pb2.RpcPacket.FromString(content)})
    now = 0.0
    while script:
        kind = script.choose((8, 8, 9))
        body = script.string()
        if script.below(2):
            packet = common_pb2.RpcPacket(from_peer=PEER, to_peer=ME, transaction_id=script.below(4), is_request=kind == 8)
            packet.descriptor.domain_name, packet.descriptor.proto_name = script.choose(("lab", "lab", "x")), "Echo"
            packet.descriptor.service_name, packet.descriptor.method_index = "Echo", script.choose((1, 1, 2))
            packet.total_pieces, packet.piece_idx = script.choose((1, 1, 2, 3, 200)), script.below(4)
            packet.body = body
            body = packet.SerializeToString()
        peer.receive(PEER, kind, body, now)
        now += script.choose(PAUSES)
        peer.expire(now)
        held = peer._reassembler
        assert held.unfinished <= MAX_PEER_CALLS
        assert held._total_bytes <= MAX_PEER_BYTES
    assert sum(map(len, sent)) <= 16 * len(data) + 2000
    peer.expire(now + 11.0)
    assert peer._reassembler.unfinished == 0 == peer._reassembler._total_bytes


def routes(data: bytes) -> None:
    script = Script(data)
    numbers = itertools.count(1)
    state = LinkState(ME, OwnRecord(UUID(int=1), hostname="fuzz"), lambda: next(numbers), now=0.0)
    state.set_neighbours(frozenset((PEER, 77)))
    now = 0.0
    while script:
        with suppress(DecodeError, RouteError):
            request = peer_rpc_pb2.SyncRouteInfoRequest.FromString(script.string())
            request.my_peer_id = script.choose((PEER, PEER, PEER, 5))
            state.handle_request(PEER, request, now)
        with suppress(DecodeError):
            state.on_response(PEER, _request(state, PEER, now), _answer(script), now)
        for receiver in (PEER, 77):
            outgoing = _request(state, receiver, now)
            for item in outgoing.peer_infos.items:
                assert item.peer_id != receiver
                assert item.version > 0
                assert max(item.network_length, item.ipv6_addr.network_length - 96) <= 32
            size = len(outgoing.conn_bitmap.peer_ids)
            assert len(outgoing.conn_bitmap.bitmap) == (size * size + 7) // 8
        now += script.choose((0.0, 1.0, 100.0, 4000.0))
        state.expire(now)
        assert not {0, ME} & {peer.peer_id for peer in state.peers()}


def _request(state: LinkState, peer_id: int, now: float) -> peer_rpc_pb2.SyncRouteInfoRequest:
    request = state.build_request(peer_id, now, 1e9, keepalive=True)
    assert request is not None
    return request


def _answer(script: Script) -> peer_rpc_pb2.SyncRouteInfoResponse:
    return peer_rpc_pb2.SyncRouteInfoResponse.FromString(script.take(script.below(24)))


def peer_center(data: bytes) -> None:
    script = Script(data)
    rpc = PeerRpc(ME, "lab", lambda _peer, _kind, _packets: None, Metrics(), lambda: 1)
    now = [0.0]
    center = PeerCenter(ME, rpc, lambda: now[0], lambda: ME, dict, lambda: None)
    while script:
        serve = script.choose((center._serve_report, center._serve_map))
        with suppress(DecodeError, ServiceError):
            serve(script.choose((PEER, 77)), script.string())
        now[0] += script.choose(PAUSES)
    assert len(center._reports) <= 2


# Packets of the overlay.


def fragments(data: bytes) -> None:
    script = Script(data)
    metrics = Metrics()
    held = Reassembler(metrics, max_bytes_per_peer=4096, max_bytes=6000)
    head = build_udp(PEER_ADDRESS, MY_ADDRESS, UdpDatagram(1, 2, b""))[:20]
    now = 0.0
    while script:
        flags, offset = script.choose((0, 0x20)), script.below(6)
        body = script.take(script.choose((8, 16, 24, 5)))
        piece = head[:2] + (20 + len(body)).to_bytes(2, "big") + head[4:6] + bytes((flags, offset)) + head[8:] + body
        if not script.below(8):
            piece = script.string().ljust(20, b"\0")
        whole = held.add(piece, script.choose((PEER, 77)), now)
        assert whole is None or len(whole) == int.from_bytes(whole[2:4], "big")
        assert held.size <= 6000
        now += script.choose((0.0, 0.0, 1.0, 11.0))
    held.expire(now + 11.0)
    assert held.size == 0


def flow_table(data: bytes) -> None:
    script = Script(data)
    table = FlowTable(max_flows=3)
    now = 0.0
    while script:
        port, flags, is_back = script.choose((1, 2, 3, 4)), script.number(), script.below(2)
        ends = (PEER_ADDRESS, MY_ADDRESS)[:: -1 if is_back else 1]
        ports = (port.to_bytes(2, "big"), b"\0\x50")[:: -1 if is_back else 1]
        segment = b"\x45" + bytes(8) + b"\x06\0\0" + b"".join(ends) + b"".join(ports) + bytes(8) + b"\x50" + bytes([flags])
        if not script.below(6):
            segment = script.string()
        table.look(segment + bytes(6), 0, now, now, script.choose(("inbound", "outbound")))
        now += script.choose(PAUSES)
        table.tick(now)
        assert len(table) <= 3
        assert len(table._by_segment) <= 6
    ended = [flow for flow, event in table.events if isinstance(event, flow_events.Closed | flow_events.Failed)]
    assert len(ended) == len(set(map(id, ended)))


def overlay_frames(data: bytes) -> None:
    """All that a neighbour may send to a node: nothing raises, and each frame is counted once."""
    script = Script(data)
    host = Host(encrypted=bool(script.below(2)), batch=choose_batch())
    host.inbound.handlers[PacketType.KCP_SRC] = lambda _source, _payloads: None
    while script:
        frames = []
        for _ in range(1 + script.below(4)):
            source, target = script.choose(PEERS), script.choose(PEERS)
            header = PeerHeader(source, target, script.below(24), script.number(), script.below(12), script.number(2))
            body = script.string()
            if script.below(2) and host.cipher is not None:
                body = host.cipher.seal(body)
            frames.append((header.encode() + body)[:2000])
        host.receive(*frames, source=script.choose((helpers.PEER, helpers.OTHER)))


@cache
def native() -> Any:
    """The user-space stack; None where it is not built."""
    try:
        import easytier_kcp_plugin._native as module
    except ImportError:
        return None
    return module


def tcp_stack(data: bytes) -> None:
    """The calls of the user-space stack in any order, with any packets."""
    if native() is None:
        return
    script = Script(data)
    stack = native().Stack(mtu=1380, seed=1, vnet_header=bool(script.below(2)), max_connections=4, max_pending=2)
    now = 0.0
    documented = (ValueError, KeyError, native().AddressInUseError, native().ClosedError, native().LimitError)
    pending: list[int] = []
    while script:
        now += script.choose((0.0, 0.01, 1.0, 40.0))
        number = script.choose((1, 2, 3, 1 << 20, 2 << 20, *pending[-8:]))
        with suppress(*documented):
            match script.below(12):
                case 0 | 1 | 2:
                    _, events, _, _ = stack.step([_tcp_packet(script) for _ in range(1 + script.below(4))], now)
                    pending += [event[1] for event in events if isinstance(event[1], int)]
                case 3:
                    pending.append(stack.accept(number, now))
                case 4:
                    stack.accept_syn(_tcp_packet(script), now)
                case 5:
                    stack.reject(number, now)
                case 6:
                    stack.decline(number)
                case 7:
                    pending.append(stack.connect((MY_ADDRESS, script.below(3)), (PEER_ADDRESS, script.below(3))))
                case 8:
                    stack.send(number, script.string())
                case 9:
                    stack.receive(number, script.number(2))
                case 10:
                    stack.finish(number)
                case _:
                    stack.abort(number)
        counters = stack.counters()
        assert counters["connections"] <= 4
        assert counters["pending"] <= 2


def _tcp_packet(script: Script) -> bytes:
    """One that is nearly good, or anything; behind a virtio header or none."""
    if not script.below(8):
        return script.string()
    ports = bytes((0, script.below(3), 0, script.below(3)))
    numbers = bytes((0, 0, 0, script.number(), 0, 0, 0, script.number()))
    body = ports + numbers + b"\x50" + bytes([script.number()]) + script.take(2).ljust(2, b"\0") + bytes(4)
    body += script.take(script.choose((0, 0, 4, 40)))
    packet = ipv4.build(PEER_ADDRESS, MY_ADDRESS, ipv4.TCP, body)
    # The checksum is left to the virtio header, which says where it begins.
    return script.choose((b"\x01" + bytes(5) + b"\x14\0\x10\0", bytes(10), b"")) + packet


@cache
def _ikcp() -> PathFactory:
    return ikcp.paths()
