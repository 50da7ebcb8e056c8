"""The page for users names every key and option, its pictures are there and fetch nothing, and its filters work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from easytier_tui import bindings, columns
from easytier_tui.main import make_parser
from easytier_tui.screens.help import FILTERS, lines
from easytier_tui.view import FlowView

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tui.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", [key.shown for key in (*bindings.MAIN, *bindings.ROW, *bindings.ANYWHERE, *bindings.TABLE)])
def test_every_key_is_described(key: str) -> None:
    assert f"`{key}`" in PAGE
    assert any(line.split()[0] == key.split()[0] for line in lines() if line.startswith("  "))


def test_no_key_is_described_that_is_not_there() -> None:
    section = PAGE.split("## Keys")[1].split("\n## ")[0]
    named = {key for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for key in re.findall(r"`([^`]+)`", row)}
    assert named == {key.shown for key in (*bindings.MAIN, *bindings.ROW, *bindings.ANYWHERE, *bindings.TABLE)} - {"esc"}


def test_every_option_is_described() -> None:
    options = [
        option for action in make_parser()._actions for option in action.option_strings if option not in ("-h", "--help")
    ]
    assert len(options) > 5
    assert [option for option in options if f"`{option}" not in PAGE] == []


def test_every_column_is_described() -> None:
    table = PAGE.split("| column |")[1].split("\n\n")[0]
    assert [column.title for column in columns.FLOW.values() if column.title not in table] == []


@pytest.mark.parametrize("image", re.findall(r"\]\((images/[^)]+)\)", PAGE))
def test_pictures_are_there_and_fetch_nothing(image: str) -> None:
    picture = (ROOT / "docs" / image).read_text(encoding="utf-8")
    assert picture.startswith("<svg")
    assert "easytier-tui" in picture
    assert re.findall(r"(?:href|src|url\()=?[\"']?https?:", picture) == []


def test_links_lead_somewhere() -> None:
    assert [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if not (ROOT / "docs" / link).exists()] == []


@pytest.mark.parametrize(
    "text",
    [example for example, _ in FILTERS] + re.findall(r"`(-?[a-z]+:[^` ]+)`", PAGE.split("## Filters")[1].split("\n## ")[0]),
)
def test_examples_of_filters_are_filters(text: str) -> None:
    view = FlowView()
    view.filter(text)
    assert view.error == ""
