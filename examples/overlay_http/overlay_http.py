"""A web server at an address of the overlay, and a client of it: no root, no TUN device, no port of this machine.

Run it: `python overlay_http.py`.  It starts two nodes in one process, which meet on loopback, and fetches a page from one to
the other.  In real life each of `serve` and `fetch` is in a program of its own, and so is its node.

Both use Python's own `http.server` and `http.client`, which are blocking and want files: `StreamFile` is the bridge.  An async
HTTP library can be given the streams as they are.
"""

from __future__ import annotations

import io
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Interface
from typing import Any

import anyio
from anyio import from_thread, to_thread
from anyio.abc import ByteStream, SocketAttribute

from easytier_host import Config, Flags, Node

NO_SERVER: Any = None
"""`http.server` gives its handlers a server, of which ours make no use."""


class StreamFile(io.RawIOBase):
    """An anyio byte stream as an unbuffered file, for use in a worker thread of the stream's event loop."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = from_thread.run(self._stream.receive, len(buffer))
        except anyio.EndOfStream:
            return 0
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        from_thread.run(self._stream.send, bytes(data))
        return len(data)


class Hello(BaseHTTPRequestHandler):
    """Greets whoever asks."""

    def setup(self) -> None:
        self.rfile = io.BufferedReader(self.request)
        self.wfile = self.request

    def do_GET(self) -> None:
        body = f"hello {self.client_address[0]}, you asked for {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        # The stream is closed by who opened it.
        pass


async def serve(node: Node, port: int) -> None:
    """Answer at a port of the node's own address, until the node stops."""

    async def answer(stream: ByteStream) -> None:
        # A client that hangs up in the middle is no concern of ours.
        with suppress(anyio.BrokenResourceError):
            async with stream:
                client: Any = stream.extra(SocketAttribute.remote_address)
                request: Any = StreamFile(stream)
                await to_thread.run_sync(partial(Hello, request, client, NO_SERVER))

    listener = await node.listen_tcp(port)
    await listener.serve(answer)


async def fetch(node: Node, address: str, port: int, path: str) -> str:
    """Get a page from an address of the overlay.  Raises OSError if nobody is there."""

    def get(stream: ByteStream) -> str:
        connection = HTTPConnection(address, port)
        connection.sock = _Socket(stream)
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().read().decode()

    async with await node.connect_tcp(address, port) as stream:
        return await to_thread.run_sync(get, stream)


class _Socket:
    """As much of a socket as `http.client` needs."""

    def __init__(self, stream: ByteStream) -> None:
        self._file = StreamFile(stream)
        self.sendall = self._file.write

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._file)

    def close(self) -> None:
        pass


async def main() -> None:
    common = partial(Config, network_name="demo", network_secret="a secret", flags=Flags(no_tun=True, enable_kcp_proxy=True))
    there = common(ipv4=IPv4Interface("10.144.0.2/24"), listeners=("udp://127.0.0.1:0",))
    async with Node(there) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(serve, server, 80)
        here = common(ipv4=IPv4Interface("10.144.0.1/24"), peers=tuple(server.listeners))
        async with Node(here) as client:
            async for event in client.events():
                if event.kind == "route_added":
                    break
            print(await fetch(client, "10.144.0.2", 80, "/page"), end="")
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
