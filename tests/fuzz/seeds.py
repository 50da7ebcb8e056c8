"""Writes the first inputs of the corpora: what stock nodes said (tests/vectors), and some of what has no vectors.

`python -m tests.fuzz.seeds` adds what is missing and keeps what is there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Final

import zstandard
from google.protobuf.message import DecodeError

from easytier_host import echo, ipv4
from easytier_host.compress import ALGORITHM_ZSTD
from easytier_host.config.template import template
from easytier_host.ipv4 import UdpDatagram
from easytier_host.packet import PEER_HEADER_SIZE, PacketType, PeerHeader
from easytier_host.pb import common_pb2, peer_rpc_pb2
from tests.fuzz.machines import MY_ADDRESS, PEER_ADDRESS
from tests.fuzz.script import told
from tests.fuzz.targets import CORPORA, TARGETS, corpus
from tests.unit.host.helpers import device_frame, tcp_segment
from tests.unit.kcp.captures import CAPTURES, UDP_HEADER_SIZE, VECTORS, kcp_packets

A_FEW: Final = 12
LONGEST: Final = 1500
STORIES: Final = (60, 200, 400, 800)
"""Bytes of the inputs that are choices from end to end: for these any bytes are as good as others to begin with."""


def seeds() -> dict[str, list[bytes]]:
    """By target."""
    datagrams, frames = _captured("-plaintext.jsonl")
    _, sealed = _captured("aes-gcm.jsonl")
    of_type: dict[int, list[bytes]] = {}
    for frame in frames:
        of_type.setdefault(PeerHeader.parse(frame).packet_type, []).append(frame)
    kcp = [packet.payload for file in CAPTURES for packet in kcp_packets(file)]
    calls = [frame[PEER_HEADER_SIZE:] for kind in (PacketType.RPC_REQ, PacketType.RPC_RESP) for frame in of_type[kind]]
    contents = list(_contents(calls))
    requests = list(_decoded(peer_rpc_pb2.SyncRouteInfoRequest, contents, "peer_infos"))
    addresses = peer_rpc_pb2.GetIpListResponse(
        interface_ipv4s=[common_pb2.Ipv4Addr(addr=0x0A00_0001)], listeners=[common_pb2.Url(url="udp://0.0.0.0:11010")]
    )
    ping = echo.echo_request(IPv4Address(PEER_ADDRESS), IPv4Address(MY_ADDRESS), 1, 2, b"ping")
    udp = ipv4.build_udp(PEER_ADDRESS, MY_ADDRESS, UdpDatagram(5000, 53, b"question"))
    segment = tcp_segment()
    super_packet = b"\x01\x01\x28\x00\x10\x00\x14\x00\x10\x00" + tcp_segment(data=bytes(60))
    stories = [random.Random(size).randbytes(size) for size in STORIES]
    texts = (
        "udp://10.0.0.1:11010",
        "tcp://[fd00::1]",
        "tcp://example.net:0/",
        "0",
        "off",
        "[::1]:15888",
        "src:10.0.0.1 state:open",
    )
    return {
        "kcp-header": kcp[:A_FEW],
        "kcp-conn-data": [payload[14:] for payload in kcp if payload[12] == 1],
        "kcp-segments": [payload[14:] for payload in kcp if len(payload) > 14],
        "kcp-arq": [*stories, *(payload[14:] for payload in kcp[:A_FEW])],
        "kcp-ikcp": [*stories, *(payload[14:] for payload in kcp[:A_FEW])],
        "kcp-sessions": [*stories, *(payload[14:] for payload in kcp[:A_FEW])],
        "peer-header": [frame[:20] for frame in frames[:A_FEW]],
        "handshake": of_type[PacketType.HANDSHAKE],
        "tcp-frames": [b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames[:count]) for count in (1, 3)],
        "udp-datagrams": [len(datagram).to_bytes(2, "little") + 2 * datagram for datagram in datagrams[:A_FEW]],
        "tunnel-url": [text.encode() for text in texts],
        "direct-addresses": [addresses.SerializeToString()],
        "compressed": [
            len(data).to_bytes(3, "little") + zstandard.ZstdCompressor(write_content_size=sized).compress(data) + bytes([tail])
            for data, sized, tail in ((b"a" * 500, True, ALGORITHM_ZSTD), (b"ab" * 90, False, ALGORITHM_ZSTD), (b"", True, 2))
        ],
        "sealed": sealed[:A_FEW],
        "overlay-frames": [*stories, told(*frames[:2])],
        "rpc": [*stories, *(bytes([0]) + told(call) for call in calls[:A_FEW])],
        "portal-frame": list(_portal_frames()),
        "route-record": [item.SerializeToString() for data in requests for item in _items(data)],
        "route-bitmap": [_request(data).conn_bitmap.SerializeToString() for data in requests],
        "routes": [told(data) + bytes(8) for data in requests],
        "peer-center": [*stories, *(bytes(2) + told(content) for content in contents if len(content) < 60)],
        "ip-packets": [ping, udp, segment, device_frame(segment), tcp_segment("fd00::2", "fd00::1")],
        "ip-fragments": stories,
        "device-frames": [
            b"\x64\x05" + told(device_frame(segment), device_frame(udp), super_packet),
            b"\x32\x00" + told(super_packet),
        ],
        "flow-table": stories,
        "tcp-stack": stories,
        "metrics-request": [
            b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
            b"HEAD /metrics?a=b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\n\r\n",
        ],
        "socks": [
            b"\x05\x01\x00",
            b"\x05\x02\x00\x02\x05\x01\x00\x03\x0bexample.net\x00\x50",
            b"\0\0\0\x01\x0a\0\0\x01\0\x35data",
        ],
        "configuration": [template().encode(), *(_tables())],
        "addresses": [text.encode() for text in texts],
        "recording": [
            b'{"format": "easytier-tui", "version": 1, "address": "127.0.0.1:15888"}\n{"at": 1.5, "is_whole": true}\n',
            b'{"at": 2, "link": {"kind": "gone", "text": "lost"}}\n{"at": 3, "peers": [], "flows": [{"id": 1}]}\n',
        ],
    }


def main() -> None:
    """Add what is missing to the files."""
    found = seeds()
    assert set(found) == set(TARGETS)
    for name, inputs in found.items():
        fitting = [data for data in inputs if len(data) <= LONGEST][:A_FEW]
        keep(name, fitting)


def keep(name: str, inputs: Iterable[bytes]) -> int:
    """Add inputs to the corpus of a target; returns how many were not there."""
    known = dict.fromkeys(corpus(name))
    before = len(known)
    known.update(dict.fromkeys(inputs))
    CORPORA.mkdir(exist_ok=True)
    (CORPORA / f"{name}.hex").write_text("".join(f"{data.hex()}\n" for data in known if data))
    return len(known) - before


def _captured(ending: str) -> tuple[list[bytes], list[bytes]]:
    """Datagrams, and the frames in those that carry one."""
    records = [
        json.loads(line) for path in sorted(VECTORS.glob(f"underlay-*{ending}")) for line in path.read_text().splitlines()
    ]
    datagrams = [bytes.fromhex(record["hex"]) for record in records]
    frames = [data[UDP_HEADER_SIZE:] for data, record in zip(datagrams, records, strict=True) if record["udp"] == "Data"]
    return datagrams, frames


def _contents(calls: Iterable[bytes]) -> Iterable[bytes]:
    """What is asked and answered, of calls in one piece."""
    for call in calls:
        with suppress(DecodeError):
            packet = common_pb2.RpcPacket.FromString(call)
            if packet.is_request:
                yield peer_rpc_pb2.RpcRequest.FromString(packet.body).request
            else:
                yield peer_rpc_pb2.RpcResponse.FromString(packet.body).response


def _decoded(kind: Any, contents: Iterable[bytes], field: str) -> Iterable[bytes]:
    for content in contents:
        with suppress(DecodeError):
            message = kind.FromString(content)
            if content and message.ByteSize() == len(content) and getattr(message, field):
                yield content


def _request(data: bytes) -> peer_rpc_pb2.SyncRouteInfoRequest:
    return peer_rpc_pb2.SyncRouteInfoRequest.FromString(data)


def _items(data: bytes) -> Iterable[peer_rpc_pb2.RoutePeerInfo]:
    return _request(data).peer_infos.items


def _portal_frames() -> Iterable[bytes]:
    """Without their lengths."""
    for path in sorted(VECTORS.glob("portal-*.jsonl")):
        for line in path.read_text().splitlines()[:4]:
            for part in json.loads(line)["exchange"]:
                data = bytes.fromhex(part["hex"])
                yield data[4 : 4 + int.from_bytes(data[:4], "little")]


def _tables() -> Iterable[bytes]:
    yield b"""instance_name = "a"
ipv4 = "10.144.0.1/24"
listeners = ["udp://0.0.0.0:11010"]
[network_identity]
network_name = "lab"
"""
    yield b"""[[proxy_network]]
cidr = "192.168.7.0/24"
[[access]]
action = "deny"
ports = ["1-2"]
[flags]
mtu = 1300
"""
    yield b"""[[port_forward]]
bind_addr = "127.0.0.1:1"
dst_addr = "10.144.0.2:2"
proto = "tcp"
[plugins.kcp]
engine = "arq"
"""


if __name__ == "__main__":
    main()
