"""On which line each key of a TOML document stands; `tomllib` does not tell.

Not a parser: the document has been through `tomllib` already, so this only follows its table headers, keys and brackets.  A
path is a tuple of keys, with the index of the item after the name of an array: `("peer", 1, "uri")`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]

TOKEN: Final = re.compile(
    r'''(?P<basic>"""(?:\\.|[^\\])*?"{3,5}|"(?:\\.|[^"\\\n])*")'''
    r"""|(?P<literal>'{3}[\s\S]*?'{3,5}|'[^'\n]*')"""
    r"""|(?P<comment>\#[^\n]*)|(?P<newline>\n)|(?P<mark>[\[\]{}=,.])|(?P<bare>[^\s\[\]{}=,.\#"'$]+)|(?P<stray>["'$])""",
    re.DOTALL,
)
"""The tokens of TOML, as fine as this package needs them; space falls between."""


def find_lines(text: str) -> Mapping[Path, int]:
    """The line (from 1) of every key, table header and array item of `text`, a valid TOML document."""
    finder = _LineFinder(text)
    finder.document()
    return finder.lines


class _LineFinder:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._items: dict[Path, int] = {}
        """Index of the last item of each array of tables."""
        self._tokens: list[tuple[str, str, int]] = []
        self._next = 0
        line, seen = 1, 0
        for match in TOKEN.finditer(text):
            line += text.count("\n", seen, match.start())
            seen = match.start()
            if match.lastgroup != "comment":
                self._tokens.append((match.lastgroup or "", match.group(), line))

    def document(self) -> None:
        table: Path = ()
        while self._skip_newlines():
            if self._peek() != "[":
                self._pair(table)
                continue
            self._take()
            is_item = self._peek() == "["
            if is_item:
                self._take()
            line = self._line()
            table = self._resolve(self._key(), is_item)
            self._note(table, line)
            while self._peek() == "]":
                self._take()

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table + tuple(self._key())
        self._note(path, line)
        self._take()
        self._value(path)

    def _value(self, path: Path) -> None:
        opening = self._peek()
        if opening not in ("[", "{"):
            while self._peek() not in ("\n", ",", "]", "}", ""):
                self._take()
            return
        self._take()
        index = 0
        while self._skip_newlines() and self._peek() not in ("]", "}"):
            if self._peek() == ",":
                self._take()
            elif opening == "{":
                self._pair(path)
            else:
                self._note((*path, index), self._line())
                self._value((*path, index))
                index += 1
        self._take()

    def _key(self) -> list[str]:
        """The parts of a key up to the `=` or `]` behind it."""
        parts = []
        while self._peek() not in ("=", "]", ""):
            kind, text, _ = self._take()
            if kind in ("basic", "literal"):
                parts.append(next(iter(tomllib.loads(f"{text}=0"))))
            elif kind == "bare":
                parts.append(text)
        return parts

    def _resolve(self, key: list[str], is_item: bool) -> Path:
        """The path of a table header: keys that name an array of tables mean its last item."""
        path: Path = ()
        for position, part in enumerate(key):
            path = (*path, part)
            if is_item and position == len(key) - 1:
                self._items[path] = self._items.get(path, -1) + 1
            if path in self._items:
                path = (*path, self._items[path])
        return path

    def _note(self, path: Path, line: int) -> None:
        self.lines.setdefault(path, line)
        for length in range(len(path) - 1, 0, -1):
            self.lines.setdefault(path[:length], line)

    def _skip_newlines(self) -> bool:
        while self._peek() == "\n":
            self._take()
        return self._next < len(self._tokens)

    def _peek(self) -> str:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else ""

    def _line(self) -> int:
        return self._tokens[self._next][2] if self._next < len(self._tokens) else 0

    def _take(self) -> tuple[str, str, int]:
        token = self._tokens[self._next] if self._next < len(self._tokens) else ("", "", 0)
        self._next += 1
        return token
