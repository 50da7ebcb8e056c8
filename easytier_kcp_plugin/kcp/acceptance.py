"""Whether a stock acceptor has lost a conversation that it had accepted.  Sans-IO; `session.py` asks it.

Stock's accept queue holds four; what does not fit stays Established on both sides, answers PINGs, and is never served
(data plane 5.4).  A conversation that is served answers WASK with a segment.  So the opener asks by both, and begins again
if PONGs come and no segment does: the peer is there, and the conversation is not.  Beginning again sends the bytes so far a
second time, so doubt has to be earned.

::

    datagrams   ---- wait / 2 ---> WASK, PING --PONG, wait / 2--> lost            an answer to WASK may be lost by itself
    a stream    WASK, PING --PONG--> WASK, PING --PONG, STREAM_PATIENCE--> lost    what was said before a PONG came before it

On a stream the first WASK may come together with the third packet, too early to be answered; the second cannot.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

# Ours.  Times in seconds.
WAIT_MIN: Final = 1.0
WAIT_RTTS: Final = 4
STREAM_PATIENCE: Final = 0.1
"""Stock answers WASK at its next tick of 10 ms, or some later on a busy machine."""


class Doubt(Enum):
    """What is to be done."""

    ASK = auto()
    """Send WASK and PING."""
    LOST = auto()
    """Begin again."""


class Acceptance:
    """From the third packet until the first segment of the peer, or until it is given up."""

    def __init__(self, now: float, rtt: float, *, stream: bool) -> None:
        """`rtt`: the longest that a round trip seems to take."""
        self._pause = max(WAIT_MIN, WAIT_RTTS * rtt) / 2
        self._patience = STREAM_PATIENCE if stream else self._pause
        self._rounds = 2 if stream else 1
        self._asked = False
        self.deadline = now if stream else now + self._pause
        """When `tick` wants to be called."""

    def pong(self, now: float) -> None:
        """An answer to a PING has come."""
        if self._asked and self._rounds:
            self._asked = False
            self._rounds -= 1
            self.deadline = now if self._rounds else now + self._patience

    def tick(self, now: float) -> Doubt | None:
        """What is due, if anything."""
        if now < self.deadline:
            return None
        if not self._rounds:
            return Doubt.LOST
        self._asked = True
        self.deadline = now + self._pause
        return Doubt.ASK
