"""A widget for your own Textual program: the flows of a node that move most, live.

Run it: `python flow_panel.py [IP:PORT]` shows it beside a clock, as a program of yours might.  Feed and model of easytier-tui
do the work: the feed asks the node in a thread, the model knows flows, peers and rates.  The widget draws them, no more.
"""

from __future__ import annotations

import sys

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.containers import Horizontal
from textual.reactive import reactive
from textual.widgets import Digits, Static
from textual.worker import get_current_worker

from easytier_tui import words
from easytier_tui.feed import Feed, PortalFeed
from easytier_tui.model import FlowState, Model
from easytier_tui.records import Update


class FlowPanel(Static):
    """The `count` flows that move most, of one node.  It owns the feed."""

    DEFAULT_CSS = "FlowPanel { width: 1fr; border: round $primary; padding: 0 1; }"

    count: reactive[int] = reactive(5)

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self.border_title = feed.address
        self._feed = feed
        self._model = Model()

    def on_mount(self) -> None:
        self._listen()
        self.set_interval(1.0, self._tick)

    def on_unmount(self) -> None:
        self._feed.close()

    @work(thread=True)
    def _listen(self) -> None:
        """The feed blocks, so it has a thread; what it tells is applied on the program's own."""
        worker = get_current_worker()
        while not worker.is_cancelled:
            self.app.call_from_thread(self._apply, self._feed.step())

    def _apply(self, update: Update) -> None:
        self._model.apply(update)
        self._paint()

    def _tick(self) -> None:
        # Rates without news run dry, flows that ended long ago are forgotten.
        self._model.tick(self._feed.clock())
        self._paint()

    def _paint(self) -> None:
        living = [state for state in self._model.flows.values() if state.ended_at is None]
        busiest = sorted(living, key=lambda state: state.rate or 0.0, reverse=True)[: self.count]
        link = self._model.link
        self.border_subtitle = link.text if link.kind == "gone" else f"{len(living)} flows"
        self.update(Text("\n".join(map(_line, busiest)) or "no flows"))


def _line(state: FlowState) -> str:
    record = state.record
    return f"{words.rate(state.rate):>10}  {record.transport or '-':4} {record.destination}  {record.peer}"


class Dashboard(App[None]):
    """A program of yours."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Digits("12:00")
            yield FlowPanel(self._feed)


def main() -> None:
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:15888").rpartition(":")
    Dashboard(PortalFeed(host, int(port))).run()


if __name__ == "__main__":
    main()
