"""How much is sent more than once before it is known to be lost.  Pure policy; figures and reasons in docs/arq.md, Copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Ours.
CRITICAL: Final = 3.3
"""A window that lasts for fewer RTTs stalls when a repair is lost."""
IDLE_SHARE: Final = 0.25
"""Of the time waiting for the peer's window: beyond it the link has room for copies."""
SUSPECT_SPACING: Final = 0.004
"""Seconds between the two transmissions of one that is only presumed to have arrived."""
TAIL_SEGMENTS: Final = 4
TAIL_TOKENS: Final = 20_000.0
TAIL_REFILL: Final = 20_000.0
"""Bytes a second, at least; of a fast path three hundredths of its rate."""
_CLEAN: Final = 0.0005
_CLEAN_AFTER: Final = 500


def repair_transmissions(loss: float, window_bound: float, critical: bool) -> int:
    """How often to send a repair, 1 to 4 times.  `window_bound` is the share of time spent waiting for the peer's window."""
    if window_bound > IDLE_SHARE:
        return 1 + (loss > 0.0005) + (loss > 0.004) + (loss > 0.03)
    if not critical:
        return 1
    return 1 + (loss > 0.003) + (loss > 0.12)


def suspect_copy_pays(loss: float, window_bound: float) -> bool:
    """Whether one that is only presumed to have arrived is sent twice when the window cannot wait for proof."""
    return window_bound > IDLE_SHARE and loss > 0.015


def copy_spacing(rtt: float) -> float:
    """Seconds between the transmissions of one repair: far enough apart to miss one burst of losses."""
    return max(0.002, min(0.005, rtt / 16))


@dataclass(slots=True)
class TailBudget:
    """Pays for the copies of last segments, which no later ACK could show to be lost."""

    _tokens: float = TAIL_TOKENS
    _filled_at: float = 0.0

    def refill(self, rate: float, now: float) -> None:
        """`rate` of the path, bytes a second."""
        self._tokens = min(TAIL_TOKENS, self._tokens + (now - self._filled_at) * max(TAIL_REFILL, 0.03 * rate))
        self._filled_at = now

    def take(self, size: int) -> bool:
        """Whether `size` bytes could be paid."""
        if self._tokens < size:
            return False
        self._tokens -= size
        return True


def tail_pays(loss: float, resolved: int) -> bool:
    """Whether last segments are worth a copy: not on a path that is known to be clean."""
    return resolved <= _CLEAN_AFTER or loss >= _CLEAN


def tail_delay(rtt: float) -> float:
    """Seconds after which the copies leave."""
    return max(0.003, min(0.010, rtt / 8))
