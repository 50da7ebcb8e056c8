"""Applications that come and go for as long as they are told to: small flows, bulk, half-closes, resets, idle ones, datagrams.

Not a test: `test_soak.py` runs it as a child in a namespace, against the server of `tcp_games`.

    SECONDS AT_ONCE SEED SOURCE ADDRESS PORT     one line of JSON at the end: games by name, and what went wrong

Workers play one game after the other.  SOURCE is the kind of node that they sit behind: behind a genuine one, `stock`, whoever
ends its direction first gets no answer, and each source port is used for one flow at a time.  What a game receives it also
checks.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio

from tests.netns import tcp_games
from tests.netns.tcp_games import HABITS

LIMIT: Final = 60.0
"""Seconds for one game."""
_LINGER_RESET: Final = struct.pack("ii", 1, 0)


async def small(address: str, port: int, chance: random.Random) -> None:
    result = await tcp_games.flows(address, port, count=5, size_bytes=chance.choice((1, 1000, 20_000)), limit=LIMIT)
    if result["errors"]:
        raise OSError(result["errors"][0])


async def down(address: str, port: int, chance: random.Random) -> None:
    await tcp_games.download(address, port, size_bytes=chance.choice((100_000, 1_000_000)), limit=LIMIT)


async def down_slowly(address: str, port: int, chance: random.Random) -> None:
    await tcp_games.download(address, port, size_bytes=2_000_000, limit=LIMIT, sleep=chance.random() * 4, after_bytes=50_000)


async def up(address: str, port: int, chance: random.Random) -> None:
    await tcp_games.upload(address, port, size_bytes=chance.choice((50_000, 1_000_000)), limit=LIMIT)


async def half_close(address: str, port: int, chance: random.Random) -> None:
    await tcp_games.half_close(address, port, late=chance.random(), limit=LIMIT)


async def idle(address: str, port: int, chance: random.Random) -> None:
    await tcp_games.idle(address, port, count=3, at_once=3, seconds=chance.random() * 10, limit=LIMIT)


async def reset(address: str, port: int, chance: random.Random) -> None:
    """In the middle of a download."""
    with anyio.fail_after(LIMIT):
        async with await tcp_games.connect(address, port) as stream:
            await stream.send((5_000_000).to_bytes(8, "big"))
            for _ in range(chance.randrange(4)):
                await stream.receive()
            raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


async def leave(address: str, port: int, chance: random.Random) -> None:
    """Close with an answer under way."""
    with anyio.fail_after(LIMIT):
        async with await tcp_games.connect(address, port) as stream:
            await stream.send((300_000).to_bytes(8, "big"))
            await anyio.sleep(chance.random() / 2)


async def datagrams(address: str, port: int, chance: random.Random) -> None:
    """To a port that nobody has: nothing comes back but ICMP."""
    async with await anyio.create_connected_udp_socket(address, port) as sender:
        for _ in range(100):
            try:
                await sender.send(bytes(chance.choice((1, 500, 1300))))
            except OSError:
                continue
            await anyio.sleep(0.01)


GAMES: Final[tuple[tuple[Callable[[str, int, random.Random], Awaitable[None]], str, int], ...]] = (
    (small, "answer", 6),
    (down, "download", 2),
    (down_slowly, "download", 1),
    (up, "upload", 2),
    (half_close, "late", 2),
    (idle, "banner", 1),
    (reset, "download", 2),
    (leave, "answer", 2),
    (datagrams, "silent", 1),
)
"""A game, the habit of the server that it plays with, and how often it is chosen."""


OWN_PORTS: Final = range(10_000, 20_000)


async def churn(seconds: float, at_once: int, seed: int, source: str, address: str, port: int) -> dict[str, Any]:
    """Play; returns the numbers of games, and the errors."""
    end = time.monotonic() + seconds
    games = [each for each in GAMES if source == "ours" or each[0] is not half_close]
    if source == "stock":
        tcp_games.Sources.take_turns(OWN_PORTS)
    played: Counter[str] = Counter()
    errors: list[str] = []

    async def worker(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        while time.monotonic() < end:
            game, habit, _ = chance.choices(games, [weight for _, _, weight in games])[0]
            begun = time.monotonic()
            try:
                await game(address, port + HABITS.index(habit), chance)
            except (OSError, TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream, AssertionError) as error:
                errors.append(f"{game.__name__}, {time.monotonic() - begun:.1f} s: {error!r}")
            played[game.__name__] += 1

    async with anyio.create_task_group() as tasks:
        for number in range(at_once):
            tasks.start_soon(worker, number)
    return {"played": played, "errors": errors}


def main() -> None:
    seconds, at_once, seed, source, address, port = sys.argv[1:]
    play = partial(churn, float(seconds), int(at_once), int(seed), source, address, int(port))
    sys.stdout.write(json.dumps(anyio.run(play)) + "\n")


if __name__ == "__main__":
    main()
