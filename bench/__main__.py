"""`python -m bench`: cases x rivals, in turn, and one table.  Judges nothing but whether what was sent has arrived.

Run as root from the top of a checkout, on a quiet machine.  `bench/README.md` explains cases, rivals and figures.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from bench.cases import CASES, FIRST, Case
from bench.loads import Bulk
from bench.report import markdown, terminal, write_section
from bench.results import Results, Run, congestion_controls, this_machine
from bench.rivals import RIVALS, Settings, bed
from bench.svg import write_charts
from tests.netns.nodes import ALGORITHMS
from tests.netns.requirements import missing_for_interop, missing_for_netns
from tests.netns.topology import sweep_stale

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs/performance.md"
PICTURES = ROOT / "docs/images"
RAW = ROOT / "docs/performance.json"
QUICK_AT_ONCE = 4
"""Where time does not count, cases run beside each other."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="TCP over KCP and without, ours and stock, on lines of all kinds."
    )
    parser.add_argument("--list", action="store_true", help="tell the cases and rivals, and do nothing")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help="default all")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, metavar="RIVAL", help="default those of each case")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each case and rival (default 3)")
    parser.add_argument("--seconds", type=float, default=6.0, help="that count of a bulk flow (default 6)")
    parser.add_argument("--underlay", choices=("udp", "tcp"), default="udp")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="aes-gcm")
    parser.add_argument("--engine", choices=("arq", "kcp"), default="arq", help="of our nodes (default arq)")
    parser.add_argument("--quick", action="store_true", help="measure nothing: see that each case runs and each byte arrives")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the raw results")
    parser.add_argument(
        "--from", nargs="+", type=Path, metavar="FILE", dest="files", help="report these raw results; run nothing"
    )
    parser.add_argument(
        "--write", action="store_true", help=f"put table, pictures and raw results into {DOCUMENT.parent.name}/"
    )
    return parser.parse_args(argv)


def plan(arguments: argparse.Namespace) -> Iterator[Run]:
    """What is to be run: each case with its rivals in turn, as many rounds as asked for."""
    rounds = 1 if arguments.quick else arguments.rounds
    for name in arguments.cases:
        rivals = arguments.rivals or ([FIRST] if arguments.quick else CASES[name].rivals)
        for number, rival in itertools.product(range(rounds), rivals):
            yield Run(name, rival, number)


def measure(planned: Run, case: Case, settings: Settings) -> Run:
    """Run it on a bed of its own, where each round loses other packets, but the same ones for all rivals; an error becomes part
    of the result, so that the others go on."""
    try:
        line = case.line and replace(case.line, seed=planned.round + 1)
        with bed(RIVALS[planned.rival], line, settings, stack=case.stack) as ready:
            done = replace(planned, figures=case.load.measure(ready))
    except (AssertionError, OSError, RuntimeError) as error:
        done = replace(planned, error=(str(error).strip().splitlines() or [repr(error)])[-1][:120])
    told = done.error or ", ".join(f"{name} {value:.4g}" for name, value in done.figures.items())
    sys.stderr.write(f"{done.case} {done.rival} {done.round + 1}: {told}\n")
    return done


def run(arguments: argparse.Namespace) -> Results:
    """All that is planned; raw results are kept after each run if there is a file for them."""
    settings = Settings(arguments.underlay, arguments.algorithm, arguments.engine)
    results = Results(this_machine(), settings)
    planned = [each for each in plan(arguments) if _possible(each.rival)]

    def one(each: Run) -> Run:
        return measure(each, _case(each.case, arguments), settings)

    with ThreadPoolExecutor(QUICK_AT_ONCE if arguments.quick else 1) as pool:
        for done in pool.map(one, planned):
            results.runs.append(done)
            if arguments.json:
                results.save(arguments.json)
    return results


def _case(name: str, arguments: argparse.Namespace) -> Case:
    case = CASES[name]
    if isinstance(case.load, Bulk):
        case = replace(case, load=replace(case.load, seconds=arguments.seconds))
    return case.quick() if arguments.quick else case


def _possible(rival: str) -> bool:
    return not RIVALS[rival].congestion or RIVALS[rival].congestion in congestion_controls()


def missing(arguments: argparse.Namespace) -> str:
    """Why this cannot run here; empty if it can."""
    with_stock = any(RIVALS[each.rival].is_stock for each in plan(arguments))
    return missing_for_interop() if with_stock else missing_for_netns()


def write(results: Results) -> None:
    """Renew what the documents say."""
    results.save(RAW)
    pictures = write_charts(results, PICTURES)
    write_section(DOCUMENT, markdown(results, [(title, f"images/{name}") for title, name in pictures]))


def main(argv: Sequence[str]) -> int:
    """1 if something did not arrive, 2 if nothing could run."""
    arguments = parse_arguments(argv)
    if arguments.list:
        for name, case in CASES.items():
            print(f"{name:12} {case.title}; {' '.join(case.rivals)}")
        print(f"\nrivals: {' '.join(RIVALS)}")
        return 0
    if arguments.files:
        results = Results.load(arguments.files)
    else:
        if reason := missing(arguments):
            sys.stderr.write(f"bench: {reason}\n")
            return 2
        sweep_stale()
        # Silent flows are sockets, and child processes inherit the limit.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        results = run(arguments)
    print(terminal(results))
    if arguments.write:
        write(results)
    return 1 if any(each.error or (arguments.quick and each.figures.get("failed")) for each in results.runs) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
