"""Which flows are listed, and in which order: filter, sort, closed ones or not.

The order is renewed at most every `REORDER_EVERY` seconds where it depends on what changes by itself, so that rows do not
dance; flows that are equal keep the order in which they appeared.  Ended flows always come after the living ones.
"""

from __future__ import annotations

from typing import Final

from easytier_tui import columns, filters
from easytier_tui.columns import Column
from easytier_tui.model import FlowState, Model

REORDER_EVERY: Final = 2.0
_RESTLESS: Final = frozenset({"rate", "up", "down", "sent", "received", "rtt", "retr"})


class FlowView:
    """A selection of a model's flows.  Change it by its methods; `rows` gives the keys."""

    def __init__(self) -> None:
        self.filter_text = ""
        self.column: Column[FlowState] = columns.FLOW["age"]
        self.descending = True
        self.shows_ended = True
        self._filter = filters.parse("")
        self._ranks: dict[str, int] = {}
        self._ordered_at = float("-inf")

    def filter(self, text: str) -> None:
        """Take a filter as it is typed."""
        self.filter_text = text.strip()
        self._filter = filters.parse(text)

    @property
    def held_text(self) -> str:
        """The terms of the filter that can be understood, which select the rows."""
        return self._filter.text

    @property
    def error(self) -> str:
        """What is wrong with the other terms; "" if there are none."""
        return self._filter.error

    def sort(self, name: str, descending: bool | None = None) -> None:
        """By this column; asked for twice, the other way round."""
        column = columns.FLOW[name]
        if descending is not None:
            self.descending = descending
        elif column is self.column:
            self.descending = not self.descending
        else:
            self.descending = column.descending
        self.column = column
        self.reorder()

    def reorder(self) -> None:
        """Forget the order: the next `rows` makes it anew."""
        self._ordered_at = float("-inf")

    def rows(self, model: Model, now: float) -> list[str]:
        """Keys of the flows to show, in order."""
        flows = model.flows
        shown = list(flows) if self.shows_ended else [key for key, state in flows.items() if state.ended_at is None]
        if self.held_text:
            accepts = self._filter.accepts
            shown = [key for key in shown if accepts(flows[key].record)]
        order = self.column.order
        if self.column.name not in _RESTLESS:
            shown.sort(key=lambda key: order(flows[key]), reverse=self.descending)
            return _living_first(shown, model)
        if not 0 <= now - self._ordered_at < REORDER_EVERY:
            self._ordered_at = now
            ranked = sorted(flows, key=lambda key: order(flows[key]), reverse=self.descending)
            self._ranks = {key: rank for rank, key in enumerate(ranked)}
        # What came since the last renewal waits at the end; what has ended moves no more: the latest end comes first.
        ranks, last = self._ranks, len(flows)
        shown.sort(key=lambda key: (-(flows[key].ended_at or 0.0), ranks.get(key, last)))
        return _living_first(shown, model)


def _living_first(keys: list[str], model: Model) -> list[str]:
    flows = model.flows
    ended = [key for key in keys if flows[key].ended_at is not None]
    return [key for key in keys if flows[key].ended_at is None] + ended if ended else keys
