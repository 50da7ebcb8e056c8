"""The main screen: what is wrong, totals by transport, the flows, the peers."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Static

from easytier_tui import bindings, export, messages, rows, words
from easytier_tui.filters import MAX_LENGTH
from easytier_tui.screens.live import LiveScreen
from easytier_tui.session import Session
from easytier_tui.widgets.field import Field
from easytier_tui.widgets.keyline import KeyLine
from easytier_tui.widgets.listing import Listing

# Sizes below which a part gives way to the flows.
MIN_HEIGHT_FOR_PEERS = 18
MIN_HEIGHT_FOR_TOTALS = 14
SMALL_WIDTH = 60
MAX_PEER_ROWS = 6
BANNER_LINES = 4
"""As in the style sheet."""
BANNER_SLACK = 36
"""Columns that wrapping at words may leave empty."""


class TabLabel(Static):
    """The name of a daemon; a click shows it."""

    class Clicked(Message):
        """Somebody wants to see this daemon."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, index: int) -> None:
        super().__init__(markup=False)
        self._index = index

    def on_click(self) -> None:
        self.post_message(self.Clicked(self._index))


class MonitorScreen(LiveScreen):
    """Shows the app's current session."""

    BINDINGS: ClassVar[list[BindingType]] = bindings.textual((*bindings.MAIN, *bindings.ROW))
    AUTO_FOCUS = "#flows"

    def __init__(self) -> None:
        super().__init__()
        self._shows_peers_only = False

    def compose(self) -> ComposeResult:
        yield Static(id="title", markup=False)
        yield Horizontal(id="tabs")
        yield Static(id="banner", markup=False)
        yield Static(id="totals")
        with Horizontal(id="bar"):
            yield Static("/ ", id="prompt", markup=False)
            yield Field(placeholder="filter", id="filter", compact=True, max_length=MAX_LENGTH, select_on_focus=False)
            yield Static(id="status", markup=False)
        yield Listing(id="flows")
        yield Static(id="peers-title", markup=False)
        yield Listing(id="peers")
        yield KeyLine((*bindings.TABLE, *bindings.MAIN, bindings.EXPORT, *bindings.ANYWHERE))

    @property
    def session(self) -> Session:
        """The daemon that is shown."""
        return self.monitor.session

    # Drawing

    def paint(self) -> None:
        session, width, height = self.session, self.size.width, self.size.height
        self._draw_title(width)
        self._draw_tabs()
        banner = self.query_one("#banner", Static)
        text = messages.banner(session, BANNER_LINES * (width - 2) - BANNER_SLACK)
        banner.display = bool(text)
        banner.update(text)
        totals = self.query_one("#totals", Static)
        lines = _totals(session, width)
        totals.display = bool(lines) and height >= MIN_HEIGHT_FOR_TOTALS
        totals.update(lines)
        flows, peers = self.query_one("#flows", Listing), self.query_one("#peers", Listing)
        shown = self._draw_flows(flows)
        self._draw_peers(peers, height)
        status = self.query_one("#status", Static)
        problem = session.view.error
        status.set_class(bool(problem), "-problem")
        if problem:
            status.update(messages.wrong_filter(session.view))
        else:
            status.update(messages.status(session, shown, small=width < SMALL_WIDTH or height < MIN_HEIGHT_FOR_TOTALS))

    def _draw_title(self, width: int) -> None:
        left, right = messages.title(self.session, width)
        room = max(0, width - 2 - len(right) - 2)
        self.query_one("#title", Static).update(
            words.fit(left, room) + "  " + right if room >= 24 else words.fit(left, width - 2)
        )

    def _draw_tabs(self) -> None:
        tabs, sessions = self.query_one("#tabs", Horizontal), self.monitor.sessions
        tabs.display = len(sessions) > 1
        for index in range(len(tabs.children), len(sessions)):
            tabs.mount(TabLabel(index))
        ends, current = [0], 0
        for session, label in zip(sessions, tabs.query(TabLabel), strict=False):
            gone = " (no answer)" if session.model.is_gone else ""
            is_current = session is self.session
            text = f"[{session.name}{gone}]" if is_current else f" {session.name}{gone} "
            label.update(text)
            label.set_class(is_current, "-current")
            ends.append(ends[-1] + cell_len(text))
            if is_current:
                current = ends[-1]
        # Tabs at the left give way until the one that is shown fits.
        for label, begin in zip(tabs.query(TabLabel), ends, strict=False):
            label.display = current - begin <= self.size.width - 2 or label.has_class("-current")

    def _draw_flows(self, listing: Listing) -> int:
        session = self.session
        keys = session.view.rows(session.model, session.now)
        chosen = rows.flow_columns(session, listing.room)
        view = session.view
        listing.show(
            keys,
            chosen,
            rows.flow_row(session, chosen),
            sorted_by=view.column.name,
            arrow="▼" if view.descending else "▲",
            empty=messages.empty(session),
        )
        return len(keys)

    def _draw_peers(self, listing: Listing, height: int) -> None:
        session = self.session
        model = session.model
        only = self._shows_peers_only
        shown = only or (height >= MIN_HEIGHT_FOR_PEERS and bool(model.peers))
        self.query_one("#flows", Listing).display = not only
        title = self.query_one("#peers-title", Static)
        title.display = listing.display = shown
        if not shown:
            return
        takers = sum(not peer.record.kcp for peer in model.peers.values())
        title.update(f"Peers: {len(model.peers)}, KCP to {takers} of them")
        listing.styles.height = "1fr" if only else min(len(model.peers), MAX_PEER_ROWS, height // 4) + 1
        chosen = rows.peer_columns(listing.room)
        listing.show(list(map(str, model.peers)), chosen, rows.peer_row(session, chosen), empty=["No other node is known."])

    # Asked for by keys and mouse

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        self.set_focus(field)
        field.cursor_position = len(field.value)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # Its key comes first everywhere but in a text field, where it is a letter.
        return action != "filter" or not isinstance(self.focused, Input)

    def action_clear(self) -> None:
        self.query_one("#filter", Input).value = ""
        self._focus_table()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self.session.view.filter(event.value)
        self.draw()

    @on(Input.Submitted, "#filter")
    def _filter_kept(self) -> None:
        # Of one that is too long the beginning is shown.
        self.query_one("#filter", Input).cursor_position = 0
        self._focus_table()

    def _focus_table(self) -> None:
        self.set_focus(self.query_one("#peers" if self._shows_peers_only else "#flows", Listing))

    def action_sort(self, steps: int) -> None:
        names = [column.name for column, _ in rows.flow_columns(self.session, self.query_one("#flows", Listing).room)]
        current = self.session.view.column.name
        index = names.index(current) if current in names else -1 if steps > 0 else 0
        self.session.view.sort(names[(index + steps) % len(names)])
        self.draw()

    def action_order(self, name: str) -> None:
        self.session.view.sort(name, descending=True)
        self.query_one("#flows", Listing).action_top()
        self.draw()

    def action_reverse(self) -> None:
        view = self.session.view
        view.sort(view.column.name)
        self.draw()

    def action_pause(self) -> None:
        self.session.pause(not self.session.paused)
        self.draw()

    def action_ended(self) -> None:
        self.session.view.shows_ended = not self.session.view.shows_ended
        self.draw()

    def action_panel(self, name: str) -> None:
        self._shows_peers_only = name == "peers"
        self.draw()
        self._focus_table()

    def action_tab(self, steps: int) -> None:
        self.monitor.show_session(self.monitor.sessions.index(self.session) + steps)

    def action_retry(self) -> None:
        self.session.feed.wake()

    @on(TabLabel.Clicked)
    def _tab_clicked(self, event: TabLabel.Clicked) -> None:
        self.monitor.show_session(event.index)

    def session_changed(self) -> None:
        """Another daemon is shown: its filter with it."""
        with self.prevent(Input.Changed):
            self.query_one("#filter", Input).value = self.session.view.filter_text
        self.query_one("#flows", Listing).action_top()
        self.draw()

    @on(Listing.Sorted, "#flows")
    def _sorted(self, event: Listing.Sorted) -> None:
        self.session.view.sort(event.column)
        self.draw()

    @on(Listing.Chosen, "#flows")
    def _flow_chosen(self, event: Listing.Chosen) -> None:
        self.monitor.open_flow(self.session, event.key)

    @on(Listing.Chosen, "#peers")
    def _peer_chosen(self, event: Listing.Chosen) -> None:
        self.monitor.open_peer(self.session, int(event.key))

    def on_key(self, event: events.Key) -> None:
        # From the filter, down leads into the table, as in other search fields.
        if event.key == "down" and isinstance(self.focused, Input):
            event.stop()
            self._focus_table()

    # What the row actions of the app are about

    @property
    def key(self) -> str:
        """Of the flow under the cursor; "" if there is none."""
        listing = self.query_one("#flows", Listing)
        return listing.cursor_key if not self._shows_peers_only else ""

    def as_text(self) -> str:
        """The row under the cursor, for the clipboard."""
        focused = self.focused
        listing = focused if isinstance(focused, Listing) else self.query_one("#flows", Listing)
        return export.row(listing.cursor_cells())

    def as_file(self, suffix: str) -> str:
        """The table as it is filtered and sorted, for a file."""
        model = self.session.model
        return export.table([model.flows[key] for key in self.session.view.rows(model, self.session.now)], suffix)


def _totals(session: Session, width: int) -> Text:
    text = Text(no_wrap=True, overflow="crop")
    for index, (transport, figures, graph) in enumerate(messages.totals(session.model, width - 2)):
        text.append("\n" if index else "")
        text.append(f"{transport:<5}", style="bold")
        text.append(f"{figures}  ")
        text.append(graph, style="dim")
    return text
