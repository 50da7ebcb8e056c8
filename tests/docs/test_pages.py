"""What a page names is there: tests, files and other pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *(ROOT / folder / "README.md" for folder in ("bench", "examples", "packaging")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FILES = [f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
TESTS = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
MADE_BY_THE_READER = {"tcp_for_databases.py", "test_tcp_for_databases.py"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """Its text without code blocks and what is indented like one."""
    return re.sub(r"^```.*?^```$|^    [^\n]*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def words(page: Path) -> set[str]:
    """What stands between backquotes."""
    return set(re.findall(r"`([^`\s]+)`", prose(page)))


@every_page
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    """A name that goes on in `...` stands for those that begin so."""
    named = {word for word in words(page) if re.fullmatch(r"test_\w+(\.\.\.)?", word)}
    endings = {name: "" if name.endswith("...") else r"\b" for name in named}
    assert [name for name in named if not re.search(f"def {name.removesuffix('...')}{endings[name]}", TESTS)] == []


@every_page
def test_files_that_a_page_names_are_there(page: Path) -> None:
    pattern = r"[\w/-]+\.(py|rs)|(bench|docs|examples|packaging|tests)/[\w./-]+"
    named = {word for word in words(page) if re.fullmatch(pattern, word)}
    missing = [name for name in named if not any(f"/{name.strip('/')}/" in f"{path}/" for path in FILES)]
    assert set(missing) <= MADE_BY_THE_READER


@every_page
def test_a_page_names_another_by_a_link(page: Path) -> None:
    """So that a reader can follow it, in a browser of the repository, in the web site, and in an installed copy."""
    without_links = re.sub(r"\[[^\]]*\]\([^)]*\)", "", prose(page))
    assert re.findall(r"[\w/-]+\.md\b", without_links) == []
