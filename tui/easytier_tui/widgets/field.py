"""A line of text to type into.

Textual's own takes letters at once, but sends keys that edit up to the program and back (8.2): a letter typed right after a
backspace would be the one that is deleted.
"""

from __future__ import annotations

from typing import Final

from textual import events
from textual.binding import Binding
from textual.widgets import Input

_EDITING: Final = {
    key: binding.action for binding in Input.BINDINGS if isinstance(binding, Binding) for key in binding.key.split(",")
}


class Field(Input):
    """An `Input` that takes all keys in their order."""

    async def on_key(self, event: events.Key) -> None:
        action = _EDITING.get(event.key)
        if action is not None:
            event.stop()
            await self.run_action(action)
