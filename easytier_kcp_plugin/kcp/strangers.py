"""What is said to packets of no session, and which SYNs have been met before.  Sans-IO; `endpoint.py` asks.

An answer tells a peer that has restarted, or is late, that nobody knows its conversation; a flood gets few.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from easytier_kcp_plugin.kcp.handshake import HALF_OPEN_LIFE

# Ours.
RST_BURST: Final = 64
RST_RATE: Final = 64.0
"""Answers to strangers a second: enough to clear a restarted peer's flows, nothing for a flood."""
MAX_MET: Final = 8192
"""SYNs remembered for as long as their openers may repeat them: one that comes late, or is replayed, dials nothing again."""


class Strangers:
    """Of all peers."""

    def __init__(self) -> None:
        self._met: OrderedDict[tuple[int, int], float] = OrderedDict()
        """When the SYN of a peer's conversation was taken, the latest last."""
        self._tokens, self._renewed_at = float(RST_BURST), -math.inf

    def may_answer(self, now: float) -> bool:
        """Whether one more RST may leave."""
        self._tokens = min(float(RST_BURST), self._tokens + (now - self._renewed_at) * RST_RATE)
        self._renewed_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def has_met(self, peer_id: int, conv: int, now: float) -> bool:
        """Whether this SYN was taken before, and its opener may still repeat it."""
        return now - self._met.get((peer_id, conv), -math.inf) < HALF_OPEN_LIFE

    def meet(self, peer_id: int, conv: int, now: float) -> None:
        """This SYN is taken."""
        self._met.pop((peer_id, conv), None)
        self._met[peer_id, conv] = now
        if len(self._met) > MAX_MET:
            self._met.popitem(last=False)
