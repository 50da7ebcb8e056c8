"""What is wrong with a configuration, and where."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(Exception):
    """A configuration cannot be used; `problems` are lines for the user, each beginning with its place."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class UnsupportedError(Exception):
    """A value that stock knows and this node does not act on: the user is warned and the value left out."""


class MisplacedError(ValueError):
    """A value inside a table is wrong; `path` leads from the table to it."""

    def __init__(self, path: tuple[str | int, ...], text: str) -> None:
        super().__init__(text)
        self.path = path


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that suggests the known name most like `name`; empty if none is alike."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{found[0]}"?' if found else ""
