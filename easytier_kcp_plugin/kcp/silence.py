"""When a session that hears nothing asks whether its peer is there, and when it gives it up.  Sans-IO.

Each session of two ends of our kind would ask for itself, though one that is answered speaks for all: so where there are many
with a peer they ask by turns, and each may be silent for longer as long as the peer is heard through others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from easytier_kcp_plugin.kcp.bodies import ASKED
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.handshake import State
from easytier_kcp_plugin.kcp.segment_size import is_ours as asks_for_size

if TYPE_CHECKING:
    from easytier_kcp_plugin.kcp.engine import Engine

# Ours.  Times in seconds.
PING_AFTER: Final = 25.0
STOCK_PING_AFTER: Final = 15.0
"""To a stock peer more often: only so is a FIN of its found out about that was lost."""
PING_AGAIN: Final = 5.0
"""After one without an answer, so that SILENCE is proven by seven, and not by two that a bad line may lose."""
DOUBT_AFTER: Final = 1.0
"""After the last payload of a stock peer, which sends its FIN once: it might have been lost."""
HALF_CLOSED_PING_AFTER: Final = 30.0
SILENCE: Final = 60.0
STALL: Final = 60.0
"""With segments in flight of which none is acknowledged."""
EMPTYING_LIMIT: Final = 30.0
"""A stock peer that ended its direction may have dropped its reader: its window then stays shut for ever."""
CROWD: Final = 1024
"""Sessions with a peer that ask as often as a single one."""
PATIENCE_MAX: Final = 8.0
"""Times PING_AFTER, however many there are."""
TURNS: Final = 256


def asks_at(conv: int, heard_at: float, crowd: tuple[int, float]) -> float:
    """When a session with a peer of our kind asks, that was heard last at `heard_at`.  `crowd`: how many there are with the
    peer, and when the peer was heard by any of them.  Their convs give the turns, so that one asks before the others."""
    sessions, peer_heard_at = crowd
    if sessions <= CROWD:
        return heard_at + PING_AFTER
    turn = conv % TURNS / TURNS
    patience = min(sessions / CROWD, PATIENCE_MAX)
    own = heard_at + PING_AFTER * (1 + (patience - 1) * (1 + turn) / 2)
    return min(own, max(heard_at, peer_heard_at) + PING_AFTER * (1 + turn / 2))


def given_up_at(heard_at: float, peer_heard_at: float) -> float:
    """When it is given up.  This does not depend on how many there are: as a crowd goes, who is left has to ask before."""
    return min(heard_at + PING_AFTER * (PATIENCE_MAX - 1) + SILENCE, max(heard_at, peer_heard_at) + SILENCE)


class Watch:
    """What one session has heard of its peer, and has asked."""

    __slots__ = ("heard_at", "payload_at", "pinged_at", "pong_due")

    def __init__(self, now: float) -> None:
        self.heard_at = self.payload_at = self.pinged_at = now
        """When the last packet came, when one with bytes to read, and when the last PING left."""
        self.pong_due = False

    def ask(self, now: float) -> None:
        """A PING leaves."""
        self.pinged_at, self.pong_due = now, True

    def overdue(self, engine: Engine | None, given_up_at: float, now: float) -> CloseReason | None:
        """Why the session is given up, if it is; `given_up_at` is when it is for silence."""
        if now >= given_up_at:
            return CloseReason.SILENT
        return CloseReason.STALLED if now >= stalled_at(engine) else None

    def given_up_at(self, crowd: tuple[int, float] | None) -> float:
        """When the session is given up for silence; `crowd` is None for a stock peer."""
        return self.heard_at + SILENCE if crowd is None else given_up_at(self.heard_at, crowd[1])

    def is_lost_fin(self, body: bytes, state: State, engine: Engine | None, now: float) -> bool:
        """Whether an RST with this body, for the conversation in use, means that a stock peer has sent its FIN.

        Only then, all its bytes acknowledged, does it answer a PING so.  Long silent, it may have forgotten the conversation;
        what acknowledged nothing was not the one that it chose.
        """
        if now >= self.heard_at + SILENCE / 2 or (engine is not None and not (engine.heard or engine.drained)):
            return False
        answers = asks_for_size(body) or (self.pong_due and body == ASKED)
        return state is State.LOCAL_CLOSED or (state is State.ESTABLISHED and answers)

    def asks_at(self, conv: int, crowd: tuple[int, float]) -> float:
        """When a peer of our kind is asked."""
        if self.pinged_at > self.heard_at:
            return self.pinged_at + PING_AGAIN
        return asks_at(conv, self.heard_at, crowd)

    def stock_asks_at(self, state: State, engine: Engine | None, rtt: float) -> float:
        """When a stock peer is asked.  One whose FIN came answers with RST: wanted only if it takes nothing any more."""
        if state is State.ESTABLISHED:
            # Stock's own PINGs say nothing: it sends them after its FIN as well.
            worked_at = self.payload_at if engine is None else max(self.payload_at, engine.progress_at)
            if self.pinged_at < worked_at or self.pong_due:
                return max(worked_at, self.pinged_at) + max(DOUBT_AFTER, 4 * rtt)
            return self.pinged_at + STOCK_PING_AFTER
        if state is not State.PEER_CLOSED:
            return self.pinged_at + PING_AGAIN if self.pinged_at > self.heard_at else self.heard_at + PING_AFTER
        quiet_since = max(self.heard_at, self.pinged_at)
        if engine is not None and not engine.drained:
            quiet_since = min(quiet_since, max(engine.progress_at, self.pinged_at))
        return quiet_since + HALF_CLOSED_PING_AFTER


def stalled_at(engine: Engine | None) -> float:
    """When what is in flight has waited too long for an acknowledgement; infinite if nothing is."""
    return math.inf if engine is None or not engine.in_flight else engine.alive_at + STALL
