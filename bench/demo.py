"""`make demo`: see it work, in one process, without root and without touching the host's network.

First three nodes, of which two reach each other through the third; a line is cut and comes back.  Then a download over a bad
line, carried by KCP, with a table of the flow while it runs.  What is printed is what happened; the exit status is 1 if a step
failed.
"""

from __future__ import annotations

import hashlib
import logging
import random
import statistics
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Interface

import anyio
from anyio.abc import SocketStream

from bench.link import LinkOptions
from bench.udp_link import UdpLink
from easytier_host import Config, Flags, Node
from easytier_host.config.model import PortForward

STEP_TIMEOUT = 30.0
"""Seconds that any step may take."""
PINGS = 20
LINE = LinkOptions(rate_bits=50e6, delay=0.025, jitter=0.002, loss=0.05, queue_bytes=312_500)
DOWNLOAD_BYTES = 10_000_000
SMALL_FLOWS = 20


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
    middle = Node(_config("middle", 2, listeners=("udp://127.0.0.1:0", "tcp://127.0.0.1:0")))
    async with middle:
        udp, tcp = middle.listeners
        async with Node(_config("left", 1, peers=(udp,))) as left, Node(_config("right", 3, peers=(tcp,))) as right:
            await _until_known(left, ("middle", "right"))
            await _until_known(right, ("left", "middle"))
            print("What left knows, a moment after it started:")
            _show(left)
            await _ping(left, middle)
            await _ping(left, right)
            print("\nmiddle cuts its lines.  left is not told, since UDP has no goodbye; after seven silent seconds it knows:")
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


# A download over a bad line.


async def _bad_line() -> None:
    print("2. A server behind office, a client at home, and a bad line between them:\n")
    line = f"{LINE.rate_bits / 1e6:.0f} Mbit/s, {LINE.delay * 2000:.0f} ms round trip, {LINE.loss:.0%} lost each way"
    print(f"    client -> home 10.144.0.1  ---{line}---  office 10.144.0.2 -> server\n")
    data = random.Random(1).randbytes(DOWNLOAD_BYTES)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            wanted = int(await stream.receive())
            await stream.send(data[:wanted])

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, serve)
        server_port = server.extra(anyio.abc.SocketAttribute.local_port)
        async with Node(_config("office", 2, listeners=("udp://127.0.0.1:0",))) as office:
            link = UdpLink(("127.0.0.1", int(office.listeners[0].rpartition(":")[2])), LINE)
            tasks.start_soon(link.run)
            forward = PortForward("127.0.0.1:0", f"10.144.0.2:{server_port}", "tcp")
            near = _config("home", 1, peers=(f"udp://127.0.0.1:{link.address[1]}",), port_forwards=(forward,))
            async with Node(near) as home:
                await _until_known(home, ("office",))
                address = home.forwards[0].address
                print(f"home forwards {address[0]}:{address[1]} to 10.144.0.2:{server_port}.  One download of 10 MB:\n")
                async with anyio.create_task_group() as watchers:
                    watchers.start_soon(_watch, home)
                    took = await _download(address, data)
                    watchers.cancel_scope.cancel()
                rate = DOWNLOAD_BYTES * 8 / took / 1e6
                print(f"\nThe download took {took:.1f} s, {rate:.0f} Mbit/s, and is whole: its SHA-256 is the server's.")
                await _small_flows(address, data)
                lost = link.there.lost + link.back.lost
                print(
                    f"The line lost {lost} datagrams meanwhile, its queue {link.there.overflowed + link.back.overflowed} more."
                )
        tasks.cancel_scope.cancel()


async def _download(address: tuple[str, int], data: bytes) -> float:
    began = time.monotonic()
    received = await _request(address, len(data))
    if hashlib.sha256(received).digest() != hashlib.sha256(data).digest():
        raise SystemExit("the download is not what the server sent")
    return time.monotonic() - began


async def _small_flows(address: tuple[str, int], data: bytes) -> None:
    times = []
    for _ in range(SMALL_FLOWS):
        began = time.monotonic()
        if await _request(address, 1000) != data[:1000]:
            raise SystemExit("an answer is not what the server sent")
        times.append(time.monotonic() - began)
    print(
        f"{SMALL_FLOWS} small flows (connect, ask, 1 kB, end): all answered, median {statistics.median(times) * 1000:.0f} ms, "
        f"slowest {max(times) * 1000:.0f} ms."
    )


async def _request(address: tuple[str, int], size: int) -> bytes:
    received = bytearray()
    with anyio.fail_after(STEP_TIMEOUT):
        async with await anyio.connect_tcp(*address) as stream:
            await stream.send(str(size).encode())
            async for chunk in stream:
                received += chunk
    return bytes(received)


async def _watch(node: Node) -> None:
    """Print the node's flows once a second; on a terminal always in the same place."""
    print("    flow                                           transport  received    rate         why")
    previous, drawn = 0, False
    while True:
        await anyio.sleep(1)
        for flow in node.gate.table:
            rate = (flow.bytes_received - previous) * 8 / 1e6
            previous = flow.bytes_received
            received = flow.bytes_received / 1e6
            line = f"    {flow.key!s:46} {flow.transport!s:9} {received:6.1f} MB  {rate:5.1f} Mbit/s  {flow.reason}"
            print(("\033[1A\033[2K" if drawn and sys.stdout.isatty() else "") + line)
            drawn = True


# Both.


def _config(
    hostname: str,
    host: int,
    *,
    listeners: Sequence[str] = (),
    peers: Sequence[str] = (),
    port_forwards: Sequence[PortForward] = (),
) -> Config:
    return Config(
        instance_name=hostname,
        hostname=hostname,
        network_name="demo",
        network_secret="demo secret",
        ipv4=IPv4Interface(f"10.144.0.{host}/24"),
        listeners=tuple(listeners),
        peers=tuple(peers),
        port_forwards=tuple(port_forwards),
        flags=Flags(no_tun=True, disable_p2p=True, enable_kcp_proxy=True),
    )


async def _until_known(node: Node, names: Sequence[str]) -> None:
    with anyio.fail_after(STEP_TIMEOUT):
        events = node.events()
        while {record.hostname for record in node.routes()} != set(names):
            await anext(events)


if __name__ == "__main__":
    sys.exit(main())
