"""What the tests of the host's upper half share: a clock that stands still, a tunnel that remembers, packets, nodes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, ip_address

import anyio.lowlevel
import pytest

from easytier_hooks.manager import PluginManager
from easytier_host.batch import IN_PYTHON, choose_batch
from easytier_host.config.model import Config, Flags
from easytier_host.instance import Node
from easytier_host.nic.base import Nic
from easytier_host.nic.offload import ones_complement_sum
from easytier_host.packet import PEER_HEADER_SIZE, PeerHeader
from easytier_host.peer_conn import PeerConn
from easytier_host.tunnel import Tunnel, TunnelInfo

ME, PEER, OTHER, FAR = 0x8000_0001, 0x8000_0002, 0x8000_0003, 0x8000_0004
SECRET = "s3cret"
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
FROM_FRAME = (
    "delivered_packets",
    "relayed_frames",
    "control_frames",
    "plugin_frames",
    "dropped_malformed",
    "dropped_unsealed",
    "dropped_clear",
    "dropped_forged",
    "dropped_access",
    "dropped_unhandled",
    "dropped_relay",
)
"""Counters that have counted each frame of a neighbour once, when it is dealt with."""
NATIVE = choose_batch()
NEEDS_NATIVE = pytest.mark.skipif(NATIVE is IN_PYTHON, reason="the native module is not built: no cargo here")
BATCHES = pytest.mark.parametrize(
    "batch", [pytest.param(IN_PYTHON, id="python"), pytest.param(NATIVE, id="native", marks=NEEDS_NATIVE)]
)
"""Runs a test with the work on packets done in Python, and in Rust where that is built."""


@dataclass
class FakeClock:
    """Seconds that pass only when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Let time pass and return the new time."""
        self.now += seconds
        return self.now


class FakeTunnel(Tunnel):
    """Keeps what is sent; `full` drops it as a tunnel past its cap does."""

    def __init__(self, scheme: str = "udp", remote: str = "192.0.2.1:11010") -> None:
        super().__init__(TunnelInfo(scheme, f"{scheme}://192.0.2.9:11010", f"{scheme}://{remote}"))
        self.sent: list[bytes] = []
        self.full = False
        self.slow = False
        self.reason: str | None = None
        self.lost = 0

    def send(self, frames: Sequence[bytes]) -> bool:
        if self.full or self.reason is not None:
            self.lost += len(frames)
        else:
            self.sent += frames
        return not self.congested

    @property
    def congested(self) -> bool:
        return self.full or self.slow

    async def wait_writable(self) -> None:
        await anyio.lowlevel.checkpoint()

    def close(self, reason: str = "closed by this node") -> None:
        if self.reason is None:
            self.reason = reason
            self.on_close(reason)

    @property
    def closed(self) -> bool:
        return self.reason is not None

    @property
    def dropped_frames(self) -> int:
        return self.lost

    def take(self) -> list[bytes]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent


def make_conn(peer_id: int, *, is_foreign_relay: bool = False, now: float = 1000.0, scheme: str = "udp") -> PeerConn:
    """A connection over a `FakeTunnel`."""
    return PeerConn(FakeTunnel(scheme), ME, peer_id, is_foreign_relay=is_foreign_relay, is_initiator=True, now=now)


def fake_tunnel(conn: PeerConn) -> FakeTunnel:
    """The tunnel under a connection of `make_conn`."""
    assert isinstance(conn.tunnel, FakeTunnel)
    return conn.tunnel


def split_frame(frame: bytes) -> tuple[PeerHeader, bytes]:
    """Header and payload."""
    return PeerHeader.parse(frame), frame[PEER_HEADER_SIZE:]


def tcp_segment(
    source: str = "10.144.0.1",
    destination: str = "10.144.0.2",
    *,
    ports: tuple[int, int] = (40_000, 22),
    flags: int = SYN,
    data: bytes = b"",
    options: int = 0,
    sequence: int = 1,
) -> bytes:
    """An IP packet with one TCP segment; the family is that of the addresses, `options` words of IPv4 options go before it."""
    first, second = ip_address(source), ip_address(destination)
    tcp = struct.pack("!HHIIBBHHH", *ports, sequence, 0, 5 << 4, flags, 64_000, 0, 0) + data
    pseudo = first.packed + second.packed + struct.pack("!II", len(tcp), 6)
    checksum = 0xFFFF - ones_complement_sum(pseudo + tcp)
    tcp = tcp[:16] + struct.pack("!H", checksum) + tcp[18:]
    if first.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + first.packed + second.packed + tcp
    words = 5 + options
    header = struct.pack("!BBHHHBBH", 0x40 | words, 0, 4 * words + len(tcp), 7, 0x4000, 64, 6, 0)
    header += first.packed + second.packed + b"\x01" * (4 * options)
    return header[:10] + struct.pack("!H", 0xFFFF - ones_complement_sum(header)) + header[12:] + tcp


def device_frame(packet: bytes) -> bytes:
    """A packet as the device gives it: behind an empty virtio header."""
    return bytes(10) + packet


def udp_packet(source: str, destination: str, data: bytes) -> bytes:
    """An IPv4 packet with one UDP datagram without checksum."""
    first, second = ip_address(source).packed, ip_address(destination).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(data), 7, 0x4000, 64, 17, 0) + first + second
    header = header[:10] + struct.pack("!H", 0xFFFF - ones_complement_sum(header)) + header[12:]
    return header + struct.pack("!HHHH", 5000, 53, 8 + len(data), 0) + data


def no_plugins() -> PluginManager:
    """A manager that finds nothing installed."""
    return PluginManager({}, installed=(), environ={})


def make_node(
    number: int, *peers: str, nic: Nic | None = None, plugins: PluginManager | None = None, **changes: object
) -> Node:
    """A node with the address 10.144.0.<number> that listens on ephemeral loopback ports; `changes` are fields of `Config`."""
    settings: dict[str, object] = {
        "instance_name": f"node{number}",
        "hostname": f"node{number}",
        "network_name": "lab",
        "network_secret": SECRET,
        "ipv4": IPv4Interface(f"10.144.0.{number}/24"),
        "listeners": ("udp://127.0.0.1:0", "tcp://127.0.0.1:0"),
        "peers": peers,
        "flags": Flags(no_tun=True, enable_ipv6=False),
    }
    config = Config(**(settings | changes))  # type: ignore[arg-type]
    return Node(config, nic=nic, plugins=plugins if plugins is not None else no_plugins())


async def until(condition: Callable[[], object], *, limit: float = 20.0) -> None:
    """Give the loop turns until `condition` holds; fails after `limit` seconds, which only a broken node takes."""
    with anyio.fail_after(limit):
        while not condition():  # noqa: ASYNC110 - there is no event for "whatever the node does has led to this"
            await anyio.sleep(0.002)


@dataclass
class Recorder:
    """Keeps what a callback was called with."""

    calls: list[tuple[object, ...]] = field(default_factory=list)

    def __call__(self, *arguments: object) -> None:
        self.calls.append(arguments)
