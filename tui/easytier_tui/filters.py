"""Filters on flows while they are being typed; the grammar is that of `easytier-cli proxy --filter`.

A field that has no value yet holds for all flows, so that nothing flickers between two keys.  What cannot be understood raises
ValueError, which names the nearest field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from easytier_cli import filters
from easytier_tui.records import FlowRecord

Predicate: TypeAlias = Callable[[FlowRecord], bool]

_ADDRESS_FIELDS: Final = frozenset({"src", "dst", "cidr"})
_ADDRESS_BEGINNING: Final = re.compile(r"[0-9a-f.:/\[\]]*")

MAX_LENGTH: Final = 200
"""Characters of a filter; what is beyond is cut."""


def parse(text: str) -> Predicate:
    """The filter as a question about one flow.  Raises ValueError."""
    finished = " ".join(word for word in text[:MAX_LENGTH].split() if not _is_unfinished(word))
    for word in finished.split():
        _check_address(word)
    # It looks at nothing but what rows of the command and records here have both.
    accepts = cast("Predicate", filters.parse(finished))

    def holds(flow: FlowRecord) -> bool:
        try:
            return accepts(flow)
        except ValueError:
            # A recording may hold ends that are no addresses: they are in no network.
            return False

    return holds


def _check_address(word: str) -> None:
    name, _, values = word.lower().removeprefix("-").partition(":")
    for value in values.split(",") if name in _ADDRESS_FIELDS else ():
        if not _ADDRESS_BEGINNING.fullmatch(value):
            raise ValueError(f"{name}:{value} is not an address, nor a network such as 10.1.0.0/16")


def _is_unfinished(word: str) -> bool:
    name, colon, value = word.lower().removeprefix("-").partition(":")
    return word == "-" or (bool(colon) and name in filters.FIELDS and value.rpartition(",")[2] in ("", "-"))
