"""Who gets in, and what happens to those who break the rules."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

import anyio
import anyio.to_thread
import pytest

from easytier_host.pb import common_pb2
from easytier_host.portal import server
from easytier_host.portal.address import PortalAddress
from easytier_host.portal.server import MAX_CONNECTIONS, Portal, PortalError
from easytier_host.rpc.client import ConnectError, PortalClient, RefusedError
from easytier_host.rpc.framing import MAX_PEER_CALLS
from tests.unit.host.helpers import make_node, until
from tests.unit.host.portal.portals import ask, flow, is_closed, packet, portal_of, read_answer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("whitelist", "lets_in"), [(("127.0.0.0/8",), True), (("10.0.0.0/8", "::/0"), False)])
async def test_only_the_whitelist_gets_answers(whitelist: Sequence[str], lets_in: bool) -> None:
    async with make_node(1) as node, portal_of(node, whitelist=whitelist) as portal:
        if lets_in:
            assert (await ask(portal, lambda client: client.node_info())).peer_id == node.peer_id
            return
        with pytest.raises(RefusedError, match="rpc_portal_whitelist"):
            await ask(portal, lambda client: client.node_info())
        assert portal.refused == 1


BAD_FRAMES = {
    "too short": struct.pack("<I", 15),
    "too long": struct.pack("<I", 2001),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no packet": struct.pack("<I", 20) + bytes(16) + b"\xff\xff\xff\xff",
    "a response": packet(is_request=False),
    "no descriptor": packet(descriptor=None),
    "impossible piece": packet(total_pieces=2, piece_idx=2),
    "compressed": packet(compression_info=common_pb2.RpcCompressionInfo(algo=common_pb2.CompressionZstd)),
}


@pytest.mark.parametrize("data", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_a_bad_frame_closes_its_connection_only(data: bytes) -> None:
    async with (
        make_node(1) as node,
        portal_of(node) as portal,
        await anyio.connect_tcp("127.0.0.1", portal.port) as good,
        await anyio.connect_tcp("127.0.0.1", portal.port) as bad,
    ):
        await bad.send(data)
        assert await is_closed(bad)
        await good.send(packet(transaction_id=7))
        answer, _ = await read_answer(good)
        assert answer.transaction_id == 7


async def test_a_request_that_does_not_decode_is_answered_with_an_error() -> None:
    async with make_node(1) as node, portal_of(node) as portal, await anyio.connect_tcp("127.0.0.1", portal.port) as stream:
        await stream.send(packet(body=b"\xff\xff"))
        _, response = await read_answer(stream)
        assert response.error.WhichOneof("error_kind") == "prost_decode_error"


async def test_any_bytes_leave_the_portal_working() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        for _ in range(20):
            async with await anyio.connect_tcp("127.0.0.1", portal.port) as stream:
                await stream.send(struct.pack("<I", 200) + os.urandom(200))
                assert await is_closed(stream)
        assert (await ask(portal, lambda client: client.node_info())).peer_id == node.peer_id


async def test_connections_are_bounded() -> None:
    async with make_node(1) as node, portal_of(node) as portal, AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stream = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", portal.port))
            await stream.send(packet())
            await read_answer(stream)
        extra = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", portal.port))
        assert await is_closed(extra)
        assert portal.refused == 1


async def test_who_asks_without_end_is_read_no_faster_than_answered() -> None:
    questions, too_much = packet() * 50, 64 << 20

    def ask_for_ever(port: int) -> int:
        taken = 0
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as client, suppress(TimeoutError):
            while taken < too_much:
                client.sendall(questions)
                taken += len(questions)
        return taken

    async with make_node(1) as node, portal_of(node) as portal:
        # What the two sockets hold, and the questions that the allowance lets pass.
        assert await anyio.to_thread.run_sync(ask_for_ever, portal.port) < too_much
        assert (await ask(portal, PortalClient.node_info)).peer_id == node.peer_id


async def test_unfinished_calls_of_a_connection_have_the_caps_of_one_caller() -> None:
    """Whoever they say they come from."""
    async with make_node(1) as node, portal_of(node) as portal, await anyio.connect_tcp("127.0.0.1", portal.port) as stream:
        pieces = (packet(from_peer=number, transaction_id=number, total_pieces=2) for number in range(MAX_PEER_CALLS + 1))
        await stream.send(b"".join(pieces))
        assert await is_closed(stream)


async def test_a_silent_connection_is_closed() -> None:
    async with make_node(1) as node, portal_of(node, idle_timeout=0.05) as portal:
        stream = await anyio.connect_tcp("127.0.0.1", portal.port)
        async with stream:
            assert await is_closed(stream)


async def test_large_answers_come_in_pieces() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        for port in range(1, 2000):
            flow(node, port, "tcp")
        entries = await ask(portal, lambda client: client.proxy_entries())
        assert [entry.src.port for entry in entries] == list(range(1, 2000))


# The address


async def test_the_next_free_port_is_taken() -> None:
    async with portal_of() as first:
        second = Portal(PortalAddress("127.0.0.1", (first.port, 0), required=True), (), [])
        await second.open()
        assert second.port not in (0, first.port)
        third = Portal(PortalAddress("127.0.0.1", (first.port,), required=True), (), [])
        with pytest.raises(PortalError, match=rf"rpc_portal: cannot listen on 127\.0\.0\.1 port {first.port}"):
            await third.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second.run)
            await until(lambda: second.address)
            tasks.cancel_scope.cancel()
    with pytest.raises(ConnectError, match="no node answers"):
        await ask(second, lambda client: client.node_info())


async def test_who_does_not_take_answers_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_TIMEOUT", 0.05)
    async with make_node(1) as node, portal_of(node) as portal, await anyio.connect_tcp("127.0.0.1", portal.port) as stream:
        for port in range(5000):
            flow(node, port, "tcp")
        descriptor = common_pb2.RpcDescriptor(service_name="PythonNodeRpc", method_index=1)
        questions = b"".join(packet(transaction_id=number, descriptor=descriptor) for number in range(100))

        async def ask_for_ever() -> None:
            while True:
                await stream.send(questions)

        # The answers take some 600 kB each: what the two sockets hold is soon full.
        with anyio.fail_after(20), pytest.raises(anyio.BrokenResourceError):
            await ask_for_ever()
        assert (await ask(portal, PortalClient.node_info)).peer_id == node.peer_id
