"""When a session that hears nothing asks whether its peer is there, and when it gives it up.  Sans-IO.

Each session of two ends of our kind would ask for itself, though one that is answered speaks for all: so where there are many
with a peer they ask by turns, and each may be silent for longer as long as the peer is heard through others.
"""

from __future__ import annotations

from typing import Final

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
