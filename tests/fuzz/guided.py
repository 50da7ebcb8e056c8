"""One target under libFuzzer, which ends the process: NAME FOLDER SECONDS SEED.  `__main__` calls it.

A program of its own, since only what is imported under the instrumentation has coverage.
"""

from __future__ import annotations

import sys
from typing import Final

import atheris

with atheris.instrument_imports(include=["easytier_host", "easytier_kcp_plugin", "easytier_cli", "easytier_tui"]):
    from tests.fuzz.mutation import LARGEST
    from tests.fuzz.targets import TARGETS

SLOW: Final = 5
"""Seconds for one input, which are a finding."""
MEMORY_MB: Final = 1024
MOST: Final = {"kcp-ikcp": 200_000}
"""Inputs, where each leaves some memory behind for good."""


def main() -> None:
    """Never returns."""
    name, folder, seconds, seed = sys.argv[1:]
    options = {
        "max_total_time": seconds,
        "runs": MOST.get(name, -1),
        "max_len": LARGEST,
        "timeout": SLOW,
        "rss_limit_mb": MEMORY_MB,
        "seed": int(seed) % (1 << 31) or 1,
        "artifact_prefix": f"{folder}/",
        "print_final_stats": 1,
        "reduce_inputs": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), f"{folder}/inputs"], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
