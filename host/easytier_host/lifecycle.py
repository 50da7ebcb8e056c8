"""How the flows of a node end before it stops (docs/reliability.md).

::

    running --drain--> draining: new flows are refused, those under way go on --none left, or out of patience--> stopped

Called by `Node.drain`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from easytier_host.instance import Node

logger = logging.getLogger("easytier.node")

STOPPING: Final = "this node is stopping"

# Ours, in seconds.
LAST_WORDS: Final = 0.05
"""In which the ends of flows leave for peers and applications, while all parts of the node still run."""


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
