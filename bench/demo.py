"""`make demo`: see it work, in one process, without root and without touching the host's network.

First three nodes, of which two reach each other through the third; a line is cut and comes back.  Then downloads over a bad
line, by plain TCP and by KCP, with a table of the flow while it runs.  What is printed is what happened; the exit status is 1
if a step failed.
"""

from __future__ import annotations

import logging
import random
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

import anyio
from anyio.abc import SocketStream

from easytier_hooks import hookimpl
from easytier_hooks.manager import PluginManager
from easytier_hooks.types import TCP, Selection, TcpFlow
from easytier_host import Node
from easytier_host.config.model import PortForward, default_plugins
from easytier_host.demo import nodes
from easytier_host.demo.line import BadLine, Line

STEP_TIMEOUT = 30.0
"""Seconds that any step may take."""
PINGS = 20
LINE = Line(rate_bits=50e6, delay=0.025, loss=0.02, queue_bytes=312_500)
DOWNLOAD_BYTES = 10_000_000
DOWNLOAD_SECONDS = 10.0
SMALL_FLOWS = 40
LANES = 4
"""So many of them at a time: one process can serve them without making them wait for each other."""
_until_known = partial(nodes.until_known, timeout=STEP_TIMEOUT)


def main() -> int:
    """Run the demo; returns the exit status."""
    logging.basicConfig(level=logging.ERROR)
    failed = False
    try:
        anyio.run(_run)
    except* TimeoutError:
        print("a step took longer than it should; see docs/troubleshooting.md", file=sys.stderr)
        failed = True
    return int(failed)


async def _run() -> None:
    await _relay()
    print()
    await _bad_line()


# Three nodes, one of them in the middle.


async def _relay() -> None:
    print("1. Three nodes on loopback.  left and right have no connection of their own:\n")
    print("    left 10.144.0.1  ---udp---  middle 10.144.0.2  ---tcp---  right 10.144.0.3\n")
    middle = Node(nodes.config("middle", 2, listeners=("udp://127.0.0.1:0", "tcp://127.0.0.1:0")))
    async with middle:
        udp, tcp = middle.listeners
        async with Node(nodes.config("left", 1, peers=(udp,))) as left, Node(nodes.config("right", 3, peers=(tcp,))) as right:
            await _until_known(left, ("middle", "right"))
            await _until_known(right, ("left", "middle"))
            print("What left knows, a moment after it started:")
            _show(left)
            await _ping(left, middle)
            await _ping(left, right)
            print("\nmiddle cuts its lines.  left gets a goodbye, asks once more, and a second later it knows:")
            for conn in middle.peers():
                conn.tunnel.close("the demo cut this line")
            await _until_known(left, ())
            _show(left)
            print("\nand left dials it again by itself:")
            await _until_known(left, ("middle", "right"))
            _show(left)
            await _ping(left, right)
            relayed, dropped = middle.metrics.relayed_frames, middle.metrics.dropped_relay
            print(f"\nmiddle has passed on {relayed} frames of the others, sealed as they were, and dropped {dropped}.")


def _show(node: Node) -> None:
    routes = node.routes()
    if not routes:
        print("    nobody")
    for record in sorted(routes, key=lambda record: record.hostname):
        hops = node.hops_to(record.peer_id)
        way = "direct" if hops == 1 else f"{hops} hops"
        print(f"    {record.hostname:8} {record.ipv4!s:16} {way:8} version {record.easytier_version}")


async def _ping(source: Node, target: Node) -> None:
    address = target.config.ipv4
    assert address is not None
    trips = [await source.ping(address.ip, timeout=STEP_TIMEOUT) for _ in range(PINGS)]
    print(
        f"{PINGS} pings {source.config.hostname} -> {target.config.hostname}: all answered, "
        f"median {statistics.median(trips) * 1000:.2f} ms, slowest {max(trips) * 1000:.2f} ms"
    )


# The same bad line twice: plain TCP, then KCP.


class PlainPort:
    """A plugin: connections to one port stay plain TCP."""

    def __init__(self, port: int) -> None:
        self._port = port

    @hookimpl
    def select_transport(self, flow: TcpFlow) -> Selection | None:
        """Leave every other port to the node."""
        return Selection(TCP, "the demo's plugin says so") if flow.key.destination_port == self._port else None


async def _bad_line() -> None:
    print("2. A server behind office, a client at home, and a bad line between them:\n")
    line = f"{LINE.rate_bits / 1e6:.0f} Mbit/s, {LINE.delay * 2000:.0f} ms round trip, {LINE.loss:.0%} lost each way"
    print(f"    client -> home 10.144.0.1  ---{line}---  office 10.144.0.2 -> server\n")
    data = random.Random(1).randbytes(DOWNLOAD_BYTES)

    async def serve(stream: SocketStream) -> None:
        # A client that has seen enough hangs up.
        with suppress(anyio.BrokenResourceError):
            async with stream:
                wanted = int(await stream.receive())
                await stream.send(data[:wanted])

    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1")) for _ in range(2)]
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        for listener in listeners:
            tasks.start_soon(listener.serve, serve)
        ports = [listener.extra(anyio.abc.SocketAttribute.local_port) for listener in listeners]
        office = await stack.enter_async_context(Node(nodes.config("office", 2, listeners=("udp://127.0.0.1:0",))))
        bad_line = BadLine(nodes.udp_address(office), LINE)
        tasks.start_soon(bad_line.run)
        forwards = tuple(PortForward("127.0.0.1:0", f"10.144.0.2:{port}", "tcp") for port in ports)
        near = nodes.config("home", 1, peers=(f"udp://127.0.0.1:{bad_line.address[1]}",), port_forwards=forwards)
        plugins = PluginManager(defaults=default_plugins(near.flags))
        plugins.load()
        plugins.register("demo", PlainPort(ports[0]))
        home = await stack.enter_async_context(Node(near, plugins=plugins))
        await _until_known(home, ("office",))
        await _compare(home, bad_line, ("tcp", "kcp"), data)


async def _compare(home: Node, line: BadLine, transports: Sequence[str], data: bytes) -> None:
    """Download by each transport, one after the other; `home` has a forward for each, and `line` is what they go over."""
    addresses = dict(zip(transports, [forward.address for forward in home.forwards], strict=True))
    assert home.gate.plain is not None
    if home.gate.plain.obstacle:
        print(f"Only KCP can be shown, there is no user-space TCP stack: {home.gate.plain.obstacle}\n")
        del addresses["tcp"]
    print(f"home has a port for each transport.  {DOWNLOAD_BYTES / 1e6:.0f} MB by each, for {DOWNLOAD_SECONDS:g} s at most:\n")
    print("    flow                                           transport  received    rate         why")
    rates: dict[str, float] = {}
    small: dict[str, list[float]] = {}
    dropped: dict[str, tuple[int, int]] = {}
    """So far."""
    for transport, address in addresses.items():
        rates[transport] = await _download(home, address, data)
        with anyio.fail_after(STEP_TIMEOUT):
            # What a download leaves in the queue is not for the next one.
            await line.rested()
        dropped[f"the download by {transport}"] = _dropped(line)
    async with anyio.create_task_group() as lanes:
        for transport, address in addresses.items():
            small[transport] = []
            for _ in range(LANES):
                lanes.start_soon(_small_flows, address, data, small[transport])
    dropped["the small flows"] = _dropped(line)
    print("\nAll bytes were the server's.  Then small flows by each: connect, ask, 1 kB.")
    print(f"{SMALL_FLOWS} of them, {LANES} at a time:\n")
    print("    transport  goodput        the small answers are there after: median    mean  slowest")
    for transport, times in small.items():
        median, mean, slowest = (1000 * seconds for seconds in (statistics.median(times), statistics.mean(times), max(times)))
        print(f"    {transport:9} {rates[transport]:5.2f} Mbit/s {median:45.0f} ms {mean:4.0f} ms {slowest:5.0f} ms")
    print("\nA small answer needs two round trips by either, and most flows lose nothing: that is the median.  What is lost")
    print("KCP repeats at once, where TCP waits: that is in the mean and the slowest.  KCP tells the end of a flow a round")
    print("trip after its last byte, so a program that waits for the end sees that later.")
    if "tcp" in rates:
        print(
            "\nPlain TCP is that of the user-space stack here.  The kernel's, on nodes with a TUN device, takes losses better,"
        )
        print("yet is far from KCP: bench/README.md has the figures.")
    print("\nDatagrams that the line lost, and that its full queue dropped:")
    before = 0, 0
    for what, counted in dropped.items():
        print(f"    {what:22} {counted[0] - before[0]:5} {counted[1] - before[1]:5}")
        before = counted


def _dropped(line: BadLine) -> tuple[int, int]:
    """Datagrams lost on the way, and by a full queue, so far."""
    return line.there.lost + line.back.lost, line.there.overflowed + line.back.overflowed


async def _download(home: Node, address: tuple[str, int], data: bytes) -> float:
    """Download for a while; returns Mbit/s."""
    received = bytearray()
    began = time.monotonic()
    async with anyio.create_task_group() as watchers:
        watchers.start_soon(_watch, home)
        with anyio.move_on_after(DOWNLOAD_SECONDS):
            async with await anyio.connect_tcp(*address) as stream:
                await stream.send(str(len(data)).encode())
                async for chunk in stream:
                    received += chunk
        watchers.cancel_scope.cancel()
    if not received or data[: len(received)] != received:
        raise SystemExit("the download is not what the server sent")
    return len(received) * 8 / (time.monotonic() - began) / 1e6


async def _small_flows(address: tuple[str, int], data: bytes, times: list[float]) -> None:
    """The share of one lane, one after the other; adds the seconds that each took."""
    for _ in range(SMALL_FLOWS // LANES):
        began = time.monotonic()
        received = bytearray()
        with anyio.fail_after(STEP_TIMEOUT):
            async with await anyio.connect_tcp(*address) as stream:
                await stream.send(b"1000")
                while len(received) < 1000:
                    received += await stream.receive()
                times.append(time.monotonic() - began)
        if received != data[:1000]:
            raise SystemExit("an answer is not what the server sent")


async def _watch(node: Node) -> None:
    """Print the newest flow once a second while it lives; on a terminal always in the same place."""
    previous, drawn = 0, False
    earlier = {flow.id for flow in node.gate.table}
    while True:
        await anyio.sleep(1)
        for flow in node.gate.table:
            if flow.id in earlier or flow.ended is not None:
                continue
            rate = (flow.bytes_received - previous) * 8 / 1e6
            previous = flow.bytes_received
            received = flow.bytes_received / 1e6
            line = f"    {flow.key!s:46} {flow.transport!s:9} {received:6.1f} MB  {rate:5.1f} Mbit/s  {flow.reason}"
            print(("\033[1A\033[2K" if drawn and sys.stdout.isatty() else "") + line)
            drawn = True


if __name__ == "__main__":
    sys.exit(main())
