"""Results of runs: kept, written as JSON, read again, added up."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Self

from bench.loads import Figures
from bench.rivals import Settings

CONGESTION_CONTROLS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
DEFAULT_CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")
ADDED_UP = frozenset({"flows", "failed"})
"""Figures of which the sum over all rounds is told; of the others the median."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement; with an `error` it has no figures."""

    case: str
    rival: str
    round: int
    figures: Figures = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What the rounds of a rival in a case say together."""

    rounds: int
    figures: Figures
    lowest: Figures
    highest: Figures
    errors: Sequence[str]


@dataclass(slots=True)
class Results:
    """All runs, and where they were made; `first` and `last` are dates."""

    machine: dict[str, str]
    settings: Settings
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def load(cls, paths: Sequence[Path]) -> Self:
        """The runs of all files, with the machine of the newest; raises ValueError when the settings differ."""
        files = sorted(
            (json.loads(path.read_text(encoding="utf-8")) for path in paths), key=lambda each: each["machine"]["date"]
        )
        if any(each["settings"] != files[0]["settings"] for each in files):
            raise ValueError("these results were made with different settings")
        runs = [Run(**run) for each in files for run in each["runs"]]
        return cls(files[-1]["machine"], Settings(**files[-1]["settings"]), runs)

    def save(self, path: Path) -> None:
        """Write what `load` reads."""
        content = {"machine": self.machine, "settings": asdict(self.settings), "runs": [asdict(run) for run in self.runs]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_rounded(content), indent=1) + "\n", encoding="utf-8")

    def rivals_of(self, case: str) -> list[str]:
        """Names, in the order in which they came."""
        return list(dict.fromkeys(run.rival for run in self.runs if run.case == case))

    def row(self, case: str, rival: str) -> Row:
        """Over all rounds; a figure that some rounds lack is that of the others."""
        runs = [run for run in self.runs if (run.case, run.rival) == (case, rival)]
        names = dict.fromkeys(name for run in runs for name in run.figures)
        columns = {name: [run.figures[name] for run in runs if name in run.figures] for name in names}
        return Row(
            len(runs),
            {name: sum(values) if name in ADDED_UP else median(values) for name, values in columns.items()},
            {name: min(values) for name, values in columns.items()},
            {name: max(values) for name, values in columns.items()},
            [run.error for run in runs if run.error],
        )


def congestion_controls() -> list[str]:
    """What TCP of this kernel can be told to use."""
    return CONGESTION_CONTROLS.read_text().split()


def this_machine() -> dict[str, str]:
    """What a reader of figures has to know of where they come from."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "cpu": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "ours": version("easytier-kcp-plugin"),
        "stock": _stock_version(),
        "congestion controls": " ".join(congestion_controls()),
        "default congestion control": DEFAULT_CONGESTION_CONTROL.read_text().strip(),
    }


def _stock_version() -> str:
    if importlib.util.find_spec("easytier_pyo3") is None:
        return "none"
    import easytier_pyo3

    return str(easytier_pyo3.version())


def _rounded(value: object) -> object:
    """Figures with five digits, which is more than they are worth."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
