"""What signals mean to `easytier-core` (docs/reliability.md).

::

    SIGTERM   drain, then stop        SIGINT   stop now        SIGHUP   read the configuration again
    a second SIGTERM or SIGINT ends the process, whatever a node still does

The end of the terminal in which the process runs is a SIGHUP too: it stops the nodes as SIGINT does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import anyio
from anyio import CancelScope
from anyio.abc import TaskStatus

if TYPE_CHECKING:
    from easytier_host.instance import Node
    from easytier_host.service_manager import ServiceManager

logger = logging.getLogger("easytier.main")

# Ours.
STOP_TIMEOUT: Final = 3.0
"""Seconds for nodes to stop once their flows have ended; then they are cancelled."""


async def obey(
    nodes: Sequence[Node],
    scope: CancelScope,
    manager: ServiceManager,
    reload: Callable[[], Awaitable[None]],
    *,
    task_status: TaskStatus[None],
) -> None:
    """Wait for signals until one says stop, then stop `nodes`, and cancel `scope` if they do not; `manager` is told."""
    has_terminal = _has_terminal()
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number != signal.SIGHUP or (has_terminal and not _has_terminal()):
                break
            logger.info("SIGHUP: reading the configuration again")
            try:
                await reload()
            except Exception:
                # A fault of ours in this is no reason to end flows.
                logger.exception("the configuration could not be applied")
    # asyncio's own handler of SIGINT would raise in the middle of the stop.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        logger.info("stopping: %s", signal.Signals(number).name)
        manager.stopping()
        # They take themselves off the list before they have ended.
        time_to_end = STOP_TIMEOUT if nodes else 0.0
        async with anyio.create_task_group() as draining:
            for node in nodes:
                patience = float(node.config.drain_timeout) if number == signal.SIGTERM else 0.0
                draining.start_soon(node.drain, patience, name=f"drain {node.config.instance_name}")
        # A cancellation ends all parts of a node at once, and cuts off the word to peers and applications that their flows end.
        await anyio.sleep(time_to_end)
        scope.cancel()
    finally:
        signal.signal(signal.SIGINT, before)


def _has_terminal() -> bool:
    """Whether standard input is a terminal that is still there."""
    try:
        return os.isatty(sys.stdin.fileno())
    except (AttributeError, ValueError, OSError):
        # Closed, or replaced by something without a descriptor.
        return False
