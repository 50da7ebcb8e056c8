"""Figures in the pages are those of the last whole run of the bench, which docs/performance.json keeps.

A page that was not brought up to date after `make bench BENCH_ARGS=--write` fails here, with the words that it should have.
"""

from __future__ import annotations

from pathlib import Path

from bench.results import Results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Results.load([ROOT / "docs/performance.json"])
LINES = ("line-0", "line-1", "line-5", "line-10")


def page(name: str) -> str:
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def figure(case: str, rival: str, name: str = "mbits") -> float:
    return RESULTS.row(case, rival).figures[name]


def short(number: float) -> str:
    """As a reader wants it: whole from 10 on."""
    return f"{number:.0f}" if number >= 9.95 else f"{number:.1f}"


def rates(case: str, *rivals: str) -> list[str]:
    return [short(figure(case, rival)) for rival in rivals]


def over_all_lines(rival: str) -> str:
    """Its goodput, as the table of wishes has it."""
    return " / ".join(f"{figure(case, rival):.1f}" for case in LINES)


def cpu(case: str, rival: str) -> str:
    """Seconds for 10^9 bytes, both nodes."""
    return f"{figure(case, rival, 'source_cpu_per_gb') + figure(case, rival, 'destination_cpu_per_gb'):.0f}"


def quick_and_slow(rival: str) -> str:
    return " / ".join(f"{figure('small', rival, name):.0f}" for name in ("p50_ms", "p99_ms"))


def more_of_a_ping(*rivals: str) -> list[float]:
    """What a ping takes longer beside a bulk flow, by line and rival."""
    return [figure(case, rival, "ping_more_p50_ms") for case in LINES for rival in rivals]


def missing(name: str, *texts: str) -> list[str]:
    return [text for text in texts if text not in page(name)]


def test_the_readme_has_the_lines() -> None:
    titles = ("50 ms, no loss", "50 ms, 1 % lost each way", "50 ms, 5 %", "100 ms, 10 %")
    rivals = ("tcp-stock", "stock-stock", "ours-stock", "ours-ours")
    wanted = [f"| {' | '.join((title, *rates(case, *rivals)))} |" for title, case in zip(titles, LINES, strict=True)]
    assert missing("README.md", *wanted) == []


def test_the_readme_has_what_stands_beside_stock() -> None:
    ours, to_stock, stock = rates("clean", "ours-ours", "ours-stock", "stock-stock")
    tcp_ours, tcp_stock = rates("clean", "tcp-ours", "tcp-stock")
    assert (
        missing(
            "README.md",
            f"moved {tcp_ours} Mbit/s by TCP and {ours} by KCP, between two stock nodes {tcp_stock} and {stock}",
            f"takes 0 - {max(more_of_a_ping('ours-ours', 'ours-stock')):.0f} ms more, beside stock's up to"
            f" {max(more_of_a_ping('stock-stock')):.0f}",
            f"| {quick_and_slow('stock-stock')} ms | {quick_and_slow('ours-stock')} ms to stock,"
            f" {quick_and_slow('ours-ours')} ms to its own kind |",
            f"| {stock} | {ours} at both ends, {to_stock} to stock |",
            f"| {cpu('clean', 'stock-stock')} / {cpu('line-1', 'stock-stock')} s/GB |"
            f" {cpu('clean', 'ours-ours')} / {cpu('line-1', 'ours-ours')} s/GB |",
            f"| {tcp_stock} | {tcp_ours}, with the compiled part |",
        )
        == []
    )


def test_the_wishes_stand_beside_what_was_measured() -> None:
    assert (
        missing(
            "docs/performance.md",
            *(f"| {over_all_lines(rival)} |" for rival in ("ours-stock", "stock-ours", "ours-ours")),
            f"| ours -> stock; no limit of the rate, 50 ms | 165 | 185 | {figure('fast-0', 'ours-stock'):.1f} |",
            f"| ours -> ours; no limit, 50 ms, 5 % | 500 | 1000 | {figure('fast-5', 'ours-ours'):.1f} |",
            f"| burst loss, ours -> stock | 58 | 75 | {figure('burst', 'ours-stock'):.1f} |",
            *(
                f"| {words}, times stock | {wish} | {figure(case, 'ours-ours') / figure(case, 'stock-stock'):.1f} |"
                for words, wish, case in (
                    ("veth, stack of the kernel", "3 | 5", "clean"),
                    ("veth, user-space stack", "2 | 4", "clean-user"),
                )
            ),
            f"| to stock {quick_and_slow('ours-stock')}, to ours {quick_and_slow('ours-ours')} |",
        )
        == []
    )


def test_the_page_on_stacks_compares_them_as_measured() -> None:
    wanted = [
        f"| {words} | {' | '.join(short(figure(case, rival)) for case in ('clean-user', 'clean'))} |"
        for words, rival in (
            ("stock - stock", "stock-stock"),
            ("this node - stock", "ours-stock"),
            ("this node at both ends", "ours-ours"),
        )
    ]
    kilobytes = max(figure("idle", "ours-ours", f"{end}_kb_per_flow") for end in ("source", "destination"))
    assert missing("docs/stacks.md", *wanted, f"takes {kilobytes:.0f} kB of memory at each end") == []
