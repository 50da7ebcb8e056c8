"""Listeners and connections of the program that runs a node, up to the gate."""

from __future__ import annotations

from ipaddress import IPv4Address

import anyio
import pytest
from anyio.abc import SocketAttribute

from easytier_hooks.streams import TcpConnection
from easytier_host.embedding import BACKLOG, Listeners
from tests.unit.host.tunnel.helpers import running

pytestmark = pytest.mark.anyio

OWN = IPv4Address("10.144.0.1")
SOURCE = IPv4Address("10.144.0.2"), 50_000


async def test_a_connection_reaches_the_listener_of_its_port() -> None:
    listeners = Listeners([OWN])
    first, second = listeners.open(80), listeners.open(81)
    assert second.extra(SocketAttribute.local_port) == 81
    near = listeners.connect((OWN, 80), SOURCE)
    assert near is not None
    far = await first.accept()
    assert far.extra(SocketAttribute.remote_address) == ("10.144.0.2", 50_000)
    await near.send(b"hello")
    assert await far.receive() == b"hello"


@pytest.mark.parametrize("destination", [(OWN, 81), (IPv4Address("10.1.2.3"), 80)])
async def test_others_are_left_to_the_machine(destination: tuple[IPv4Address, int]) -> None:
    listeners = Listeners([OWN])
    listeners.open(80)
    assert listeners.connect(destination, SOURCE) is None


async def test_a_source_that_is_not_told_is_unspecified() -> None:
    listeners = Listeners([OWN])
    listener = listeners.open(80)
    listeners.connect((OWN, 80), None)
    assert (await listener.accept()).extra(SocketAttribute.remote_address) == ("0.0.0.0", 0)


async def test_who_waits_to_be_accepted_is_bounded() -> None:
    listeners = Listeners([OWN])
    listener = listeners.open(80)
    waiting = [listeners.connect((OWN, 80), SOURCE) for _ in range(BACKLOG)]
    with pytest.raises(ConnectionRefusedError, match=f"{BACKLOG} connections to port 80 wait"):
        listeners.connect((OWN, 80), SOURCE)
    await listener.accept()
    assert listeners.connect((OWN, 80), SOURCE) is not None
    await listener.aclose()
    assert waiting[-1] is not None
    with pytest.raises(anyio.BrokenResourceError):
        await waiting[-1].receive()


async def test_a_port_has_one_listener_until_that_is_closed() -> None:
    listeners = Listeners([OWN])
    listener = listeners.open(80)
    with pytest.raises(OSError, match="port 80 has a listener already"):
        listeners.open(80)
    await listener.aclose()
    await listener.aclose()
    assert listeners.connect((OWN, 80), SOURCE) is None
    with pytest.raises(anyio.ClosedResourceError):
        await listener.accept()
    listeners.open(80).close()
    for port in (0, 65_536):
        with pytest.raises(ValueError, match="not a port"):
            listeners.open(port)


async def test_all_who_wait_to_accept_get_their_turn_and_hear_of_the_end() -> None:
    listeners = Listeners([OWN])
    listener = listeners.open(80)
    accepted: list[TcpConnection] = []
    refused: list[str] = []

    async def accept() -> None:
        try:
            accepted.append(await listener.accept())
        except anyio.ClosedResourceError:
            refused.append("closed")

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(accept)
        await anyio.wait_all_tasks_blocked()
        for _ in range(2):
            listeners.connect((OWN, 80), SOURCE)
        await anyio.wait_all_tasks_blocked()
        assert (len(accepted), refused) == (2, [])
        listeners.close()
    assert (len(accepted), refused) == (2, ["closed"])


@pytest.mark.parametrize("own_group", [True, False])
async def test_serving_ends_with_the_listener(own_group: bool) -> None:
    listeners = Listeners([OWN])
    listener = listeners.open(80)

    async def shout(connection: TcpConnection) -> None:
        async with connection:
            await connection.send((await connection.receive()).upper())

    async with running() as tasks:
        tasks.start_soon(listener.serve, shout, tasks if own_group else None)
        for _ in range(2):
            near = listeners.connect((OWN, 80), SOURCE)
            assert near is not None
            await near.send(b"hello")
            assert await near.receive() == b"HELLO"
        await listener.aclose()
        await listener.serve(shout)
