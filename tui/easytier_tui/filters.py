"""Filters on flows while they are being typed; the grammar is that of `easytier-cli proxy --filter`.

A field that has no value yet holds for all flows, so that nothing flickers between two keys.  What cannot be understood raises
ValueError, which names the nearest field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, cast

from easytier_cli import filters
from easytier_tui.records import FlowRecord

Predicate: TypeAlias = Callable[[FlowRecord], bool]

MAX_LENGTH: Final = 200
"""Characters of a filter; what is beyond is cut."""


def parse(text: str) -> Predicate:
    """The filter as a question about one flow.  Raises ValueError."""
    finished = " ".join(word for word in text[:MAX_LENGTH].split() if not _is_unfinished(word))
    # It looks at nothing but what rows of the command and records here have both.
    accepts = cast("Predicate", filters.parse(finished))

    def holds(flow: FlowRecord) -> bool:
        try:
            return accepts(flow)
        except ValueError:
            # A recording may hold ends that are no addresses: they are in no network.
            return False

    return holds


def _is_unfinished(word: str) -> bool:
    name, colon, value = word.lower().removeprefix("-").partition(":")
    return word == "-" or (bool(colon) and name in filters.FIELDS and value.rpartition(",")[2] in ("", "-"))
