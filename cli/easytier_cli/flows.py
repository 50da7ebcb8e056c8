"""A flow as the command shows it, whichever node told of it: cells of the wide table, what filters look at, orders.

Names come from the network; whoever prints cells makes them harmless, as `output` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from easytier_cli import output
from easytier_host.rpc.client import portal_own_pb2, portal_pb2

ENDED: Final = ("closed", "failed")
WIDE: Final = (
    *("src", "dst", "peer", "transport", "state", "sent", "received", "up/s", "down/s", "rtt", "loss", "retr", "age", "why"),
)
NARROWING: Final = (
    ("why", 24),
    *output.without("retr", "age", "sent", "received", "up/s", "down/s", "rtt", "loss"),
    ("why", 12),
    *output.without("peer", "state", "why"),
    ("transport", 4),
)
"""The transport is what people look for: it stays."""
NARROWING_LIVE: Final = (
    ("why", 24),
    *output.without("retr", "age", "sent", "received", "rtt", "loss"),
    ("why", 12),
    *output.without("peer", "why"),
    ("transport", 4),
    *output.without("state", "up/s", "down/s"),
)
"""Of the table that is drawn again and again: what moves stays longer than what does not."""

STOCK_STATES: Final = {
    "SynReceived": "seen",
    "ConnectingDst": "connecting",
    "Connected": "connected",
    "ClosingSrc": "half-closed",
    "ClosingDst": "half-closed",
    "Closed": "closed",
}
"""Names of the states in stock's messages, without their ending -> ours."""


@dataclass(frozen=True, slots=True)
class FlowRow:
    """One flow.  Times are epoch seconds, rates bytes a second, `rtt` seconds; None is unknown."""

    source: str
    destination: str
    transport: str
    state: str
    started_at: float
    peer: str = ""
    direction: str = ""
    reason: str = ""
    chosen_by: str = ""
    end_reason: str = ""
    ended_at: float | None = None
    sent: int = 0
    received: int = 0
    send_rate: int = 0
    receive_rate: int = 0
    rtt: float | None = None
    loss: float | None = None
    retransmitted: int | None = None

    @property
    def why(self) -> str:
        """Why it ended, why it travels as it does, and which plugin said so."""
        chosen = self.reason
        if chosen and self.chosen_by not in ("", "default", "fallback", "peer"):
            chosen = f"{chosen} ({self.chosen_by})"
        return "; ".join(dict.fromkeys(filter(None, (self.end_reason, chosen))))

    def cells(self, now: float) -> Sequence[str]:
        """Those of the columns `WIDE`."""
        alive = self.state not in ENDED
        shown_age = age(now - (self.started_at if self.ended_at is None else self.ended_at))
        return (
            self.source,
            self.destination,
            self.peer or "-",
            self.transport or "-",
            self.state,
            output.decimal_bytes(self.sent),
            output.decimal_bytes(self.received),
            output.decimal_bytes(self.send_rate) if alive else "-",
            output.decimal_bytes(self.receive_rate) if alive else "-",
            "-" if self.rtt is None else f"{1000 * self.rtt:.1f} ms",
            "-" if self.loss is None else f"{100 * self.loss:.1f}%",
            "-" if self.retransmitted is None else str(self.retransmitted),
            shown_age if self.ended_at is None else f"{shown_age} ago",
            self.why or "-",
        )


def of_ours(flow: portal_own_pb2.FlowInfo) -> FlowRow:
    """What a node of this project tells."""
    return FlowRow(
        source=output.socket_address(flow.src),
        destination=output.socket_address(flow.dst),
        transport=flow.transport,
        state=flow.state,
        started_at=flow.start_time_ms / 1000,
        peer=flow.peer_hostname or (str(flow.peer_id) if flow.peer_id else ""),
        direction=flow.direction,
        reason=flow.reason,
        chosen_by=flow.chosen_by,
        end_reason=flow.end_reason,
        ended_at=flow.end_time_ms / 1000 if flow.HasField("end_time_ms") else None,
        sent=flow.bytes_sent,
        received=flow.bytes_received,
        send_rate=flow.send_rate,
        receive_rate=flow.receive_rate,
        rtt=flow.rtt_us / 1e6 if flow.HasField("rtt_us") else None,
        loss=flow.loss if flow.HasField("loss") else None,
        retransmitted=flow.retransmitted if flow.HasField("retransmitted") else None,
    )


def of_stock(entry: portal_pb2.TcpProxyEntry) -> FlowRow:
    """What a stock node tells."""
    state = output.enum_name(entry, "state")
    return FlowRow(
        source=output.socket_address(entry.src),
        destination=output.socket_address(entry.dst),
        transport=output.enum_name(entry, "transport_type").lower(),
        state=STOCK_STATES.get(state, "unknown"),
        started_at=float(entry.start_time),
    )


def as_object(flow: portal_own_pb2.FlowInfo) -> dict[str, Any]:
    """A flow for JSON: the message's fields, with addresses as text."""
    data = output.plain(flow)
    data["src"], data["dst"] = output.socket_address(flow.src), output.socket_address(flow.dst)
    return data


def age(seconds: float) -> str:
    """`14s`, `2m11s`, `3h05m`, `2d04h`; at most 6 columns for three years."""
    whole = max(0, int(min(seconds, 1e11)))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def _address(endpoint: str) -> tuple[object, ...]:
    host, _, port = endpoint.rpartition(":")
    ip = ip_address(host.strip("[]"))
    return ip.version, int(ip), int(port)


def _known(value: float | None) -> float:
    return -1.0 if value is None else value


ORDERS: Final[dict[str, tuple[Callable[[FlowRow], Any], bool]]] = {
    "src": (lambda row: _address(row.source), False),
    "dst": (lambda row: _address(row.destination), False),
    "peer": (lambda row: row.peer, False),
    "transport": (lambda row: row.transport, False),
    "state": (lambda row: row.state, False),
    "sent": (lambda row: row.sent, True),
    "received": (lambda row: row.received, True),
    "rate": (lambda row: row.send_rate + row.receive_rate, True),
    "rtt": (lambda row: _known(row.rtt), True),
    "loss": (lambda row: _known(row.loss), True),
    "retr": (lambda row: _known(row.retransmitted), True),
    "age": (lambda row: row.started_at, False),
}
"""What `--sort` takes -> key, and whether the largest comes first."""


def arrange(
    pairs: Iterable[tuple[FlowRow, Any]], keep: Callable[[FlowRow], bool] | None, order: str | None, *, reverse: bool = False
) -> list[tuple[FlowRow, Any]]:
    """The flows that `keep` wants, in an order of `ORDERS` (None: as they come); each goes with something of the caller's."""
    kept = [pair for pair in pairs if keep is None or keep(pair[0])]
    if order is not None:
        key, descending = ORDERS[order]
        kept.sort(key=lambda pair: key(pair[0]), reverse=descending != reverse)
    elif reverse:
        kept.reverse()
    return kept
