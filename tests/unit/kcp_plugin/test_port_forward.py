"""Whole nodes in one process, without root: a port of one node leads by KCP to a server behind the other."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Interface

import anyio
import pytest
from anyio.abc import SocketStream

from easytier_hooks import FlowEvent, TcpFlow, hookimpl
from easytier_hooks.manager import PluginManager
from easytier_hooks.types import Closed, Failed
from easytier_host import Config, Flags, Node
from easytier_host.config.model import PortForward
from easytier_kcp_plugin.plugin import KcpPlugin

pytestmark = pytest.mark.anyio

Server = Callable[[SocketStream], Awaitable[None]]
LIMIT = 20


class Watcher:
    """A plugin that keeps what it is told."""

    def __init__(self) -> None:
        self.ends: list[tuple[TcpFlow, FlowEvent]] = []
        self.told = threading.Event()

    @hookimpl
    def on_tcp_flow(self, flow: TcpFlow, event: FlowEvent) -> None:
        if isinstance(event, Closed | Failed):
            self.ends.append((flow, event))
            self.told.set()


@asynccontextmanager
async def network(server: Server | None, *, accepts: bool = True) -> AsyncIterator[tuple[str, int, Watcher]]:
    """Yields where to connect, and what the near node's plugin was told."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        if server is None:
            await listener.aclose()
        else:
            tasks.start_soon(listener.serve, server)
        far = config(2, listeners=("udp://127.0.0.1:0",), flags=Flags(no_tun=True, disable_kcp_input=not accepts))
        async with Node(far, plugins=manager()) as far_node:
            watcher = Watcher()
            near = config(
                1,
                peers=tuple(far_node.listeners),
                port_forwards=(PortForward("127.0.0.1:0", f"10.144.0.2:{port}", "tcp"),),
                flags=Flags(no_tun=True, enable_kcp_proxy=True),
            )
            async with Node(near, plugins=manager(watcher)) as node:
                with anyio.fail_after(LIMIT):
                    events = node.events()
                    while not node.routes():
                        await anext(events)
                host, forward_port = node.forwards[0].address
                yield host, forward_port, watcher
        tasks.cancel_scope.cancel()


def config(number: int, *, flags: Flags, **more: object) -> Config:
    return Config(
        instance_name=f"n{number}",
        network_name="lab",
        network_secret="s3cret",
        ipv4=IPv4Interface(f"10.144.0.{number}/24"),
        flags=flags,
        **more,  # type: ignore[arg-type]
    )


def manager(*more: object) -> PluginManager:
    plugins = PluginManager(installed=[], environ={})
    plugins.register("kcp", KcpPlugin({}))
    for index, plugin in enumerate(more):
        plugins.register(f"extra-{index}", plugin)
    return plugins


async def read_all(stream: SocketStream) -> bytes:
    received = bytearray()
    async for chunk in stream:
        received += chunk
    return bytes(received)


async def ended(watcher: Watcher) -> tuple[TcpFlow, FlowEvent]:
    await anyio.to_thread.run_sync(watcher.told.wait, LIMIT)
    return watcher.ends[0]


async def test_a_large_transfer_arrives_whole_and_ends() -> None:
    data = random.Random(1).randbytes(3_000_000)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.send(data)

    async with network(serve) as (host, port, watcher):
        with anyio.fail_after(LIMIT):
            async with await anyio.connect_tcp(host, port) as client:
                received = await read_all(client)
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        flow, event = await ended(watcher)
        assert flow.transport == "kcp"
        assert isinstance(event, Closed)


async def test_a_late_answer_after_the_request_has_ended() -> None:
    async def serve(stream: SocketStream) -> None:
        async with stream:
            request = await read_all(stream)
            await stream.send(request[::-1])

    async with network(serve) as (host, port, _), await anyio.connect_tcp(host, port) as client:
        with anyio.fail_after(LIMIT):
            await client.send(b"question")
            await client.send_eof()
            assert await read_all(client) == b"noitseuq"


async def test_the_server_speaks_first() -> None:
    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b"SSH-2.0-test\r\n")
            # How it ends depends on which side stops first.
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()

    async with network(serve) as (host, port, _), await anyio.connect_tcp(host, port) as client:
        with anyio.fail_after(LIMIT):
            assert await client.receive() == b"SSH-2.0-test\r\n"


async def test_a_refused_target_resets_the_application() -> None:
    async with network(None) as (host, port, watcher), await anyio.connect_tcp(host, port) as client:
        with anyio.fail_after(LIMIT), pytest.raises(anyio.BrokenResourceError):
            await client.receive()
        _, event = await ended(watcher)
        assert isinstance(event, Failed)


async def test_a_peer_that_takes_no_kcp_gets_nothing_and_the_reason_is_told() -> None:
    async def serve(stream: SocketStream) -> None:
        raise AssertionError("nobody may come here")

    async with network(serve, accepts=False) as (host, port, watcher), await anyio.connect_tcp(host, port) as client:
        with anyio.fail_after(LIMIT), pytest.raises(anyio.BrokenResourceError):
            await client.receive()
        _, event = await ended(watcher)
        assert isinstance(event, Failed)
        assert "kcp input disabled there" in event.reason
