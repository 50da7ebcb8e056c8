"""TCP applications with awkward habits, for both ends of a flow: one server with a port for each habit, and its clients.

Not a test: `Games` runs the server in one namespace and clients in another, as child processes of this file.  Every wait of a
client is bounded, so that a flow that hangs is an error with a name.

    serve ADDRESS PORT              the server; `HABITS[i]` is at PORT + i
    HABIT ADDRESS PORT JSON         a client; one line of JSON on standard output

The small request is 8 bytes, a big-endian number of bytes wanted; the answer is that many bytes.  Bulk is followed by its
SHA-256.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import anyio
from anyio.abc import SocketStream

from tests.netns.topology import LoggedProcess, Namespace, wait_for

HABITS: Final = ("answer", "download", "upload", "banner", "late", "digest_at_end", "silent")
_PORTS: Final = 10
"""Room for one server's ports."""
_CHUNK: Final = 65_536
_server_ports = itertools.count(20_000, _PORTS)


class Games:
    """A running server at an address, and its clients in another namespace.  Made by `games`."""

    def __init__(self, client: Namespace, address: str, port: int) -> None:
        self.client = client
        self.address = address
        self.port = port

    def port_of(self, habit: str) -> int:
        return self.port + HABITS.index(habit)

    def play(self, game: str, *, timeout: float = 60.0, address: str = "", **options: object) -> dict[str, Any]:
        """Run one client to its end; raises AssertionError (with its words) if it fails or takes longer than `timeout`
        seconds."""
        result = self.client.run(*self._argv(game, address, options), timeout=timeout)
        return _answer(result.stdout)

    def begin(self, game: str, *, address: str = "", **options: object) -> LoggedProcess:
        """Start a client; `finish` waits for it."""
        return self.client.spawn(*self._argv(game, address, options), label=game)

    def _argv(self, game: str, address: str, options: dict[str, object]) -> list[str]:
        return [sys.executable, __file__, game, address or self.address, str(self.port), json.dumps(options)]


def finish(client: LoggedProcess, timeout: float = 60.0) -> dict[str, Any]:
    """What a client that was begun has to say; raises AssertionError if it fails or takes longer than `timeout` seconds."""
    wait_for(lambda: not client.running, f"end of {client.label}", timeout)
    assert client.popen.returncode == 0, client.log_tail()
    return _answer(client.log())


def _answer(words: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(words.splitlines()[-1])
    return answer


@contextmanager
def games(client: Namespace, server: Namespace, address: str, *, bind: str = "0.0.0.0") -> Iterator[Games]:
    """A server in `server`, to be reached from `client` at `address`."""
    port = next(_server_ports)
    process = server.spawn(sys.executable, __file__, "serve", bind, str(port), label="games")
    try:
        wait_for(lambda: server.listens_on(port + len(HABITS) - 1), f"server of the games: {process.log_tail()}")
        yield Games(client, address, port)
    finally:
        process.close()


# The server's side: one handler a habit.


async def _serve_answer(stream: SocketStream) -> None:
    while True:
        try:
            wanted = int.from_bytes(await _exactly(stream, 8), "big")
        except anyio.EndOfStream:
            return
        await stream.send(bytes(wanted))


async def _serve_download(stream: SocketStream) -> None:
    left = int.from_bytes(await _exactly(stream, 8), "big")
    digest = hashlib.sha256()
    while left:
        chunk = os.urandom(min(left, _CHUNK))
        digest.update(chunk)
        await stream.send(chunk)
        left -= len(chunk)
    await stream.send(digest.digest())


async def _serve_upload(stream: SocketStream) -> None:
    """The size comes first: a server behind a genuine core cannot wait for the end of the request."""
    left = int.from_bytes(await _exactly(stream, 8), "big")
    digest = hashlib.sha256()
    while left:
        chunk = await stream.receive(min(left, _CHUNK))
        digest.update(chunk)
        left -= len(chunk)
    await stream.send(digest.digest())


async def _serve_banner(stream: SocketStream) -> None:
    await stream.send(b"hello\n")
    with _until_end():
        while True:
            await stream.send(await stream.receive())


async def _serve_late(stream: SocketStream) -> None:
    """The request says how many milliseconds the answer takes."""
    wait_ms = int.from_bytes(await _exactly(stream, 8), "big")
    await anyio.sleep(wait_ms / 1000)
    await stream.send(b"late answer")


async def _serve_digest_at_end(stream: SocketStream) -> None:
    digest = hashlib.sha256()
    with _until_end():
        while True:
            digest.update(await stream.receive())
    await anyio.sleep(0.3)
    await stream.send(digest.digest())


async def _serve_silent(stream: SocketStream) -> None:
    with _until_end():
        while True:
            await stream.receive()


@contextmanager
def _until_end() -> Iterator[None]:
    try:
        yield
    except anyio.EndOfStream:
        return


async def serve(address: str, port: int) -> None:
    """All habits, for ever."""

    async def guarded(handler: Callable[[SocketStream], Awaitable[None]], stream: SocketStream) -> None:
        async with stream:
            try:
                await handler(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return

    async with anyio.create_task_group() as tasks:
        for number, habit in enumerate(HABITS):
            handler = globals()[f"_serve_{habit}"]
            listener = await anyio.create_tcp_listener(local_host=address, local_port=port + number, backlog=1024)
            tasks.start_soon(partial(listener.serve, partial(guarded, handler)))


# The clients' side: one function a game.  Each returns what is printed.


class Sources:
    """The ports that connections come from."""

    turns: Iterator[int | None] = itertools.repeat(None)

    @classmethod
    def take_turns(cls, ports: Iterable[int]) -> None:
        """Another one of `ports` for each connection.  The system may use one for two destinations at a time, which a genuine
        source takes for one flow and resets."""
        cls.turns = itertools.cycle(ports)


async def connect(address: str, port: int) -> SocketStream:
    """A connection to the server."""
    return await anyio.connect_tcp(address, port, local_port=next(Sources.turns))


async def flows(
    address: str,
    port: int,
    *,
    count: int,
    at_once: int = 1,
    per_second: float = 0.0,
    size_bytes: int = 1000,
    limit: float = 20.0,
) -> dict[str, Any]:
    """Small flows (connect, request, answer, close), `at_once` at a time, or beginning `per_second` whether or not the ones
    before are done; `limit` seconds for each.

    Returns the seconds that each took, sorted, and the errors.
    """
    seconds: list[float] = []
    errors: list[str] = []
    numbers = iter(range(count))

    async def one(number: int) -> None:
        begun = time.monotonic()
        stage = "connect"
        try:
            with anyio.fail_after(limit):
                async with await connect(address, port) as stream:
                    stage = "answer"
                    await stream.send(size_bytes.to_bytes(8, "big"))
                    await _exactly(stream, size_bytes)
                    seconds.append(time.monotonic() - begun)
        except (OSError, TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            errors.append(f"flow {number}, {stage}, {time.monotonic() - begun:.1f} s: {error!r}")

    async def worker() -> None:
        for number in numbers:
            await one(number)

    start = time.monotonic()
    async with anyio.create_task_group() as tasks:
        if per_second:
            for number in numbers:
                await anyio.sleep(max(0.0, start + number / per_second - time.monotonic()))
                tasks.start_soon(one, number)
        else:
            for _ in range(at_once):
                tasks.start_soon(worker)
    return {"seconds": sorted(seconds), "errors": errors}


async def download(
    address: str, port: int, *, size_bytes: int, limit: float = 50.0, sleep: float = 0.0, after_bytes: int = 0
) -> dict[str, Any]:
    """Take bulk and check it; with `sleep` the reader stops for that many seconds after `after_bytes`."""
    begun = time.monotonic()
    with anyio.fail_after(limit):
        async with await connect(address, port) as stream:
            await stream.send(size_bytes.to_bytes(8, "big"))
            digest, left = hashlib.sha256(), size_bytes
            while left:
                if sleep and size_bytes - left >= after_bytes:
                    await anyio.sleep(sleep)
                    sleep = 0.0
                chunk = await stream.receive(min(left, _CHUNK))
                digest.update(chunk)
                left -= len(chunk)
            assert await _exactly(stream, 32) == digest.digest(), "what arrived is not what was sent"
            await _end_of(stream)
    return {"seconds": time.monotonic() - begun}


async def upload(address: str, port: int, *, size_bytes: int, limit: float = 50.0, piece_bytes: int = _CHUNK) -> dict[str, Any]:
    """Give bulk in writes of `piece_bytes`, and have its digest back."""
    begun = time.monotonic()
    with anyio.fail_after(limit):
        async with await connect(address, port) as stream:
            stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await stream.send(size_bytes.to_bytes(8, "big"))
            digest, left = hashlib.sha256(), size_bytes
            while left:
                chunk = os.urandom(min(left, piece_bytes))
                digest.update(chunk)
                await stream.send(chunk)
                left -= len(chunk)
            assert await _exactly(stream, 32) == digest.digest(), "what arrived is not what was sent"
    return {"seconds": time.monotonic() - begun}


async def banner(address: str, port: int, *, limit: float = 20.0) -> dict[str, Any]:
    """Wait for the server's first word, then talk."""
    begun = time.monotonic()
    with anyio.fail_after(limit):
        async with await connect(address, port) as stream:
            assert await _exactly(stream, 6) == b"hello\n"
            waited = time.monotonic() - begun
            await stream.send(b"echo")
            assert await _exactly(stream, 4) == b"echo"
    return {"seconds": waited}


async def half_close(address: str, port: int, *, late: float, limit: float = 20.0) -> dict[str, Any]:
    """End our direction after the request; the answer comes `late` seconds later."""
    with anyio.fail_after(limit):
        async with await connect(address, port) as stream:
            await stream.send(int(late * 1000).to_bytes(8, "big"))
            await stream.send_eof()
            assert await _exactly(stream, 11) == b"late answer"
            await _end_of(stream)
    return {}


async def digest_at_end(address: str, port: int, *, size_bytes: int, limit: float = 30.0) -> dict[str, Any]:
    """The answer comes only after the end of our direction."""
    with anyio.fail_after(limit):
        async with await connect(address, port) as stream:
            payload = os.urandom(size_bytes)
            await stream.send(payload)
            await stream.send_eof()
            assert await _exactly(stream, 32) == hashlib.sha256(payload).digest()
            await _end_of(stream)
    return {}


async def secret(address: str, port: int, *, canary: str, repeat: int) -> dict[str, Any]:
    """Say the same words again and again, and have them back."""
    with anyio.fail_after(20):
        async with await connect(address, port) as stream:
            assert await _exactly(stream, 6) == b"hello\n"
            for _ in range(repeat):
                await stream.send(canary.encode())
                assert await _exactly(stream, len(canary)) == canary.encode()
    return {}


async def attempt(address: str, port: int, *, limit: float = 15.0) -> dict[str, Any]:
    """Connect, and see how the connection ends: `outcome` is `refused`, `unreachable`, `reset`, `closed`, `no answer` or
    `open`."""
    begun = time.monotonic()
    connected = 0.0
    outcome = "no answer"
    with anyio.move_on_after(limit):
        try:
            async with await connect(address, port) as stream:
                connected = time.monotonic() - begun
                outcome = "open"
                with _until_end():
                    await stream.receive(1)
                outcome = "closed"
        except anyio.BrokenResourceError:
            outcome = "reset"
        except OSError as error:
            cause = error.__cause__ or error
            unreachable = isinstance(cause, OSError) and cause.errno == errno.EHOSTUNREACH
            outcome = "unreachable" if unreachable else "refused" if isinstance(cause, ConnectionError) else repr(cause)
    return {"outcome": outcome, "connected": connected, "seconds": time.monotonic() - begun}


async def idle(address: str, port: int, *, count: int, seconds: float, at_once: int = 1, limit: float = 60.0) -> dict[str, Any]:
    """Open `count` flows within `limit` seconds, `at_once` at a time, hear a word on each, say so in a line of JSON, and keep
    them for `seconds`; returns how many were still alive then."""
    streams: list[SocketStream] = []
    alive = 0
    numbers = iter(range(count))

    async def worker() -> None:
        for _ in numbers:
            stream = await connect(address, port)
            streams.append(stream)
            assert await _exactly(stream, 6) == b"hello\n"

    try:
        begun = time.monotonic()
        with anyio.fail_after(limit):
            async with anyio.create_task_group() as tasks:
                for _ in range(at_once):
                    tasks.start_soon(worker)
        sys.stdout.write(json.dumps({"opened": time.monotonic() - begun}) + "\n")
        sys.stdout.flush()
        await anyio.sleep(seconds)
        for stream in streams:
            with anyio.fail_after(10):
                await stream.send(b"x")
                alive += await _exactly(stream, 1) == b"x"
    finally:
        for stream in streams:
            with anyio.move_on_after(1, shield=True):
                await stream.aclose()
    return {"alive": alive}


async def same_port(address: str, port: int, *, others: list[list[Any]], own_port: int, rounds: int = 1) -> dict[str, Any]:
    """One flow to the server and one to each of the `others` (address, port), all from `own_port`, at the same time."""
    for _ in range(rounds):
        targets = [(address, port), *((str(ip), int(number)) for ip, number in others)]
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for number, target in enumerate(targets, 1):
                    tasks.start_soon(_ask_from, own_port, target, 1000 * number)
    return {}


async def _ask_from(own_port: int, target: tuple[str, int], size_bytes: int) -> None:
    connection = socket.socket()
    with connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # RST at the end: the port is free at once for the next round.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.bind(("", own_port))
        try:
            connection.connect(target)
        except BlockingIOError:
            await anyio.wait_writable(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, f"{target} cannot be reached"
        connection.send(size_bytes.to_bytes(8, "big"))
        left = size_bytes
        while left:
            await anyio.wait_readable(connection)
            chunk = connection.recv(left)
            assert chunk, f"{target} ended early"
            left -= len(chunk)
        anyio.notify_closing(connection)


async def _exactly(stream: SocketStream, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        data += await stream.receive(size_bytes - len(data))
    return data


async def _end_of(stream: SocketStream) -> None:
    """The stream has to end properly, with nothing more in it."""
    with _until_end():
        raise AssertionError(f"{await stream.receive(100)!r} came after the end")


_CLIENTS: Final[dict[str, tuple[Callable[..., Awaitable[dict[str, Any]]], str]]] = {
    "flows": (flows, "answer"),
    "download": (download, "download"),
    "upload": (upload, "upload"),
    "banner": (banner, "banner"),
    "half_close": (half_close, "late"),
    "digest_at_end": (digest_at_end, "digest_at_end"),
    "secret": (secret, "banner"),
    "idle": (idle, "banner"),
    "attempt": (attempt, ""),
    "same_port": (same_port, "answer"),
}
"""Name of a game -> the client, and the habit that it plays with; without one it gets a port of its own as `port`."""


def main() -> None:
    game, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if game == "serve":
        anyio.run(serve, address, port)
        return
    client, habit = _CLIENTS[game]
    options: dict[str, Any] = json.loads(sys.argv[4])
    number = port + HABITS.index(habit) if habit else int(options.pop("port"))
    sys.stdout.write(json.dumps(anyio.run(partial(client, address, number, **options))) + "\n")


if __name__ == "__main__":
    main()
