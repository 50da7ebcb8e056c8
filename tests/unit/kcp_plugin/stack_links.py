"""Two ends of the user-space stack joined in memory, for its tests: links with claims and losses, and a host for each."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream
from anyio.abc import TaskGroup

from easytier_hooks.services import FrameHandler
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import FlowKey, IPAddress
from easytier_host.nic.offload import split as split_frame
from easytier_kcp_plugin.stack.rewrite import SYN
from easytier_kcp_plugin.stack.smoltcp import SmoltcpStack


class MemoryLink:
    """One side: what is written here is claimed by `other`'s handlers, or kept in `unclaimed`, as a host would send it on.

    Frames pass when the loop gets its turn, never within `write`; `lost` says of each whether it is.
    """

    def __init__(self, mtu: int = 1360) -> None:
        self.mtu = mtu
        self.other = self
        self.splits = False
        """Whether super-packets travel as the packets that they stand for."""
        self.lost: Callable[[bytes], bool] = lambda _frame: False
        self.unclaimed: list[bytes] = []
        self.written = 0
        self._handlers: dict[FlowKey, FrameHandler] = {}
        self._waiting: list[bytes] = []
        self._filled = anyio.Event()

    def claim(self, key: FlowKey, handler: FrameHandler) -> Callable[[], None]:
        if key in self._handlers:
            raise ValueError(f"{key} is claimed already")
        self._handlers[key] = handler

        def end() -> None:
            if self._handlers.get(key) is handler:
                del self._handlers[key]

        return end

    @property
    def claims(self) -> int:
        return len(self._handlers)

    def write(self, frames: Sequence[bytes]) -> None:
        if self.splits:
            frames = [bytes(10) + packet for frame in frames for packet in split_frame(frame, self.mtu)]
        self.written += len(frames)
        self._waiting += [frame for frame in frames if not self.lost(frame)]
        self._filled.set()

    def give(self, frames: Sequence[bytes]) -> None:
        """Frames that come in on this side, as the host sorts them."""
        batches: dict[FlowKey, list[bytes]] = {}
        for frame in frames:
            batches.setdefault(key_of(frame), []).append(frame)
        for key, batch in batches.items():
            handler = self._handlers.get(key)
            if handler is None:
                self.unclaimed += batch
            else:
                handler(batch)

    async def carry(self) -> None:
        """Take what is written to the other side, for ever."""
        while True:
            await self._filled.wait()
            self._filled = anyio.Event()
            frames, self._waiting = self._waiting, []
            self.other.give(frames)


class Tasks:
    """What a stack sees of its node's task group; `stop` cancels its tasks, and nothing else."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._scopes: list[anyio.CancelScope] = []

    def start_soon(self, call: Callable[..., Awaitable[object]], *arguments: object, name: object = None) -> None:
        self._scopes.append(anyio.CancelScope())
        self._tasks.start_soon(self._run, self._scopes[-1], call, *arguments, name=name)

    def stop(self) -> None:
        for scope in self._scopes:
            scope.cancel()

    async def _run(self, scope: anyio.CancelScope, call: Callable[..., Awaitable[object]], *arguments: object) -> None:
        with scope:
            await call(*arguments)


class Host:
    """What the stack asks of its node."""

    device = None
    requested = True

    def __init__(self, tasks: TaskGroup) -> None:
        self.task_group = Tasks(tasks)
        self.logger = logging.getLogger("test")


class Ends:
    """Two stacks, each with one side of a line between them.  `near` begins connections, `far` answers."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.near_link, self.far_link = MemoryLink(), MemoryLink()
        self.near_link.other, self.far_link.other = self.far_link, self.near_link
        self.near_host, self.far_host = Host(tasks), Host(tasks)
        self.near, self.far = SmoltcpStack(self.near_host), SmoltcpStack(self.far_host)  # type: ignore[arg-type]

    async def open(self, port: int = 40_000, *, ipv6: bool = False) -> tuple[TcpConnection, TcpConnection]:
        """A connection, seen from both ends."""
        key = flow_key(port, ipv6=ipv6)
        ends: list[TcpConnection] = []

        async def near() -> None:
            ends.append(await self.near.connect(self.near_link, key))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(near)
                far = await self.far.terminate(self.far_link, key, await self.syn())
        return ends[0], far

    async def syn(self) -> bytes:
        """The first of `syns`."""
        return (await self.syns())[0]

    async def syns(self) -> list[bytes]:
        """The next TCP SYNs that nobody has claimed at the far end: what a host would hold."""
        with anyio.fail_after(5):
            while not (held := [frame for frame in self.far_link.unclaimed if flags(frame) & SYN]):  # noqa: ASYNC110
                await anyio.sleep(0.001)
        self.far_link.unclaimed.clear()
        return held


@asynccontextmanager
async def joined() -> AsyncIterator[Ends]:
    """`Ends` while this is entered; then both stacks are stopped."""
    async with anyio.create_task_group() as tasks:
        ends = Ends(tasks)
        tasks.start_soon(ends.near_link.carry)
        tasks.start_soon(ends.far_link.carry)
        yield ends
        tasks.cancel_scope.cancel()


async def everything(connection: TcpConnection) -> bytes:
    """What comes up to the end of the other direction."""
    data = bytearray()
    while True:
        try:
            data += await connection.receive()
        except EndOfStream:
            return bytes(data)


async def broken_by_reset(connection: TcpConnection) -> None:
    """Check that every call says so."""
    with pytest.raises(BrokenResourceError) as caught, anyio.fail_after(5):
        await connection.receive()
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(BrokenResourceError):
        await connection.send(b"into the void")
    with pytest.raises(BrokenResourceError):
        await connection.send_eof()


def flow_key(port: int = 40_000, *, ipv6: bool = False) -> FlowKey:
    """From `port` of the near end to port 80 of the far one."""
    source, destination = ("fd00::1", "fd00::2") if ipv6 else ("10.144.0.1", "10.144.0.2")
    return FlowKey(ip_address(source), port, ip_address(destination), 80)


def key_of(frame: bytes) -> FlowKey:
    """Addresses and ports of a frame without IP options."""
    ends: tuple[IPAddress, IPAddress]
    if frame[10] >> 4 == 6:
        ends, tcp = (ip_address(frame[18:34]), ip_address(frame[34:50])), 50
    else:
        ends, tcp = (ip_address(frame[22:26]), ip_address(frame[26:30])), 30
    source, destination = (int.from_bytes(frame[tcp + at : tcp + at + 2], "big") for at in (0, 2))
    return FlowKey(ends[0], source, ends[1], destination)


def flags(frame: bytes) -> int:
    """TCP flags of a frame without IP options."""
    return frame[(50 if frame[10] >> 4 == 6 else 30) + 13]
