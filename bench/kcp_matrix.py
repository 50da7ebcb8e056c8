"""TCP over KCP on links with losses, all pairs in one table: throughput, small flows, habits that take long, idle flows.

Not a test: it judges nothing but what failed.  Run as root from the top of the checkout, with `easytier-pyo3` installed, on a
quiet machine; all of it takes about an hour, `--pairs`, `--parts` and `--losses` choose:

    python -m bench.kcp_matrix --pairs ours-stock stock-stock --losses 0 0.05

Each pair lives in two namespaces joined by `bench.link`: 100 Mbit/s, 50 ms there and back, a queue of one bandwidth-delay
product.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from bench.link import LinkOptions
from tests.interop.kcp_scenes import DELAY, DIRECTIONS, JITTER, KcpPair, kcp_pair
from tests.netns.nodes import ALGORITHMS, RunningNode
from tests.netns.requirements import missing_for_interop
from tests.netns.tcp_games import Games, finish
from tests.netns.topology import sweep_stale

PAIRS = {**DIRECTIONS, "stock-stock": ("stock", "stock")}
"""Name (source - destination) -> kinds."""
RATE_BITS = 100e6
QUEUE_BYTES = 625_000
SLEEPY_BYTES = 60_000_000
SLEEP_SECONDS = 20.0
IDLE_FLOWS = 100
IDLE_SECONDS = 20.0
LIMIT = 300.0
"""Seconds for one transfer: 2.7 Mbit/s."""


def bulk(played: Games, game: str, size_bytes: int) -> str:
    """Mbit/s of one transfer, whose digests were equal."""
    answer = played.play(game, size_bytes=size_bytes, limit=LIMIT, timeout=LIMIT + 10)
    return f"{size_bytes * 8 / answer['seconds'] / 1e6:.1f} Mbit/s"


def small(played: Games, count: int, at_once: int) -> str:
    """p50, p99 and the slowest of `count` flows, in ms, and how many failed (20 s are a failure)."""
    answer = played.play("flows", count=count, at_once=at_once, timeout=600)
    seconds: list[float] = answer["seconds"] or [0.0]
    picked = (seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)], seconds[-1])
    return f"{' / '.join(f'{value * 1000:.0f}' for value in picked)} ms, {len(answer['errors'])} of {count} failed"


def sleepy(nodes: KcpPair, played: Games) -> str:
    """Growth of both nodes while the reader sleeps."""
    before = [node.process.resident_bytes() for node in (nodes.source, nodes.destination)]
    client = played.begin("download", size_bytes=SLEEPY_BYTES, sleep=SLEEP_SECONDS, after_bytes=1_000_000, limit=LIMIT)
    time.sleep(SLEEP_SECONDS - 2)
    after = [node.process.resident_bytes() for node in (nodes.source, nodes.destination)]
    finish(client, LIMIT)
    return " / ".join(f"{(high - low) / 1e6:+.1f} MB" for low, high in zip(before, after, strict=True))


def idle(nodes: KcpPair, played: Games) -> str:
    """Memory for each of many idle flows, and the processor time that they cost, at source and destination."""

    def figures(node: RunningNode) -> tuple[int, float]:
        return node.process.resident_bytes(), node.process.cpu_seconds()

    ends = (nodes.source, nodes.destination)
    memory = [figures(node)[0] for node in ends]
    client = played.begin("idle", count=IDLE_FLOWS, seconds=IDLE_SECONDS + 5)
    time.sleep(IDLE_FLOWS * 3 * DELAY + 2)
    before = [figures(node) for node in ends]
    time.sleep(IDLE_SECONDS / 2)
    after = [figures(node) for node in ends]
    alive = finish(client, 60)["alive"]
    each = " / ".join(f"{(now[0] - start) / IDLE_FLOWS / 1000:.0f} kB" for now, start in zip(before, memory, strict=True))
    cores = " / ".join(f"{(b[1] - a[1]) / (IDLE_SECONDS / 2):.3f}" for a, b in zip(before, after, strict=True))
    return f"{alive} of {IDLE_FLOWS} alive, {each} a flow, {cores} cores"


PARTS: dict[str, Callable[[KcpPair, Games, int], str]] = {
    "down": lambda _nodes, played, size_bytes: bulk(played, "download", size_bytes),
    "up": lambda _nodes, played, size_bytes: bulk(played, "upload", size_bytes),
    "one-by-one": lambda _nodes, played, _size: small(played, 500, 1),
    "at-once": lambda _nodes, played, _size: small(played, 200, 200),
    "sleepy-reader": lambda nodes, played, _size: sleepy(nodes, played),
    "idle": lambda nodes, played, _size: idle(nodes, played),
}
"""Name -> what is measured, with the size of a bulk transfer in bytes."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.kcp_matrix", description="TCP over KCP on links with losses.")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="source - destination (default all)")
    parser.add_argument("--losses", nargs="+", type=float, default=[0.0, 0.01, 0.05], help="each way (default 0 0.01 0.05)")
    parser.add_argument("--underlay", choices=("udp", "tcp"), default="udp")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="aes-gcm")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default all")
    parser.add_argument("--megabytes", type=int, default=100, help="size of a bulk transfer (default 100)")
    return parser.parse_args(argv)


def link(loss: float) -> LinkOptions:
    return LinkOptions(rate_bits=RATE_BITS, delay=DELAY, jitter=JITTER, loss=loss, queue_bytes=QUEUE_BYTES)


def measure(part: str, nodes: KcpPair, played: Games, size_bytes: int) -> str:
    """One cell of the table."""
    try:
        return PARTS[part](nodes, played, size_bytes)
    except AssertionError as error:
        return f"FAILED: {str(error).strip().splitlines()[-1][:80]}"


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    reason = missing_for_interop()
    if reason:
        sys.stderr.write(f"bench.kcp_matrix: {reason}\n")
        return 1
    sweep_stale()
    print(f"{arguments.underlay} underlay, {arguments.algorithm}, 100 Mbit/s, 50 ms\n")
    print("| source - destination | loss | what | figures |\n| --- | --- | --- | --- |")
    for loss in arguments.losses:
        for name in arguments.pairs:
            pair: AbstractContextManager[KcpPair] = kcp_pair(
                *PAIRS[name], scheme=arguments.underlay, link=link(loss), algorithm=arguments.algorithm, quiet=True
            )
            with pair as nodes, nodes.games() as played:
                for part in arguments.parts:
                    figures = measure(part, nodes, played, arguments.megabytes * 1_000_000)
                    print(f"| {name} | {loss:.0%} | {part} | {figures} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
