"""When an opener sends its first SYN, begins another conversation beside it, and gives up.  Sans-IO; `session.py` sends.

What an opening waits for that is not the peer's doing, its turn among others, is not of its time.
"""

from __future__ import annotations

import math
from typing import Final

from easytier_kcp_plugin.kcp.events import CloseReason

# Ours.  Times in seconds.
HEDGE_AFTER: Final = 1.0
MAX_ATTEMPTS: Final = 5
"""Convs that one opening may use up, as many as stock's; and how often an opening may be repeated."""
REOPEN_TIME: Final = 5.0
REACHING_TIME: Final = 5.0
"""For a peer that says that it is reaching the destination.  A kernel gives an address that no host has up after 3 s, and
repeats a TCP SYN that was lost after 1 s and after 3."""


class Attempts:
    """Of one session: one opening, and further ones if the peer loses what it has accepted."""

    __slots__ = ("_count", "_peer_dials", "_time", "attempted_at", "give_up_at", "next_at", "refusal", "repeated")

    def __init__(self, now: float) -> None:
        self.next_at = math.inf
        """When the next SYN is due."""
        self.give_up_at = math.inf
        self.attempted_at = now
        self.repeated = 0
        """How often a stock peer has lost the conversation that it had accepted."""
        self._time = REOPEN_TIME
        self._count = 0
        self._peer_dials = False
        """Whether an acceptor of our kind has said that it is reaching the destination."""
        self.refusal = CloseReason.REFUSED
        """What an RST for the SYN means."""

    def allow(self, seconds: float) -> None:
        """An opening may take so long, once it has begun."""
        self._time = seconds

    def begin(self, turn: float) -> None:
        """The first SYN may leave at `turn`; infinite while that is not known."""
        self._count = 0
        self.next_at = turn
        self.give_up_at = turn + self._time

    def attempt(self, now: float) -> None:
        """A SYN leaves."""
        self._count += 1
        self.attempted_at = now
        self.next_at = now + HEDGE_AFTER if self._count < MAX_ATTEMPTS else math.inf

    def wait_for_dial(self, now: float) -> None:
        """The peer has the SYN, and is reaching the destination: no other one is needed."""
        if not self._peer_dials:
            self._peer_dials, self.next_at = True, math.inf
            self.refusal = CloseReason.DESTINATION_REFUSED
            self.give_up_at = max(self.give_up_at, now + REACHING_TIME)

    def end(self) -> None:
        """There is an answer, or nobody wants one."""
        self.next_at = self.give_up_at = math.inf

    def repeat(self) -> bool:
        """Whether there may be one more opening."""
        if self.repeated >= MAX_ATTEMPTS:
            return False
        self.repeated += 1
        self._time = REOPEN_TIME
        return True

    @property
    def silence(self) -> CloseReason:
        """What it means that there is no answer."""
        return CloseReason.DESTINATION_SILENT if self._peer_dials else CloseReason.NO_ANSWER
