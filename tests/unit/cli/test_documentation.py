"""docs/cli.md knows every command, option and exit status."""

from __future__ import annotations

import re
from argparse import ArgumentParser, _SubParsersAction
from pathlib import Path

from easytier_cli import arguments, filters
from easytier_cli.diagnostics import Exit

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")


def commands() -> dict[str, ArgumentParser]:
    """The parsers of the commands, by name."""
    (found,) = (action for action in arguments.make_parser()._actions if isinstance(action, _SubParsersAction))
    return dict(found.choices)


def test_every_command_is_documented() -> None:
    for name in commands():
        assert re.search(rf"^\| `{name}\b", PAGE, re.MULTILINE), name


def test_every_option_is_documented() -> None:
    options = {option for parser in commands().values() for action in parser._actions for option in action.option_strings}
    for option in options - {"-h", "--help"}:
        assert f"{option}" in PAGE, option


def test_every_field_of_filters_and_every_order_is_documented() -> None:
    for name in filters.FIELDS:
        assert f"`{name}:" in PAGE, name
    for name in arguments.ORDERS:
        assert f"`{name}`" in PAGE, name


def test_every_exit_status_is_documented() -> None:
    listed = {int(number) for number in re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)}
    assert listed == {int(status) for status in Exit}
