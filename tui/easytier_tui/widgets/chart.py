"""A graph over time with its name, its newest value and its scale in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text
from textual.widgets import Static

from easytier_tui import graph


class Chart(Static):
    """Several lines high; the newest value is at the right."""

    def __init__(self, name: str, unit: Callable[[float | None], str], *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.border_title = name
        self._unit = unit

    @property
    def columns(self) -> int:
        """How many values it can show."""
        return max(1, self.content_size.width)

    def show(self, values: Sequence[float | None], newest: float | None, missing: str, when: str) -> None:
        """The values, largest of each column; `missing` stands there instead of none, and `when` says what `newest` is."""
        known = [each for each in values if each is not None]
        if not known:
            self.border_subtitle = ""
            self.update(Text(missing))
            return
        largest = max(known)
        self.border_subtitle = f"{when} {self._unit(known[-1] if newest is None else newest)}, top {self._unit(largest)}"
        lines = graph.bars(values, max(1, self.content_size.height), graph.nice_top(largest))
        self.update(Text("\n".join(lines), no_wrap=True))
