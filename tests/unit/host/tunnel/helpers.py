"""What the tunnel tests share: a task group that is cleaned up, an observer of a tunnel, sockets that fail on demand."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup

from easytier_host.tunnel import Tunnel

PATIENCE_SECONDS = 10.0


@asynccontextmanager
async def running() -> AsyncIterator[TaskGroup]:
    """A task group that is cancelled at the end of the test, and in any case after 10 s."""
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            yield tasks
            tasks.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """Give the loop turns until `condition` holds."""
    with anyio.fail_after(PATIENCE_SECONDS / 2):
        # Counters and closed flags have no event to wait for.
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


class Observer:
    """Everything that a tunnel reported."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        self.batches: list[list[bytes]] = []
        self.reasons: list[str] = []
        tunnel.on_frames = self.batches.append
        tunnel.on_close = self.reasons.append

    @property
    def frames(self) -> list[bytes]:
        """All frames, in order of arrival."""
        return [frame for batch in self.batches for frame in batch]


class Door:
    """An `on_tunnel` that observes each tunnel, or refuses it."""

    def __init__(self, *, refuse: bool = False) -> None:
        self.refuse = refuse
        self.observers: list[Observer] = []

    def __call__(self, tunnel: Tunnel) -> None:
        if self.refuse:
            tunnel.close("refused")
        else:
            self.observers.append(Observer(tunnel))


class UnwillingSocket(socket.socket):
    """A real socket whose sends raise `error` as long as it is set; `allowed` sends pass before that."""

    error: OSError | None = None
    allowed: int = 0
    only_segmented: bool = False

    def _check(self) -> None:
        if self.error is not None:
            if not self.allowed:
                raise self.error
            self.allowed -= 1

    def sendmsg(self, buffers: Any, ancillary: Any = (), flags: int = 0, address: Any = None) -> int:
        self._check()
        return super().sendmsg(buffers, ancillary, flags, address)

    def sendto(self, data: Any, *address: Any) -> int:
        if not self.only_segmented:
            self._check()
        return super().sendto(data, *address)


def numbered(count: int, size: int = 1300, *, first: int = 0) -> list[bytes]:
    """Frames that differ, of one size."""
    return [number.to_bytes(4, "big") + bytes(size - 4) for number in range(first, first + count)]


def sizes(frames: Sequence[bytes]) -> list[int]:
    return [len(frame) for frame in frames]
