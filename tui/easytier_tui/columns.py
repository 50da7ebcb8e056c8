"""The columns of the flow table and the peer table: headings, cells, orders, and which of them fit a terminal.

A layout is chosen by width alone, so nothing moves while flows come and go; only the address columns grow with their content,
and never shrink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

from easytier_cli.flows import age
from easytier_tui import words
from easytier_tui.model import FlowState, PeerState
from easytier_tui.records import PeerRecord

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column.  `width` in columns of the terminal; the last column of a table takes what is left."""

    name: str
    title: str
    width: int
    text: Callable[[T, float], str]
    """The cell, given the time."""
    order: Callable[[T], Any]
    right: bool = False
    descending: bool = False
    """The order that is asked for first."""


def _flow_age(state: FlowState, now: float) -> str:
    if state.ended_at is not None:
        return f"{age(now - state.ended_at)} ago"
    return age(now - state.record.started_at)


def peer_name(state: FlowState) -> str:
    """Host name, else number."""
    record = state.record
    return record.peer or (str(record.peer_id) if record.peer_id else words.NOTHING)


def _number(value: float | None) -> float:
    return -1.0 if value is None else value


def address_order(endpoint: str) -> tuple[object, ...]:
    """IPv4 addresses by their numbers, so that .9 comes before .10; then all others, as texts."""
    try:
        return 0, *map(int, endpoint.replace(":", ".").split("."))
    except ValueError:
        return 1, endpoint


_FLOW_COLUMNS: Final[tuple[Column[FlowState], ...]] = (
    Column("src", "Source", 16, lambda f, _: f.record.source, lambda f: address_order(f.record.source)),
    Column("dst", "Destination", 16, lambda f, _: f.record.destination, lambda f: address_order(f.record.destination)),
    Column("peer", "Peer", 8, lambda f, _: peer_name(f), lambda f: peer_name(f).lower()),
    Column("transport", "Via", 4, lambda f, _: f.record.transport or words.NOTHING, lambda f: f.record.transport),
    Column("state", "State", 11, lambda f, _: f.record.state, lambda f: f.record.state),
    Column("rate", "Rate", 9, lambda f, _: words.rate(f.rate), lambda f: _number(f.rate), True, True),
    Column("up", "Rate ↑", 9, lambda f, _: words.rate(f.send_rate), lambda f: _number(f.send_rate), True, True),
    Column("down", "Rate ↓", 9, lambda f, _: words.rate(f.receive_rate), lambda f: _number(f.receive_rate), True, True),
    Column("sent", "Sent", 8, lambda f, _: words.size(f.record.sent), lambda f: _number(f.record.sent), True, True),
    Column(
        "received",
        "Received",
        8,
        lambda f, _: words.size(f.record.received),
        lambda f: _number(f.record.received),
        True,
        True,
    ),
    Column("rtt", "RTT", 7, lambda f, _: words.duration(f.record.rtt), lambda f: _number(f.record.rtt), True, True),
    Column("loss", "Loss", 6, lambda f, _: words.share(f.record.loss), lambda f: _number(f.record.loss), True, True),
    Column(
        "retr",
        "Retr",
        6,
        lambda f, _: words.count(f.record.retransmitted),
        lambda f: _number(f.record.retransmitted),
        True,
        True,
    ),
    Column("age", "Age", 7, _flow_age, lambda f: f.ended_at or f.record.started_at, True, True),
    Column("why", "Why", 14, lambda f, _: f.record.why or words.NOTHING, lambda f: f.record.why),
)
FLOW: Final = {column.name: column for column in _FLOW_COLUMNS}

Layout: TypeAlias = tuple[int, Sequence[str]]
"""The least width of the last column, and the names of all."""

FLOW_LAYOUTS: Final[Sequence[Layout]] = (
    (28, ("src", "dst", "peer", "transport", "state", "up", "down", "sent", "received", "rtt", "loss", "retr", "age", "why")),
    (20, ("src", "dst", "peer", "transport", "state", "up", "down", "rtt", "loss", "retr", "age", "why")),
    (18, ("src", "dst", "transport", "state", "up", "down", "rtt", "retr", "age", "why")),
    (18, ("src", "dst", "transport", "state", "rate", "rtt", "age", "why")),
    (12, ("src", "dst", "transport", "state", "rate", "why")),
    (12, ("dst", "transport", "state", "rate", "why")),
    (4, ("dst", "transport", "state")),
    (1, ("dst", "transport")),
)
"""From the widest to the narrowest."""
STOCK_LAYOUTS: Final[Sequence[Layout]] = (
    (11, ("src", "dst", "peer", "transport", "age", "state")),
    (11, ("src", "dst", "transport", "age", "state")),
    (4, ("dst", "transport", "state")),
    (1, ("dst", "transport")),
)
"""Of nodes that tell no more."""


def path(record: PeerRecord) -> str:
    """`direct udp`, `via b, 2 hops`."""
    if record.hops <= 1:
        kinds = [connection.tunnel for connection in record.connections if connection.is_used]
        return " ".join(["direct", *kinds[:1]])
    return f"via {record.next_hop}, {record.hops} hops"


def used_loss(record: PeerRecord) -> float | None:
    """Share of pings lost on the connection that is used; None if it is no neighbour."""
    return next((connection.loss for connection in record.connections if connection.is_used), None)


def _kcp(record: PeerRecord) -> str:
    return f"no: {record.kcp}" if record.kcp else "yes"


_PEER_COLUMNS: Final[tuple[Column[PeerState], ...]] = (
    Column("host", "Host", 12, lambda p, _: p.record.hostname or str(p.record.peer_id), lambda p: p.record.hostname.lower()),
    Column("address", "Address", 15, lambda p, _: p.record.address or words.NOTHING, lambda p: address_order(p.record.address)),
    Column("version", "Version", 7, lambda p, _: p.record.version or "unknown", lambda p: p.record.version),
    Column("path", "Path", 18, lambda p, _: path(p.record), lambda p: p.record.hops),
    Column(
        "latency",
        "Latency",
        7,
        lambda p, _: words.duration(p.record.path_latency),
        lambda p: _number(p.record.path_latency),
        True,
        True,
    ),
    Column(
        "loss", "Loss", 6, lambda p, _: words.share(used_loss(p.record)), lambda p: _number(used_loss(p.record)), True, True
    ),
    Column("flows", "Flows", 5, lambda p, _: str(p.flows), lambda p: p.flows, True, True),
    Column("up", "Rate ↑", 9, lambda p, _: words.rate(p.send_rate), lambda p: _number(p.send_rate), True, True),
    Column("down", "Rate ↓", 9, lambda p, _: words.rate(p.receive_rate), lambda p: _number(p.receive_rate), True, True),
    Column("kcp", "KCP to it", 14, lambda p, _: _kcp(p.record), lambda p: p.record.kcp),
)
PEER: Final = {column.name: column for column in _PEER_COLUMNS}
PEER_LAYOUTS: Final[Sequence[Layout]] = (
    (32, ("host", "address", "version", "path", "latency", "loss", "flows", "up", "down", "kcp")),
    (32, ("host", "address", "version", "path", "latency", "loss", "flows", "kcp")),
    (14, ("host", "address", "version", "path", "latency", "loss", "kcp")),
    (14, ("host", "address", "latency", "loss", "kcp")),
    (6, ("host", "latency", "kcp")),
    (1, ("host", "kcp")),
)

MARKER: Final = 2
"""Columns before the first one, for the cursor's sign."""


def choose(
    columns: Mapping[str, Column[T]], layouts: Sequence[Layout], room: int, grown: Mapping[str, int]
) -> list[tuple[Column[T], int]]:
    """The widest layout that fits `room`, each column with its width; `grown` are wider ones, by name."""
    for least, names in layouts:
        chosen = [(columns[name], grown.get(name, columns[name].width)) for name in names[:-1]]
        left = room - MARKER - sum(width + 1 for _, width in chosen)
        if left >= least or names is layouts[-1][1]:
            return [*chosen, (columns[names[-1]], max(1, left))]
    return []
