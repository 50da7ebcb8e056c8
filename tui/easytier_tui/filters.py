"""Filters on flows while they are being typed; the grammar is that of `easytier-cli proxy --filter`.

A field that has no value yet holds for all flows, so that nothing flickers between two keys.  What cannot be understood raises
ValueError, which names the nearest field.
"""

from __future__ import annotations

from typing import Final

from easytier_cli import filters

MAX_LENGTH: Final = 200
"""Characters of a filter; what is beyond is cut."""


def parse(text: str) -> filters.Predicate:
    """The filter as a question about one flow.  Raises ValueError."""
    return filters.parse(" ".join(word for word in text[:MAX_LENGTH].split() if not _is_unfinished(word)))


def _is_unfinished(word: str) -> bool:
    name, colon, value = word.lower().removeprefix("-").partition(":")
    return word == "-" or (bool(colon) and name in filters.FIELDS and value.rpartition(",")[2] in ("", "-"))
