"""UDP port forwards: clients are told apart, bounded and forgotten; answers count from the destination alone."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, ip_address

import anyio
import pytest

from easytier_hooks.services import Endpoint
from easytier_host import forward_udp
from easytier_host.config.model import PortForward
from easytier_host.datagrams import DatagramPort, KernelPort, Receive
from easytier_host.forward import ForwardError
from easytier_host.forward_udp import TIMEOUT, UdpForward
from tests.unit.host.helpers import FakeClock
from tests.unit.host.tunnel.helpers import running, until

pytestmark = pytest.mark.anyio

TARGET = IPv4Address("10.144.0.2"), 53


class FakePort:
    """Keeps what is sent; `receive` is where its answers go."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.sent: list[tuple[bytes, Endpoint]] = []
        self.closed = False

    def send(self, data: bytes, destination: Endpoint) -> None:
        self.sent.append((data, destination))

    def close(self) -> None:
        self.closed = True


class Scene:
    """A forward that runs, the ports that it opened, and clients."""

    def __init__(self) -> None:
        self.ports: list[FakePort] = []
        self.clock = FakeClock()
        self.full = False
        self.forward = UdpForward(PortForward("127.0.0.1:0", "10.144.0.2:53", "udp"), self._open, self.clock)
        self.clients: list[socket.socket] = []

    def _open(self, receive: Receive) -> DatagramPort:
        if self.full:
            raise OSError("no port is left")
        self.ports.append(FakePort(receive))
        return self.ports[-1]

    def client(self) -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.clients.append(client)
        client.setblocking(False)
        client.connect(self.forward.address)
        return client


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    try:
        async with running() as tasks:
            tasks.start_soon(made.forward.run)
            yield made
    finally:
        for client in made.clients:
            client.close()


async def answer_to(client: socket.socket) -> bytes:
    await anyio.wait_readable(client)
    return client.recv(65_535)


async def test_clients_have_ports_of_their_own_and_get_their_own_answers() -> None:
    async with scene() as s:
        clients = [s.client(), s.client()]
        for number, client in enumerate(clients):
            client.send(b"question %d" % number)
            await until(lambda: len(s.ports) == number + 1)  # noqa: B023 - awaited at once
        assert [port.sent for port in s.ports] == [[(b"question 0", TARGET)], [(b"question 1", TARGET)]]
        clients[0].send(b"again")
        await until(lambda: len(s.ports[0].sent) == 2)
        for number in (1, 0):
            s.ports[number].receive(TARGET, b"answer %d" % number)
            assert await answer_to(clients[number]) == b"answer %d" % number
    assert all(port.closed for port in s.ports)


@pytest.mark.parametrize("source", [(TARGET[0], 54), (IPv4Address("10.144.0.3"), 53)])
async def test_nobody_else_may_answer(source: Endpoint) -> None:
    async with scene() as s:
        client = s.client()
        client.send(b"question")
        await until(lambda: s.ports)
        s.ports[0].receive(source, b"forged")
        s.ports[0].receive(TARGET, b"answer")
        assert await answer_to(client) == b"answer"


async def test_a_silent_client_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_udp, "TICK", 0.01)
    async with scene() as s:
        s.client().send(b"first")
        await until(lambda: len(s.ports) == 1)
        s.clock.advance(TIMEOUT / 2)
        s.client().send(b"second")
        await until(lambda: len(s.ports) == 2)
        s.clock.advance(TIMEOUT / 2)
        await until(lambda: s.ports[0].closed)
        assert not s.ports[1].closed
        s.ports[0].receive(TARGET, b"too late")
        assert len(s.forward) == 1


async def test_an_answer_keeps_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_udp, "TICK", 0.01)
    async with scene() as s:
        first, second = s.client(), s.client()
        for client in (first, second):
            client.send(b"hello")
            await until(lambda: s.ports and s.ports[-1].sent)
        await until(lambda: len(s.ports) == 2)
        s.clock.advance(TIMEOUT - 1)
        s.ports[0].receive(TARGET, b"answer")
        s.clock.advance(1)
        await until(lambda: s.ports[1].closed)
        assert not s.ports[0].closed


async def test_the_one_that_was_silent_longest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_udp, "MAX_CLIENTS", 2)
    async with scene() as s:
        clients = [s.client() for _ in range(3)]
        for count, number in enumerate((0, 1, 0, 2), 1):
            clients[number].send(b"%d" % number)
            await until(lambda: sum(len(port.sent) for port in s.ports) == count)  # noqa: B023 - awaited at once
        await until(lambda: s.ports[1].closed)
        assert [port.closed for port in s.ports] == [False, True, False]


async def test_without_a_port_a_datagram_is_dropped() -> None:
    async with scene() as s:
        s.full = True
        s.client().send(b"lost")
        s.full = False
        client = s.client()
        client.send(b"question")
        await until(lambda: s.ports)
        s.ports[-1].receive(TARGET, b"answer")
        assert await answer_to(client) == b"answer"


async def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(ForwardError, match=f"port_forward 127.0.0.1:{port}: cannot listen there"):
            UdpForward(PortForward(f"127.0.0.1:{port}", "10.144.0.2:53", "udp"), FakePort, FakeClock())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_port_of_the_kernel(host: str) -> None:
    received: list[tuple[Endpoint, bytes]] = []
    async with running() as tasks:
        async with await anyio.create_udp_socket(local_host=host) as server:
            ip, port = ip_address(host), server.extra(anyio.abc.SocketAttribute.local_port)
            kernel = KernelPort(lambda source, data: received.append((source, data)), tasks, ip.version)
            kernel.send(b"question", (ip, port))
            data, client = await server.receive()
            await server.sendto(data + b"!", *client)
            await until(lambda: received)
            assert received == [((ip, port), b"question!")]
        # Nobody there: the kernel tells, and the port goes on.
        kernel.send(b"x", (ip, port))
        kernel.send(bytes(70_000), (ip, port))
        kernel.close()
        kernel.close()
