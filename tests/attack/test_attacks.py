"""A peer with the right secret does its worst while others work: they lose no byte, and what it holds of a node is bounded."""

from __future__ import annotations

import anyio
import pytest

from easytier_host.rpc.framing import MAX_NEIGHBOUR_CALLS
from tests.attack import attacks
from tests.attack.scene import scene

pytest.importorskip("easytier_kcp_plugin._native", reason="needs the user-space TCP stack: install Rust, then this package")

pytestmark = pytest.mark.anyio


async def test_honest_flows_live_through_every_attack() -> None:
    """One after the other at the same nodes, so that what one has left is there for the next."""
    with anyio.fail_after(120):
        async with scene() as attacked:
            target, near, far = attacked.target, attacked.near, attacked.far
            for attack in attacks.ATTACKS:
                try:
                    await attacked.while_flooded(attack(attacked))
                except BaseException as error:
                    error.add_note(f"while attacked by {attack.__name__}")
                    raise
                reassembler = target._rpc._reassembler
                assert reassembler.unfinished <= MAX_NEIGHBOUR_CALLS, attack.__name__
                assert target.failure is None
            for node, address in ((near, "10.144.0.2"), (far, "10.144.0.4"), (target, "10.144.0.1")):
                others = {near, far, target} - {node}
                assert {other.peer_for(node.addresses[0]).peer_id for other in others} == {node.peer_id}, address  # type: ignore[union-attr]
            metrics = target.metrics
            assert min(metrics.dropped_forged, metrics.dropped_clear, metrics.dropped_unsealed, metrics.dropped_rpc) > 0
