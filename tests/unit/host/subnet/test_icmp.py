"""Pings for networks behind a node: the table of those under way, and a real socket towards loopback where one is allowed."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_hooks.errors import DialRefused
from easytier_hooks.types import IPAddress
from easytier_host import echo, ipv4
from easytier_host.echo import ECHO_REPLY, ECHO_REQUEST, Echo
from easytier_host.metrics import Metrics
from easytier_host.subnet.fragments import Reassembler
from easytier_host.subnet.icmp import TIMEOUT, IcmpProxy, PendingRequests, Request
from tests.unit.host.helpers import PEER, FakeClock, tcp_segment, until

SOURCE = IPv4Address("10.144.0.2")
OWN = IPv4Address("10.144.0.1")
ASKED = IPv4Address("10.1.3.9")
FORBIDDEN = IPv4Address("10.1.3.1")


def waiting(number: int, at: float = 0.0) -> Request:
    return Request(SOURCE.packed, ASKED.packed, number & 0xFFFF, number >> 16, "192.168.7.9", at)


# Requests under way


@given(st.integers(1, 200), st.integers(0, 70_000))
def test_each_request_gets_its_own_reply(count: int, before: int) -> None:
    pending = PendingRequests()
    pending._next = before & 0xFFFF
    sequences = [pending.add(waiting(number)) for number in range(count)]
    assert len(set(sequences)) == count
    for number, sequence in reversed(list(enumerate(sequences))):
        assert pending.settle(sequence, "192.168.7.9", 0.0) == waiting(number)
    assert len(pending) == 0


def test_a_second_reply_and_one_of_a_stranger_are_nobodys() -> None:
    pending = PendingRequests()
    sequence = pending.add(waiting(1))
    assert pending.settle(sequence, "192.168.7.8", 0.0) is None
    assert pending.settle(sequence + 1, "192.168.7.9", 0.0) is None
    assert pending.settle(sequence, "192.168.7.9", 0.0) == waiting(1)
    assert pending.settle(sequence, "192.168.7.9", 0.0) is None


def test_a_reply_that_took_too_long_is_nobodys() -> None:
    pending = PendingRequests()
    in_time, late = pending.add(waiting(1, 5.0)), pending.add(waiting(2, 5.0))
    assert pending.settle(in_time, "192.168.7.9", 4.9 + TIMEOUT) is not None
    assert pending.settle(late, "192.168.7.9", 5.0 + TIMEOUT) is None


def test_the_oldest_request_gives_way() -> None:
    pending = PendingRequests(max_pending=10)
    sequences = [pending.add(waiting(number)) for number in range(70_000)]
    assert len(pending) == 10
    assert pending.settle(sequences[-11], "192.168.7.9", 0.0) is None
    assert pending.settle(sequences[-10], "192.168.7.9", 0.0) == waiting(69_990)


# The proxy


class Bench:
    """A proxy for which everything but FORBIDDEN is 127.0.0.1; what it answers is kept."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.replies: list[bytes] = []
        self.proxy = IcmpProxy(
            self.metrics,
            FakeClock(),
            real_address=self._real,
            reply=lambda _address, packets: self.replies.extend(packets),
            own_address=OWN,
            identifier=0x1234,
            mtu=1360,
        )

    def _real(self, ip: IPAddress, _exit_node: bool) -> IPAddress:
        if ip == FORBIDDEN:
            raise DialRefused("not that one")
        return IPv4Address("127.0.0.1")

    def ping(self, destination: IPv4Address, sequence: int, data: bytes = b"data") -> bool:
        return self.proxy.take(echo.echo_request(SOURCE, destination, 77, sequence, data), False)

    def answers(self) -> list[tuple[IPv4Address, Echo]]:
        """The echo messages with which the source has been answered, and their sources."""
        reassembler, found = Reassembler(Metrics()), []
        for packet in self.replies:
            assert packet[16:20] == SOURCE.packed
            whole = reassembler.add(packet, PEER, 0.0) if ipv4.is_fragment(packet) else packet
            message = None if whole is None else echo.parse(whole)
            if message is not None:
                found.append((IPv4Address(packet[12:16]), message))
        return found


@pytest.mark.parametrize("size", [0, 56, 1180, 3000, 60_000])
def test_the_own_address_is_answered_without_a_socket(size: int) -> None:
    bench = Bench()
    assert bench.ping(OWN, 3, bytes(size))
    assert bench.answers() == [(OWN, Echo(ECHO_REPLY, 77, 3, bytes(size)))]
    assert all(len(packet) <= 1220 for packet in bench.replies)


def test_what_is_no_echo_request_is_not_taken() -> None:
    bench = Bench()
    reply = ipv4.build(SOURCE.packed, ASKED.packed, ipv4.ICMP, Echo(ECHO_REPLY, 1, 1, b"").encode())
    unreachable = ipv4.build(SOURCE.packed, ASKED.packed, ipv4.ICMP, b"\x03\x01" + bytes(30))
    for packet in (reply, unreachable, tcp_segment(), b"\x45" + bytes(40)):
        assert not bench.proxy.take(packet, False)
    assert bench.metrics.dropped_subnet == 0


@pytest.mark.anyio
async def test_without_a_socket_pings_are_counted_and_a_warning_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    bench = Bench()
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "easytier.subnet"):
        patched.setattr(socket, "socket", refuse)
        await run_to_its_end(bench)
    (warning,) = caplog.messages
    assert "ping_group_range" in warning
    assert bench.ping(ASKED, 1)
    assert bench.metrics.dropped_subnet == 1


async def run_to_its_end(bench: Bench) -> None:
    with anyio.fail_after(1):
        await bench.proxy.run()


def allowed(kind: socket.SocketKind) -> bool:
    try:
        socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP).close()
    except OSError:
        return False
    return True


@asynccontextmanager
async def running(kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A bench whose proxy has a socket of this kind and carries replies."""
    genuine = socket.socket

    def make(family: int, wanted: int, protocol: int) -> socket.socket:
        if wanted != kind:
            raise PermissionError(1, "Operation not permitted")
        return genuine(family, wanted, protocol)

    bench = Bench()
    async with anyio.create_task_group() as tasks:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", make)
            tasks.start_soon(bench.proxy.run)
            await until(lambda: bench.proxy._socket)
        yield bench
        tasks.cancel_scope.cancel()


# Raw ones need root or CAP_NET_RAW, unprivileged ones a group in net.ipv4.ping_group_range; tests/interop has machines for
# both.
KINDS = [
    pytest.param(kind, id=name)
    for kind, name in ((socket.SOCK_RAW, "raw"), (socket.SOCK_DGRAM, "unprivileged"))
    if allowed(kind)
]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 56, 3000])
async def test_a_reply_finds_its_way_back(kind: socket.SocketKind, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(kind, monkeypatch) as bench:
        for number in range(5):
            assert bench.ping(ASKED, number, bytes(size))
        await until(lambda: len(bench.answers()) == 5)
        assert bench.answers() == [(ASKED, Echo(ECHO_REPLY, 77, number, bytes(size))) for number in range(5)]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_for_peers_is_not_pinged(kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(kind, monkeypatch) as bench:
        assert bench.ping(FORBIDDEN, 1)
        assert bench.ping(ASKED, 2)
        await until(bench.answers)
        assert bench.answers() == [(ASKED, Echo(ECHO_REPLY, 77, 2, b"data"))]
        assert bench.metrics.dropped_subnet == 1


@given(st.binary(max_size=60))
def test_any_packet_is_survived(data: bytes) -> None:
    bench = Bench()
    for packet in (data, b"\x45" + data, echo.echo_request(SOURCE, ASKED, 1, 1, b"")[:20] + data):
        bench.proxy.take(packet, False)


def test_request_and_reply_differ_in_kind_alone() -> None:
    assert Echo.parse(Echo(ECHO_REQUEST, 1, 2, b"x").encode()) == Echo(ECHO_REQUEST, 1, 2, b"x")
