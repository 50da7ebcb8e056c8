"""The last line of a screen: its most important keys, which can be clicked.

Not Textual's `Footer`: that makes its parts anew with every change of focus or screen and keeps the old ones (8.2), some 400 KB
each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.app import RenderResult
from textual.widget import Widget

from easytier_tui.bindings import Key

ALWAYS: Final = 2
"""Keys at the end that are never left out: help and quit."""


def _width(key: Key) -> int:
    return cell_len(f"{key.shown} {key.label} ")


class KeyLine(Widget):
    """Those of `keys` that have a label; where there is no room for all, those before the last two give way."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keyline--key"}

    def __init__(self, keys: Iterable[Key]) -> None:
        super().__init__()
        self._keys = [key for key in keys if key.label]
        # They would all be underlined, the colour of the keys gone.
        self.auto_links = False

    def _fitting(self) -> list[Key]:
        shown, last = [], self._keys[-ALWAYS:]
        room = self.size.width - sum(map(_width, last))
        for key in self._keys[:-ALWAYS]:
            room -= _width(key)
            if room < 0:
                break
            shown.append(key)
        return [*shown, *last]

    def render(self) -> RenderResult:
        text = Text(no_wrap=True, overflow="crop")
        style = self.get_component_rich_style("keyline--key", partial=True)
        for key in self._fitting():
            click = Style.on(click=f"app.simulate_key('{key.key.partition(',')[0]}')")
            text.append(key.shown, style + click)
            text.append(f" {key.label}", click)
            text.append(" ")
        return text
