"""The sentences on the main screen: who is asked, what is wrong, why a table is empty, and what to do.

Plain text; a screen reader gets all of it, since nothing is said by colour or position alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from easytier_tui import graph, words
from easytier_tui.model import TOTALS, Model
from easytier_tui.session import Session
from easytier_tui.view import FlowView
from easytier_tui.words import plural

WIDE = 100
"""Columns from which the title is complete."""
_LINK_WORDS = {
    "connecting": "connecting",
    "live": "connected",
    "polled": "stock, polled",
    "gone": "no answer",
    "replayed": "replay",
    "ended": "replay ended",
}


def title(session: Session, width: int) -> tuple[str, str]:
    """The first line, left and right part: the node and how it is read; what it carries."""
    model = session.model
    node, link = model.node, model.link
    where = session.feed.address
    left = ["easytier-tui"] if width >= WIDE else []
    if node is not None:
        left.append(" ".join(filter(None, (node.hostname, node.address))))
    says_more = link.text and link.kind != "gone" and width >= WIDE
    if says_more and link.kind == "polled":
        left.append(f"{link.text} {where}")
    else:
        left += [f"{_LINK_WORDS[link.kind]} {where}", *([link.text] if says_more else [])]
    right = []
    if node is not None:
        by_transport = " ".join(f"{number} {name or 'undecided'}" for name, number in sorted(model.counts.items()))
        flows = plural(model.living, "flow")
        right = [plural(len(model.peers), "peer"), f"{flows}: {by_transport}" if by_transport else flows]
    return " · ".join(left), " · ".join(right)


def totals(model: Model, width: int) -> list[tuple[str, str, str]]:
    """One line for each transport: its name, its figures, its graph of both ways together."""
    lines: list[tuple[str, str, str]] = []
    if model.node is not None and model.node.is_stock:
        # It tells no bytes.
        return lines
    for transport in sorted(model.totals, key=lambda name: (name == "tcp", name)):
        samples = model.totals[transport]
        if not samples:
            continue
        up, down = samples[-1]
        figures = f"↑ {words.rate(up):>9}  ↓ {words.rate(down):>9}"
        room = max(0, min(TOTALS, width - len(figures) - 28))
        values = [sent + received for sent, received in list(samples)[-room:]] if room else []
        top = max(values, default=0.0)
        lines.append(
            (transport, figures, graph.bars([None] * (room - len(values)) + [*values])[0] + f"  top {words.rate(top)}")
        )
    return lines


def banner(session: Session, room: int) -> str:
    """What is wrong with the daemon; "" if nothing is.  Advice is cut to `room` columns, so that the retry stays in sight."""
    link = session.model.link
    if link.kind == "gone":
        if link.retry_at is None:
            return link.text
        left = round(link.retry_at - session.feed.clock())
        retry = f".  Retrying in {left} s (r: now)" if left > 0 else ".  Retrying now"
        return words.fit(link.text, min(cell_len(link.text), max(0, room - len(retry)))) + retry
    if link.kind == "ended" and link.text:
        return f"{link.text}.  What is shown is its last moment; q quits" if "line" not in link.text else link.text
    return ""


def empty(session: Session) -> Sequence[str]:
    """Why the flow table is empty, and what to do; lines."""
    model, view = session.model, session.view
    if model.node is None:
        return [f"Asking {session.feed.address} ..."] if model.link.kind == "connecting" else []
    if view.error and model.flows:
        none = f'; nothing matches "{view.held_text}"' if view.held_text else ""
        return [f"The filter is not valid: {view.error}{none}", "esc clears the filter"]
    if view.filter_text and model.flows:
        return [f'0 of {plural(len(model.flows), "flow")} match "{view.filter_text}"', "esc clears the filter"]
    if model.flows:
        return [f"No living flow; {plural(len(model.flows), 'flow')} ended lately: c shows them"]
    if not model.peers:
        lines = ["No other node is known."]
        for url, connected in model.connectors:
            lines.append(f"  {url}: {'connected' if connected else 'not connected; the log of the node says why'}")
        if not model.connectors:
            lines.append('  The configuration names no peer: add  [[peer]] uri = "udp://HOST:11010"  or start with --peers')
        return lines
    lines = ["No TCP flow yet."]
    target = next((peer.record.address for peer in model.peers.values() if peer.record.address), "")
    if target:
        lines.append(f"  Try:  curl http://{target}/")
    for peer in list(model.peers.values())[:8]:
        record = peer.record
        lines.append(f"  KCP to {record.hostname or record.peer_id}: {f'no, {record.kcp}' if record.kcp else 'yes'}")
    return lines


def wrong_filter(view: FlowView) -> str:
    """What is shown instead, and why."""
    return f"not valid, shown: {view.held_text or 'all'} · {view.error}"


def status(session: Session, shown: int, *, small: bool) -> str:
    """The state of the table: order, how many of how many, what is off; of a small terminal, that it is one."""
    model, view = session.model, session.view
    parts = []
    if session.paused:
        parts.append("PAUSED")
    if session.recorder is not None:
        parts.append("recording")
    if small:
        return " · ".join(parts) or "80x24 shows more"
    if model.missed:
        parts.append(f"missed {words.count(model.missed)} events")
    if model.unwatched + model.untold:
        parts.append(f"{words.count(model.unwatched + model.untold)} more not listed")
    if not view.shows_ended:
        parts.append("closed hidden")
    parts.append(f"sort: {view.column.title} {'▼' if view.descending else '▲'}")
    parts.append(f"{shown} of {len(model.flows)}")
    return " · ".join(parts)
