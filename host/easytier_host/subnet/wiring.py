"""Makes the subnet router of a node, with the proxy for plain TCP where a stack can end its connections."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from easytier_host.subnet.router import SubnetRouter
from easytier_host.subnet.tcp import TcpProxy
from easytier_host.targets import Targets

if TYPE_CHECKING:
    from easytier_host.instance import Node

logger = logging.getLogger("easytier.node")


def make_router(node: Node, clock: Callable[[], float], wall_clock: Callable[[], float], mtu: int) -> SubnetRouter:
    """The router; the node has its gate, guard, owners and overlay.  `mtu` is the overlay's, in bytes."""
    has_device, gate = node.nic is not None, node.gate
    router = SubnetRouter(
        node.config,
        node.outbound,
        node.metrics,
        clock,
        has_device=has_device,
        target=node.dial_target,
        owners=node.owners,
        identifier=secrets.randbits(16),
        mtu=mtu,
    )
    if gate.stack is not None:
        exit_target = partial(node.dial_target, exit_node=True)
        router.tcp = TcpProxy(
            gate,
            gate.stack,
            node.overlay,
            node.plugin_tasks,
            node.metrics,
            clock,
            wall_clock,
            dial=node.targets.dial,
            dial_as_exit=Targets(gate, node.metrics, exit_target, node.owners, node.guard).dial,
            is_alone=not has_device,
        )
    elif node.config.proxy_networks:
        logger.warning("plain TCP to networks behind this node is left to the kernel: %s", gate.stack_obstacle)
    return router
