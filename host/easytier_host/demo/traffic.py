"""What applications in the demo do: a server that sends what it is asked for, and clients with different habits.

A request is one line, `COUNT RATE`: send COUNT bytes, at most RATE a second (0: as fast as it goes).  A COUNT below zero: take
as many from me.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

Address: TypeAlias = tuple[str, int]

CHUNK: Final = 16_384
MAX_LINE: Final = 64
_BREAKS: Final = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.IncompleteRead, anyio.DelimiterNotFound)


async def serve(*, task_status: TaskStatus[int]) -> None:
    """Serve on loopback for ever; reports the port."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        task_status.started(int(listener.extra(SocketAttribute.local_port)))
        await listener.serve(answer)


async def answer(stream: SocketStream) -> None:
    """Serve one connection until the client has ended it."""
    lines = BufferedByteReceiveStream(stream)
    async with stream:
        try:
            while True:
                request = await lines.receive_until(b"\n", MAX_LINE)
                wanted, rate = map(int, request.split())
                if wanted >= 0:
                    await send(stream, wanted, rate)
                while wanted < 0:
                    wanted += len(await lines.receive(min(-wanted, CHUNK)))
        except (*_BREAKS, ValueError):
            return


async def send(stream: SocketStream, size: int, rate: int) -> None:
    """`size` bytes, at most `rate` a second, 0: as fast as they are taken."""
    data = bytes(CHUNK)
    while size > 0:
        part = min(size, CHUNK if not rate else max(1, min(CHUNK, rate // 10)))
        await stream.send(data[:part])
        size -= part
        if rate:
            await anyio.sleep(part / rate)


async def ask(stream: SocketStream, size: int, rate: int = 0) -> None:
    """Request and take `size` bytes."""
    await stream.send(b"%d %d\n" % (size, rate))
    while size > 0:
        size -= len(await stream.receive(CHUNK))


class Clients:
    """Clients at one node, each with its own habit, for ever.  `seed` fixes what they ask for."""

    def __init__(self, tasks: TaskGroup, seed: int = 1) -> None:
        self._tasks = tasks
        self._random = random.Random(seed)

    def download(self, address: Address, size: int, pause: float) -> None:
        """A large file, again and again, each on a connection of its own."""
        self._repeat(address, lambda stream: ask(stream, size), pause)

    def watch(self, address: Address, rate: int) -> None:
        """A film: one long answer of bounded rate."""
        self._repeat(address, lambda stream: ask(stream, rate * 600, rate), 1.0)

    def chat(self, address: Address) -> None:
        """One connection, a small question now and then."""

        async def talk(stream: SocketStream) -> None:
            while True:
                await ask(stream, self._random.randrange(100, 2000))
                await anyio.sleep(self._random.uniform(0.3, 1.0))

        self._repeat(address, talk, 1.0)

    def browse(self, address: Address, pause: float) -> None:
        """Small files, each on a connection of its own; also how one meets an address where nobody answers."""
        self._repeat(address, lambda stream: ask(stream, self._random.randrange(1000, 60_000)), pause)

    def upload(self, address: Address, size: int, rate: int, pause: float) -> None:
        """A file the other way; then the client has said all and hears for five more seconds, half-closed."""

        async def push(stream: SocketStream) -> None:
            await stream.send(b"%d 0\n" % -size)
            await send(stream, size, rate)
            await stream.send(b"%d %d\n" % (rate // 4, rate // 20))
            await stream.send_eof()
            async for _ in stream:
                pass

        self._repeat(address, push, pause)

    def _repeat(self, address: Address, use: Callable[[SocketStream], Awaitable[None]], pause: float) -> None:
        async def run() -> None:
            for _ in itertools.count():
                try:
                    async with await anyio.connect_tcp(*address) as stream:
                        await use(stream)
                except _BREAKS:
                    # What breaks is what the demo is there to show.
                    pass
                await anyio.sleep(pause * self._random.uniform(0.7, 1.3))

        self._tasks.start_soon(run)
