"""Medians, tables, pictures and the section of a document, from results that were made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.report import BEGIN, END, case_table, goodput_table, markdown, terminal, write_section
from bench.results import Results, Run
from bench.rivals import Settings
from bench.svg import write_charts

MACHINE = {
    "date": "2026-01-01 00:00",
    "cpu": "abacus",
    "cores": "2",
    "kernel": "6.1",
    "python": "3.11",
    "ours": "0.1",
    "stock": "2.6",
    "congestion controls": "reno cubic bbr",
    "default congestion control": "cubic",
}


@pytest.fixture
def results() -> Results:
    bulk = {
        "mbits": 80.0,
        "failed": 0.0,
        "source_cpu_per_gb": 40.0,
        "destination_cpu_per_gb": 20.0,
        "drops": 3.0,
        "start_drops": 9.0,
    }
    runs = [Run("line-5", "ours-stock", number, bulk | {"mbits": mbits}) for number, mbits in enumerate((80.0, 60.0, 90.0))]
    runs += [Run("line-5", "raw-cubic", 0, {"mbits": 0.8, "failed": 0.0})]
    small = {"p50_ms": 105.0, "p90_ms": 150.0, "p99_ms": 250.0, "flows": 200.0, "failed": 1.0}
    runs += [Run("small", "stock-stock", number, small) for number in range(2)]
    return Results(MACHINE, Settings(), runs)


def test_medians_are_told_and_failures_added_up(results: Results) -> None:
    assert results.row("line-5", "ours-stock").figures["mbits"] == 80.0
    assert results.row("line-5", "ours-stock").highest["mbits"] == 90.0
    assert results.row("small", "stock-stock").figures["failed"] == 2.0


def test_a_table_has_the_columns_that_have_figures(results: Results) -> None:
    assert case_table(results, "line-5") == [
        ["", "Mbit/s", "lowest - highest", "CPU s/GB", "drops"],
        ["KCP, ours → stock", "80.0", "60.0 - 90.0", "40.0 / 20.0", "3 / 9"],
        ["raw TCP CUBIC", "0.8", "-", "-", "-"],
    ]
    assert case_table(results, "small")[1] == ["KCP, stock → stock", "105 / 150 / 250", "2 of 400"]


def test_a_run_that_failed_is_told_and_the_others_count(results: Results) -> None:
    results.runs.append(Run("line-5", "ours-stock", 3, error="wrong bytes"))
    assert "1 runs: wrong bytes" in case_table(results, "line-5")[1]
    assert results.row("line-5", "ours-stock").figures["mbits"] == 80.0


def test_cases_and_rivals_that_did_not_run_are_left_out(results: Results) -> None:
    assert [row[1:] for row in goodput_table(results)] == [["KCP, ours → stock", "raw TCP CUBIC"], ["80.0", "0.8"]]
    assert "veth" not in terminal(results)


def test_a_kernel_without_bbr_is_said_to_be_one(results: Results) -> None:
    assert "no BBR" not in terminal(results)
    results.machine["congestion controls"] = "reno cubic"
    assert "no BBR" in terminal(results)


def test_raw_results_are_read_as_they_were_written_and_added_up(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "a.json")
    assert Results.load([tmp_path / "a.json"]) == results
    assert len(Results.load([tmp_path / "a.json"] * 2).runs) == 2 * len(results.runs)


def test_results_of_different_settings_do_not_mix(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "a.json")
    replace(results, settings=Settings(algorithm="off")).save(tmp_path / "b.json")
    with pytest.raises(ValueError, match="different settings"):
        Results.load([tmp_path / "a.json", tmp_path / "b.json"])


def test_only_the_section_of_a_document_is_replaced(results: Results, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_section(document, markdown(results, [("a picture", "images/a.svg")]))
    write_section(document, markdown(results, [("a picture", "images/a.svg")]))
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("| KCP, ours → stock | 80.0 | 60.0 - 90.0 |") == 1
    assert "![a picture](images/a.svg)" in text


def test_a_document_without_a_section_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no section"):
        write_section(document, "text")
    assert document.read_text(encoding="utf-8") == "nothing\n"


def test_pictures_are_well_formed_and_bars_as_long_as_they_should_be(results: Results, tmp_path: Path) -> None:
    names = [name for _, name in write_charts(results, tmp_path)]
    assert names == ["bench-lines.svg", "bench-small.svg"]
    picture = ET.fromstring((tmp_path / names[0]).read_text(encoding="utf-8"))
    _, ours, cubic = (float(each.attrib["width"]) for each in picture.iter("{http://www.w3.org/2000/svg}rect"))
    assert cubic / ours == pytest.approx(0.8 / 80, rel=0.05)
