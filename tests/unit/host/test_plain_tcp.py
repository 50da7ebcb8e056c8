"""Where a plain TCP connection of this node begins, its ports, and the words for what goes wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address

import anyio
import pytest

from easytier_hooks.errors import DialRefused, TransportUnavailable
from easytier_hooks.services import FrameHandler, Link
from easytier_hooks.streams import SocketStream, TcpConnection
from easytier_hooks.types import FlowKey, IPAddress
from easytier_host import plain_tcp
from easytier_host.claims import Claims
from easytier_host.flows import FlowTable
from easytier_host.plain_tcp import FIRST_PORT, LAST_PORT, EphemeralPorts, OutgoingLink, PlainTcp

pytestmark = pytest.mark.anyio

OWN, OWN6, PEER = IPv4Address("10.144.0.1"), IPv6Address("fd00::1"), IPv4Address("10.144.0.2")
CLIENT = IPv4Address("127.0.0.1")


class FakeLink:
    """Keeps claims as a real one."""

    mtu = 1360

    def __init__(self) -> None:
        self.claims = Claims(FlowTable())
        self.written: list[bytes] = []

    def claim(self, key: FlowKey, handler: FrameHandler) -> Callable[[], None]:
        return self.claims.add(key, handler)

    def write(self, frames: Sequence[bytes]) -> None:
        self.written += frames


class FakeStack:
    """Begins connections that claim their answers for ever; `fails` is what it raises instead."""

    name = "fake"
    description = "for tests"
    carries_subnets = True

    def __init__(self) -> None:
        self.keys: list[FlowKey] = []
        self.fails: Exception | None = None
        self.hangs = False

    def available(self) -> str:
        return ""

    async def terminate(self, link: Link, key: FlowKey, syn: bytes) -> TcpConnection:
        raise AssertionError("nobody here ends a connection")

    async def connect(self, link: Link, key: FlowKey) -> TcpConnection:
        self.keys.append(key)
        if self.hangs:
            await anyio.sleep_forever()
        if self.fails is not None:
            raise self.fails
        link.claim(FlowKey(key.destination_ip, key.destination_port, key.source_ip, key.source_port), lambda _: None)
        near, far = socket.socketpair()
        far.close()
        return SocketStream(near)


async def nobody(ip: IPAddress, port: int) -> TcpConnection:
    raise AssertionError("not for this node")


def plain(stack: FakeStack | None, *, own: Sequence[IPAddress] = (OWN, OWN6), first: int = 0, obstacle: str = "") -> PlainTcp:
    return PlainTcp(own, nobody, stack, FakeLink() if stack else None, EphemeralPorts(first), obstacle=obstacle)


def flow(ip: IPAddress = PEER, port: int = 80, source: tuple[IPAddress, int] = (CLIENT, 40_000)) -> FlowKey:
    return FlowKey(*source, ip, port)


def test_ports_go_round() -> None:
    ports = EphemeralPorts(LAST_PORT - FIRST_PORT)
    assert [ports.next() for _ in range(3)] == [65_535, 49_152, 49_153]
    assert FIRST_PORT <= EphemeralPorts(123_456).next() <= LAST_PORT


async def test_a_connection_begins_at_our_address_and_a_port_of_its_own() -> None:
    stack = FakeStack()
    dialler = plain(stack)
    for _ in range(2):
        await (await dialler.connect(flow())).aclose()
    await (await dialler.connect(FlowKey(IPv6Address("::1"), 1, IPv6Address("fd00::2"), 80))).aclose()
    assert stack.keys == [
        FlowKey(OWN, 49_152, PEER, 80),
        FlowKey(OWN, 49_153, PEER, 80),
        FlowKey(OWN6, 49_154, IPv6Address("fd00::2"), 80),
    ]


async def test_a_source_of_ours_is_kept() -> None:
    stack = FakeStack()
    await (await plain(stack).connect(flow(source=(OWN, 60_000)))).aclose()
    assert stack.keys == [FlowKey(OWN, 60_000, PEER, 80)]


async def test_a_port_that_is_in_use_to_that_destination_is_passed_over() -> None:
    stack = FakeStack()
    dialler = plain(stack, first=0)
    await (await dialler.connect(flow(source=(OWN, 49_152)))).aclose()
    await (await dialler.connect(flow(source=(OWN, 49_152)))).aclose()
    await (await dialler.connect(flow(source=(OWN, 49_152), port=81))).aclose()
    assert [key.source_port for key in stack.keys] == [49_152, 49_153, 49_152]


async def test_with_all_ports_in_use_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_tcp, "LAST_PORT", FIRST_PORT)
    stack = FakeStack()
    dialler = plain(stack)
    await (await dialler.connect(flow())).aclose()
    with pytest.raises(OSError, match=r"no free port for a connection to 10\.144\.0\.2:80"):
        await dialler.connect(flow())


async def test_without_a_stack_the_kernel_connects() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        await (await plain(None).connect(flow(CLIENT, port))).aclose()
    with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{port} refused"):
        await plain(None).connect(flow(CLIENT, port))


async def test_our_own_address_is_reached_as_peers_reach_it() -> None:
    dialled = []

    async def dial(ip: IPAddress, port: int) -> TcpConnection:
        dialled.append((ip, port))
        raise DialRefused("port 80 is a listener of this node")

    dialler = PlainTcp([OWN], dial, None, None, EphemeralPorts(0), obstacle="nothing else works")
    with pytest.raises(ConnectionRefusedError, match="port 80 is a listener"):
        await dialler.connect(flow(OWN))
    assert dialled == [(OWN, 80)]
    with pytest.raises(OSError, match="nothing else works"):
        await dialler.connect(flow())


@pytest.mark.parametrize(
    ("fails", "error", "text"),
    [
        (ConnectionRefusedError("x"), ConnectionRefusedError, r"10\.144\.0\.2:80 refused"),
        (TransportUnavailable("the stack is full"), OSError, "the stack is full"),
        (OSError("broken"), OSError, "broken"),
        (ZeroDivisionError(), OSError, "the TCP stack failed, see the log"),
    ],
)
async def test_failures_of_the_stack(fails: Exception, error: type[OSError], text: str) -> None:
    stack = FakeStack()
    stack.fails = fails
    with pytest.raises(error, match=text):
        await plain(stack).connect(flow())


async def test_silence_ends_in_a_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_tcp, "CONNECT_TIMEOUT", 0.01)
    stack = FakeStack()
    stack.hangs = True
    with pytest.raises(TimeoutError, match=r"no answer from 10\.144\.0\.2:80 in 0\.01 s"):
        await plain(stack).connect(flow())


async def test_a_family_that_this_node_has_not() -> None:
    with pytest.raises(OSError, match="no IPv6 address in the overlay"):
        await plain(FakeStack(), own=[OWN]).connect(FlowKey(IPv6Address(0), 1, IPv6Address("fd00::2"), 80))


def test_an_outgoing_link_shares_claims_and_sends_its_own_way() -> None:
    overlay = FakeLink()
    sent: list[bytes] = []
    link = OutgoingLink(overlay, sent.extend)
    assert isinstance(link, Link)
    assert link.mtu == overlay.mtu
    link.write([b"frame"])
    assert (sent, overlay.written) == ([b"frame"], [])
    end = link.claim(flow(), lambda _: None)
    with pytest.raises(ValueError, match="claimed already"):
        overlay.claim(flow(), lambda _: None)
    end()
    overlay.claim(flow(), lambda _: None)
