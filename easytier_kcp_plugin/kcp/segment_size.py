"""How large the segments to one peer may be, and when to ask the path.  Sans-IO; owned by a path, polled by `endpoint.py`.

Stock cuts segments of 1176 bytes and takes larger ones.  A PING as long as a datagram with a larger segment, answered with the
same body, proves that the path carries it.  The states, and what happens to segments that have been cut when a path ceases to
carry them, are in docs/arq.md, How large segments are::

    SMALL --a bulk flow--> TRYING --answered--> LARGE --20 s, or nothing large acknowledged--> DOUBTED --answered--> LARGE
      ^                      |                    |                                               |
      +---3 without answer---+-----60 s unused----+---3 times only the small one was answered-----+
"""

from __future__ import annotations

import hashlib
import math
from enum import Enum
from typing import Final

from easytier_kcp_plugin.kcp.header import HEADER_SIZE
from easytier_kcp_plugin.kcp.segment import SEGMENT_SIZE
from easytier_kcp_plugin.kcp.underlay import Underlay

# Wire constants: stock decides (data plane 5.7).
STOCK_MSS: Final = 1176
LARGEST_MSS: Final = 2000 - 16 - 28 - HEADER_SIZE - SEGMENT_SIZE
"""A frame of 2000 bytes, less peer header and AEAD tail; no host should say that more fits."""

# Ours.  Times in seconds.
HEAD: Final = b"size"
"""Begins the bodies of our PINGs; this alone is the small one."""
_PADDING: Final = hashlib.shake_128(HEAD).digest(LARGEST_MSS + SEGMENT_SIZE)
"""Does not compress: a compressed PING would prove nothing."""
ATTEMPTS: Final = 3
ANSWER_MIN: Final = 0.25
"""How long an answer may take at least; else three round trips."""
ASK_AGAIN: Final = 1.0
"""While not even small PINGs are answered."""
PATIENCE: Final = 1.0
"""How long large segments may go unacknowledged; else four round trips."""
RECHECK: Final = 20.0
"""A path in use is asked again, the host as well: the way may be another by then.  Acknowledgements are no proof: what leaves
as one of many datagrams of a call may have been cut by a router."""
REMEMBERED: Final = 60.0
"""Asking costs one round trip at 1176 bytes, a wrong guess more than a second."""
RETRY_MIN: Final = 30.0
RETRY_MAX: Final = 600.0


class State(Enum):
    """Of a path."""

    SMALL = "small"
    TRYING = "trying"
    LARGE = "large"
    DOUBTED = "doubted"


class SegmentSize:
    """Of one path.  `mss`, the bytes that new segments carry, may be read at any time."""

    __slots__ = (
        "_asked",
        "_attempts",
        "_base",
        "_delivered_at",
        "_goal",
        "_proven_at",
        "_retry_at",
        "_retry_wait",
        "_small_answered",
        "_vanished",
        "_waited_at",
        "deadline",
        "mss",
        "state",
    )

    def __init__(self, base: int = STOCK_MSS) -> None:
        """`base` is what every path carries."""
        self.mss = base
        self.state = State.SMALL
        self.deadline = math.inf
        """When to poll."""
        self._base = base
        self._goal = 0
        """The larger size to be proven, or proven; 0 if there is none."""
        self._proven_at = self._delivered_at = -math.inf
        self._asked = self._small_answered = self._vanished = False
        self._waited_at = -math.inf
        self._attempts = 0
        self._retry_at, self._retry_wait = -math.inf, RETRY_MIN

    # What the engines tell.

    def want(self, now: float) -> None:
        """A flow has more to send than may leave."""
        if self.state is State.SMALL and now >= self._retry_at:
            self._ask(State.TRYING, now)

    def is_large(self, size: int) -> bool:
        """Whether a segment of `size` bytes is one that not every path carries."""
        return size > self._base

    def delivered(self, now: float) -> None:
        """A large segment was acknowledged."""
        self._delivered_at = now

    def waits(self, since: float, rtt: float, now: float) -> None:
        """A large segment, sent first at `since`, is the oldest that is not acknowledged."""
        if now - max(since, self._delivered_at, self._waited_at) <= max(PATIENCE, 4 * rtt):
            return
        self._waited_at = now
        if self.state is State.LARGE:
            self._ask(State.DOUBTED, now)
        if self.state is State.SMALL:
            # More than a minute is needed, or the host had found out by itself.
            self._vanished, self.deadline = True, now
        # What is cut from here on passes in any case.
        self.mss = self._base

    # What the endpoint does.

    def poll(self, underlay: Underlay, peer_id: int, *, can_ask: bool, rtt: float | None, now: float) -> list[bytes]:
        """At `deadline` or later: do what is due.  Returns the bodies of PINGs to send, none unless it `can_ask`: unless there
        is a conversation in which they would be answered."""
        self.deadline = math.inf
        if self.state is not State.SMALL:
            self._heed(underlay.largest_payload(peer_id), now)
        if self.state is State.LARGE:
            self._recheck(can_ask, now)
        elif not can_ask:
            self._forget()
        elif self._asked:
            self._count_unanswered(now)
        if self._vanished:
            underlay.allow_fragments(peer_id)
            self._vanished = False
        return self._pings(rtt, now) if self.state in (State.TRYING, State.DOUBTED) else []

    def answered(self, body: bytes, now: float) -> None:
        """A PONG with this body has come."""
        if not self._asked or not is_ours(body):
            return
        if len(body) == SEGMENT_SIZE + self._goal:
            self._enlarge(now)
        elif body == HEAD:
            self._small_answered = True

    # Helpers.

    def _ask(self, state: State, now: float) -> None:
        self.state, self.deadline = state, now
        self._attempts, self._asked = 0, False

    def _heed(self, largest_payload: int, now: float) -> None:
        goal = min(largest_payload - HEADER_SIZE - SEGMENT_SIZE, LARGEST_MSS)
        if goal <= self._base:
            self._goal = 0
            self._fail(now)
        elif goal != self._goal:
            # Another way, or the kernel has been told of another MTU.
            self._goal, self.mss = goal, self._base
            self._ask(State.TRYING, now)

    def _recheck(self, can_ask: bool, now: float) -> None:
        if can_ask and self._delivered_at > self._proven_at:
            self._ask(State.DOUBTED, now)
        elif now - self._proven_at >= REMEMBERED:
            self._forget()
        else:
            self.deadline = now + RECHECK

    def _count_unanswered(self, now: float) -> None:
        if self.state is State.TRYING or self._small_answered:
            self._attempts += 1
        if self._attempts == ATTEMPTS:
            self._vanished, self._waited_at = self.state is State.DOUBTED, now
            self._fail(now)

    def _pings(self, rtt: float | None, now: float) -> list[bytes]:
        patience = max(ANSWER_MIN, 3 * (rtt or 0.0))
        if self.state is State.DOUBTED and self._asked and not self._small_answered:
            patience = max(ASK_AGAIN, patience)
        self._asked, self._small_answered, self.deadline = True, False, now + patience
        large = HEAD + _PADDING[: SEGMENT_SIZE + self._goal - len(HEAD)]
        return [large] if self.state is State.TRYING else [HEAD, large]

    def _enlarge(self, now: float) -> None:
        self.state, self.mss, self._asked = State.LARGE, self._goal, False
        self._proven_at, self._retry_wait, self.deadline = now, RETRY_MIN, now + RECHECK

    def _forget(self) -> None:
        self.state, self.mss, self._asked, self.deadline = State.SMALL, self._base, False, math.inf

    def _fail(self, now: float) -> None:
        self._forget()
        self._retry_at = now + self._retry_wait
        self._retry_wait = min(2 * self._retry_wait, RETRY_MAX)


def is_ours(body: bytes) -> bool:
    """Whether the body of a PING, PONG or RST is one of those made here."""
    return body.startswith(HEAD)
