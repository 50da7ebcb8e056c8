"""How much of this node's time the RPC of one neighbour may take, with that of all peers behind it.  Sans-IO.

A bucket for each neighbour, in seconds of work: it fills by a fiftieth of the time that passes, up to half a second, and what
is done for the neighbour is taken out of it, an answer costing its bytes as well.  An empty one means that packets are
dropped, unread; callers repeat by their own rules.  Calls that are served in steps wait instead, when most of it is used up:
what is left is for others of the same neighbour.  So a flood of calls, or of calls with large answers, takes two hundredths
of a processor and 200 KB a second at most, whatever they ask; honest neighbours need a thousandth.
"""

from __future__ import annotations

from typing import Final

# Ours.
SHARE: Final = 0.02
"""Seconds of work in a second."""
BURST: Final = 0.5
"""Seconds of work at once: what the first synchronisation with a network of some thousand nodes takes."""
BURST_IN_STEPS: Final = 0.4
"""The same, of calls that are served in steps."""
DEBT_MAX: Final = 1.0
"""Seconds of work: a neighbour is heard again after 25 s at the latest."""
BYTE_COST: Final = 1e-7
"""Seconds that a byte of an answer counts."""
MAX_NEIGHBOURS: Final = 2048
"""Buckets kept; full ones go first, then the oldest."""


class Allowance:
    """The buckets of one node; times are monotonic seconds."""

    def __init__(self) -> None:
        self._spent: dict[int, tuple[float, float]] = {}
        """What was taken out of a bucket and not filled in again, and when that was so."""

    def permits(self, neighbour: int, now: float) -> bool:
        """Whether anything may be done for this neighbour."""
        return self._missing(neighbour, now) < BURST

    def wait_for_step(self, neighbour: int, now: float) -> float:
        """Seconds until one more step may be done for this neighbour; 0 if it may be at once."""
        too_much = self._missing(neighbour, now) - BURST_IN_STEPS
        return max(0.0, too_much / SHARE)

    def spend(self, neighbour: int, seconds: float, now: float) -> None:
        """Take out what was done, even if it was more than there was.  Debts have a bound: nobody is unheard for long."""
        missing = min(self._missing(neighbour, now) + seconds, DEBT_MAX)
        self._spent.pop(neighbour, None)
        if len(self._spent) >= MAX_NEIGHBOURS:
            self._spent = {each: spent for each, spent in self._spent.items() if self._missing(each, now)}
            while len(self._spent) >= MAX_NEIGHBOURS:
                del self._spent[next(iter(self._spent))]
        self._spent[neighbour] = missing, now

    def _missing(self, neighbour: int, now: float) -> float:
        spent, at = self._spent.get(neighbour, (0.0, now))
        return max(0.0, spent - (now - at) * SHARE)
