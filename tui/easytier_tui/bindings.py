"""Every key of the program, once: the footer, the help and the documentation's test read it from here.

Textual itself adds the keys that move within a table or a text field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from textual.binding import Binding, BindingType


@dataclass(frozen=True, slots=True)
class Key:
    """`key` as Textual calls it, `shown` as users know it; `label` for the footer, "" if it is not there."""

    key: str
    shown: str
    action: str
    label: str
    help: str
    at_once: bool = False
    """Before keys that came with it, as when somebody types fast."""


MAIN: Final = (
    Key("slash", "/", "filter", "Filter", "type a filter; enter keeps it", at_once=True),
    Key("escape", "esc", "clear", "", "clear the filter"),
    Key("s", "s", "sort(1)", "Sort", "sort by the next column; a click on a heading sorts by it"),
    Key("S", "S", "sort(-1)", "", "sort by the column before"),
    Key("o", "o", "reverse", "", "the other way round"),
    Key("n", "n", "order('age')", "", "newest first"),
    Key("b", "b", "order('rate')", "", "busiest first"),
    Key("w", "w", "order('retr')", "", "worst first: most retransmissions"),
    Key("p,space", "p", "pause", "Pause", "hold the screen, or go on; space too"),
    Key("c", "c", "ended", "Closed", "show or hide flows that have ended"),
    Key("1", "1", "panel('flows')", "", "flows"),
    Key("2", "2", "panel('peers')", "Peers", "peers"),
    Key("left_square_bracket", "[", "tab(-1)", "", "the daemon before"),
    Key("right_square_bracket", "]", "tab(1)", "", "the next daemon"),
    Key("r", "r", "retry", "", "ask a daemon that is away again, now"),
)
COPY: Final = Key("y", "y", "app.copy", "", "copy the row, or what the page says, to the clipboard")
EXPORT: Final = Key("e", "e", "app.export", "Export", "write the table, or the flow, to a JSON or CSV file")
CLOSE: Final = Key("x", "x", "app.close_flow", "Close", "close the flow, after a question; at nodes of this project")
ROW: Final = (COPY, EXPORT, CLOSE)
ANYWHERE: Final = (
    Key("i", "i", "picture", "", "write a picture of the screen (SVG)"),
    Key("R", "R", "record", "", "record the session to a file, or stop it"),
    Key("t", "t", "theme", "", "light or dark; ctrl+p has more themes"),
    Key("question_mark", "?", "help", "Help", "this page"),
    Key("q", "q", "quit", "Quit", "quit"),
)
DETAIL: Final = (
    Key("escape,backspace", "esc", "back", "Back", "back to the tables"),
    Key("p,space", "p", "pause", "Pause", "hold the screen, or go on"),
)
TABLE: Final = (
    Key("enter", "enter", "choose", "Detail", "all about the flow or peer; a double click does the same"),
    Key("up,k", "↑", "step(-1)", "", "up; k too"),
    Key("down,j", "↓", "step(1)", "", "down; j too"),
    Key("pageup", "page up", "page(-1)", "", "a page up"),
    Key("pagedown", "page down", "page(1)", "", "a page down"),
    Key("home,g", "home", "top", "", "to the first row, and stay there; g too"),
    Key("end,G", "end", "bottom", "", "to the last row; G too"),
)


def textual(keys: tuple[Key, ...]) -> list[BindingType]:
    """As Textual takes them."""
    return [
        Binding(
            key.key,
            key.action,
            key.label or key.help,
            show=bool(key.label),
            key_display=key.shown,
            tooltip=key.help,
            priority=key.at_once,
        )
        for key in keys
    ]
