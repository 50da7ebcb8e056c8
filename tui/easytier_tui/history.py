"""Samples of one flow over time, bounded and small: thousands of flows have one each.

Samples are taken when something changed, so an idle flow costs nothing; `resample` puts them on a regular grid for a graph.
"""

from __future__ import annotations

from array import array
from typing import Final

LIMIT: Final = 120
"""Samples kept; the oldest goes first.  Nodes tell a change of counters at most once a second: two minutes."""
FIELDS: Final = ("up", "down", "rtt", "retransmitted")
_WIDTH: Final = 1 + len(FIELDS)
_MISSING: Final = -1.0


class History:
    """Rates up and down, round trip, segments sent again per second.  Time is kept since `origin`, in single precision."""

    __slots__ = ("_origin", "_samples")

    def __init__(self, origin: float) -> None:
        self._origin = origin
        self._samples = array("f")

    def __len__(self) -> int:
        return len(self._samples) // _WIDTH

    def add(self, at: float, *values: float | None) -> None:
        """One sample; values in the order of `FIELDS`, None where unknown."""
        if len(self) >= LIMIT:
            del self._samples[:_WIDTH]
        self._samples.append(at - self._origin)
        self._samples.extend(_MISSING if value is None else value for value in values)

    def resample(self, field: str, end: float, step: float, count: int) -> list[float | None]:
        """`count` values at distances of `step` seconds, the last one at `end`.

        Each is the last sample at or before its moment: rates and round trips stay what they were until told otherwise.  None
        before the first sample.
        """
        column = 1 + FIELDS.index(field)
        samples = self._samples
        found: list[float | None] = []
        index, value = 0, None
        for slot in range(count):
            moment = end - self._origin - (count - 1 - slot) * step
            while index < len(samples) and samples[index] <= moment:
                value = samples[index + column]
                index += _WIDTH
            found.append(None if value is None or value == _MISSING else value)
        return found
