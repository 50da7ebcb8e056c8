"""Two nodes in one process, joined by the tunnel in memory: no socket at all."""

from __future__ import annotations

from ipaddress import IPv4Address

import anyio
import pytest

from easytier_host.handshake import HandshakeError
from easytier_host.tunnel import ring
from tests.unit.host.helpers import make_node

pytestmark = pytest.mark.anyio


async def test_nodes_joined_in_memory_reach_each_other() -> None:
    async with make_node(1, listeners=()) as first, make_node(2, listeners=()) as second, anyio.create_task_group() as tasks:
        one, two = ring.pair(tasks)
        first.accept_tunnel(one)
        conn = await second.join_tunnel(two)
        assert conn.peer_id == first.peer_id
        with anyio.fail_after(10):
            events = second.events()
            while not second.routes():
                await anext(events)
            assert await second.ping(IPv4Address("10.144.0.1")) > 0
        one.close("the program is done")
        with anyio.fail_after(10):
            await conn.gone.wait()
        tasks.cancel_scope.cancel()


async def test_a_stranger_in_memory_is_refused() -> None:
    async with (
        make_node(1, listeners=()) as first,
        make_node(2, listeners=(), network_secret="another") as second,
        anyio.create_task_group() as tasks,
    ):
        one, two = ring.pair(tasks)
        first.accept_tunnel(one)
        with anyio.fail_after(10), pytest.raises(HandshakeError, match="another secret"):
            await second.join_tunnel(two)
        tasks.cancel_scope.cancel()
