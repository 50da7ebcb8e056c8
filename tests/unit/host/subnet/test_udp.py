"""UDP for networks behind a node: real sockets on loopback, a clock that stands still."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address

import anyio
import pytest

from easytier_hooks.errors import DialRefused
from easytier_hooks.types import IPAddress
from easytier_host import ipv4
from easytier_host.ipv4 import UdpDatagram
from easytier_host.metrics import Metrics
from easytier_host.subnet import udp
from easytier_host.subnet.fragments import Reassembler
from easytier_host.subnet.udp import UdpProxy
from tests.unit.host.helpers import OTHER, PEER, FakeClock, device_frame, until

pytestmark = pytest.mark.anyio

SOURCE = IPv4Address("10.144.0.2").packed
ASKED = IPv4Address("10.1.3.9")
LOOPBACK = IPv4Address("127.0.0.1")
MTU = 1360


class Bench:
    """A proxy that leads every address to loopback, but refuses port 1; what it answers is kept."""

    def __init__(self, mtu: int = MTU) -> None:
        self.metrics = Metrics()
        self.clock = FakeClock()
        self.replies: list[bytes] = []
        self.asked: list[tuple[IPAddress, int, bool]] = []
        self.proxy = UdpProxy(self.metrics, self.clock, real_address=self._real, reply=self._reply, mtu=mtu)

    def _real(self, ip: IPAddress, port: int, exit_node: bool) -> tuple[IPAddress, int]:
        self.asked.append((ip, port, exit_node))
        if port == 1:
            raise DialRefused("not that one")
        return LOOPBACK, port

    def _reply(self, address: bytes, packets: list[bytes]) -> None:
        assert all(packet[16:20] == address for packet in packets)
        self.replies += packets

    def send(
        self,
        port: int,
        data: bytes = b"question",
        *,
        source_port: int = 5000,
        peer: int = PEER,
        exit_node: bool = False,
        asked: IPv4Address = ASKED,
    ) -> None:
        packet = ipv4.build_udp(SOURCE, asked.packed, UdpDatagram(source_port, port, data))
        self.proxy.take(packet, peer, exit_node)

    def answers(self) -> list[tuple[IPv4Address, UdpDatagram]]:
        """What the source has been answered, put together again."""
        reassembler, found = Reassembler(Metrics()), []
        for packet in self.replies:
            whole = reassembler.add(packet, PEER, 0.0) if ipv4.is_fragment(packet) else packet
            datagram = ipv4.parse_udp(whole) if whole is not None else None
            if datagram is not None:
                found.append((IPv4Address(packet[12:16]), datagram))
        return found


@asynccontextmanager
async def bench(mtu: int = MTU) -> AsyncIterator[Bench]:
    """A bench whose proxy runs."""
    made = Bench(mtu)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.proxy.run)
        yield made
        tasks.cancel_scope.cancel()


@contextmanager
def server() -> Iterator[socket.socket]:
    """A bound socket on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(5)
        yield bound


def port_of(bound: socket.socket) -> int:
    port: int = bound.getsockname()[1]
    return port


@pytest.mark.parametrize("size", [0, 1, 1200, 3000, 60_000])
async def test_a_datagram_goes_out_and_its_answer_comes_from_where_it_was_sent(size: int) -> None:
    async with bench() as made:
        with server() as far:
            made.send(port_of(far), bytes(size))
            data, sender = far.recvfrom(65_535)
            assert data == bytes(size)
            far.sendto(data[::-1] + b"!", sender)
            await until(made.answers)
            assert made.answers() == [(ASKED, UdpDatagram(port_of(far), 5000, bytes(size) + b"!"))]
            assert all(len(packet) <= 1300 for packet in made.replies)


async def test_answers_are_cut_to_a_small_overlay() -> None:
    async with bench(mtu=600) as made:
        with server() as far:
            made.send(port_of(far))
            _, sender = far.recvfrom(100)
            far.sendto(bytes(2000), sender)
            await until(made.answers)
            assert max(map(len, made.replies)) <= 600


async def test_each_source_has_a_port_of_its_own_and_keeps_it() -> None:
    async with bench() as made:
        with server() as far, server() as second:
            made.send(port_of(far), source_port=5000)
            made.send(port_of(second), source_port=5000)
            made.send(port_of(far), source_port=5001)
            first, again, other = far.recvfrom(9)[1], second.recvfrom(9)[1], far.recvfrom(9)[1]
            assert first == again != other
            assert len(made.proxy) == 2
            far.sendto(b"to the second", other)
            await until(made.answers)
            assert made.answers()[0][1].destination_port == 5001


async def test_another_port_of_a_host_may_answer_but_no_other_host() -> None:
    async with bench() as made:
        with server() as far, server() as helper, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            made.send(port_of(far))
            _, (_, port) = far.recvfrom(100)
            stranger.bind(("127.0.0.2", 0))
            stranger.sendto(b"unasked", ("127.0.0.1", port))
            helper.sendto(b"asked", ("127.0.0.1", port))
            await until(made.answers)
            assert made.answers() == [(ASKED, UdpDatagram(port_of(helper), 5000, b"asked"))]
            assert made.metrics.dropped_subnet == 1


async def test_what_is_not_for_peers_is_refused_and_costs_no_socket() -> None:
    async with bench() as made:
        made.send(1, exit_node=True)
        assert made.asked == [(ASKED, 1, True)]
        assert (len(made.proxy), made.metrics.dropped_subnet) == (0, 1)


async def test_a_destination_is_judged_once() -> None:
    async with bench() as made:
        with server() as far:
            for _ in range(3):
                made.send(port_of(far))
            assert len(made.asked) == 1
            made.send(port_of(far), asked=IPv4Address("10.1.3.10"))
            assert len(made.asked) == 2


@pytest.mark.parametrize("damage", [b"", b"\x00" * 30, b"\x45" + bytes(40)])
async def test_what_is_no_datagram_is_counted(damage: bytes) -> None:
    async with bench() as made:
        made.proxy.take(damage, PEER, False)
        made.send(7, source_port=0)
        assert (made.metrics.dropped_subnet, len(made.proxy)) == (2, 0)


async def test_a_silent_source_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "TICK", 0.001)
    async with bench() as made:
        with server() as far:
            made.send(port_of(far), source_port=5000)
            made.clock.advance(udp.TIMEOUT - 1)
            made.send(port_of(far), source_port=5001)
            made.clock.advance(1)
            await until(lambda: len(made.proxy) == 1)
            senders = [far.recvfrom(100)[1] for _ in range(2)]
            far.sendto(b"still there", senders[1])
            await until(made.answers)
            assert made.answers()[0][1].destination_port == 5001


async def test_an_answer_keeps_a_source_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "TICK", 0.001)
    async with bench() as made:
        with server() as far:
            made.send(port_of(far))
            _, sender = far.recvfrom(100)
            for number in range(1, 4):
                made.clock.advance(udp.TIMEOUT - 1)
                far.sendto(b"news", sender)
                await until(lambda expected=number: len(made.answers()) == expected)  # type: ignore[misc]
            assert len(made.proxy) == 1


async def test_the_longest_silent_source_gives_way_first_within_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_SOURCES", 5)
    monkeypatch.setattr(udp, "MAX_SOURCES_PER_PEER", 3)
    async with bench() as made:
        with server() as far:

            def send(*ports: int, peer: int) -> list[tuple[str, int]]:
                """The addresses from which the datagrams come out."""
                for port in ports:
                    made.send(port_of(far), source_port=port, peer=peer)
                return [far.recvfrom(100)[1] for _ in ports]

            first, second, _ = send(1, 2, 3, peer=PEER)
            send(1, 4, peer=PEER)
            assert send(1, peer=PEER) == [first]
            send(11, 12, peer=OTHER)
            assert len(made.proxy) == 5
            # Port 2 gave way to 4 already, and 3 does now.
            send(13, peer=OTHER)
            assert len(made.proxy) == 5
            assert send(1, peer=PEER) == [first]
            assert second not in send(2, peer=PEER)


async def test_destinations_of_a_source_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_DESTINATIONS", 2)
    async with bench() as made:
        with server() as far:
            for number in range(1, 5):
                made.send(port_of(far), asked=IPv4Address(f"10.1.3.{number}"))
            assert len(made.asked) == 4
            made.send(port_of(far), asked=IPv4Address("10.1.3.4"))
            assert len(made.asked) == 4
            made.send(port_of(far), asked=IPv4Address("10.1.3.1"))
            assert len(made.asked) == 5


def question(port: int, *, fragment: int = 0) -> bytes:
    """The device frame in which a host behind the node asks the peer."""
    asking = UdpDatagram(port, 5000, b"from a host")
    packet = ipv4.build_udp(ASKED.packed, SOURCE, asking)
    return device_frame(packet[:6] + fragment.to_bytes(2, "big") + packet[8:])


async def test_answers_to_hosts_that_asked_are_left_to_the_kernel() -> None:
    async with bench() as made:
        with server() as far:
            port = port_of(far)
            made.proxy.watch([question(port), question(port + 1, fragment=1), b"", device_frame(b"\x45" + bytes(30))])
            answer = ipv4.build_udp(SOURCE, ASKED.packed, UdpDatagram(5000, port, b"answer"))
            assert made.proxy.is_answer(answer)
            # What comes from another port, or goes to another one, is no answer.
            for other in (UdpDatagram(5001, port, b""), UdpDatagram(5000, port + 1, b"")):
                assert not made.proxy.is_answer(ipv4.build_udp(SOURCE, ASKED.packed, other))
            made.clock.advance(udp.TIMEOUT)
            assert not made.proxy.is_answer(answer)


def test_questions_of_hosts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_QUESTIONS", 3)
    made = Bench()
    made.proxy.watch([question(1), *(question(port) for port in range(1, 5))])
    answers = [ipv4.build_udp(SOURCE, ASKED.packed, UdpDatagram(5000, port, b"")) for port in (1, 2, 3, 4)]
    assert [made.proxy.is_answer(answer) for answer in answers] == [False, True, True, True]


async def test_without_descriptors_a_datagram_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(24, "too many open files")

    async with bench() as made:
        with server() as far, monkeypatch.context() as patched:
            patched.setattr(socket, "socket", refuse)
            made.send(port_of(far))
        assert (len(made.proxy), made.metrics.dropped_subnet) == (0, 1)


async def test_all_sockets_are_closed_at_the_end() -> None:
    async with bench() as made:
        with server() as far:
            made.send(port_of(far))
            far.recvfrom(100)
            assert len(made.proxy) == 1
    assert len(made.proxy) == 0
