"""Two thousand connections of one user-space stack at a time: all correct, little memory each, no work while silent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from easytier_hooks.streams import TcpConnection
from tests.unit.host.tunnel.helpers import until
from tests.unit.kcp_plugin.stack_links import Ends, flow_key, joined

pytest.importorskip("easytier_kcp_plugin._native", reason="the native module was not built")

pytestmark = pytest.mark.anyio

FLOWS = 2000
IDLE_BYTES = 64_000
"""Of memory for each idle connection, at most."""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def opened(ends: Ends) -> dict[int, tuple[TcpConnection, TcpConnection]]:
    """`FLOWS` connections by their port, begun all at once."""
    near: dict[int, TcpConnection] = {}
    far: dict[int, TcpConnection] = {}

    async def connect(port: int) -> None:
        near[port] = await ends.near.connect(ends.near_link, flow_key(port))

    async def terminate(syn: bytes, port: int) -> None:
        far[port] = await ends.far.terminate(ends.far_link, flow_key(port), syn)

    async with anyio.create_task_group() as tasks:
        for port in range(1, FLOWS + 1):
            tasks.start_soon(connect, port)
        asked: set[int] = set()
        while len(asked) < FLOWS:
            for syn in await ends.syns():
                port = int.from_bytes(syn[30:32], "big")
                if port not in asked:
                    asked.add(port)
                    tasks.start_soon(terminate, syn, port)
    return {port: (near[port], far[port]) for port in near}


async def test_two_thousand_connections_at_a_time() -> None:
    async with joined() as ends:
        with anyio.fail_after(40):
            before = resident_bytes()
            connections = await opened(ends)
            each = (resident_bytes() - before) / (2 * FLOWS)
            assert each < IDLE_BYTES

            steps = [native_of(stack).counters()["sent"] for stack in (ends.near, ends.far)]
            await anyio.sleep(0.3)
            assert [native_of(stack).counters()["sent"] for stack in (ends.near, ends.far)] == steps

            async with anyio.create_task_group() as tasks:
                for port, pair in connections.items():
                    tasks.start_soon(talk, port, *pair)
            await until(lambda: native_of(ends.near).counters()["closed"] == FLOWS)


def native_of(stack: object) -> Any:
    return next(iter(cast("Any", stack)._drivers.values())).native


async def talk(port: int, near: TcpConnection, far: TcpConnection) -> None:
    """Each connection has words of its own, so that none can be taken for another's."""
    words = port.to_bytes(2, "big") * 1000
    await near.send(words)
    await near.send_eof()
    heard = b""
    while len(heard) < len(words):
        heard += await far.receive()
    assert heard == words
    await far.send(words[::-1])
    await far.send_eof()
    answer = b""
    while len(answer) < len(words):
        answer += await near.receive()
    assert answer == words[::-1]
    for end in (near, far):
        with pytest.raises(anyio.EndOfStream):
            await end.receive()
        await end.aclose()
