"""The whole matrix of faults: python -m tests.netns.matrix [--jobs N] [WORD ...]; only cases whose names hold all words.

{kernel, smoltcp, no-tun} x {udp, tcp} x {node, subnet} x {ours, stock} x {kill, blackhole, rebind}, and the other faults of
`fault_scenes` for each peer and scheme.  One line a case, a table of the slowest recoveries at the end; exit status 1 if any
case failed.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from tests.netns.fault_scenes import FAULTS, Case, Outcome, play
from tests.netns.topology import sweep_stale

EVERYWHERE = ("kill", "blackhole", "rebind")
WAYS, SCHEMES, TARGETS, PEERS = ("kernel", "smoltcp", "no-tun"), ("udp", "tcp"), ("node", "subnet"), ("ours", "stock")


def cases() -> list[Case]:
    """All of them."""
    whole = [Case(*values) for values in product(WAYS, SCHEMES, TARGETS, PEERS, EVERYWHERE)]
    others = [fault for fault in FAULTS if fault not in EVERYWHERE]
    return whole + [Case("kernel", scheme, "node", peer, fault) for scheme, peer, fault in product(SCHEMES, PEERS, others)]


def attempt(case: Case) -> Outcome | str:
    """What came out, or what did not hold."""
    try:
        outcome = play(case)
    except Exception as error:
        # One case that cannot be played must not end the others.
        print(f"{case!s:40} FAILED  {error}", flush=True)
        return str(error)
    print(f"{case!s:40} {outcome.recovery:6.2f} s  the flow under way: {outcome.live}", flush=True)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=4, help="cases at a time")
    parser.add_argument("words", nargs="*")
    chosen = parser.parse_args()
    sweep_stale()
    wanted = [case for case in cases() if all(word in case for word in chosen.words)]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        outcomes = dict(zip(wanted, pool.map(attempt, wanted), strict=True))
    slowest: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for case, outcome in outcomes.items():
        if isinstance(outcome, Outcome):
            slowest[case.fault, case.peer, case.scheme].append(outcome.recovery)
    print("\nfault        peer   tunnel  new flows work after, quickest to slowest")
    for (fault, peer, scheme), seconds in sorted(slowest.items()):
        print(f"{fault:12} {peer:6} {scheme:6}  {min(seconds):.1f} to {max(seconds):.1f} s  ({len(seconds)} cases)")
    failed = [str(case) for case, outcome in outcomes.items() if isinstance(outcome, str)]
    if failed:
        print(f"\n{len(failed)} of {len(outcomes)} cases failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
