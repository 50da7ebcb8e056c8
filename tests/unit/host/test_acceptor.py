"""Listeners for applications: who is let in, who is turned away, and what becomes of a client whose handler fails."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import anyio
import pytest

from easytier_hooks.services import Endpoint
from easytier_hooks.streams import SocketStream
from easytier_hooks.types import FlowKey
from easytier_host.acceptor import Acceptor
from easytier_host.forward import flow_key
from easytier_host.sockets import to_endpoint
from tests.unit.host.tunnel.helpers import running, until

pytestmark = pytest.mark.anyio

PEER = IPv4Address("10.144.0.2"), 80


async def is_reset(stream: anyio.abc.SocketStream) -> bool:
    try:
        await stream.receive()
    except anyio.BrokenResourceError:
        return True
    except anyio.EndOfStream:
        pass
    return False


async def test_a_client_is_served_with_both_addresses() -> None:
    seen: list[tuple[Endpoint, Endpoint]] = []

    async def serve(stream: SocketStream, source: Endpoint, local: Endpoint) -> None:
        seen.append((source, local))
        await stream.send(b"welcome")
        await stream.aclose()

    async with running() as tasks:
        acceptor = Acceptor("127.0.0.1", 0, serve)
        tasks.start_soon(acceptor.run, tasks)
        async with await anyio.connect_tcp(*acceptor.address) as client:
            assert await client.receive() == b"welcome"
            own = client.extra(anyio.abc.SocketAttribute.local_address)
            assert isinstance(own, tuple)
        assert seen == [(to_endpoint(own), to_endpoint(acceptor.address))]


async def test_clients_above_the_cap_are_reset_until_others_go() -> None:
    release = anyio.Event()
    served: list[Endpoint] = []

    async def serve(stream: SocketStream, source: Endpoint, local: Endpoint) -> None:
        served.append(source)
        await release.wait()
        await stream.aclose()

    async with running() as tasks:
        acceptor = Acceptor("127.0.0.1", 0, serve, max_connections=2)
        tasks.start_soon(acceptor.run, tasks)
        clients = [await anyio.connect_tcp(*acceptor.address) for _ in range(3)]
        assert await is_reset(clients[2])
        assert acceptor.refused == 1
        release.set()
        assert not await is_reset(clients[0])
        await until(lambda: acceptor._connections == 0)
        async with await anyio.connect_tcp(*acceptor.address) as late:
            assert not await is_reset(late)
        for client in clients:
            await client.aclose()
        assert len(served) == 3


async def test_a_handler_that_fails_costs_its_client_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def serve(stream: SocketStream, source: Endpoint, local: Endpoint) -> None:
        raise ZeroDivisionError

    async with running() as tasks:
        acceptor = Acceptor("127.0.0.1", 0, serve)
        tasks.start_soon(acceptor.run, tasks)
        for _ in range(2):
            async with await anyio.connect_tcp(*acceptor.address) as client:
                assert await is_reset(client)
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


async def test_a_port_that_is_taken_is_an_error() -> None:
    async def serve(stream: SocketStream, source: Endpoint, local: Endpoint) -> None:
        raise AssertionError("nobody comes")

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="Address already in use"):
            Acceptor("127.0.0.1", other.getsockname()[1], serve)
        Acceptor("::1", 0, serve).close()


def test_a_source_of_the_other_family_is_shown_as_unspecified() -> None:
    client = IPv6Address("::1"), 5
    assert flow_key(client, PEER) == FlowKey(IPv4Address(0), 5, *PEER)
    assert flow_key((IPv4Address("127.0.0.1"), 5), PEER) == FlowKey(IPv4Address("127.0.0.1"), 5, *PEER)
    assert flow_key((PEER[0], 5), client).source_ip == IPv6Address(0)


def test_addresses_of_sockets() -> None:
    assert to_endpoint(("::ffff:192.0.2.1", 7, 0, 0)) == (IPv4Address("192.0.2.1"), 7)
    assert to_endpoint(("fe80::1%eth0", 7, 0, 2)) == (IPv6Address("fe80::1"), 7)
