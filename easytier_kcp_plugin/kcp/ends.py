"""How far the two directions of a session have ended, and when our FIN may go out (docs/kcp.md, Ends).  Sans-IO."""

from __future__ import annotations

import math
from typing import Final

from easytier_kcp_plugin.kcp.engine import Engine
from easytier_kcp_plugin.kcp.events import Role
from easytier_kcp_plugin.kcp.handshake import FINISH, State
from easytier_kcp_plugin.kcp.silence import EMPTYING_LIMIT

# Ours.  Seconds.
CLOSE_LIMIT: Final = 60.0
"""For the peer to acknowledge and end, once nobody reads any more."""


class Ends:
    """Of one session."""

    __slots__ = ("_drained_at", "_ended_at", "ended", "overdue_at", "peer_finished", "reader_gone")

    def __init__(self) -> None:
        self.ended = False
        """Whether the application has ended our direction."""
        self.reader_gone = False
        """Whether it has given up reading as well."""
        self.peer_finished = False
        self.overdue_at = math.inf
        """When a session that has been closed is given up."""
        self._ended_at = self._drained_at = math.inf

    def finish(self, now: float) -> None:
        """The application ends our direction.  Twice is as once."""
        if not self.ended:
            self.ended, self._ended_at = True, now

    def close(self, now: float) -> None:
        """It gives up reading as well.  Twice is as once."""
        self.finish(now)
        if not self.reader_gone:
            self.reader_gone, self.overdue_at = True, now + CLOSE_LIMIT

    def stock_may_end_at(self, state: State, role: Role, payload_at: float, idle: float, now: float) -> float:
        """When a stock peer may get our FIN as far as its own direction is concerned, which ends with it: an opener gives the
        response `idle` seconds after its last bytes."""
        waits = role is Role.SOURCE and not self.reader_gone and state is State.ESTABLISHED
        return max(self._ended_at, payload_at) + idle if waits else now

    def fin_at(self, engine: Engine | None, state: State, role: Role, now: float, stock_at: float | None, rtt: float) -> float:
        """When our FIN may go out, as far as can be said now; infinite if something has to happen before.

        `stock_at` is the earliest time for a stock peer, None if the peer is of our kind.
        """
        if not self.ended or engine is None or state not in FINISH:
            return math.inf
        if not engine.drained or (role is Role.SOURCE and not engine.heard):
            self._drained_at = math.inf
            return math.inf
        self._drained_at = min(self._drained_at, now)
        if stock_at is None:
            return now
        if engine.emptied_at is None:
            engine.ask(now)
            return self._drained_at + EMPTYING_LIMIT if state is State.PEER_CLOSED else math.inf
        return max(stock_at, engine.emptied_at + rtt)
