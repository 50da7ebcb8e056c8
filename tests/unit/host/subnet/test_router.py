"""What the subnet router takes, from whom, and that the data path counts every frame once with it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_hooks.errors import DialRefused
from easytier_hooks.types import IPAddress
from easytier_host import Config, Flags, echo, ipv4
from easytier_host.config.model import ProxyNetwork
from easytier_host.datapath import Inbound, Outbound
from easytier_host.dial import dial_target
from easytier_host.ipv4 import UdpDatagram
from easytier_host.lookup import Lookup
from easytier_host.metrics import Metrics
from easytier_host.next_hop import Path
from easytier_host.owners import Owners
from easytier_host.packet import Flag, PacketType, build_frame
from easytier_host.peers import PeerMap
from easytier_host.subnet.fragments import cut
from easytier_host.subnet.router import SubnetRouter, is_wanted
from tests.unit.host.helpers import (
    ACK,
    ME,
    OTHER,
    PEER,
    SYN,
    FakeClock,
    device_frame,
    fake_tunnel,
    make_conn,
    split_frame,
    tcp_segment,
    udp_packet,
    until,
)
from tests.unit.host.subnet.parts import record

FROM_FRAME = ("delivered_packets", "dropped_malformed", "dropped_unsealed", "dropped_unhandled")
OFFERED = ProxyNetwork(IPv4Network("192.168.8.0/24"), IPv4Network("10.1.3.0/24"))
PLAIN = ProxyNetwork(IPv4Network("192.168.7.0/24"))


@dataclass
class FakeTcp:
    """In the place of the TCP proxy: keeps what it is given, and has no use for segments to port 9."""

    taken: list[tuple[bytes, bool]] = field(default_factory=list)

    def take(self, packets: list[bytes], exit_node: bool) -> list[bytes]:
        ours = [packet for packet in packets if packet[22:24] != b"\x00\x09"]
        self.taken += [(packet, exit_node) for packet in ours]
        return [packet for packet in packets if packet not in ours]


class Bench:
    """The way in of a node, 10.144.0.1, with neighbours PEER (10.144.0.2, 10.50.0.0/16 behind it) and OTHER (10.144.0.3).

    With `loopback` what is permitted goes to this machine, else nowhere.
    """

    def __init__(
        self, *networks: ProxyNetwork, has_device: bool = True, tcp: bool = True, loopback: bool = False, **flags: Any
    ) -> None:
        config = Config(
            ipv4=IPv4Interface("10.144.0.1/24"), proxy_networks=networks, flags=Flags(no_tun=not has_device, **flags)
        )
        self.config = config
        self.metrics = Metrics()
        clock = FakeClock()
        peers = PeerMap(lambda _conn: None, lambda _peer, _reason: None, self.metrics)
        self.conns = {peer_id: make_conn(peer_id) for peer_id in (PEER, OTHER)}
        for conn in self.conns.values():
            peers.add(conn)
        self.records = {PEER: record(PEER, "10.144.0.2/24", "10.50.0.0/16"), OTHER: record(OTHER, "10.144.0.3/24")}
        outbound = Outbound(ME, peers, self.metrics, None, None, mtu=1360, latency_first=False)
        paths = {peer_id: Path(peer_id, 1, 5) for peer_id in self.records}
        outbound.lookup = Lookup(self.records.values(), paths, config.ipv4)
        self.delivered: list[bytes] = []
        self.inbound = Inbound(
            ME,
            peers,
            self.metrics,
            None,
            clock,
            deliver=self._deliver,
            rpc=lambda *_: None,
            version_of=lambda _peer: None,
            disable_relay_data=False,
        )

        def target(ip: IPAddress, port: int, exit_node: bool) -> tuple[IPAddress, int]:
            real = dial_target(self.config, (), ip, port, exit_node=exit_node)
            if not loopback:
                raise DialRefused(f"the test sends nothing to {real}")
            return IPv4Address("127.0.0.1"), port

        self.router = SubnetRouter(
            config,
            outbound,
            self.metrics,
            clock,
            has_device=has_device,
            target=target,
            owners=Owners(config, self.records.get, lambda _ip: None),
            identifier=1,
            mtu=1360,
        )
        self.tcp = FakeTcp()
        if tcp:
            self.router.tcp = self.tcp  # type: ignore[assignment]
        self.inbound.subnet = self.router.take

    def offer(self, *networks: ProxyNetwork) -> None:
        self.config = replace(self.config, proxy_networks=networks)
        self.router.configure(self.config)

    def receive(self, *packets: bytes, peer: int = PEER, flags: int = 0) -> None:
        frames = [build_frame(peer, ME, PacketType.DATA, packet, flags=flags) for packet in packets]
        self.inbound.receive(self.conns[peer], frames)
        assert sum(getattr(self.metrics, name) for name in FROM_FRAME) == self.metrics.received_frames

    def replies(self, peer: int = PEER) -> list[bytes]:
        """Packets that were sent back, each with NO_PROXY."""
        frames = [split_frame(frame) for frame in fake_tunnel(self.conns[peer]).take()]
        assert all(header.flags & Flag.NO_PROXY for header, _ in frames)
        return [packet for _, packet in frames]

    def _deliver(self, packets: list[bytes]) -> None:
        self.metrics.delivered_packets += len(packets)
        self.delivered += packets


@asynccontextmanager
async def running(made: Bench) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.router.run)
        yield
        tasks.cancel_scope.cancel()


def to(destination: str, source: str = "10.144.0.2", **more: Any) -> bytes:
    return tcp_segment(source, destination, **more)


@pytest.mark.parametrize(
    ("networks", "flags", "has_device", "wanted"),
    [
        ((), {}, True, False),
        ((PLAIN,), {}, True, True),
        ((), {"enable_exit_node": True}, True, True),
        ((), {}, False, True),
        ((PLAIN,), {"proxy_forward_by_system": True}, True, False),
        ((PLAIN,), {"proxy_forward_by_system": True}, False, True),
    ],
)
def test_only_nodes_with_a_use_for_it_have_a_router(
    networks: tuple[ProxyNetwork, ...], flags: dict[str, Any], has_device: bool, wanted: bool
) -> None:
    assert is_wanted(Config(proxy_networks=networks, flags=Flags(**flags)), has_device=has_device) is wanted


def test_tcp_to_offered_networks_is_taken_and_the_rest_delivered_in_order() -> None:
    bench = Bench(OFFERED, PLAIN)
    ours = [to("10.1.3.9"), to("192.168.7.9"), to("10.1.3.10", "10.50.1.1")]
    rest = [to("10.144.0.1"), to("127.0.0.1"), to("10.1.4.1"), to("10.144.0.1", ports=(1, 2))]
    bench.receive(rest[0], ours[0], rest[1], ours[1], rest[2], ours[2], rest[3])
    assert bench.tcp.taken == [(packet, False) for packet in ours]
    assert bench.delivered == rest


def test_segments_that_begin_nothing_here_go_to_the_device() -> None:
    bench = Bench(PLAIN)
    late = to("192.168.7.9", ports=(40_000, 9))
    bench.receive(late)
    assert bench.delivered == [late]


def test_without_a_stack_tcp_goes_to_the_device() -> None:
    bench = Bench(PLAIN, tcp=False)
    bench.receive(to("192.168.7.9"))
    assert bench.delivered == [to("192.168.7.9")]


def test_packets_with_no_proxy_go_to_the_device() -> None:
    bench = Bench(PLAIN)
    packets = [to("192.168.7.9"), udp_packet("10.144.0.2", "192.168.7.9", b"answer")]
    bench.receive(*packets, flags=Flag.NO_PROXY)
    assert bench.delivered == packets
    bench.receive(packets[0], flags=Flag.NO_PROXY | Flag.NOT_SEND_TO_TUN)
    bench.receive(to("10.144.0.1"), flags=Flag.NOT_SEND_TO_TUN)
    assert (bench.delivered, bench.metrics.dropped_unhandled) == (packets, 2)


@pytest.mark.parametrize("source", ["10.144.0.3", "10.144.0.1", "10.51.0.1", "127.0.0.1", "0.0.0.0", "192.168.7.1"])
def test_a_peer_uses_its_own_addresses_only(source: str, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(PLAIN)
    request = echo.echo_request(IPv4Address(source), IPv4Address("192.168.7.9"), 1, 1, b"")
    packets = [to("192.168.7.9", source), udp_packet(source, "192.168.7.9", b"x"), request]
    bench.receive(*packets, *cut(packets[1][:6] + b"\x00\x00" + packets[1][8:] + bytes(2000), 1280))
    assert (bench.tcp.taken, bench.delivered, bench.replies()) == ([], [], [])
    # The two fragments are one packet.
    assert bench.metrics.dropped_subnet == 4
    (warning,) = caplog.messages
    assert f"from {source} are dropped" in warning


def test_what_hosts_behind_the_node_have_begun_goes_back_to_them_from_anywhere() -> None:
    bench = Bench(PLAIN)
    # As from an exit whose kernel forwards, and so without NO_PROXY.
    question = ipv4.build_udp(
        IPv4Address("192.168.7.9").packed, IPv4Address("203.0.113.9").packed, UdpDatagram(40_000, 53, b"question")
    )
    bench.router.watch([device_frame(question)])
    answer = ipv4.build_udp(
        IPv4Address("203.0.113.9").packed, IPv4Address("192.168.7.9").packed, UdpDatagram(53, 40_000, b"answer")
    )
    unreachable = ipv4.build(
        IPv4Address("203.0.113.1").packed, IPv4Address("192.168.7.9").packed, ipv4.ICMP, b"\x03\x01" + bytes(30)
    )
    packets = [answer, unreachable, to("192.168.7.9", "203.0.113.9", flags=SYN | ACK)]
    bench.receive(*packets)
    assert bench.delivered == packets
    assert bench.metrics.dropped_subnet == 0


def test_what_the_node_itself_asks_is_not_remembered() -> None:
    bench = Bench(PLAIN)
    bench.router.watch([device_frame(udp_packet("10.144.0.1", "10.144.0.2", b"question")), b"", bytes(40)])
    assert not bench.router._udp._questions


def test_an_address_that_is_no_longer_its_sender_s_is_refused() -> None:
    bench = Bench(PLAIN)
    bench.receive(to("192.168.7.9"))
    bench.records[PEER] = record(PEER, "10.144.0.22/24")
    bench.receive(to("192.168.7.9"))
    assert len(bench.tcp.taken) == 1
    del bench.records[PEER]
    bench.receive(to("192.168.7.9", "10.144.0.22"))
    assert (len(bench.tcp.taken), bench.metrics.dropped_subnet) == (1, 2)


def test_other_protocols_and_ipv6_are_not_for_the_router() -> None:
    bench = Bench(PLAIN)
    gre = ipv4.build(IPv4Address("10.144.0.2").packed, IPv4Address("192.168.7.9").packed, 47, b"payload")
    packets = [gre, to("fd00::1", "fd00::2"), b"\x45", b"\x60" + bytes(50)]
    bench.receive(*packets)
    assert bench.delivered == packets


def test_an_icmp_message_in_pieces_that_is_no_request_goes_whole_to_the_device() -> None:
    bench = Bench(PLAIN)
    source, destination = IPv4Address("10.144.0.2").packed, IPv4Address("192.168.7.9").packed
    whole = ipv4.build(source, destination, ipv4.ICMP, b"\x03\x01" + bytes(2000), identification=5, fragment=0)
    bench.receive(*cut(whole, 1280))
    assert bench.delivered == [whole]


def test_the_exit_takes_what_its_user_sends_anywhere() -> None:
    bench = Bench(enable_exit_node=True)
    bench.receive(to("203.0.113.9"), flags=Flag.EXIT_NODE)
    bench.receive(to("203.0.113.10"))
    bench.receive(to("10.144.0.1"), flags=Flag.EXIT_NODE)
    assert bench.tcp.taken == [(to("203.0.113.9"), True)]
    assert bench.delivered == [to("203.0.113.10"), to("10.144.0.1")]


def test_who_is_no_exit_ignores_the_flag() -> None:
    bench = Bench(PLAIN)
    bench.receive(to("203.0.113.9"), flags=Flag.EXIT_NODE)
    bench.receive(to("192.168.7.9"), flags=Flag.EXIT_NODE)
    assert bench.delivered == [to("203.0.113.9")]
    assert bench.tcp.taken == [(to("192.168.7.9"), False)]


@pytest.mark.parametrize("forbidden", ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "10.144.0.3", "255.255.255.255"])
def test_an_exit_does_not_lead_everywhere(forbidden: str) -> None:
    bench = Bench(enable_exit_node=True)
    request = echo.echo_request(IPv4Address("10.144.0.2"), IPv4Address(forbidden), 1, 1, b"")
    bench.receive(udp_packet("10.144.0.2", forbidden, b"x"), request, flags=Flag.EXIT_NODE)
    assert bench.metrics.dropped_subnet == 2


def test_a_node_without_device_answers_pings_of_any_size() -> None:
    bench = Bench(has_device=False)
    own = IPv4Address("10.144.0.1")
    request = echo.echo_request(IPv4Address("10.144.0.2"), own, 7, 1, bytes(3000))
    bench.receive(*cut(request[:6] + b"\x00\x00" + request[8:], 1280))
    assert len(bench.replies()) == 3
    bench.receive(echo.echo_request(IPv4Address("10.144.0.2"), own, 7, 2, b"small"))
    (reply,) = bench.replies()
    assert echo.parse_reply(reply) == (own, 7, 2)
    # Replies to its own pings are for whoever asked.
    answer = echo.answer(echo.echo_request(own, IPv4Address("10.144.0.2"), 1, 1, b""), IPv4Address("10.144.0.2"))
    assert answer is not None
    bench.receive(answer)
    assert bench.delivered == [answer]


def test_a_node_with_a_device_leaves_its_own_address_to_the_kernel() -> None:
    bench = Bench(PLAIN)
    packets = [to("10.144.0.1"), echo.echo_request(IPv4Address("10.144.0.2"), IPv4Address("10.144.0.1"), 7, 1, b"")]
    bench.receive(*packets)
    assert bench.delivered == packets


@pytest.mark.anyio
@pytest.mark.parametrize("destination", ["192.168.7.9", "10.1.3.9"])
async def test_udp_is_answered_from_the_address_that_was_asked(destination: str) -> None:
    bench = Bench(OFFERED, PLAIN, loopback=True)
    async with running(bench):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
            far.bind(("127.0.0.1", 0))
            far.settimeout(5)
            question = UdpDatagram(5000, far.getsockname()[1], bytes(3000))
            whole = ipv4.build_udp(IPv4Address("10.50.1.1").packed, IPv4Address(destination).packed, question, 9)
            bench.receive(*cut(whole, 1280))
            data, sender = far.recvfrom(5000)
            assert data == question.data
            far.sendto(b"answer", sender)
            tunnel = fake_tunnel(bench.conns[PEER])
            await until(lambda: tunnel.sent)
            (reply,) = bench.replies()
            assert (reply[12:16], reply[16:20]) == (whole[16:20], whole[12:16])
            assert ipv4.parse_udp(reply) == UdpDatagram(question.destination_port, 5000, b"answer")


@pytest.mark.anyio
async def test_what_is_under_way_to_a_network_that_is_taken_away_goes_on_and_nothing_new_begins() -> None:
    bench = Bench(PLAIN, loopback=True)
    async with running(bench):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
            far.bind(("127.0.0.1", 0))
            far.settimeout(5)

            def ask(host: str) -> None:
                question = UdpDatagram(5000, far.getsockname()[1], host.encode())
                bench.receive(ipv4.build_udp(IPv4Address("10.144.0.2").packed, IPv4Address(host).packed, question))

            ask("192.168.7.9")
            assert far.recv(100) == b"192.168.7.9"
            bench.offer(OFFERED)
            ask("192.168.7.10")
            ask("192.168.7.9")
            ask("10.1.3.9")
            assert [far.recv(100), far.recv(100)] == [b"192.168.7.9", b"10.1.3.9"]
            assert bench.metrics.dropped_subnet == 1
    # Segments of what was begun are still sorted out; whether a SYN may begin something is said where it is dialled.
    bench.receive(to("192.168.7.9"), to("10.1.3.9"))
    assert len(bench.tcp.taken) == 2
    assert bench.delivered == []


@pytest.mark.anyio
async def test_an_answer_to_somebody_who_has_left_is_dropped() -> None:
    bench = Bench(PLAIN, loopback=True)
    async with running(bench):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
            far.bind(("127.0.0.1", 0))
            far.settimeout(5)
            question = UdpDatagram(5000, far.getsockname()[1], b"")
            bench.receive(ipv4.build_udp(IPv4Address("10.144.0.2").packed, IPv4Address("192.168.7.9").packed, question))
            bench.router._outbound.lookup = Lookup((), {})
            far.sendto(b"answer", far.recvfrom(100)[1])
            await until(lambda: bench.metrics.dropped_no_route)
            assert bench.replies() == []


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 255)), max_size=6))
def test_any_packets_are_survived_and_counted_once(packets: list[tuple[bytes, int]]) -> None:
    head = udp_packet("10.144.0.2", "192.168.7.9", b"")[:20]
    bench = Bench(PLAIN)
    plain = Flag.NO_PROXY | Flag.EXIT_NODE | Flag.NOT_SEND_TO_TUN
    for data, flags in packets:
        for protocol in (1, 6, 17):
            bench.receive(head[:9] + bytes([protocol]) + head[10:] + data, b"\x45" + data, flags=flags & plain)
