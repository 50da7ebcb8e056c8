"""Which of the TCP stacks that plugins brought a node uses (docs/stacks.md)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from easytier_hooks.services import TcpStack

KERNEL: Final = "kernel"
"""Name of the stack that is taken if nothing else was asked for."""


logger = logging.getLogger("easytier.flows")


class StackError(Exception):
    """`use_smoltcp` cannot be done here; the message says why and what to do."""


def choose(stacks: Mapping[str, TcpStack], *, use_smoltcp: bool) -> tuple[TcpStack | None, str]:
    """The stack to use, one that was asked for before the kernel's; and why none, or none better, can be used.

    Raises StackError if `use_smoltcp` cannot be done.
    """
    if use_smoltcp and not stacks.keys() - {KERNEL}:
        raise StackError("use_smoltcp: the plugin smoltcp is switched off")
    obstacles = []
    chosen = None
    for stack in sorted(stacks.values(), key=lambda stack: stack.name == KERNEL):
        obstacle = obstacle_of(stack)
        if not obstacle:
            chosen = stack
            break
        obstacles.append(obstacle)
    reason = "; ".join(obstacles) or "no TCP stack is loaded"
    if use_smoltcp and (chosen is None or chosen.name == KERNEL):
        raise StackError(f"use_smoltcp: {reason}")
    return chosen, reason


def obstacle_of(stack: TcpStack) -> str:
    """Why a stack, which is code of a plugin, cannot end a connection now; "" if it can."""
    try:
        return stack.available()
    except Exception:
        logger.exception("stack %s failed to say whether it is available", stack.name)
        return f"stack {stack.name} failed, see the log"
