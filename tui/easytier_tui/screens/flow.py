"""All about one flow: ends, path, transport and who chose it, graphs over time, what happened."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Grid, VerticalScroll
from textual.widgets import Static

from easytier_cli.flows import age
from easytier_tui import bindings, columns, export, words
from easytier_tui.history import SPAN
from easytier_tui.model import FlowState
from easytier_tui.records import FlowRecord
from easytier_tui.screens.page import Fact, Page, facts
from easytier_tui.session import Session
from easytier_tui.widgets.chart import Chart
from easytier_tui.widgets.keyline import KeyLine
from easytier_tui.words import NOTHING

CHOOSERS = {"": "", "default": ", by default", "fallback": ", as a fallback", "peer": ", by the peer that opened it"}


def _per_second(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}/s"


def _segments(value: float | None) -> str:
    return NOTHING if value is None else words.count(round(value))


CHARTS = (
    ("Rate ↑", "up", words.rate),
    ("Rate ↓", "down", words.rate),
    ("RTT", "rtt", words.duration),
    ("Sent again", "retransmitted", _per_second),
    ("Window", "window", _segments),
    ("In flight", "in_flight", _segments),
)
"""Title, field of the history, unit.  The last two in segments."""


class FlowPage(Page):
    """Of the flow with this key."""

    BINDINGS: ClassVar[list[BindingType]] = bindings.textual(bindings.ROW)

    def __init__(self, session: Session, key: str) -> None:
        super().__init__(session)
        self.key = key
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-middle"), (110, "-wide")]

    def compose(self) -> ComposeResult:
        yield Static(id="page-title", markup=False)
        with VerticalScroll(id="page"):
            yield Static(id="facts")
            with Grid(id="charts"):
                for name, field, unit in CHARTS:
                    yield Chart(f"{name}, 2 min", unit, id=f"chart-{field}")
            yield Static(id="events")
        yield KeyLine((*bindings.DETAIL, *bindings.ROW, *bindings.ANYWHERE))

    def on_mount(self) -> None:
        super().on_mount()
        self.monitor.ask_history(self.session, self.key)

    def flow(self) -> FlowState | None:
        """None once it has been forgotten."""
        return self.session.model.flows.get(self.key)

    def paint(self) -> None:
        state = self.flow()
        if state is None:
            self.entitle("This flow has ended and is no longer remembered.  esc: back")
            return
        record, model = state.record, self.session.model
        self.entitle(f"{record.source} → {record.destination}   {record.transport or 'undecided'} · {record.state}")
        self.query_one("#facts", Static).update(facts(flow_facts(self.session, state)))
        end = min(self.session.now, state.ended_at or self.session.now)
        is_stock = model.node is not None and model.node.is_stock
        missing = "a stock node does not tell this" if is_stock else _MISSING.get(record.transport, "nothing measured yet")
        when = "now" if state.ended_at is None and not model.is_gone else "last"
        for _, field, _ in CHARTS:
            chart = self.query_one(f"#chart-{field}", Chart)
            count, history = chart.columns, state.history
            chart.show(history.resample(field, end, SPAN / count, count), history.newest(field, end), missing, when)
        notes = [("", f"{words.clock(note.at)}  {note.text}") for note in state.notes]
        self.query_one("#events", Static).update(facts([("Events", notes[0][1] if notes else "none known"), *notes[1:]]))

    def as_text(self) -> str:
        """What the page says, for the clipboard."""
        state = self.flow()
        return "" if state is None else "\n".join(f"{name}\t{what}" for name, what in flow_facts(self.session, state))

    def as_file(self, suffix: str) -> str:
        """What the page says, for a file."""
        state = self.flow()
        if state is None:
            raise export.ExportError("the flow is no longer remembered")
        return export.flow(state, suffix)


def flow_facts(session: Session, state: FlowState) -> list[Fact]:
    """Name and text of what is known."""
    record, now = state.record, session.now
    lived = (record.ended_at or state.ended_at or now) - record.started_at
    what = f"{record.state} for {age(lived)}" if state.ended_at is None else f"{record.state} after {age(lived)}"
    if state.ended_at is not None:
        what += f", {age(now - state.ended_at)} ago"
    if session.model.is_gone:
        what += ", when the node last answered"
    found = [("Flow", f"{record.source} → {record.destination}"), ("State", what)]
    if record.end_reason:
        found.append(("Ended", record.end_reason))
    found.append(("Direction", _DIRECTIONS.get(record.direction, record.direction or "the node does not tell")))
    peer = session.model.peers.get(record.peer_id)
    if peer is not None:
        found.append(("Peer", f"{peer.record.hostname} {peer.record.address}, version {peer.record.version or 'unknown'}"))
        used = next((each for each in peer.record.connections if each.is_used), None)
        loss = words.share(columns.used_loss(peer.record) if record.loss is None else record.loss)
        path = f"{columns.path(peer.record)}, latency {words.duration(peer.record.path_latency)}, loss {loss}"
        found.append(("Path", path + (f", {used.remote}" if used is not None else "")))
        found.append(("KCP to it", f"no: {peer.record.kcp}" if peer.record.kcp else "yes"))
    elif record.peer or record.peer_id:
        found.append(("Peer", f"{columns.peer_name(state)}, not in the network at the moment"))
    by = CHOOSERS.get(record.chosen_by, f", by plugin {record.chosen_by}")
    found.append(("Transport", f"{record.transport or 'undecided'}{by}: {record.reason or 'the node does not tell why'}"))
    found.append(("TCP stack", _stack(session, record)))
    if record.sent is not None:
        up, down = f"↑ {words.size(record.sent)}", f"↓ {words.size(record.received)}"
        if state.ended_at is None:
            up, down = f"{up} at {words.rate(state.send_rate)}", f"{down} at {words.rate(state.receive_rate)}"
        found.append(("Bytes", f"{up}   {down}"))
    rtt = "not measured" if record.rtt is None else words.duration(record.rtt)
    again = "not counted" if record.retransmitted is None else words.plural(record.retransmitted, "segment")
    found.append(("Line", f"round trip {rtt}, sent again {again}"))
    if record.window is not None:
        under_way = "" if record.in_flight is None else f", {record.in_flight} in flight"
        found.append(("Window", f"{words.plural(record.window, 'segment')} to the peer{under_way}"))
    return found


def _stack(session: Session, record: FlowRecord) -> str:
    """Where the TCP connection ends at this node."""
    if session.model.node is not None and session.model.node.is_stock:
        return "the node does not tell"
    if record.stack:
        return f"{record.stack}: the connection ends at this node"
    return "none: packets pass as they are" if record.transport == "tcp" else NOTHING


_MISSING = {"tcp": "not measured of plain TCP"}
_DIRECTIONS = {
    "outbound": "outbound: an application of this machine opened it",
    "inbound": "inbound: it came from the peer",
    "forwarded": "forwarded: it came in at a port forward of the node",
}
