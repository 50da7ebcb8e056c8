"""The SOCKS5 server over loopback: curl and hand-made clients, the overlay and the kernel's way out, and hostile input."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from easytier_hooks import streams
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import Closed, Failed, FlowKey, IPAddress, PeerInfo
from easytier_host.datagrams import DatagramPort, KernelPort, Receive
from easytier_host.flows import FlowTable
from easytier_host.gate import FlowGate
from easytier_host.socks import server as server_module
from easytier_host.socks import wire
from easytier_host.socks.server import SocksServer
from easytier_host.socks.ways import Ways, may_leave
from easytier_host.socks.wire import Reply
from tests.unit.host.helpers import FakeClock
from tests.unit.host.test_gate import Hooks
from tests.unit.host.tunnel.helpers import running, until

pytestmark = pytest.mark.anyio

PEER = IPv4Address("10.144.0.2")
LOOPBACK = IPv4Address("127.0.0.1")


class World:
    """A server whose overlay is the peer 10.144.0.2: all its TCP ports lead to one server of this machine, which greets."""

    def __init__(self, tasks: TaskGroup, port: int) -> None:
        self.port = port
        self.hooks = Hooks()
        self.hooks.release.set()
        self.refusal: OSError | None = None
        self.overlay_ports: list[OverlayPort] = []
        self.gate = FlowGate(
            FlowTable(),
            self.hooks,
            tasks,
            FakeClock(),
            lambda: 5000.0,
            forward=lambda frames: None,
            peer_for=lambda ip: PeerInfo(7, "b", PEER) if ip == PEER else None,
            is_own=lambda ip: False,
        )
        self.gate.plain = self
        ways = Ways(self.gate, lambda ip: ip in (PEER, IPv4Address("10.144.0.9")), self._open, self._open_directly)
        self.tasks = tasks
        self.server = SocksServer("127.0.0.1", 0, ways, tasks)
        tasks.start_soon(self.server.run)

    @property
    def obstacle(self) -> str:
        return ""

    async def connect(self, key: FlowKey) -> TcpConnection:
        if self.refusal is not None:
            raise self.refusal
        return await streams.connect(LOOPBACK, self.port)

    def _open(self, receive: Receive) -> DatagramPort:
        self.overlay_ports.append(OverlayPort(receive))
        return self.overlay_ports[-1]

    def _open_directly(self, receive: Receive) -> DatagramPort:
        return KernelPort(receive, self.tasks)


class OverlayPort:
    """Answers each datagram with its reverse."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.closed = False

    def send(self, data: bytes, destination: tuple[IPAddress, int]) -> None:
        self.receive(destination, data[::-1])

    def close(self) -> None:
        self.closed = True


async def greet(stream: SocketStream) -> None:
    """A web server of few words."""
    async with stream:
        await stream.receive()
        await stream.send(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, running() as tasks:
        tasks.start_soon(listener.serve, greet)
        yield World(tasks, listener.extra(SocketAttribute.local_port))


class Client:
    """A client made by hand."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._incoming = BufferedByteReceiveStream(stream)

    async def say(self, data: bytes, expected: str) -> None:
        await self.stream.send(data)
        wanted = bytes.fromhex(expected)
        assert await self.read(len(wanted)) == wanted

    async def read(self, count: int) -> bytes:
        return await self._incoming.receive_exactly(count)

    async def ends(self) -> None:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await self._incoming.receive()


@asynccontextmanager
async def client(made: World) -> AsyncIterator[Client]:
    async with await anyio.connect_tcp(*made.server.address) as stream:
        yield Client(stream)


def request(host: str, port: int, command: int = 1) -> bytes:
    ip = ip_address(host)
    return bytes((5, command, 0, 1 if ip.version == 4 else 4)) + ip.packed + port.to_bytes(2, "big")


GRANTED, UNREACHABLE, REFUSED = "05000001000000000000", "05040001000000000000", "05050001000000000000"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the command curl")
@pytest.mark.parametrize("option", ["--socks5", "--socks5-hostname"])
@pytest.mark.parametrize("host", ["10.144.0.2", "127.0.0.1", "localhost"])
async def test_curl_gets_its_page(option: str, host: str) -> None:
    async with world() as made:
        url = f"http://{host}:{80 if host == '10.144.0.2' else made.port}/"
        proxy = f"127.0.0.1:{made.server.address[1]}"
        result = await anyio.run_process(["curl", "-sS", "--noproxy", "", option, proxy, url], check=False)
        assert (result.stdout, result.stderr) == (b"hello", b"")
        ends = [event for _, event in made.hooks.told if isinstance(event, Closed)]
        assert len(ends) == (host == "10.144.0.2")


async def test_a_flow_of_the_overlay_is_told_with_the_client_as_its_source() -> None:
    async with world() as made, client(made) as c:
        await c.say(b"\x05\x01\x00", "0500")
        await c.say(request("10.144.0.2", 80), GRANTED)
        flow = made.hooks.told[0][0]
        assert flow.key == FlowKey(LOOPBACK, c.stream.extra(SocketAttribute.local_port), PEER, 80)
        assert (flow.direction, flow.peer and flow.peer.hostname) == ("forwarded", "b")


async def test_bytes_sent_with_the_request_arrive() -> None:
    async with world() as made, client(made) as c:
        await c.stream.send(b"\x05\x01\x00" + request("10.144.0.2", 80) + b"GET / HTTP/1.0\r\n\r\n")
        assert await c.read(12) == bytes.fromhex("0500" + GRANTED)
        assert (await c.read(43))[-5:] == b"hello"
        await c.ends()


@pytest.mark.parametrize(
    ("refusal", "reply"),
    [
        (ConnectionRefusedError("closed"), Reply.REFUSED),
        (TimeoutError("silent"), Reply.TIMED_OUT),
        (OSError("no way"), Reply.HOST_UNREACHABLE),
        (OSError(101, "unreachable"), Reply.NETWORK_UNREACHABLE),
    ],
)
async def test_what_cannot_be_reached_is_said_in_a_reply(refusal: OSError, reply: Reply) -> None:
    async with world() as made, client(made) as c:
        made.refusal = refusal
        await c.say(b"\x05\x01\x00", "0500")
        await c.say(request("10.144.0.2", 80), wire.encode_reply(reply).hex())
        await c.ends()
        assert isinstance(made.hooks.told[-1][1], Failed)


async def test_an_address_of_the_overlay_that_nobody_has_is_not_looked_for_elsewhere() -> None:
    async with world() as made, client(made) as c:
        await c.say(b"\x05\x01\x00", "0500")
        await c.say(request("10.144.0.9", 80), UNREACHABLE)
        assert made.hooks.told[-1][1] == Failed("no peer has 10.144.0.9")


async def test_a_closed_port_of_the_machine_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with world() as made, client(made) as c:
            await c.say(b"\x05\x01\x00", "0500")
            await c.say(request("127.0.0.1", unused.getsockname()[1]), REFUSED)
            assert made.hooks.told == []


@pytest.mark.parametrize(
    ("who", "destination", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("192.0.2.7", "127.0.0.1", False),
        ("192.0.2.7", "169.254.1.1", False),
        ("192.0.2.7", "::1", False),
        ("192.0.2.7", "198.51.100.1", True),
        ("127.0.0.1", "0.0.0.0", False),
        ("127.0.0.1", "224.0.0.1", False),
    ],
)
def test_who_may_leave_to_where(who: str, destination: str, allowed: bool) -> None:
    assert may_leave(ip_address(who), ip_address(destination)) is allowed


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ""),
        (b"\x05\x01\x02", "05ff"),
        (b"\x05\x01\x00" + request("10.144.0.2", 80, command=2), "0500" + wire.encode_reply(Reply.COMMAND_UNKNOWN).hex()),
        (b"\x05\x01\x00\x05\x01\x00\x07\x00", "0500" + wire.encode_reply(Reply.ADDRESS_KIND_UNKNOWN).hex()),
        (b"\x05\x01\x00\x05\x01\x00\x03\x40" + b"a" * 64 + b"\0\x50", "0500" + UNREACHABLE),
    ],
)
async def test_what_cannot_be_served_is_answered_and_ended(sent: bytes, expected: str) -> None:
    async with world() as made, client(made) as c:
        await c.say(sent, expected)
        await c.ends()


async def test_a_client_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT", 0.02)
    async with world() as made, client(made) as c:
        await c.stream.send(b"\x05")
        await c.ends()


async def associate(c: Client) -> tuple[str, int]:
    await c.say(b"\x05\x01\x00", "0500")
    await c.stream.send(request("0.0.0.0", 0, command=3))
    reply = await c.read(10)
    assert reply[:4] == bytes.fromhex("05000001")
    return str(IPv4Address(reply[4:8])), int.from_bytes(reply[8:], "big")


async def test_datagrams_go_into_the_overlay_and_to_the_machine() -> None:
    async with world() as made, client(made) as c, await anyio.create_udp_socket(local_host="127.0.0.1") as echo:
        relay = await associate(c)
        echo_port = echo.extra(SocketAttribute.local_port)
        async with await anyio.create_connected_udp_socket(*relay) as udp:
            await udp.send(wire.encode_datagram((PEER, 53), b"abc"))
            assert await udp.receive() == wire.encode_datagram((PEER, 53), b"cba")
            await udp.send(wire.encode_datagram((LOOPBACK, echo_port), b"direct"))
            data, (host, port) = await echo.receive()
            await echo.sendto(data + b"!", host, port)
            assert await udp.receive() == wire.encode_datagram((LOOPBACK, echo_port), b"direct!")
        await c.stream.aclose()
        await until(lambda: made.overlay_ports[0].closed)


async def test_what_an_association_does_not_carry() -> None:
    async with world() as made, client(made) as c:
        relay = await associate(c)
        async with await anyio.create_connected_udp_socket(*relay) as udp:
            good = wire.encode_datagram((PEER, 53), b"abc")
            await udp.send(b"")
            await udp.send(b"\0\0\1" + good[3:])
            await udp.send(b"\0\0\0\x03\x09localhost\x00\x35x")
            await udp.send(wire.encode_datagram((IPv6Address("::1"), 53), b"x"))
            await udp.send(wire.encode_datagram((IPv4Address("224.0.0.1"), 53), b"x"))
            await udp.send(wire.encode_datagram((PEER, 0), b"x"))
            await udp.send(good)
            assert await udp.receive() == wire.encode_datagram((PEER, 53), b"cba")
            made.overlay_ports[0].receive((IPv4Address("10.144.0.3"), 53), b"never asked")
            made.overlay_ports[0].receive((PEER, 54), b"another port")
            assert await udp.receive() == wire.encode_datagram((PEER, 54), b"another port")
            async with await anyio.create_connected_udp_socket(*relay) as stranger:
                await stranger.send(wire.encode_datagram((PEER, 53), b"from another port"))
            await udp.send(good)
            assert await udp.receive() == wire.encode_datagram((PEER, 53), b"cba")


async def test_associations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_ASSOCIATIONS", 1)
    async with world() as made, client(made) as first:
        await associate(first)
        async with client(made) as second:
            await second.say(b"\x05\x01\x00", "0500")
            await second.say(request("0.0.0.0", 0, command=3), wire.encode_reply(Reply.FAILED).hex())
        await first.stream.aclose()
        await until(lambda: made.server._associations == 0)
        async with client(made) as third:
            await associate(third)
