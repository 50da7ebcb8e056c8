"""A screen that is drawn again and again while one looks."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, cast

from textual.css.query import NoMatches
from textual.screen import Screen

if TYPE_CHECKING:
    from easytier_tui.app import MonitorApp


class LiveScreen(Screen[None]):
    """Has a `paint` that shows what is known at the moment; whoever wants it done calls `draw`."""

    @property
    def monitor(self) -> MonitorApp:
        """The app."""
        return cast("MonitorApp", self.app)

    def on_mount(self) -> None:
        self.call_after_refresh(self.draw)

    def on_resize(self) -> None:
        self.call_after_refresh(self.draw)

    def on_screen_resume(self) -> None:
        # It was not drawn while another screen covered it; what it showed then is there at once.
        self.call_after_refresh(self.draw)

    def draw(self) -> None:
        """Paint, unless the screen is being built or taken down, when its widgets are not there."""
        with suppress(NoMatches):
            self.paint()

    def paint(self) -> None:
        """Bring all widgets up to date."""
        raise NotImplementedError
