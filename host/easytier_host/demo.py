"""`make demo`: a small network in one process, without root and without touching the host's network.

Three nodes on loopback, left and right joined only by the one in the middle; pings across it, then the lines are cut and come
back.  What it prints is what really happened; it exits with 1 if a step takes too long.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from ipaddress import IPv4Interface

import anyio

from easytier_host.config.model import Config, Flags
from easytier_host.instance import Node

STEP_TIMEOUT = 20.0
"""Seconds that any step may take."""
PINGS = 20


def main() -> int:
    """Run the demo; the exit code is 0 if every step worked."""
    logging.basicConfig(level=logging.ERROR)
    try:
        anyio.run(_run)
    except TimeoutError:
        print("a step took longer than it should; see docs/troubleshooting.md", file=sys.stderr)
        return 1
    return 0


async def _run() -> None:
    print("Three nodes of network demo on loopback.  left and right have no connection of their own:\n")
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


def _config(hostname: str, host: int, *, listeners: Sequence[str] = (), peers: Sequence[str] = ()) -> Config:
    return Config(
        instance_name=hostname,
        hostname=hostname,
        network_name="demo",
        network_secret="demo secret",
        ipv4=IPv4Interface(f"10.144.0.{host}/24"),
        listeners=tuple(listeners),
        peers=tuple(peers),
        flags=Flags(no_tun=True, disable_p2p=True),
    )


async def _until_known(node: Node, names: Sequence[str]) -> None:
    with anyio.fail_after(STEP_TIMEOUT):
        events = node.events()
        while {record.hostname for record in node.routes()} != set(names):
            await anext(events)


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
    trips.sort()
    print(
        f"{PINGS} pings {source.config.hostname} -> {target.config.hostname}: all answered, "
        f"median {trips[PINGS // 2] * 1000:.2f} ms, slowest {trips[-1] * 1000:.2f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
