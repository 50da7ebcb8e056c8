"""What the page of a flow and that of a peer have in common: lines of facts that are renewed while one looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text
from textual.binding import BindingType
from textual.widgets import Static

from easytier_tui import bindings, words
from easytier_tui.screens.live import LiveScreen
from easytier_tui.session import Session

Fact = tuple[str, str]
NAME_WIDTH = 10


class Page(LiveScreen):
    """Of one session, on top of the main screen."""

    BINDINGS: ClassVar[list[BindingType]] = bindings.textual((*bindings.DETAIL, bindings.COPY))

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def entitle(self, text: str) -> None:
        """The first line: `text`, and why what is shown is not what is now; of `text` gives way what has no room."""
        session, notice = self.session, ""
        if session.paused:
            notice += "   PAUSED"
        if session.model.is_gone:
            notice += f"   no answer since {words.clock(session.now)[:8]}"
        title = self.query_one("#page-title", Static)
        title.set_class(session.model.is_gone, "-gone")
        title.update(words.fit(text, min(cell_len(text), max(0, self.size.width - 2 - len(notice)))) + notice)

    def action_back(self) -> None:
        self.dismiss()

    def action_pause(self) -> None:
        self.session.pause(not self.session.paused)
        self.draw()


def facts(pairs: Sequence[Fact]) -> Table:
    """`name  what`, one a line, the names aligned; lines too long for the screen wrap under their text."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style="bold", width=NAME_WIDTH, no_wrap=True)
    table.add_column(overflow="fold")
    for name, what in pairs:
        table.add_row(Text(name), Text(what))
    return table
