"""What the page of a flow and that of a peer have in common: lines of facts that are renewed while one looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType

from easytier_tui import bindings
from easytier_tui.screens.live import LiveScreen
from easytier_tui.session import Session

Fact = tuple[str, str]
NAME_WIDTH = 11


class Page(LiveScreen):
    """Of one session, on top of the main screen."""

    BINDINGS: ClassVar[list[BindingType]] = bindings.textual(bindings.DETAIL)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def action_back(self) -> None:
        self.dismiss()

    def action_pause(self) -> None:
        self.session.pause(not self.session.paused)
        self.draw()


def facts(pairs: Sequence[Fact]) -> Text:
    """`name  what`, one a line, the names aligned; lines too long for the screen wrap under their text."""
    text = Text()
    for index, (name, what) in enumerate(pairs):
        text.append(("\n" if index else "") + f"{name:<{NAME_WIDTH}}", style="bold" if name else "")
        text.append(what)
    return text
