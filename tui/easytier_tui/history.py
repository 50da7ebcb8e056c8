"""Samples of one flow over time, bounded and small: thousands of flows have one each.

Samples are taken when something changed, so an idle flow costs nothing; `resample` puts them on a regular grid for a graph.
"""

from __future__ import annotations

from array import array
from typing import Final

SPAN: Final = 120.0
"""Seconds that can be shown."""
LIMIT: Final = 128
"""Samples kept; the oldest goes first.  Nodes tell a change of counters at most once a second."""
FIELDS: Final = ("up", "down", "rtt", "retransmitted", "window", "in_flight")
_WIDTH: Final = 1 + len(FIELDS)
_MISSING: Final = -1.0


class History:
    """Rates up and down, round trip, segments sent again per second, window and segments in flight.

    Time is kept since `origin`, in single precision.  Of what is older than `SPAN` the newest sample alone is kept, which tells
    how things were when the span began.
    """

    __slots__ = ("_origin", "_samples")

    def __init__(self, origin: float) -> None:
        self._origin = origin
        self._samples = array("f")

    def copy(self) -> History:
        """The same, which later samples change no more."""
        twin = History(self._origin)
        twin._samples = self._samples[:]
        return twin

    def __len__(self) -> int:
        return len(self._samples) // _WIDTH

    def add(self, at: float, *values: float | None) -> None:
        """One sample; values in the order of `FIELDS`, None where unknown."""
        samples, moment = self._samples, at - self._origin
        begin = moment - SPAN
        stale = max(0, len(self) - LIMIT + 1)
        while stale + 1 < len(self) and samples[(stale + 1) * _WIDTH] <= begin:
            stale += 1
        del samples[: stale * _WIDTH]
        samples.append(moment)
        samples.extend(_MISSING if value is None else value for value in values)

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
