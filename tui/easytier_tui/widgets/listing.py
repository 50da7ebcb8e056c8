"""A table of any length that draws only the rows in sight.

The cursor belongs to a key, not to a position: rows may come and go above it.  While the user has not moved it, or after
`home`, it stays on the first row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from easytier_tui import bindings, words
from easytier_tui.columns import MARKER
from easytier_tui.rows import Columns, Row


class Listing(ScrollView, can_focus=True):
    """Give it rows by `show`; it posts `Chosen` and `Sorted`."""

    BINDINGS: ClassVar[list[BindingType]] = bindings.textual(bindings.TABLE)
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"listing--{name}"
        for name in ("heading", "cursor", "cursor-blurred", "faint", "good", "warn", "bad", "accent", "empty")
    }

    @dataclass
    class Chosen(Message):
        """A row was opened."""

        listing: Listing
        key: str

        @property
        def control(self) -> Listing:
            return self.listing

    @dataclass
    class Sorted(Message):
        """A heading was clicked."""

        listing: Listing
        column: str

        @property
        def control(self) -> Listing:
            return self.listing

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.keys: list[str] = []
        self.cursor_key = ""
        self._columns: Columns = ()
        self._draw: Callable[[str], Row] = lambda key: Row(())
        self._heading = ""
        self._empty: Sequence[str] = ()
        self._follows_top = True

    def show(
        self,
        keys: list[str],
        columns: Columns,
        draw: Callable[[str], Row],
        *,
        sorted_by: str = "",
        arrow: str = "",
        empty: Sequence[str] = (),
    ) -> None:
        """The rows from now on; `draw` gives a row when it is in sight, and `empty` stands there instead of none, wrapped."""
        before = self.cursor
        self.keys, self._columns, self._draw = keys, columns, draw
        self._empty = [part for line in empty for part in words.wrap(line, self.room - MARKER)]
        heads = [
            words.fit(column.title + (arrow if column.name == sorted_by else ""), width, right=column.right)
            for column, width in columns
        ]
        self._heading = " " * MARKER + " ".join(heads)
        self.virtual_size = Size(self.room, len(keys) + 1)
        if self._follows_top:
            self.cursor_key = keys[0] if keys else ""
        elif (after := self._index()) is None:
            self.cursor_key = keys[min(before, len(keys) - 1)] if keys else ""
        elif self.scroll_y > 0 and after != before:
            # The row under the cursor stays where it is on the screen.
            self.scroll_to(y=self.scroll_y + after - before, animate=False)
        self.refresh()

    @property
    def room(self) -> int:
        """Columns for a row."""
        return self.scrollable_content_region.width

    @property
    def cursor(self) -> int:
        """Index of the row under the cursor."""
        return self._index() or 0

    def cursor_cells(self) -> list[str]:
        """The texts under the cursor; empty without rows."""
        return [text for text, _ in self._draw(self.cursor_key).cells] if self.cursor_key in self.keys else []

    def _index(self) -> int | None:
        try:
            return self.keys.index(self.cursor_key)
        except ValueError:
            return None

    # Moving

    def _go(self, index: int) -> None:
        if not self.keys:
            return
        index = max(0, min(len(self.keys) - 1, index))
        self._follows_top = False
        self.cursor_key = self.keys[index]
        self.scroll_to_region(Region(0, index, 1, 2), animate=False, force=True)
        self.refresh()

    def action_step(self, steps: int) -> None:
        self._go(self.cursor + steps)

    def action_page(self, pages: int) -> None:
        self._go(self.cursor + pages * max(1, self.size.height - 2))

    def action_top(self) -> None:
        self._go(0)
        self._follows_top = True

    def action_bottom(self) -> None:
        self._go(len(self.keys) - 1)

    def action_choose(self) -> None:
        if self.cursor_key in self.keys:
            self.post_message(self.Chosen(self, self.cursor_key))

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            left = MARKER
            for column, width in self._columns:
                if left <= event.x <= left + width:
                    self.post_message(self.Sorted(self, column.name))
                left += width + 1
            return
        index = event.y - 1 + self.scroll_offset.y
        if index < len(self.keys):
            self._go(index)
            if event.chain == 2:
                self.action_choose()

    # Drawing

    def render_line(self, y: int) -> Strip:
        width = self.room
        base = self.rich_style
        if y == 0:
            style = self.get_component_rich_style("listing--heading")
            return Strip([Segment(words.fit(self._heading, width), style)], width)
        index = y - 1 + self.scroll_offset.y
        if not self.keys:
            text = self._empty[y - 2] if 2 <= y < len(self._empty) + 2 else ""
            return Strip([Segment(words.fit(f"  {text}", width), self.get_component_rich_style("listing--empty"))], width)
        if index >= len(self.keys):
            return Strip.blank(width, base)
        key = self.keys[index]
        row = self._draw(key)
        if key == self.cursor_key:
            name = "listing--cursor" if self.has_focus else "listing--cursor-blurred"
            under, marker = self.get_component_rich_style(name), "▶ "
        else:
            under, marker = base, "  "
        if row.faint and key != self.cursor_key:
            under = under + Style(color=self.get_component_rich_style("listing--faint").color)
        segments = [Segment(marker, under)]
        for (text, tone), (column, room) in zip(row.cells, self._columns, strict=True):
            # On the cursor's ground tones would be hard to read.
            plain = not tone or key == self.cursor_key
            style = under if plain else under + Style(color=self.get_component_rich_style(f"listing--{tone}").color)
            segments += (Segment(words.fit(text, room, right=column.right), style), Segment(" ", under))
        return Strip(segments).adjust_cell_length(width, under)
