"""The help: all keys, the filters, the words for states."""

from __future__ import annotations

from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from easytier_tui import bindings

FILTERS: Final = (
    ("kcp office", "both words, anywhere in the row"),
    ("transport:kcp", "kcp, tcp; transport:t is enough"),
    ("state:connected", "seen, connecting, connected, half-closed, closed, failed"),
    ("peer:office", "host name of the node at the other end"),
    ("port:22", "at either end"),
    ("dst:10.1.0.0/16", "a network, or the beginning of an address; src: too"),
    ("direction:inbound", "outbound, inbound, forwarded"),
    ("by:auto", "the plugin that chose the transport"),
    ("why:loss", "a part of the reason"),
    ("-state:closed", "a minus before a term: all others"),
)


def lines() -> list[str]:
    """The text."""
    found = []
    for heading, keys in (
        ("In the tables", bindings.TABLE),
        ("On the main screen", bindings.MAIN),
        ("On a row, and on its page", bindings.ROW),
        ("Everywhere", bindings.ANYWHERE),
    ):
        found += ["", heading, *(f"  {key.shown:<10} {key.help}" for key in keys)]
    found += ["", "Filters", *(f"  {example:<18} {text}" for example, text in FILTERS)]
    found += [
        "",
        "Columns",
        "  Via: the transport, kcp or tcp.  Rate: bytes a second, ↑ from source to destination.  RTT: round trip.",
        "  Retr: segments sent again.  Why: why the flow has ended, and why it was given its transport.",
        "  A dash stands for what the node does not tell.",
    ]
    return found[1:]


class HelpScreen(ModalScreen[None]):
    """Scrolls where the terminal is small."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as box:
            box.border_title = "Help"
            box.border_subtitle = "esc: back"
            yield Static("\n".join(lines()), markup=False)

    def on_screen_resume(self) -> None:
        # It is the same one each time.
        self.query_one("#help", VerticalScroll).scroll_home(animate=False)
