"""Filters on flows while they are being typed; the grammar is that of `easytier-cli proxy --filter`.

A field that has no value yet holds for all flows, so that nothing flickers between two keys.  A term that cannot be understood
is left out, and what is wrong with it said.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from easytier_cli import filters

MAX_LENGTH: Final = 200
"""Characters of a filter; what is beyond is cut."""


class Filter(NamedTuple):
    """What was typed: the terms that hold, as text and as a question about one flow, and what is wrong with the first other."""

    text: str
    accepts: filters.Predicate
    error: str


def parse(text: str) -> Filter:
    """The filter, as far as it can be understood."""
    terms, error = [], ""
    for term in text[:MAX_LENGTH].split():
        if _is_unfinished(term):
            continue
        try:
            filters.parse(term)
        except ValueError as wrong:
            error = error or str(wrong)
        else:
            terms.append(term)
    held = " ".join(terms)
    return Filter(held, filters.parse(held), error)


def _is_unfinished(word: str) -> bool:
    name, colon, value = word.lower().removeprefix("-").partition(":")
    return word == "-" or (bool(colon) and name in filters.FIELDS and value.rpartition(",")[2] in ("", "-"))
