"""`python -m tests.fuzz [--seconds N] [target...]`: fuzz for long, N seconds a target.  `make fuzz` calls it.

With atheris (the extra `fuzz`) the search is led by the coverage of our Python code, and `--keep` adds what it found
interesting to the corpora; without, inputs are mutated blindly.  A finding is shown with its input and ends the program with 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz.mutation import mutations
from tests.fuzz.seeds import keep as keep_inputs
from tests.fuzz.targets import TARGETS, corpus

SLOW = 5
"""Seconds for one input, which are a finding."""
KEPT_BYTES = 400
KEPT_INPUTS = 12


def main() -> int:
    """Each target in turn."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz for long")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all without")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="to repeat a run")
    parser.add_argument("--keep", action="store_true", help="add to the corpora what reaches new code (needs atheris)")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.targets if name not in TARGETS]:
        parser.error(f"no target {unknown[0]}")
    led = importlib.util.find_spec("atheris") is not None
    print(f"{'led by coverage' if led else 'blindly: atheris is not installed'}, seed {arguments.seed}", flush=True)
    findings = 0
    for name in arguments.targets or TARGETS:
        began = time.monotonic()
        if led:
            inputs, failure = _run_guided(name, arguments.seconds, arguments.seed, keep=arguments.keep)
        else:
            inputs, failure = _blindly(name, arguments.seconds, arguments.seed)
        outcome = "FOUND SOMETHING" if failure else "nothing found"
        print(f"{name:18} {inputs:>10} inputs in {time.monotonic() - began:5.0f} s: {outcome}", flush=True)
        if failure:
            findings += 1
            print(failure, flush=True)
    return 1 if findings else 0


def _blindly(name: str, seconds: float, seed: int) -> tuple[int, str]:
    target, end, inputs = TARGETS[name], time.monotonic() + seconds, 0
    for data in mutations(corpus(name), seed):
        began = time.monotonic()
        if began > end:
            break
        inputs += 1
        try:
            target(data)
        except Exception:
            return inputs, f"{traceback.format_exc()}input: {data.hex()}"
        if time.monotonic() - began > SLOW:
            return inputs, f"too slow: {data.hex()}"
    return inputs, ""


def _run_guided(name: str, seconds: float, seed: int, *, keep: bool) -> tuple[int, str]:
    """In a process of its own: libFuzzer ends the one that it runs in."""
    with tempfile.TemporaryDirectory(prefix="easytier-fuzz-") as folder:
        inputs = Path(folder, "inputs")
        inputs.mkdir()
        for number, data in enumerate(corpus(name)):
            (inputs / f"seed-{number}").write_bytes(data)
        command = [sys.executable, "-m", "tests.fuzz.guided", name, folder, str(int(seconds)), str(seed)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
        count = re.search(r"number_of_executed_units: (\d+)", run.stderr)
        tried = int(count[1]) if count else 0
        if keep and not run.returncode:
            found = [path.read_bytes() for path in inputs.iterdir() if not path.name.startswith("seed-")]
            keep_inputs(name, sorted((data for data in found if len(data) <= KEPT_BYTES), key=len, reverse=True)[:KEPT_INPUTS])
        if not run.returncode:
            return tried, ""
        crashes = [path for path in Path(folder).iterdir() if path.is_file()]
        shown = "".join(f"input: {path.read_bytes().hex()}\n" for path in crashes)
        return tried, f"{run.stdout[-4000:]}\n{run.stderr[-2000:]}\n{shown}"


if __name__ == "__main__":
    sys.exit(main())
