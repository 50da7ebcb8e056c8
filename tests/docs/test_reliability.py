"""docs/reliability.md promises what the tests hold, and names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from easytier_host.config.schema import SETTINGS
from easytier_host.reload import LEVELS, LIVE
from tests.netns import matrix, test_faults
from tests.netns.fault_scenes import FAULTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.partition("## Faults")[2].splitlines()
    if line.startswith("| ") and "---" not in line
][1:]


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_stands_there_with_its_bounds_and_is_played_with_each_kind_of_peer(name: str) -> None:
    rows = [row for row in ROWS if f"`{name}`" in row[-1]]
    assert rows
    for row in rows:
        assert row[3] == f"{FAULTS[name].ours:g} s / {FAULTS[name].stock:g} s"
    played = {(case.peer, case.scheme) for case in matrix.cases() if case.fault == name}
    assert len(played) == 4


def test_the_tests_that_it_names_exist() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for row in ROWS:
        names = re.findall(r"`([\w.]+)`", row[-1])
        assert names or "`test_" in row[-1], row
        for name in names:
            assert name in files or name in FAULTS or f"def {name.rstrip('.')}" in sources or hasattr(test_faults, name), name


def test_what_is_applied_live_is_listed() -> None:
    section = PAGE.partition("## Reading the configuration again")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`([a-z_.]+)`", section))
    keys = {setting.key for setting in SETTINGS.values() if setting.target in LIVE | LEVELS}
    assert keys <= listed
