"""Whole nodes that are told to stop while flows are under way: what those, new ones and the peer get."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import pytest
from anyio.abc import SocketStream, TaskGroup

from easytier_hooks.types import Failed
from easytier_host import Flags, Node
from easytier_host.config.model import PortForward
from tests.unit.host.helpers import until
from tests.unit.host.tunnel.helpers import running
from tests.unit.kcp_plugin.test_port_forward import LIMIT, Watcher, config, manager

pytestmark = pytest.mark.anyio


@dataclass
class Pair:
    """A port of `near` leads by KCP to an echo server behind `far`."""

    near: Node
    far: Node
    told: Watcher
    """A plugin of `near`."""
    tasks: TaskGroup
    streams: list[SocketStream] = field(default_factory=list)

    async def connect(self) -> SocketStream:
        self.streams.append(await anyio.connect_tcp(*self.near.forwards[0].address))
        return self.streams[-1]

    async def open(self) -> SocketStream:
        """A flow that has had an answer."""
        stream = await self.connect()
        await stream.send(b"first")
        assert await stream.receive() == b"first"
        return stream


async def echo(stream: SocketStream) -> None:
    async with stream:
        with suppress(anyio.BrokenResourceError):
            async for data in stream:
                await stream.send(data)


@asynccontextmanager
async def pair(serve: Callable[[SocketStream], Awaitable[None]] = echo) -> AsyncIterator[Pair]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, running() as tasks:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.start_soon(listener.serve, serve)
        async with Node(config(2, listeners=("udp://127.0.0.1:0",), flags=Flags(no_tun=True)), plugins=manager()) as far:
            forward = PortForward("127.0.0.1:0", f"10.144.0.2:{port}", "tcp")
            flags = Flags(no_tun=True, enable_kcp_proxy=True)
            told = Watcher()
            settings = config(1, peers=tuple(far.listeners), port_forwards=(forward,), flags=flags)
            async with Node(settings, plugins=manager(told)) as near:
                await until(lambda: near.routes())
                with anyio.fail_after(LIMIT):
                    nodes = Pair(near, far, told, tasks)
                    yield nodes
                    for stream in nodes.streams:
                        await anyio.aclose_forcefully(stream)


async def is_refused(stream: SocketStream) -> bool:
    with anyio.fail_after(LIMIT):
        try:
            await stream.send(b"new")
            await stream.receive()
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            return True
    return False


@pytest.mark.parametrize("stopping", ["near", "far"])
async def test_live_flows_go_on_and_new_ones_are_refused_until_the_last_has_ended(stopping: str) -> None:
    async with pair() as nodes:
        live = await nodes.open()
        node: Node = getattr(nodes, stopping)
        nodes.tasks.start_soon(node.drain, 3600.0)
        await until(lambda: node.gate._refuses)
        assert await is_refused(await nodes.connect())
        await live.send(b"goes on")
        assert await live.receive() == b"goes on"
        # A half-close and the answer to it: both FINs pass before the node has stopped.
        await live.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await live.receive()
        await node.wait_closed()
        reasons = {str(getattr(event, "reason", "")) for _, event in nodes.told.ends}
        assert "FIN both ways" in reasons
        if stopping == "near":
            assert "this node is stopping" in reasons


async def test_the_last_bytes_are_waited_for_when_both_ends_have_nothing_more_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = anyio.Event(), anyio.Event()

    async def answer(stream: SocketStream) -> None:
        async with stream:
            async for _ in stream:
                pass
            asked.set()
            await answers.wait()
            await stream.send(b"answer")

    async with pair(answer) as nodes:
        stream = await nodes.connect()
        await stream.send(b"question")
        await stream.send_eof()
        await asked.wait()
        (conn,) = nodes.far.peers()
        lost: list[bytes] = []

        def lose(frames: Sequence[bytes]) -> bool:
            lost.extend(frames)
            return True

        with monkeypatch.context() as line:
            line.setattr(conn.tunnel, "send", lose)
            answers.set()
            nodes.tasks.start_soon(nodes.far.drain, 3600.0)
            # The answer, and its repetitions.
            await until(lambda: len(lost) > 3)
            assert nodes.far.gate.carried == 1
        assert await stream.receive() == b"answer"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await nodes.far.wait_closed()


async def test_what_is_left_after_the_patience_is_reset_with_the_reason() -> None:
    async with pair() as nodes:
        live = await nodes.open()
        began = time.monotonic()
        await nodes.near.drain(0.1)
        assert time.monotonic() - began >= 0.1
        with pytest.raises(anyio.BrokenResourceError):
            await live.receive()
        assert [event for _, event in nodes.told.ends] == [Failed("this node is stopping")]
        # The peer was told, so that nothing of the flow is left there.
        await until(lambda: not nodes.far.gate.carried)


async def test_a_node_without_flows_does_not_wait() -> None:
    async with pair() as nodes:
        with anyio.fail_after(1):
            await nodes.far.drain(3600.0)
            await nodes.far.wait_closed()


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
async def test_the_neighbour_of_a_node_that_stops_knows_soon(scheme: str) -> None:
    flags = Flags(no_tun=True)
    async with Node(config(2, listeners=(f"{scheme}://127.0.0.1:0",), flags=flags), plugins=manager()) as far:
        async with Node(config(1, peers=tuple(far.listeners), flags=flags), plugins=manager()):
            await until(far.routes)
        # Silence would tell after 7 s.
        await until(lambda: not far.peers(), limit=4)
