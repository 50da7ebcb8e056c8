"""How many sessions an endpoint has, how large their windows are at first, and what it counts.  Sans-IO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from easytier_kcp_plugin.kcp.events import KcpError

# Ours.
WINDOWS: Final = ((256, 1024), (2048, 128))
"""(Up to so many sessions, receive window of a further one in segments): full ones for all would hold 20 GB."""
CROWDED_WINDOW: Final = 32
"""Segments, beyond these.  The engine `kcp` makes it 128."""


def first_window(sessions: int) -> int:
    """Segments that a further session may have unread, beside so many."""
    return next((window for limit, window in WINDOWS if sessions <= limit), CROWDED_WINDOW)


class LimitReached(KcpError):
    """Too many sessions; the message says which cap."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps and times that a configuration may change."""

    sessions: int = 16_384
    sessions_per_peer: int = 12_288
    """A stock opener that is in doubt makes five of one flow."""
    half_open: int = 2048
    half_open_per_peer: int = 1024
    half_close_idle: float = 5.0
    """Seconds; see docs/kcp.md, Ends."""


@dataclass(slots=True)
class EndpointCounters:
    """Since the start."""

    opened: int = 0
    accepted: int = 0
    packets_received: int = 0
    dropped_malformed: int = 0
    """Too short, or a SYN whose body does not decode or names no destination."""
    dropped_foreign: int = 0
    """With session ids that are not the sender's and ours, or of a type that no session has."""
    dropped_at_limit: int = 0
    """SYNs."""
    gave_way: int = 0
    """Half-open sessions that were ended for a new one."""
    strangers: int = 0
    """Packets for unknown ids."""
    resets_sent: int = 0
    """To strangers."""
    replayed: int = 0
    """SYNs of conversations that have ended already, soon after their first."""
    siblings_reset: int = 0
    """SYNs of a stock opener that had chosen another conversation already."""
