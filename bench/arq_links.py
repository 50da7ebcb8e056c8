"""Bulk flows by KCP over lossy and shaped links: the engines `arq` and `kcp` against a genuine core, and two genuine cores.

Not a test: it judges nothing.  Run as root from the top of the checkout, with `easytier-pyo3` installed, on a quiet machine:

    python -m bench.arq_links --seconds 6 --rounds 1

Each row is a pair of nodes in two namespaces with `bench/link.py` between them, made anew for each link; iperf3 sends one TCP
stream from source to destination, which the KCP proxy of the source carries.  The first two seconds do not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.link import LinkOptions
from tests.interop.kcp_scenes import KcpPair, kcp_pair
from tests.netns.requirements import missing_for_interop
from tests.netns.topology import sweep_stale, wait_for

OMIT_SECONDS = 2
LINKS = {
    "50 ms, 0 %": LinkOptions(rate_bits=100e6, delay=0.025, queue_bytes=625_000),
    "50 ms, 1 %": LinkOptions(rate_bits=100e6, delay=0.025, loss=0.01, queue_bytes=625_000),
    "50 ms, 5 %": LinkOptions(rate_bits=100e6, delay=0.025, loss=0.05, queue_bytes=625_000),
    "100 ms, 10 %": LinkOptions(rate_bits=100e6, delay=0.05, loss=0.10, queue_bytes=1_250_000),
}
"""Round trip and loss each way -> 100 Mbit/s with a queue of 50 or 100 ms."""
PAIRS = {
    "stock -> stock": ("stock", "stock"),
    "arq -> stock": ("arq", "stock"),
    "kcp -> stock": ("kcp", "stock"),
    "stock -> arq": ("stock", "arq"),
    "stock -> kcp": ("stock", "kcp"),
    "arq -> arq": ("arq", "arq"),
    "kcp -> kcp": ("kcp", "kcp"),
}
"""Name (source -> destination) -> a genuine core, or a node of ours with this engine."""
_ports = itertools.count(25_201)


class Figures(NamedTuple):
    """Of one run: Mbit/s at the receiver, datagrams that the queue dropped, processor time of the nodes in cores."""

    mbits: float
    dropped: int
    source_cores: float
    destination_cores: float


def run(name: str, link: LinkOptions, seconds: int, folder: Path) -> Figures:
    """One flow over a fresh pair."""
    kinds = PAIRS[name]
    more = [{} if kind == "stock" else {"our_arguments": ("--config-file", str(_config(folder, kind)))} for kind in kinds]
    source, destination = ("stock" if kind == "stock" else "ours" for kind in kinds)
    with kcp_pair(source, destination, link=link, source_more=dict(more[0]), destination_more=dict(more[1])) as pair:
        nodes = (pair.source, pair.destination)
        dropped = _overflowed(pair)
        before = [node.process.cpu_seconds() for node in nodes]
        mbits = _iperf(pair, seconds)
        cores = [
            (node.process.cpu_seconds() - start) / (seconds + OMIT_SECONDS) for node, start in zip(nodes, before, strict=True)
        ]
        return Figures(mbits, _overflowed(pair) - dropped, cores[0], cores[1])


def _config(folder: Path, engine: str) -> Path:
    path = folder / f"{engine}.toml"
    path.write_text(f'[plugins]\nkcp = {{ engine = "{engine}" }}\n')
    return path


def _overflowed(pair: KcpPair) -> int:
    return sum(direction["overflowed"] for direction in pair.link.statistics())


def _iperf(pair: KcpPair, seconds: int) -> float:
    port = str(next(_ports))
    server = pair.destination.namespace.spawn("iperf3", "-s", "-1", "-p", port, label="iperf3-server")
    try:
        wait_for(lambda: pair.destination.namespace.listens_on(int(port)), "iperf3 listens")
        arguments = ("-p", port, "-t", str(seconds), "-O", str(OMIT_SECONDS), "-J")
        answer = json.loads(pair.source.namespace.run("iperf3", "-c", pair.destination.address, *arguments).stdout)
        return float(answer["end"]["sum_received"]["bits_per_second"]) / 1e6
    finally:
        server.close()


def table(results: dict[str, dict[str, list[Figures]]], links: Sequence[str]) -> str:
    """One line per pair; in each cell Mbit/s (median), queue drops, and cores of source and destination."""
    lines = [f"| source -> destination | {' | '.join(links)} |", "| --- |" + " --- |" * len(links)]
    for name, by_link in results.items():
        cells = []
        for link in links:
            figures = by_link.get(link, [])
            if not figures:
                cells.append("-")
                continue
            middle = [median(column) for column in zip(*figures, strict=True)]
            cells.append(f"{middle[0]:.1f} ({middle[1]:.0f}; {middle[2]:.2f}, {middle[3]:.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.arq_links", description="KCP engines over lossy and shaped links.")
    parser.add_argument("--seconds", type=int, default=6, help="counted length of one run (default 6)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each pair and link (default 1)")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="source -> destination (default all)")
    parser.add_argument("--links", nargs="+", choices=LINKS, default=list(LINKS), help="default all")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    reason = missing_for_interop()
    if reason:
        sys.stderr.write(f"bench.arq_links: {reason}\n")
        return 1
    sweep_stale()
    results: dict[str, dict[str, list[Figures]]] = {name: {} for name in arguments.pairs}
    with tempfile.TemporaryDirectory() as folder:
        for _, link, name in itertools.product(range(arguments.rounds), arguments.links, arguments.pairs):
            figures = run(name, LINKS[link], arguments.seconds, Path(folder))
            results[name].setdefault(link, []).append(figures)
            sys.stderr.write(f"{link}: {name} {figures.mbits:.1f} Mbit/s, {figures.dropped} dropped\n")
    sys.stdout.write("Mbit/s (datagrams dropped at the queue; cores of source and destination)\n\n")
    sys.stdout.write(table(results, arguments.links) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
