"""Rows of the two tables: which columns there are, what stands in them, which tone each cell has.

A tone only underlines what the words say already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from easytier_tui import columns
from easytier_tui.columns import Column
from easytier_tui.model import FlowState
from easytier_tui.session import Session

Cell = tuple[str, str]
"""Text and tone: "", good, warn, bad, accent."""
Columns = Sequence[tuple[Column[Any], int]]

_STATE_TONES: Final = {"connected": "good", "half-closed": "warn", "seen": "accent", "connecting": "accent", "failed": "bad"}
WIDEST_ADDRESS: Final = 26


@dataclass(frozen=True, slots=True)
class Row:
    """One line; `faint` for what has ended."""

    cells: Sequence[Cell]
    faint: bool = False


def flow_columns(session: Session, room: int) -> Columns:
    """What fits `room`, given what the node tells.  The address columns grow with what is there, and never shrink."""
    model = session.model
    node = model.node
    longest = {"src": model.longest_source, "dst": model.longest_destination}
    grown = {name: max(columns.FLOW[name].width, min(WIDEST_ADDRESS, length)) for name, length in longest.items()}
    layouts = columns.STOCK_LAYOUTS if node is not None and node.is_stock else columns.FLOW_LAYOUTS
    return columns.choose(columns.FLOW, layouts, room, grown)


def flow_row(session: Session, chosen: Columns) -> Callable[[str], Row]:
    """Draws the flow with a given key."""
    model, now = session.model, session.now
    is_gone = model.is_gone

    def draw(key: str) -> Row:
        state = model.flows.get(key)
        if state is None:
            return Row([("", "")] * len(chosen))
        faint = is_gone or state.ended_at is not None
        return Row([(column.text(state, now), _flow_tone(column.name, state, faint)) for column, _ in chosen], faint)

    return draw


def _flow_tone(name: str, state: FlowState, faint: bool) -> str:
    if name == "state" and (not faint or state.record.state == "failed"):
        return _STATE_TONES.get(state.record.state, "")
    return "accent" if name == "transport" and state.record.transport not in ("", "tcp") and not faint else ""


def peer_columns(room: int) -> Columns:
    """What fits `room`."""
    return columns.choose(columns.PEER, columns.PEER_LAYOUTS, room, {})


def peer_row(session: Session, chosen: Columns) -> Callable[[str], Row]:
    """Draws the peer with a given id, as text."""
    model, now = session.model, session.now
    is_gone = model.is_gone

    def draw(key: str) -> Row:
        state = model.peers.get(int(key))
        if state is None:
            return Row([("", "")] * len(chosen))
        cells = []
        for column, _ in chosen:
            tone = ("warn" if state.record.kcp else "good") if column.name == "kcp" and not is_gone else ""
            cells.append((column.text(state, now), tone))
        return Row(cells, is_gone)

    return draw
