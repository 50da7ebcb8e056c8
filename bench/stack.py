"""The two TCP stacks under load: one flow as fast as it goes, and thousands that are silent, beside genuine cores.

Not a test: it judges nothing.  Run as root from the top of the checkout, with `easytier-pyo3` installed, on a quiet machine:

    python -m bench.stack --rounds 3 --flows 2000

Each pair lives in two namespaces joined by a veth without shaping; connections begin at the source, go into its TUN device, end
in its stack and travel by KCP.  `bulk` is one iperf3 stream; `idle` opens flows, has each say a byte, watches them for a while
saying nothing, and then has each say a byte again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from tests.interop.kcp_scenes import kcp_options
from tests.interop.scenes import PORT, listener, node, wait_joined
from tests.netns.nodes import RunningNode
from tests.netns.requirements import missing_for_interop
from tests.netns.tcp_games import finish, games
from tests.netns.topology import Namespace, Topology, sweep_stale, wait_for
from tests.netns.traffic import iperf_tcp

PAIRS = {
    f"{source}-{destination} {stack}": (source, destination, stack)
    for source, destination in (("stock", "stock"), ("ours", "stock"), ("ours", "ours"))
    for stack in ("smoltcp", "kernel")
}
"""Name (source - destination, stack of the source) -> kinds and stack."""
IDLE_SECONDS = 20.0
OPEN_SECONDS = 120.0


@dataclass(frozen=True)
class Ends:
    """Two joined nodes."""

    source: RunningNode
    destination: RunningNode

    def __iter__(self) -> Iterator[RunningNode]:
        return iter((self.source, self.destination))

    def cpu_seconds(self) -> list[float]:
        return [end.process.cpu_seconds() for end in self]

    def resident_bytes(self) -> list[int]:
        return [end.process.resident_bytes() for end in self]


@contextmanager
def ends(name: str) -> Iterator[Ends]:
    """n1 source 10.99.0.1 ====== 10.99.0.2 n2 destination      overlay 10.144.0.1, 10.144.0.2"""
    source, destination, stack = PAIRS[name]
    with Topology() as topology:
        left, right = topology.namespace("n1"), topology.namespace("n2")
        topology.join(left, right, "10.99.0.1/24", "10.99.0.2/24")
        dialled = (f"udp://10.99.0.2:{PORT}",)
        first = node(source, left, kcp_options(1, source=True, quiet=True, stack=stack, peers=dialled))
        second = node(
            destination, right, kcp_options(2, source=False, quiet=True, stack="kernel", listeners=(listener("udp"),))
        )
        second.start()
        first.start()
        wait_joined((first, second))
        yield Ends(first, second)


def bulk(name: str, rounds: int, seconds: float) -> str:
    """Mbit/s of one stream and the cores that both nodes use."""
    mbits, cores = [], []
    with ends(name) as pair:
        for _ in range(rounds):
            before = pair.cpu_seconds()
            figures = iperf_tcp(pair.source.namespace, pair.destination.namespace, pair.destination.address, seconds=seconds)
            mbits.append(figures.mbits)
            cores.append([(now - then) / seconds for now, then in zip(pair.cpu_seconds(), before, strict=True)])
    used = " / ".join(f"{median(each):.2f}" for each in zip(*cores, strict=True))
    return f"{median(mbits):.0f} Mbit/s ({min(mbits):.0f} - {max(mbits):.0f}), {used} cores"


def idle(name: str, flows: int) -> str:
    """Of many flows that say nothing: memory each, cores in all, and how many lived."""
    with ends(name) as pair, games(pair.source.namespace, pair.destination.namespace, pair.destination.address) as played:
        played.play("banner")
        began, memory = time.monotonic(), pair.resident_bytes()
        client = played.begin("idle", count=flows, seconds=IDLE_SECONDS + 8)
        wait_for(lambda: established(pair.source.namespace) >= flows, f"{flows} open flows", OPEN_SECONDS)
        opened = time.monotonic() - began
        time.sleep(3)
        each = [(now - then) / flows / 1000 for now, then in zip(pair.resident_bytes(), memory, strict=True)]
        before = pair.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        cores = [(now - then) / IDLE_SECONDS for now, then in zip(pair.cpu_seconds(), before, strict=True)]
        alive = finish(client, OPEN_SECONDS)["alive"]
    return (
        f"{alive} of {flows} alive, opened in {opened:.1f} s, {each[0]:.0f} / {each[1]:.0f} kB a flow, "
        f"{cores[0]:.3f} / {cores[1]:.3f} cores"
    )


def established(namespace: Namespace) -> int:
    """TCP connections of applications."""
    return len(namespace.run("ss", "-Htn", "state", "established").stdout.splitlines())


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.stack", description="TCP stacks under load.")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), metavar="PAIR", help=f"of {', '.join(PAIRS)}")
    parser.add_argument("--parts", nargs="+", choices=("bulk", "idle"), default=["bulk", "idle"])
    parser.add_argument("--rounds", type=int, default=3, help="streams of each pair (default 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a stream (default 5)")
    parser.add_argument("--flows", type=int, default=2000, help="idle flows (default 2000)")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    reason = missing_for_interop()
    if reason:
        sys.stderr.write(f"bench.stack: {reason}\n")
        return 1
    sweep_stale()
    print("| source - destination, stack | what | figures (source / destination) |\n| --- | --- | --- |")
    for part in arguments.parts:
        for name in arguments.pairs:
            try:
                figures = bulk(name, arguments.rounds, arguments.seconds) if part == "bulk" else idle(name, arguments.flows)
            except AssertionError as error:
                figures = f"FAILED: {str(error).strip().splitlines()[-1][:80]}"
            print(f"| {name} | {part} | {figures} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
