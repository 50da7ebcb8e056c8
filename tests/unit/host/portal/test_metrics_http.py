"""The metrics listener, asked by HTTP."""

from __future__ import annotations

import http.client
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.to_thread
import pytest

from easytier_host.instance import Node
from easytier_host.portal import address
from easytier_host.portal.door import Door, PortalError
from easytier_host.portal.metrics_http import MAX_CONNECTIONS, MetricsListener
from tests.unit.host.helpers import SECRET, make_node
from tests.unit.host.portal.portals import flow, is_closed

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def metrics_of(*nodes: Node, whitelist: tuple[str, ...] = ()) -> AsyncIterator[Door]:
    wanted = address.parse_metrics("0")
    assert wanted is not None
    door = Door(wanted, whitelist, MAX_CONNECTIONS, setting="metrics_listener")
    await door.open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(MetricsListener(door, nodes).run)
        yield door
        tasks.cancel_scope.cancel()


async def get(door: Door, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
        connection.request(method, path)
        response = connection.getresponse()
        try:
            return response.status, response.read().decode()
        finally:
            response.close()
            connection.close()

    return await anyio.to_thread.run_sync(ask)


async def test_counters_of_all_nodes_are_told_apart() -> None:
    async with make_node(1) as a, make_node(2) as b, metrics_of(a, b) as door:
        flow(a, 1, "kcp")
        status, text = await get(door)
        lines = text.splitlines()
        assert status == 200
        assert text.count("# TYPE node_flows gauge\n") == 1
        assert any(line.startswith("node_flows{") and 'transport="kcp"' in line and line.endswith(" 1") for line in lines)
        for name in ("node1", "node2"):
            assert any(line.startswith("traffic_bytes_rx{") and f'instance_name="{name}"' in line for line in lines)
        assert SECRET not in text


async def test_only_the_counters_are_there_to_get() -> None:
    async with make_node(1) as node, metrics_of(node) as door:
        assert (await get(door, "/"))[0] == 404
        assert (await get(door, method="POST"))[0] == 405
        assert (await get(door, "/metrics?x=1", "HEAD")) == (200, "")


@pytest.mark.parametrize("data", [b"\x00\xff" * 40 + b"\r\n\r\n", b"GET /metrics HTTP/9\r\n\r\n", b"GET /" + b"x" * 20_000])
async def test_what_is_no_request_closes_its_connection_only(data: bytes) -> None:
    async with make_node(1) as node, metrics_of(node) as door:
        async with await anyio.connect_tcp("127.0.0.1", door.port) as stream:
            await stream.send(data)
            with anyio.fail_after(10):
                answer = await stream.receive()
            assert answer.startswith(b"HTTP/1.1 4")
        assert (await get(door))[0] == 200


async def test_whoever_is_not_on_the_whitelist_gets_nothing() -> None:
    async with make_node(1) as node, metrics_of(node, whitelist=("10.0.0.0/8",)) as door:
        async with await anyio.connect_tcp("127.0.0.1", door.port) as stream:
            assert await is_closed(stream)
        assert door.refused == 1


async def test_connections_are_bounded() -> None:
    async with make_node(1) as node, metrics_of(node) as door, AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", door.port))
        extra = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", door.port))
        assert await is_closed(extra)


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with metrics_of() as door:
        wanted = address.parse_metrics(str(door.port))
        assert wanted is not None
        with pytest.raises(PortalError, match=rf"metrics_listener: cannot listen on 127\.0\.0\.1 port {door.port}"):
            await Door(wanted, (), 1, setting="metrics_listener").open()


def test_it_is_off_unless_asked_for() -> None:
    assert address.parse_metrics("") is address.parse_metrics("off") is None
    assert address.parse_metrics("9188") == address.PortalAddress("127.0.0.1", (9188,), required=True)
