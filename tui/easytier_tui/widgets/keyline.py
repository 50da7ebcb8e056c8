"""The last line of a screen: its most important keys, which can be clicked.

Not Textual's `Footer`: that makes its parts anew with every change of focus or screen and keeps the old ones (8.2), some 400 KB
each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import RenderResult
from textual.widget import Widget

from easytier_tui.bindings import Key


class KeyLine(Widget):
    """Those of `keys` that have a label."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keyline--key"}

    def __init__(self, keys: Iterable[Key]) -> None:
        super().__init__()
        self._keys = [key for key in keys if key.label]

    def render(self) -> RenderResult:
        text = Text(no_wrap=True, overflow="crop")
        style = self.get_component_rich_style("keyline--key", partial=True)
        for key in self._keys:
            click = Style.on(click=f"app.simulate_key('{key.key.partition(',')[0]}')")
            text.append(key.shown, style + click)
            text.append(f" {key.label}", click)
            text.append(" ")
        return text
