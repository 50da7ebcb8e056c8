"""Graphs made of characters: one line or several, from values with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_STEPS: Final = len(BLOCKS) - 1


def bars(values: Sequence[float | None], height: int = 1, top: float | None = None) -> list[str]:
    """One column for each value, `height` lines, the top one first.

    `top` is the value of a full column; without it the largest one is.  A value above nothing shows at least its lowest step; a
    gap and a zero show a blank.
    """
    largest = max((value for value in values if value is not None), default=0.0) if top is None else top
    steps = [_steps(value, largest, height) for value in values]
    return ["".join(BLOCKS[max(0, min(_STEPS, step - line * _STEPS))] for step in steps) for line in reversed(range(height))]


def _steps(value: float | None, largest: float, height: int) -> int:
    if value is None or value <= 0 or largest <= 0:
        return 0
    return max(1, min(height * _STEPS, round(value / largest * height * _STEPS)))


def nice_top(value: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below `value`: the scale then changes seldom."""
    if value <= 0:
        return 0.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next((step * power for step in (1, 2, 5) if step * power >= value), 10 * power)
