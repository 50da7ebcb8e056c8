"""How a node stops: its flows end, then its neighbours hear of it (docs/reliability.md).

::

    running --drain--> draining: new flows are refused, old ones go on --none left, or out of patience--> parting --> stopped

Called by `Node`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import anyio

from easytier_host.peer_conn import PeerConn

if TYPE_CHECKING:
    from easytier_host.instance import Node

logger = logging.getLogger("easytier.node")

STOPPING: Final = "this node is stopping"

# Ours.
LAST_WORDS: Final = 0.05
"""Seconds in which the ends of flows leave for peers and applications, which would wait for an answer else."""
GOODBYES: Final = 3
GOODBYE_GAP: Final = 0.05
"""Seconds.  Of 1000 neighbours on lines that lose every tenth datagram one has to find out by silence."""


async def end_flows(node: Node, patience: float) -> None:
    """Refuse new flows, wait for those that the node carries, reset what is left after `patience` seconds."""
    gate, log = node.gate, logging.LoggerAdapter(logger, {"instance": node.config.instance_name})
    gate.refuse_new(STOPPING)
    node.guard.close(STOPPING)
    node.watch_packets()
    carried = gate.carried
    if not carried:
        return
    if patience > 0:
        log.info("%d flows are still open; waiting for them, at most %g s", carried, patience)
        with anyio.move_on_after(patience):
            await gate.wait_idle()
    if gate.carried:
        log.info("%d flows are reset", gate.close_all(STOPPING))
    await anyio.sleep(LAST_WORDS)


async def part(peers: Iterable[PeerConn]) -> None:
    """Let last words pass, and say goodbye to neighbours; whoever calls then closes the tunnels."""
    await anyio.sleep(LAST_WORDS)
    # Closing says it once more.
    for _ in range(GOODBYES - 1):
        said = [conn.tunnel.part() for conn in peers]
        if not any(said):
            break
        await anyio.sleep(GOODBYE_GAP)
