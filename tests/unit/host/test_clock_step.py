"""The wall clock is set, by a day, while nodes run."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from easytier_host.instance import Node
from tests.unit.host.helpers import FakeClock, make_node, no_plugins, until

pytestmark = pytest.mark.anyio

DAY = 86_400.0


@pytest.mark.parametrize("step", [-DAY, DAY])
async def test_peers_stay_and_new_ones_are_found(step: float) -> None:
    wall = FakeClock(1_700_000_000.0)
    config = make_node(1).config
    async with Node(config, plugins=no_plugins(), wall_clock=wall) as node, make_node(2, *node.listeners) as before:
        await until(lambda: node.routes() and before.routes())
        wall.advance(step)
        node._peers.tick(node._clock())
        node._sync.expire()
        assert [record.peer_id for record in node.routes()] == [before.peer_id]
        async with make_node(3, *node.listeners) as after:
            await until(lambda: len(node.routes()) == len(before.routes()) == len(after.routes()) == 2)
            node._sync.expire()
            assert {record.peer_id for record in node.routes()} == {before.peer_id, after.peer_id}
            assert await after.ping(IPv4Address("10.144.0.1")) < 2
