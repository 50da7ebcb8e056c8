"""Fuzz targets for what only reads bytes: any bytes give a value or the documented error, and what was read comes back equal
from what it is written as, where the format has one way to write it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import anyio
import h11
from google.protobuf.message import DecodeError

from easytier_cli import filters
from easytier_host import echo, ipv4, tcp_reset
from easytier_host.batch import IN_PYTHON, choose_batch
from easytier_host.compress import ALGORITHM_ZSTD, MAX_PLAIN_SIZE, CompressError, Compressor
from easytier_host.config.errors import ConfigError
from easytier_host.config.loader import load_text
from easytier_host.crypto import ALGORITHMS, OpenError, make_cipher
from easytier_host.direct import MAX_CANDIDATES, candidates
from easytier_host.flows import decode_key, encode_key, segment_key
from easytier_host.forward import parse_endpoint
from easytier_host.handshake import HandshakeError, Hello, Identity, Joined, encode_hello, judge_as_acceptor, parse_hello
from easytier_host.packet import PEER_HEADER_SIZE, PeerHeader
from easytier_host.pb import peer_rpc_pb2
from easytier_host.portal import address, metrics_http
from easytier_host.route_records import decode_bitmap, decode_peer_list, decode_record, encode_bitmap, may_pass_on
from easytier_host.rpc.framing import FramingError
from easytier_host.rpc.portal_connection import _decompress
from easytier_host.rpc.portal_wire import check_length, decode_frame
from easytier_host.socks import wire
from easytier_host.subnet.fragments import cut
from easytier_host.tunnel import tcp_framing, udp_wire
from easytier_host.tunnel.base import TunnelError
from easytier_host.tunnel.udp_options import UdpCounters
from easytier_host.tunnel.udp_socket import UdpSocket
from easytier_host.tunnel.url import TunnelUrl
from easytier_kcp_plugin.kcp.conn_data import ConnData
from easytier_kcp_plugin.kcp.header import HEADER_SIZE, SessionHeader
from easytier_kcp_plugin.kcp.segment import SEGMENT_SIZE, parse_segments
from easytier_kcp_plugin.stack import rewrite
from easytier_tui.recording import RecordingError, ReplayFeed
from easytier_tui.records import Update
from tests.fuzz.script import Script

SECRET: Final = "s3cret"
ME: Final = Identity(7, "lab", bytes(32))
ME_ADDRESS: Final = IPv4Address("10.144.0.1")
ENDS: Final = rewrite.Ends(ME_ADDRESS, 1, IPv4Address("10.144.0.2"), 2)
FIRST_BYTES: Final = (b"", b"\x45", bytes(10) + b"\x45", bytes(10) + b"\x60")


# KCP.


def session_header(data: bytes) -> None:
    try:
        header = SessionHeader.parse(data)
    except ValueError:
        assert len(data) < HEADER_SIZE
        return
    assert header.encode() == data[: HEADER_SIZE - 1] + b"\0"


def connection_data(data: bytes) -> None:
    with suppress(ValueError):
        conn_data = ConnData.decode(data)
        assert ConnData.decode(conn_data.encode()) == conn_data


def segments(data: bytes) -> None:
    conv = int.from_bytes(data[:4], "little")
    found, size = parse_segments(data, conv)
    assert size == sum(SEGMENT_SIZE + segment.length for segment in found) <= len(data)


# Tunnels, frames and handshakes.


def peer_header(data: bytes) -> None:
    try:
        header = PeerHeader.parse(data)
    except ValueError:
        assert len(data) < PEER_HEADER_SIZE
        return
    assert header.encode()[:11] + data[11:12] + header.encode()[12:] == data[:PEER_HEADER_SIZE]


def handshake(data: bytes) -> None:
    try:
        hello = parse_hello(data)
    except HandshakeError:
        pass
    else:
        again = parse_hello(encode_hello(Identity(hello.peer_id, hello.network_name, hello.digest)))
        assert again == Hello(hello.peer_id, hello.network_name, hello.digest)
    answer, outcome = judge_as_acceptor(ME, data)
    assert isinstance(outcome, Joined | HandshakeError)
    assert answer is None or len(answer) < 100


def tcp_frames(data: bytes) -> None:
    """At once and byte by byte."""
    outcomes = []
    for step in (len(data) or 1, 1, 7):
        parser, frames, broken = tcp_framing.FrameParser(), list[bytes](), False
        try:
            for start in range(0, len(data), step):
                frames += parser.feed(data[start : start + step])
        except tcp_framing.FramingError as error:
            frames, broken = frames + error.frames, True
        outcomes.append((frames, broken))
    assert outcomes[0] == outcomes[1] == outcomes[2]


class _Told:
    """What a socket needs of a tunnel."""

    def __init__(self, on_doubt: Callable[[], None]) -> None:
        self.on_doubt = on_doubt


def udp_datagrams(data: bytes) -> None:
    """What the kernel gives as one read: datagrams of one size, and the rest."""
    script = Script(data)
    segment, body = script.number(2) % 2100 or 1, script.rest()
    sock: Any = object.__new__(UdpSocket)
    sock.counters, sock._view, sock._on_tunnel = UdpCounters(), memoryview(body), None
    goodbyes: list[int] = []
    sock._tunnels = {(None, 1): _Told(lambda: goodbyes.append(1))}
    inboxes: dict[Any, list[bytes]] = {}
    sock._sort(len(body), segment, ("192.0.2.1", 1), inboxes)
    counters = sock.counters
    frames = [frame for inbox in inboxes.values() for frame in inbox]
    dropped = counters.malformed + counters.ignored + counters.unknown + counters.bad_size
    assert len(frames) + dropped + len(goodbyes) == max(1, -(-len(body) // segment))
    assert all(PEER_HEADER_SIZE <= len(frame) <= 2000 for frame in frames)
    packed = b"".join(batch.payload for batch in udp_wire.batch_frames(1, frames))
    assert packed == b"".join(udp_wire.UDP_HEADER.pack(1, udp_wire.KIND_DATA, len(frame)) + frame for frame in frames)


def tunnel_url(data: bytes) -> None:
    with suppress(TunnelError):
        url = TunnelUrl.parse(data.decode("latin-1"))
        assert TunnelUrl.parse(str(url)) == url


def announced_addresses(data: bytes) -> None:
    with suppress(DecodeError):
        assert len(candidates(peer_rpc_pb2.GetIpListResponse.FromString(data), ())) <= MAX_CANDIDATES


def compressed(data: bytes) -> None:
    script = Script(data)
    length, body = script.number(3), script.rest()
    for packed in (body, body + bytes([ALGORITHM_ZSTD])):
        with suppress(CompressError):
            assert len(_compressor().decompress(packed, length)) == length <= MAX_PLAIN_SIZE
    with suppress(FramingError):
        _decompress(body)


def sealed(data: bytes) -> None:
    """Rust and Python open the same, and nothing that was damaged; xor is no seal."""
    frame = data.ljust(PEER_HEADER_SIZE, b"\0")
    for algorithm in ALGORITHMS:
        outcomes = []
        for batch in (IN_PYTHON, choose_batch()):
            cipher = make_cipher(algorithm, SECRET, bytes, batch.aead)
            (payload,) = cipher.open_frames([frame])
            outcomes.append(payload)
            (whole,) = cipher.seal_frames(frame[:12], [frame[PEER_HEADER_SIZE:]])
            assert cipher.open_frames([whole]) == [frame[PEER_HEADER_SIZE:]]
            if algorithm != "xor":
                damaged = bytearray(whole)
                damaged[PEER_HEADER_SIZE + len(data) % (len(whole) - PEER_HEADER_SIZE)] ^= 1
                assert cipher.open_frames([bytes(damaged)]) == [None]
            with suppress(OpenError):
                cipher.open(data)
        assert outcomes[0] == outcomes[1]


# RPC and routes.


def portal_frame(data: bytes) -> None:
    with suppress(FramingError):
        check_length(data[:4].ljust(4, b"\0"))
    for is_request in (True, False):
        with suppress(FramingError):
            assert decode_frame(data.ljust(PEER_HEADER_SIZE, b"\0"), is_request=is_request).total_pieces


def route_record(data: bytes) -> None:
    with suppress(DecodeError):
        message = peer_rpc_pb2.RoutePeerInfo.FromString(data)
        record = decode_record(message, 0.0)
        assert record == decode_record(message, 1.0)
        if may_pass_on(message):
            assert len(record.proxy_cidrs) == len(message.proxy_cidrs)


def route_bitmap(data: bytes) -> None:
    with suppress(DecodeError):
        bitmap = peer_rpc_pb2.RouteConnBitmap.FromString(data)
        # What comes of a frame: for more peers a bitmap does not fit.
        with suppress(ValueError):
            rows = {peer_id: (version, neighbours) for peer_id, version, neighbours in decode_bitmap(bitmap, {})}
            again = decode_bitmap(encode_bitmap(rows), {})
            assert {peer_id: (version, neighbours) for peer_id, version, neighbours in again} == rows
    with suppress(DecodeError):
        list(decode_peer_list(peer_rpc_pb2.RouteConnPeerList.FromString(data), {}))


# Packets of the overlay.


def ip_packets(data: bytes) -> None:
    for start in FIRST_BYTES:
        packet = start + data
        datagram = ipv4.parse_udp(packet)
        if datagram is not None:
            built = ipv4.build_udp(packet[12:16], packet[16:20], datagram)
            assert ipv4.parse_udp(built) == datagram
        ping = echo.parse(packet)
        if ping is not None:
            assert echo.Echo.parse(ping.encode()) == ping
        echo.answer(packet, ME_ADDRESS)
        echo.parse_reply(packet)
        found = segment_key(packet)
        if found is not None:
            assert encode_key(decode_key(found[0])) == found[0]
        with suppress(ValueError):
            assert segment_key(tcp_reset.reset_for(packet)) is not None
        flags = rewrite.tcp_flags(packet)
        rewrite.syn_sequence(packet)
        if flags is not None:
            rewrite.tcp_sequence(packet)
            changed = rewrite.Rewriter(ENDS, ENDS.reversed())(packet)
            assert len(changed) == len(packet)
        if ipv4.payload_of(packet) is not None and packet[0] == 0x45:
            assert cut(packet, 1280)


def device_frames(data: bytes) -> None:
    """Super-packets to packets and back; Rust and Python do the same."""
    script = Script(data)
    mtu = script.number(2)
    frames = list(script.strings(6))
    packets: list[bytes] = []
    for frame in frames:
        outcomes = []
        for batch in (IN_PYTHON, choose_batch()):
            try:
                outcomes.append(batch.split(frame, mtu))
            except ValueError:
                outcomes.append([])
        assert outcomes[0] == outcomes[1]
        packets += outcomes[0]
    own = {b"\x0a\x00\x00\x01"}
    whole = [packet for packet in packets + frames if packet]
    one, other = (batch.coalesce(whole, own) for batch in (IN_PYTHON, choose_batch()))
    assert one == other


# What users and programs on this machine write.


def socks(data: bytes) -> None:
    for start in (b"", b"\x05\x01\x00", b"\x05\x01\x00\x05\x01\x00\x03"):
        client, stream = wire.Handshake(), start + data
        with suppress(wire.SocksError):
            while stream and client.request is None:
                assert client.missing > 0
                part = stream[: client.missing]
                client.receive(part)
                stream = stream[len(part) :]
    parsed = wire.parse_datagram(data)
    if parsed is None:
        return
    (host, port), body = parsed
    if not isinstance(host, str):
        assert wire.parse_datagram(wire.encode_datagram((host, port), body)) == parsed


def configuration(data: bytes) -> None:
    with suppress(ConfigError):
        load_text(data.decode(errors="replace"), "fuzz", environ={})


def addresses(data: bytes) -> None:
    text = data.decode(errors="replace")
    for read in (address.parse, address.parse_metrics, parse_endpoint, filters.parse):
        with suppress(ValueError):
            read(text)


class _Said:
    """A stream from which all has been said already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive(self, size: int) -> bytes:
        part, self._data = self._data[:size], self._data[size:]
        if not part:
            raise anyio.EndOfStream
        return part


def metrics_request(data: bytes) -> None:
    """An answer can be given to whatever was asked, unless it was not asked to its end."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=metrics_http.MAX_REQUEST_BYTES)
    said: Any = _Said(data)
    status, is_head = 200, False
    try:
        metrics_http._read_request(said, connection).send(None)
    except StopIteration as request:
        is_head = request.value.method == b"HEAD"
    except h11.RemoteProtocolError as error:
        status = error.error_status_hint
    except anyio.EndOfStream:
        return
    assert metrics_http._encode(connection, status, b"text", is_head=is_head).startswith(b"HTTP/1.1 ")


def recording(data: bytes) -> None:
    header = json.dumps({"format": "easytier-tui", "version": 1}).encode() + b"\n"
    for content in (data, header + data):
        path = _scratch()
        path.write_bytes(content)
        try:
            feed = ReplayFeed(path, monotonic=lambda: 0.0)
        except RecordingError:
            continue
        try:
            with suppress(RecordingError):
                while feed._read(Update) is not None:
                    pass
        finally:
            feed.close()


@cache
def _compressor() -> Compressor:
    return Compressor()


@cache
def _scratch() -> Path:
    handle, name = tempfile.mkstemp(prefix="easytier-fuzz-")
    os.close(handle)
    return Path(name)
