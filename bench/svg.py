"""Bar charts as SVG, and which of them a set of results has.

No library: a bar chart is rectangles and words.  A picture has its own background, for pages of any colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.cases import CASES
from bench.results import Results
from bench.rivals import RIVALS

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 860, 190, 110
BAR, GAP, HEAD = 16, 14, 44
COLOURS: Mapping[str, str] = {
    "ours-ours": "#0b6e4f",
    "ours-stock": "#3aa17e",
    "stock-ours": "#8fcfb5",
    "stock-stock": "#c8553d",
    "tcp-ours": "#35618f",
    "tcp-stock": "#8fb1d3",
    "raw-cubic": "#9a9a9a",
    "raw-bbr": "#555555",
}
LINES = ("line-0", "line-1", "line-5", "line-10", "burst")
FAST = ("fast-0", "fast-5", "clean", "clean-user")
OTHER_COLOUR = "#b59f3b"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `value` is drawn, `text` stands behind it."""

    label: str
    value: float
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Groups of bars with a title each, on one scale from 0; `limit` is the end of the scale, 0 for the largest bar.

    A longer bar is cut there, and says so.
    """

    title: str
    groups: Sequence[tuple[str, Sequence[Bar]]]
    limit: float = 0.0

    def svg(self) -> str:
        """The picture."""
        largest = self.limit or max((bar.value for _, bars in self.groups for bar in bars), default=1.0) or 1.0
        lines, y = [], HEAD
        for title, bars in self.groups:
            y += GAP
            lines.append(_text(12, y + 12, title, weight="bold"))
            y += 20
            for bar in bars:
                length = min(1.0, bar.value / largest) * (WIDTH - LABEL_WIDTH - VALUE_WIDTH)
                lines.append(_text(LABEL_WIDTH - 8, y + 12, bar.label, anchor="end"))
                lines.append(
                    f'<rect x="{LABEL_WIDTH}" y="{y + 2}" width="{length:.1f}" height="{BAR - 3}" fill="{bar.colour}"/>'
                )
                lines.append(_text(LABEL_WIDTH + length + 6, y + 12, bar.text + " (cut)" * (bar.value > largest)))
                y += BAR
        height = y + GAP
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'font-family="Helvetica, Arial, sans-serif" font-size="12">'
        )
        background = f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#fbfaf7"/>'
        heading = _text(12, 28, self.title, size=16, weight="bold")
        return "\n".join([head, f"<title>{escape(self.title)}</title>", background, heading, *lines, "</svg>\n"])


def charts(results: Results) -> dict[str, Chart]:
    """File name -> picture, of those cases that were run."""
    fast = _bars(results, FAST, "mbits")
    through_nodes = [run.figures["mbits"] for run in results.runs if run.case in FAST and "source_mb" in run.figures]
    found = {
        "bench-lines.svg": Chart("Goodput on lines of 100 Mbit/s, in Mbit/s", _bars(results, LINES, "mbits"), limit=100.0),
        "bench-fast.svg": Chart("Goodput where the rate has no limit, in Mbit/s", fast, max(through_nodes, default=0.0)),
        "bench-cpu.svg": Chart(
            "Processor seconds of both nodes for each 10^9 bytes",
            _bars(results, FAST, "source_cpu_per_gb", "destination_cpu_per_gb"),
            limit=100.0,
        ),
        "bench-small.svg": Chart("Small flows: p50 and p99 until the answer, in ms", _small(results)),
    }
    return {name: chart for name, chart in found.items() if chart.groups}


def write_charts(results: Results, folder: Path) -> list[tuple[str, str]]:
    """Write all pictures; returns title and file name of each."""
    folder.mkdir(parents=True, exist_ok=True)
    found = charts(results)
    for name, chart in found.items():
        (folder / name).write_text(chart.svg(), encoding="utf-8")
    return [(chart.title, name) for name, chart in found.items()]


def _bars(results: Results, cases: Sequence[str], *names: str) -> list[tuple[str, list[Bar]]]:
    """A bar for the sum of the figures `names` of each rival that has them."""
    groups = []
    for case in cases:
        bars = []
        for rival in results.rivals_of(case):
            figures = results.row(case, rival).figures
            if set(names) <= figures.keys():
                value = sum(figures[name] for name in names)
                bars.append(Bar(RIVALS[rival].title, value, f"{value:.1f}" if value < 100 else f"{value:.0f}", _colour(rival)))
        if bars:
            groups.append((CASES[case].title, bars))
    return groups


def _small(results: Results) -> list[tuple[str, list[Bar]]]:
    """On a scale of powers of ten, from 10 ms: the slowest flows of some are a hundred times slower than the usual one."""
    groups = []
    for share in ("p50", "p99"):
        bars = []
        for rival in results.rivals_of("small"):
            row = results.row("small", rival)
            if f"{share}_ms" in row.figures:
                value = row.figures[f"{share}_ms"]
                failed = f", {row.figures['failed']:.0f} failed" if row.figures["failed"] and share == "p99" else ""
                bars.append(Bar(RIVALS[rival].title, math.log10(max(10.0, value)) - 1, f"{value:.0f}{failed}", _colour(rival)))
        if bars:
            groups.append((f"{share}, logarithmic", bars))
    return groups


def _colour(rival: str) -> str:
    return COLOURS.get(rival, OTHER_COLOUR)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="#222222"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
