"""A peer with the right secret does its worst while others work: they lose no byte, and what it holds of a node is bounded."""

from __future__ import annotations

import anyio
import pytest

from easytier_host.rpc.allowance import Allowance
from easytier_host.rpc.framing import MAX_NEIGHBOUR_CALLS
from tests.attack import attacks
from tests.attack.scene import scene

pytest.importorskip("easytier_kcp_plugin._native", reason="needs the user-space TCP stack: install Rust, then this package")

pytestmark = pytest.mark.anyio


async def test_nobody_takes_the_place_of_a_node_that_is_there() -> None:
    """Records of others under their names, and its own under the name and address of one."""
    with anyio.fail_after(60):
        async with scene() as attacked:
            target, near, far = attacked.target, attacked.near, attacked.far
            before = {record.peer_id: record for record in target.routes()}
            await attacked.while_flooded(attacks.records_of_others(attacked))
            after = {record.peer_id: record for record in target.routes()}
            # It was heard, and believed about itself.
            thief = after[attacked.attacker.peer_id]
            assert (thief.hostname, thief.ipv4) == (near.config.hostname, near.config.ipv4)
            for node in (near, far):
                assert after[node.peer_id] == before[node.peer_id]
                peer = target.peer_for(node.addresses[0])
                assert peer is not None
                assert peer.peer_id == node.peer_id


async def test_honest_flows_live_through_every_attack() -> None:
    """One after the other at the same nodes, so that what one has left is there for the next."""
    with anyio.fail_after(120):
        async with scene() as attacked:
            target = attacked.target
            for attack in attacks.ATTACKS:
                # Each is heard, whatever time those before have cost.
                target._rpc._allowance = Allowance()
                try:
                    await attacked.while_flooded(attack(attacked))
                except BaseException as error:
                    error.add_note(f"while attacked by {attack.__name__}")
                    raise
                reassembler = target._rpc._reassembler
                assert reassembler.unfinished <= MAX_NEIGHBOUR_CALLS, attack.__name__
                assert target.failure is None
            metrics = target.metrics
            assert metrics.refused_dials > 0
            assert min(metrics.dropped_forged, metrics.dropped_clear, metrics.dropped_unsealed, metrics.dropped_rpc) > 0
