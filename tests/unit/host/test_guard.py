"""The doorkeeper: what peers begin by packets is refused before anything sees it, and answers to ours are let in."""

from __future__ import annotations

import struct
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host import Config, Flags, echo, ipv4
from easytier_host.config.model import AccessRule, ProxyNetwork
from easytier_host.guard import ANSWER_TIME, MAX_QUESTIONS, Guard
from easytier_host.ipv4 import UdpDatagram
from easytier_host.owners import Owners
from easytier_host.subnet.fragments import cut
from tests.unit.host.helpers import ACK, FAR, OTHER, PEER, SYN, FakeClock, device_frame, tcp_segment
from tests.unit.host.test_datapath import record

RECORDS = {
    PEER: record(PEER, hostname="laptop", ipv4=IPv4Interface("10.144.0.2/24"), ipv6=IPv6Interface("fd00::2/64")),
    OTHER: record(OTHER, hostname="phone", ipv4=IPv4Interface("10.144.0.3/24")),
}
MAPPED = ProxyNetwork(IPv4Network("192.168.7.0/24"), IPv4Network("10.1.3.0/24"))


class Door:
    def __init__(self, **config: Any) -> None:
        values: dict[str, Any] = {
            "ipv4": IPv4Interface("10.144.0.1/24"),
            "ipv6": IPv6Interface("fd00::1/64"),
            "proxy_networks": (MAPPED,),
        }
        self.clock = FakeClock()
        self.refused: list[tuple[bytes, int, str]] = []
        settings = Config(**values | config)
        self.guard = Guard(
            settings,
            Owners(settings, RECORDS.get, lambda _ip: None),
            self.clock,
            interface_addresses=lambda: {ip_address("192.168.7.1")},
            refuse=lambda *what: self.refused.append(what),
        )

    def admits(self, packet: bytes, peer: int = PEER) -> bool:
        return self.guard.admit([packet], peer) == [packet]


def udp(source: str, destination: str, port: int, source_port: int = 5000, data: bytes = b"x") -> bytes:
    first, second = ip_address(source), ip_address(destination)
    if first.version == 6:
        datagram = struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data
        return struct.pack("!IHBB", 6 << 28, len(datagram), 17, 64) + first.packed + second.packed + datagram
    return ipv4.build_udp(first.packed, second.packed, UdpDatagram(source_port, port, data))


def tcp(port: int, source: str = "10.144.0.2", destination: str = "10.144.0.1", flags: int = SYN) -> bytes:
    return tcp_segment(source, destination, ports=(40_000, port), flags=flags)


def test_packets_are_looked_at_only_where_something_is_restricted() -> None:
    assert not Door().guard.watches_packets
    assert not Door(access=(AccessRule(True),)).guard.watches_packets
    assert Door(udp_whitelist=((53, 53),)).guard.watches_packets


@pytest.mark.parametrize(("source", "destination"), [("10.144.0.2", "10.144.0.1"), ("fd00::2", "fd00::1")])
def test_a_whitelist_holds_for_packets(source: str, destination: str) -> None:
    door = Door(tcp_whitelist=((22, 22),))
    assert door.admits(tcp(22, source, destination))
    closed = tcp(80, source, destination)
    assert not door.admits(closed)
    assert door.refused == [(closed, PEER, "port 80 is not in tcp_whitelist")]
    # Flows that this node has begun go on, and the other protocol is free.
    assert door.admits(tcp(80, source, destination, flags=SYN | ACK))
    assert door.admits(tcp(80, source, destination, flags=ACK))
    assert door.admits(udp(source, destination, 80))


@pytest.mark.parametrize(("source", "destination"), [("10.144.0.2", "10.144.0.1"), ("fd00::2", "fd00::1")])
def test_datagrams_that_answer_ours_are_let_in(source: str, destination: str) -> None:
    door = Door(udp_whitelist=((0, 0),))
    answer = udp(source, destination, 5000, 53)
    assert not door.admits(answer)
    door.guard.note([device_frame(udp(destination, source, 53, 5000))])
    assert door.admits(answer)
    assert not door.admits(udp(source, destination, 5000, 54))
    door.clock.advance(ANSWER_TIME)
    assert not door.admits(answer)
    assert door.refused == []


def test_questions_are_forgotten_in_their_order() -> None:
    door = Door(udp_whitelist=((0, 0),))
    for port in range(1, MAX_QUESTIONS + 2):
        door.guard.note([device_frame(udp("10.144.0.1", "10.144.0.2", 53, port))])
    assert not door.admits(udp("10.144.0.2", "10.144.0.1", 1, 53))
    assert door.admits(udp("10.144.0.2", "10.144.0.1", 2, 53))


def test_rules_are_about_the_sender_and_the_address_behind_a_mapping() -> None:
    rules = (
        AccessRule(True, peer="laptop", destination=IPv4Network("192.168.7.9/32"), ports=((80, 80),)),
        AccessRule(False, destination=IPv4Network("192.168.7.0/24")),
    )
    door = Door(access=rules)
    assert door.admits(tcp(80, destination="10.1.3.9"))
    assert not door.admits(tcp(22, destination="10.1.3.9"))
    assert not door.admits(tcp(80, "10.144.0.3", "10.1.3.9"), OTHER)
    assert not door.admits(udp("10.144.0.2", "10.1.3.8", 80))
    assert door.admits(tcp(80))
    # Nothing is known of this one.
    assert not door.admits(tcp(80, "192.0.2.9"), FAR)


def test_this_machine_is_this_machine_under_all_its_addresses() -> None:
    door = Door(tcp_whitelist=((22, 22),))
    assert not door.admits(tcp(80, destination="10.1.3.1"))
    assert door.admits(tcp(80, destination="10.1.3.2"))


def test_a_forged_source_begins_nothing() -> None:
    door = Door(tcp_whitelist=((22, 22),))
    assert not door.admits(tcp(22, "10.144.0.3"))
    assert door.refused[0][2] == "10.144.0.3 is not an address of its sender"


def test_a_stranger_is_not_told_no_before_it_is_known() -> None:
    door = Door(tcp_whitelist=((22, 22),), access=(AccessRule(False, ports=((53, 53),)),))
    assert not door.admits(tcp(22), peer=FAR)
    assert not door.admits(udp("10.144.0.2", "10.144.0.1", 53), peer=FAR)
    # Its SYN will come again; what is refused to those who are known is said.
    assert door.refused == []
    assert not door.admits(tcp(80))
    assert len(door.refused) == 1


def test_a_node_without_a_device_stands_for_itself() -> None:
    rule = AccessRule(False, destination=IPv4Network("10.144.0.1/32"), ports=((22, 22),))
    door = Door(access=(rule,), flags=Flags(no_tun=True))
    assert not door.admits(tcp(22))
    assert door.admits(tcp(80))


def test_pings_pass() -> None:
    door = Door(access=(AccessRule(False),))
    assert door.admits(echo.echo_request(IPv4Interface("10.144.0.2/24").ip, IPv4Interface("10.144.0.1/24").ip, 1, 1, b""))


def test_fragments_hide_no_port() -> None:
    door = Door(udp_whitelist=((53, 53),), tcp_whitelist=((22, 22),))
    first, *rest = cut(udp("10.144.0.2", "10.144.0.1", 80, data=bytes(4000)), 1280)
    assert not door.admits(first)
    assert all(door.admits(piece) for piece in rest)
    first, *rest = cut(udp("10.144.0.2", "10.144.0.1", 53, data=bytes(4000)), 1280)
    assert all(door.admits(piece) for piece in (first, *rest))
    # A first piece that ends before the flags, and one that would write over them (RFC 3128).
    tiny, second, *_ = cut(tcp(80), 8)
    assert not door.admits(tiny)
    assert not door.admits(second)


def test_extension_headers_hide_no_port() -> None:
    door = Door(tcp_whitelist=((22, 22),))
    packet = tcp(80, "fd00::2", "fd00::1")
    hidden = packet[:6] + b"\x00" + packet[7:40] + b"\x06\x00" + bytes(6) + packet[40:]
    assert not door.admits(hidden)


@given(st.sampled_from([0x40, 0x45, 0x4F, 0x60]), st.sampled_from([0, 6, 17, 44]), st.binary(max_size=80))
def test_any_packet_is_judged(first: int, protocol: int, rest: bytes) -> None:
    door = Door(tcp_whitelist=((22, 22),), udp_whitelist=((53, 53),), access=(AccessRule(False),))
    packet = bytes((first,)) + rest
    packet = packet[:9] + bytes((protocol,)) + packet[10:]
    door.guard.admit([packet], PEER)
    door.guard.note([device_frame(packet), packet])


def test_a_closed_door_lets_no_new_tcp_in_and_says_why() -> None:
    door = Door()
    door.guard.close("this node is stopping")
    assert door.guard.watches_packets
    assert not door.admits(tcp(22))
    assert door.refused[0][2] == "this node is stopping"
    assert door.guard.refusal("tcp", PEER, None, ip_address("10.144.0.1"), 22) == "this node is stopping"
    # What has begun goes on, and so do datagrams, of which nobody knows what begins.
    assert door.admits(tcp(22, flags=ACK))
    assert door.admits(udp("10.144.0.2", "10.144.0.1", 53))


def test_another_configuration_holds_from_then_on() -> None:
    door = Door(tcp_whitelist=((22, 22),))
    door.guard.configure(Config(ipv4=IPv4Interface("10.144.0.1/24"), tcp_whitelist=((80, 80),)))
    assert door.admits(tcp(80))
    assert not door.admits(tcp(22))
    door.guard.configure(Config(ipv4=IPv4Interface("10.144.0.1/24")))
    assert not door.guard.watches_packets
