"""Two whole nodes in one process, without root and without devices: programs, forwards and SOCKS5 reach the overlay.

near 10.144.0.1 ---- udp on loopback ---- far 10.144.0.2, behind whose address is this machine's loopback
"""

from __future__ import annotations

import errno
import hashlib
import logging
import random
import shutil
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from easytier_hooks import streams
from easytier_hooks.manager import PluginManager
from easytier_hooks.types import Closed, Counters, Failed
from easytier_host import Flags, Node, NodeError
from easytier_host.config.model import PortForward
from easytier_host.flows import Flow
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.plugin import KcpPlugin, KernelPlugin, SmoltcpPlugin
from tests.unit.host.helpers import until
from tests.unit.kcp_plugin.test_port_forward import config

pytest.importorskip("easytier_kcp_plugin._native", reason="needs the user-space TCP stack: install Rust, then this package")

pytestmark = pytest.mark.anyio

LIMIT = 20
FAR = "10.144.0.2"
REASONS = {"kcp": "vm takes KCP", "tcp": "the KCP proxy is off here (enable_kcp_proxy)"}
TRANSPORTS = pytest.mark.parametrize("transport", ["kcp", "tcp"])


def manager(*, native: bool = True) -> PluginManager:
    plugins = PluginManager(installed=[], environ={})
    plugins.register("kcp", KcpPlugin({}))
    plugins.register("kernel", KernelPlugin({}))
    if native:
        plugins.register("smoltcp", SmoltcpPlugin({}))
    return plugins


@asynccontextmanager
async def network(
    transport: str = "tcp",
    *,
    forwards: Sequence[PortForward] = (),
    socks: bool = False,
    far_takes_kcp: bool = True,
    near_access: Mapping[str, Any] = MappingProxyType({}),
    far_access: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncIterator[tuple[Node, Node]]:
    """The near and the far node, which know each other; flows of the near one take `transport`.  The last two are settings
    of what peers may reach."""
    far_flags = Flags(no_tun=True, disable_kcp_input=not far_takes_kcp)
    with anyio.fail_after(2 * LIMIT):
        async with Node(config(2, listeners=("udp://127.0.0.1:0",), flags=far_flags, **far_access), plugins=manager()) as far:
            near_config = config(
                1,
                peers=tuple(far.listeners),
                port_forwards=tuple(forwards),
                socks5="socks5://127.0.0.1:0" if socks else "",
                flags=Flags(no_tun=True, enable_kcp_proxy=transport == "kcp"),
                **near_access,
            )
            async with Node(near_config, plugins=manager()) as near:
                await until(lambda: near.routes() and far.routes())
                yield near, far


async def echo(stream: ByteStream) -> None:
    """Send back what comes, and end when the other side has."""
    # Tests break connections on purpose.
    with suppress(anyio.BrokenResourceError):
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)


async def read_all(stream: ByteStream) -> bytes:
    received = bytearray()
    async for chunk in stream:
        received += chunk
    return bytes(received)


async def ended(node: Node) -> Flow:
    """The only flow of a node, after its end."""
    await until(lambda: [flow for flow in node.gate.table if flow.ended])
    (flow,) = node.gate.table
    return flow


@TRANSPORTS
async def test_a_program_connects_and_another_listens(transport: str) -> None:
    data = random.Random(1).randbytes(2_000_000)
    sources = []

    async with network(transport) as (near, far), anyio.create_task_group() as tasks:

        async def serve(stream: ByteStream) -> None:
            sources.append(stream.extra(SocketAttribute.remote_address))
            await echo(stream)

        listener = await far.listen_tcp(80)
        tasks.start_soon(listener.serve, serve)
        stream = await near.connect_tcp(FAR, 80)
        assert stream.extra(SocketAttribute.remote_address) == (FAR, 80)
        async with stream:

            async def send() -> None:
                await stream.send(data)
                await stream.send_eof()

            tasks.start_soon(send)
            received = await read_all(stream)
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        for node, direction in ((near, "forwarded"), (far, "inbound")):
            flow = await ended(node)
            assert (flow.transport, flow.direction, flow.ended) == (transport, direction, Closed("FIN both ways"))
            assert (flow.bytes_sent, flow.bytes_received) == (len(data), len(data))
            assert str(flow.key).endswith(f"-> {FAR}:80")
        flow = await ended(near)
        assert flow.key.source_ip == IPv4Address("10.144.0.1")
        assert REASONS[transport].partition(" ")[2] in flow.reason
        if transport == "kcp":
            assert sources == [("10.144.0.1", flow.key.source_port)]
        await listener.aclose()


@TRANSPORTS
async def test_a_port_where_nobody_listens_refuses(transport: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with network(transport) as (near, _):
            words = f"{FAR}:{port} refused" if transport == "tcp" else "refused by the destination, or out of the peer's reach"
            with pytest.raises(ConnectionRefusedError, match=words):
                await near.connect_tcp(FAR, port)
            assert isinstance((await ended(near)).ended, Failed)


async def test_an_address_without_a_host_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_route(*_: object) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    async with network("kcp") as (near, far):
        monkeypatch.setattr(streams, "connect", no_route)
        with pytest.raises(OSError, match=str(CloseReason.DESTINATION_UNREACHABLE)) as raised:
            await near.connect_tcp(FAR, 80)
        assert not isinstance(raised.value, ConnectionError)
        told = await ended(near)
        # Plain TCP has not been tried: the peer knows.
        assert (told.ended, told.chosen_by) == (Failed(CloseReason.DESTINATION_UNREACHABLE), "default")
        assert (await ended(far)).ended == Failed(f"{FAR}:80 cannot be reached: No route to host")


async def test_what_cannot_be_an_address_or_has_no_peer() -> None:
    async with network() as (near, _):
        with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
            await near.connect_tcp("example", 80)
        with pytest.raises(ValueError, match="not a port"):
            await near.connect_tcp(FAR, 70_000)
        with pytest.raises(OSError, match=r"no peer has 10\.144\.0\.9"):
            await near.connect_tcp("10.144.0.9", 80)
        with pytest.raises(OSError, match="no peer has fd00::2"):
            await near.connect_tcp("fd00::2", 80)


async def test_a_node_reaches_itself() -> None:
    async with network() as (near, _), anyio.create_task_group() as tasks:
        listener = await near.listen_tcp(80)
        tasks.start_soon(listener.serve, echo)
        async with await near.connect_tcp("10.144.0.1", 80) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
        await listener.aclose()


async def test_a_listener_of_the_program_comes_before_the_machines() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as machine:
        port = machine.extra(SocketAttribute.local_port)
        async with network() as (near, far):
            listener = await far.listen_tcp(port)
            async with await near.connect_tcp(FAR, port) as stream, await listener.accept() as accepted:
                await accepted.send(b"from the program")
                assert await stream.receive() == b"from the program"


@TRANSPORTS
async def test_when_a_node_stops_streams_break_and_listeners_end(transport: str) -> None:
    flags = Flags(no_tun=True, enable_kcp_proxy=transport == "kcp")
    with anyio.fail_after(2 * LIMIT):
        async with Node(config(2, listeners=("udp://127.0.0.1:0",), flags=flags), plugins=manager()) as far:
            async with anyio.create_task_group() as servers:
                near_config = config(1, peers=tuple(far.listeners), flags=Flags(no_tun=True))
                async with Node(near_config, plugins=manager()) as near:
                    await until(lambda: far.routes() and near.routes())
                    listener = await near.listen_tcp(80)
                    servers.start_soon(listener.serve, echo)
                    stream = await far.connect_tcp("10.144.0.1", 80)
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello"
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
            await stream.aclose()
            end = (await ended(far)).ended
            assert end is not None
            assert "reset" in end.reason


async def test_the_portal_can_end_a_flow_of_a_program() -> None:
    async with network() as (near, far):
        listener = await far.listen_tcp(80)
        stream = await near.connect_tcp(FAR, 80)
        (flow,) = near.gate.table
        await until(lambda: near.gate.close(flow.id, "closed by the user"))
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
        await stream.aclose()
        accepted = await listener.accept()
        with pytest.raises(anyio.BrokenResourceError):
            await accepted.receive()
        await accepted.aclose()
        assert (await ended(near)).ended == Failed("closed by the user")


@pytest.mark.parametrize(("transport", "far_takes_kcp"), [("tcp", True), ("kcp", True), ("kcp", False)])
async def test_a_forwarded_port(transport: str, far_takes_kcp: bool) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, echo)
        forward = PortForward("127.0.0.1:0", f"{FAR}:{server.extra(SocketAttribute.local_port)}", "tcp")
        async with network(transport, forwards=[forward], far_takes_kcp=far_takes_kcp) as (near, _):
            async with await anyio.connect_tcp(*near.forwards[0].address) as client:
                await client.send(b"question")
                await client.send_eof()
                assert await read_all(client) == b"question"
            flow = await ended(near)
            expected = ("kcp", "takes KCP") if transport == "kcp" and far_takes_kcp else ("tcp", REASONS["tcp"])
            if not far_takes_kcp:
                expected = ("tcp", "kcp input disabled there")
            assert (flow.transport, expected[1] in flow.reason) == (expected[0], True)
            # The client's connection ends in the kernel; plain TCP begins another one on the overlay.
            assert flow.stack == ("kernel" if flow.transport == "kcp" else "kernel and smoltcp")
        tasks.cancel_scope.cancel()


async def test_a_forwarded_port_of_udp() -> None:
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as server, anyio.create_task_group() as tasks:

        async def answer() -> None:
            async for data, (host, port) in server:
                await server.sendto(data[::-1], host, port)

        tasks.start_soon(answer)
        forward = PortForward("127.0.0.1:0", f"{FAR}:{server.extra(SocketAttribute.local_port)}", "udp")
        async with network(forwards=[forward]) as (near, _):
            clients = [await anyio.create_connected_udp_socket(*near.forwards[0].address) for _ in range(2)]
            for size in (1, 64, 1900, 20_000):
                for number, client in enumerate(clients):
                    await client.send(bytes((number,)) * (size - 1) + b"!")
                for number, client in enumerate(clients):
                    with anyio.fail_after(LIMIT):
                        assert await client.receive() == b"!" + bytes((number,)) * (size - 1)
            for client in clients:
                await client.aclose()
        tasks.cancel_scope.cancel()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the command curl")
@TRANSPORTS
async def test_curl_through_socks(transport: str) -> None:
    async def page(stream: ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with network(transport, socks=True) as (near, far), anyio.create_task_group() as tasks:
        listener = await far.listen_tcp(80)
        tasks.start_soon(listener.serve, page)
        assert near.socks_address is not None
        command = ["curl", "-sS", "--noproxy", "", "--socks5", f"127.0.0.1:{near.socks_address[1]}", f"http://{FAR}/"]
        result = await anyio.run_process(command, check=False)
        assert (result.stdout, result.stderr) == (b"hello", b"")
        assert (await ended(near)).transport == transport
        await listener.aclose()


async def test_counters_come_while_a_flow_of_a_program_lives() -> None:
    async with network() as (near, far):
        seen: list[Counters] = []
        near.gate.observers.append(lambda _, event: seen.append(event) if isinstance(event, Counters) else None)
        listener = await far.listen_tcp(80)
        async with await near.connect_tcp(FAR, 80) as stream, await listener.accept() as accepted:
            await stream.send(b"hello")
            await accepted.receive()
            await until(lambda: seen)
            assert (seen[0].bytes_sent, seen[0].bytes_received) == (5, 0)


@pytest.mark.parametrize("native", [True, False])
async def test_without_the_stack_one_warning_says_what_does_not_work(native: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with Node(config(1, flags=Flags(no_tun=True)), plugins=manager(native=native)):
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == (not native)
    assert native or said[0].startswith("plain TCP cannot end or begin here, only KCP can: ")


@pytest.mark.parametrize(
    ("proto", "socks", "problem"),
    [
        ("tcp", False, "port_forward 127.0.0.1:"),
        ("udp", False, "port_forward 127.0.0.1:"),
        ("", True, "socks5_proxy socks5://"),
    ],
)
async def test_an_entrance_that_is_taken_stops_the_node_at_its_start(proto: str, socks: bool, problem: str) -> None:
    kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        rules = [PortForward("127.0.0.1:0", f"{FAR}:80", "tcp"), PortForward("127.0.0.1:0", f"{FAR}:53", "udp")]
        if proto:
            rules.append(PortForward(taken, f"{FAR}:80", proto))
        settings = config(1, port_forwards=tuple(rules), socks5=f"socks5://{taken}" if socks else "", flags=Flags(no_tun=True))
        with pytest.raises(NodeError, match=f"^{problem}.*: cannot listen there: Address already in use$"):
            async with Node(settings, plugins=manager()):
                pass


async def test_udp_over_ipv6_needs_a_device() -> None:
    settings = config(1, port_forwards=(PortForward("127.0.0.1:0", "[fd00::2]:53", "udp"),), flags=Flags(no_tun=True))
    with pytest.raises(NodeError, match="UDP over IPv6 needs a TUN device"):
        async with Node(settings, plugins=manager()):
            pass


async def test_no_peer_is_led_to_the_doors_of_a_node() -> None:
    """Through them it would be a client of that machine, and a SOCKS5 server leads such clients to loopback."""
    rule = PortForward("127.0.0.1:0", "10.144.0.2:80", "tcp")
    async with network(forwards=[rule], socks=True) as (near, far):
        assert near.socks_address is not None
        doors = [near.socks_address[1], near.forwards[0].address[1]]
        for port in doors:
            with pytest.raises(ConnectionRefusedError):
                await far.connect_tcp("10.144.0.1", port)
        assert near.metrics.refused_dials == len(doors)


CLOSED = MappingProxyType({"tcp_whitelist": ((0, 0),), "udp_whitelist": ((0, 0),)})
"""Settings of a node that lets peers reach nothing."""


@TRANSPORTS
async def test_a_whitelist_limits_what_peers_begin_and_nothing_else(transport: str) -> None:
    open_80 = {"tcp_whitelist": ((80, 80),)}
    async with network(transport, near_access=CLOSED, far_access=open_80) as (near, far), anyio.create_task_group() as tasks:
        for port in (80, 81):
            tasks.start_soon((await far.listen_tcp(port)).serve, echo)
        async with await near.connect_tcp(FAR, 80) as stream:
            await stream.send(b"ping")
            assert await stream.receive() == b"ping"
        with pytest.raises(ConnectionRefusedError):
            await near.connect_tcp(FAR, 81)
        (refused,) = [flow for flow in far.gate.table if flow.key.destination_port == 81]
        assert isinstance(refused.ended, Failed)
        assert "port 81 is not in tcp_whitelist" in refused.ended.reason
        assert refused.peer is not None
        assert refused.peer.peer_id == near.peer_id
        assert far.metrics.refused_dials >= 1
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("is_open", [True, False])
async def test_answers_to_datagrams_pass_a_whitelist_and_questions_do_not(is_open: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        port = server.getsockname()[1]
        rule = PortForward("127.0.0.1:0", f"{FAR}:{port}", "udp")
        access = {"udp_whitelist": ((port, port),)} if is_open else CLOSED
        async with (
            network(forwards=[rule], near_access=CLOSED, far_access=access) as (near, far),
            await anyio.create_connected_udp_socket(*near.forwards[0].address) as client,
        ):
            await client.send(b"question")
            if is_open:
                await anyio.wait_readable(server)
                question, asker = server.recvfrom(100)
                server.sendto(question + b" answered", asker)
                assert await client.receive() == b"question answered"
            else:
                await until(lambda: far.metrics.dropped_access)
                with pytest.raises(BlockingIOError):
                    server.recvfrom(100)
