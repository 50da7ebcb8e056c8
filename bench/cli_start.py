"""How long `easytier-cli` takes from its start to its end, against a node in another process.  Goal: below 250 ms.

python -m bench.cli_start [REPETITIONS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

COMMANDS = (
    "--help",
    "node",
    "peer",
    "proxy",
    "proxy --wide",
    "doctor",
    "stats prometheus",
    "config template",
    "completions bash",
)
CORE = ("--no-tun", "--network-name", "bench", "--ipv4", "10.144.0.1", "--no-listener", "--rpc-portal", "0")


@contextmanager
def node() -> Iterator[str]:
    """A node without device; gives the address of its portal."""
    argv = [sys.executable, "-m", "easytier_host.main", *CORE]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as core:
        try:
            assert core.stderr is not None
            address = next(line.split("listening on ")[1].split()[0] for line in core.stderr if "easytier-cli" in line)
            next(line for line in core.stderr if "peer id" in line)
            yield address
        finally:
            core.terminate()


def milliseconds(argv: Sequence[str]) -> float:
    """One run."""
    began = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30, check=False)
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Print a table: the median and the slowest of some runs."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print("| command | median, ms | slowest, ms |\n| --- | --- | --- |")
    with node() as address:
        for command in COMMANDS:
            argv = [sys.executable, "-m", "easytier_cli.main", *command.split(), "--rpc-portal", address]
            taken = [milliseconds(argv) for _ in range(repetitions)]
            print(f"| {command} | {statistics.median(taken):.0f} | {max(taken):.0f} |", flush=True)


if __name__ == "__main__":
    main()
