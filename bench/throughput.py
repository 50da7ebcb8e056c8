"""TCP through the overlay on a clean link: two genuine cores, two nodes of ours, and one of each, in turn and in one table.

Not a test: it judges nothing.  Run as root from the top of the checkout, with `easytier-pyo3` installed, on a quiet machine:

    python -m bench.throughput --rounds 5 --seconds 5

Each pair lives in two namespaces joined by a veth without shaping (10.9.1.1 listens, 10.9.1.2 dials); iperf3 sends one
stream from the dialling to the listening node.  All pairs run at the same time but only one at a time carries traffic,
round by round, so that a change of the machine's mood meets all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.interop.scenes import pair, wait_joined
from tests.netns.nodes import ALGORITHMS, RunningNode
from tests.netns.requirements import missing_for_interop
from tests.netns.topology import sweep_stale
from tests.netns.traffic import iperf_tcp

PAIRS = {
    "stock-stock": ("stock", "stock"),
    "ours-ours": ("ours", "ours"),
    "ours-stock": ("stock", "ours"),
    "stock-ours": ("ours", "stock"),
}
"""Name (sender - receiver) -> kinds of the listening and of the dialling node."""
BASELINE = "stock-stock"


@dataclass
class Figures:
    """Of one pair, one entry a round: Mbit/s, and processor time of sender and receiver node in cores."""

    mbits: list[float] = field(default_factory=list)
    sender_cores: list[float] = field(default_factory=list)
    receiver_cores: list[float] = field(default_factory=list)


def measure(nodes: tuple[RunningNode, RunningNode], seconds: float, figures: Figures) -> None:
    """One round: the second node sends to the first."""
    receiver, sender = nodes
    before = [node.process.cpu_seconds() for node in (sender, receiver)]
    figures.mbits.append(iperf_tcp(sender.namespace, receiver.namespace, receiver.address, seconds=seconds).mbits)
    after = [node.process.cpu_seconds() for node in (sender, receiver)]
    figures.sender_cores.append((after[0] - before[0]) / seconds)
    figures.receiver_cores.append((after[1] - before[1]) / seconds)


def table(results: dict[str, Figures]) -> str:
    """Medians of each pair, one line each, with the ratio to the baseline if that was measured."""
    baseline = results.get(BASELINE)
    lines = [
        "| sender - receiver | Mbit/s (median) | lowest - highest | ratio to stock | sender cores | receiver cores |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, figures in results.items():
        ratio = f"{median(figures.mbits) / median(baseline.mbits):.2f}" if baseline else "-"
        cells = (
            name,
            f"{median(figures.mbits):.0f}",
            f"{min(figures.mbits):.0f} - {max(figures.mbits):.0f}",
            ratio,
            f"{median(figures.sender_cores):.2f}",
            f"{median(figures.receiver_cores):.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.throughput", description="TCP through the overlay on a clean link, ours against stock."
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one run (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each pair (default 3)")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="aes-gcm")
    parser.add_argument("--underlay", choices=("udp", "tcp"), default="udp")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="sender - receiver (default all)")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    reason = missing_for_interop()
    if reason:
        sys.stderr.write(f"bench.throughput: {reason}\n")
        return 1
    sweep_stale()
    results = {name: Figures() for name in arguments.pairs}
    with ExitStack() as stack:
        pairs = {}
        for name in arguments.pairs:
            pairs[name] = stack.enter_context(pair(*PAIRS[name], scheme=arguments.underlay, algorithm=arguments.algorithm))
            wait_joined(pairs[name])
        for number in range(arguments.rounds):
            for name, nodes in pairs.items():
                measure(nodes, arguments.seconds, results[name])
                sys.stderr.write(f"round {number + 1}: {name} {results[name].mbits[-1]:.0f} Mbit/s\n")
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    sys.stdout.write(
        f"{arguments.underlay} underlay, {arguments.algorithm}, {arguments.rounds} rounds of {arguments.seconds:g} s, "
        f"congestion control {control}\n\n"
        f"{table(results)}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
