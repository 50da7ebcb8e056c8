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

    def show(self, values: Sequence[float | None], missing: str, newest: str = "now") -> None:
        """The values; `missing` stands there instead of none, and `newest` says what the newest one is."""
        known = [each for each in values if each is not None]
        if not known:
            self.border_subtitle = ""
            self.update(Text(missing))
            return
        largest = max(known)
        value = self._unit(known[-1] if values[-1] is None else values[-1])
        self.border_subtitle = f"{newest} {value}, top {self._unit(largest)}"
        lines = graph.bars(values, max(1, self.content_size.height), graph.nice_top(largest))
        self.update(Text("\n".join(lines), no_wrap=True))
