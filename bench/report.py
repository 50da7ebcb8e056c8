"""Results as text: tables for the terminal and for Markdown, and the section of a document that they replace.

A table has the columns for which there are figures.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.cases import CASES
from bench.results import Results, Row
from bench.rivals import RIVALS

BEGIN = "<!-- begin: written by `python -m bench --write` -->"
END = "<!-- end: written by `python -m bench --write` -->"

Cell = Callable[[Row], str]


def pair(name: str, digits: int = 1) -> Cell:
    """The figure of source and destination."""

    def cell(row: Row) -> str:
        values = [row.figures[side + name] for side in ("source_", "destination_") if side + name in row.figures]
        return " / ".join(f"{value:.{digits}f}" for value in values)

    return cell


def several(*names: str, digits: int = 0, sign: str = "") -> Cell:
    """The figures side by side."""

    def cell(row: Row) -> str:
        return " / ".join(f"{row.figures[name]:{sign}.{digits}f}" for name in names if name in row.figures)

    return cell


def _by_kcp(row: Row) -> str:
    return f"{row.figures['by_kcp']:.0%}" if "by_kcp" in row.figures else ""


def _spread(row: Row) -> str:
    return f"{row.lowest['mbits']:.1f} - {row.highest['mbits']:.1f}" if "mbits" in row.figures and row.rounds > 1 else ""


def _failed(row: Row) -> str:
    """Only for loads that count their flows, or when there is something to tell."""
    if row.errors:
        return f"{len(row.errors)} runs: {row.errors[0]}"
    if "failed" not in row.figures:
        return ""
    if "flows" in row.figures:
        return f"{row.figures['failed']:.0f} of {row.figures['flows']:.0f}"
    return f"{row.figures['failed']:.0f}" if row.figures["failed"] else ""


COLUMNS: Sequence[tuple[str, str, Cell]] = (
    ("Mbit/s", "goodput, median", several("mbits", digits=1)),
    ("lowest - highest", "the same in the single rounds", _spread),
    ("best : worst", "goodput of the fastest flow by that of the slowest", several("unfairness", digits=2)),
    ("CPU s/GB", "processor seconds of source and destination node for each 10^9 bytes that arrived", pair("cpu_per_gb")),
    ("sent", "datagrams sent for each segment that arrived", several("sent_per_segment", digits=2)),
    ("drops", "packets that the queue dropped while it was counted, and before, at the start", several("drops", "start_drops")),
    (
        "ping +ms",
        "what a ping beside the load takes longer, p50 and p90",
        several("ping_more_p50_ms", "ping_more_p90_ms", sign="+"),
    ),
    ("p50 / p90 / p99 ms", "from connecting until the answer is there", several("p50_ms", "p90_ms", "p99_ms")),
    ("opened in s", "until all flows were open", several("opened_seconds", digits=1)),
    ("cores", "processor seconds a second of source and destination node", pair("cores", 3)),
    ("kB a flow", "growth of source and destination node", pair("kb_per_flow")),
    ("line cores", "processor seconds a second of the line emulator", several("line_cores", digits=2)),
    ("by KCP", "share of the flows that the source node carried by KCP, where it is ours", _by_kcp),
    ("MB", "resident memory of source and destination node at the end", pair("mb", 0)),
    ("failed", "flows, of all rounds, or runs that found an error", _failed),
)
"""Head, meaning, cell."""


def goodput_table(results: Results) -> list[list[str]]:
    """One row per case of one or more bulk flows, one column per rival: medians in Mbit/s."""
    cases = [case for case in _cases(results) if any("mbits" in run.figures for run in results.runs if run.case == case)]
    rivals = [name for name in RIVALS if any(name in results.rivals_of(case) for case in cases)]
    body = []
    for case in cases:
        figures = [results.row(case, rival).figures for rival in rivals]
        body.append([CASES[case].title, *(f"{each['mbits']:.1f}" if "mbits" in each else "-" for each in figures)])
    return [["goodput, Mbit/s", *(RIVALS[name].title for name in rivals)], *body] if body else []


def case_table(results: Results, case: str) -> list[list[str]]:
    """All figures of a case, one row per rival."""
    rows = {rival: results.row(case, rival) for rival in results.rivals_of(case)}
    columns = [(head, [cell(row) for row in rows.values()]) for head, _, cell in COLUMNS]
    filled = [(head, cells) for head, cells in columns if any(cells)]
    body = zip(*(cells for _, cells in filled), strict=True)
    table = [["", *(head for head, _ in filled)]]
    return table + [[RIVALS[rival].title, *(cell or "-" for cell in cells)] for rival, cells in zip(rows, body, strict=True)]


def terminal(results: Results) -> str:
    """Everything, with columns that stand below each other."""
    parts = [
        _aligned(goodput_table(results)),
        *(f"{CASES[case].title}\n{_aligned(case_table(results, case))}" for case in _cases(results)),
    ]
    return "\n\n".join([_method(results), *filter(None, parts)])


def markdown(results: Results, pictures: Iterable[tuple[str, str]]) -> str:
    """Everything, as the section of a document; `pictures` are titles and paths."""
    meanings = "; ".join(f"*{head}*: {meaning}" for head, meaning, _ in COLUMNS)
    parts = [
        _method(results),
        _piped(goodput_table(results)),
        *(f"![{title}]({path})" for title, path in pictures),
        meanings + ".",
    ]
    parts += [f"### {_sentence(CASES[case].title)}\n\n{_piped(case_table(results, case))}" for case in _cases(results)]
    return "\n\n".join(filter(None, parts))


def write_section(path: Path, text: str) -> None:
    """Replace what is between the marks; raises ValueError when they are not there."""
    document = path.read_text(encoding="utf-8")
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no section between {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _cases(results: Results) -> list[str]:
    return [name for name in CASES if results.rivals_of(name)]


def _method(results: Results) -> str:
    machine, settings = results.machine, results.settings
    rounds = sorted({results.row(case, rival).rounds for case in _cases(results) for rival in results.rivals_of(case)})
    without = "" if "bbr" in machine["congestion controls"].split() else " This kernel has no BBR, so its rows are missing."
    told = (
        f"{machine['date']} UTC",
        f"{machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, CPython {machine['python']}",
        f"ours {machine['ours']} with the engine {settings.engine}, stock {machine['stock']}",
        f"underlay {settings.underlay}, {settings.algorithm}",
        f"congestion control of the machine {machine['default congestion control']}",
        f"load average before it {machine.get('load', 'unknown')}",
        f"rounds: {' - '.join(dict.fromkeys((str(rounds[0]), str(rounds[-1]))))}",
    )
    return f"{'; '.join(told)}.{without}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _piped(table: Sequence[Sequence[str]]) -> str:
    if not table:
        return ""
    head, *body = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "|" + " --- |" * len(table[0]), *body])


def _aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(text + " " * (width - _width(text)) for text, width in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
