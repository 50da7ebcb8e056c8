"""UDP ports in the overlay: what leaves, what is recognised, fragments, bounds, and packets that are none."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_hooks.services import Endpoint
from easytier_host import ipv4, overlay_udp
from easytier_host.ipv4 import UdpDatagram
from easytier_host.metrics import Metrics
from easytier_host.overlay_udp import OverlayPort, OverlayUdp
from easytier_host.plain_tcp import EphemeralPorts
from easytier_host.subnet.fragments import cut
from tests.unit.host.helpers import FakeClock, tcp_segment

OWN, PEER = IPv4Address("10.144.0.1"), IPv4Address("10.144.0.2")
MTU = 1360


class Scene:
    """A node's ports, one of them open, with what it sent and received."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.received: list[tuple[Endpoint, bytes]] = []
        self.metrics = Metrics()
        self.clock = FakeClock()
        self.udp = OverlayUdp(OWN, self._send, self.metrics, self.clock, EphemeralPorts(0), mtu=MTU)
        self.port: OverlayPort = self.udp.open(lambda source, data: self.received.append((source, data)))

    def _send(self, frames: Sequence[bytes]) -> None:
        self.sent += frames

    def answer(self, data: bytes, *, source: IPv4Address = PEER, port: int | None = None) -> bytes:
        datagram = UdpDatagram(53, self.port.port if port is None else port, data)
        return ipv4.build_udp(source.packed, OWN.packed, datagram, 7)


def test_a_datagram_leaves_as_one_packet_and_its_answer_comes_back() -> None:
    scene = Scene()
    scene.port.send(b"question", (PEER, 53))
    (frame,) = scene.sent
    assert frame[:10] == bytes(10)
    assert frame[22:30] == OWN.packed + PEER.packed
    assert ipv4.parse_udp(frame[10:]) == UdpDatagram(scene.port.port, 53, b"question")
    assert scene.udp.take(scene.answer(b"answer")) is None
    assert scene.received == [((PEER, 53), b"answer")]


@pytest.mark.parametrize("size", [1900, 20_000, 65_507])
def test_large_datagrams_leave_and_come_in_fragments(size: int) -> None:
    scene = Scene()
    data = bytes(range(256)) * 256
    scene.port.send(data[:size], (PEER, 53))
    assert len(scene.sent) == -(-(size + 8) // 1336)
    assert all(len(frame) - 10 <= MTU for frame in scene.sent)
    for packet in reversed(cut(scene.answer(data[:size]), 1280)):
        assert scene.udp.take(packet) is None
    assert scene.received == [((PEER, 53), data[:size])]


@pytest.mark.parametrize("destination", [(IPv6Address("fd00::2"), 53), (PEER, 53)])
def test_what_fits_no_packet_is_dropped_and_counted(destination: Endpoint) -> None:
    scene = Scene()
    scene.port.send(bytes(65_508), destination)
    assert scene.sent == []
    assert scene.metrics.dropped_device == 1


def test_what_is_for_others_is_left() -> None:
    scene = Scene()
    others = [
        scene.answer(b"x", port=scene.port.port + 1),
        ipv4.build_udp(PEER.packed, b"\x0a\x90\x00\x09", UdpDatagram(53, scene.port.port, b"x")),
        tcp_segment("10.144.0.2", "10.144.0.1", ports=(53, scene.port.port)),
        b"\x60" + bytes(47),
        b"\x45",
    ]
    assert [scene.udp.take(packet) for packet in others] == others
    assert scene.received == []


def test_fragments_for_another_port_are_given_back_as_one() -> None:
    scene = Scene()
    whole = scene.answer(bytes(3000), port=9)
    *first, last = cut(whole, 1280)
    assert [scene.udp.take(packet) for packet in first] == [None, None]
    given = scene.udp.take(last)
    assert given is not None
    assert ipv4.parse_udp(given) == UdpDatagram(53, 9, bytes(3000))


def test_a_damaged_datagram_is_dropped_and_counted() -> None:
    scene = Scene()
    packet = scene.answer(b"data")
    assert scene.udp.take(packet[:-1] + b"\0") is None
    assert scene.received == []
    assert scene.metrics.dropped_subnet == 1


def test_a_closed_port_is_deaf_and_mute() -> None:
    scene = Scene()
    scene.port.close()
    scene.port.close()
    scene.port.send(b"x", (PEER, 53))
    packet = scene.answer(b"x")
    assert scene.udp.take(packet) == packet
    assert (scene.sent, scene.received) == ([], [])


def test_there_is_an_end_of_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_udp, "MAX_PORTS", 3)
    scene = Scene()
    more = [scene.udp.open(lambda _source, _data: None) for _ in range(2)]
    assert len({port.port for port in (scene.port, *more)}) == 3
    with pytest.raises(OSError, match="3 UDP ports are in use already"):
        scene.udp.open(lambda _source, _data: None)
    more[0].close()
    assert scene.udp.open(lambda _source, _data: None).port not in (scene.port.port, more[1].port)


def test_a_node_without_an_address_has_no_port() -> None:
    udp = OverlayUdp(None, lambda _: None, Metrics(), FakeClock(), EphemeralPorts(0), mtu=MTU)
    with pytest.raises(OSError, match="no IPv4 address"):
        udp.open(lambda _source, _data: None)


def test_fragments_without_an_end_are_given_up() -> None:
    scene = Scene()
    scene.udp.take(cut(scene.answer(bytes(3000)), 1280)[0])
    scene.clock.advance(10)
    scene.udp.expire()
    assert scene.metrics.dropped_subnet == 1


@given(st.binary(max_size=100))
def test_any_packet_is_handled(data: bytes) -> None:
    scene = Scene()
    for packet in (data, b"\x45\0" + data, scene.answer(b"")[:20] + data):
        left = scene.udp.take(packet)
        assert left is None or isinstance(left, bytes)
