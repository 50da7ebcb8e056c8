"""Samples of one flow over time, bounded and small: thousands of flows have one each.

Samples are taken when something changed, so an idle flow costs nothing; `resample` puts them on a regular grid for a graph.
"""

from __future__ import annotations

import math
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

    def newest(self, field: str, end: float) -> float | None:
        """The last sample at or before `end`; None where nothing is known."""
        column = 1 + FIELDS.index(field)
        samples, last = self._samples, self._moment(end)
        for index in range(len(samples) - _WIDTH, -1, -_WIDTH):
            if samples[index] <= last:
                return _known(samples[index + column])
        return None

    def resample(self, field: str, end: float, step: float, count: int) -> list[float | None]:
        """`count` columns of `step` seconds; `end` is in the last one, which may have only begun.

        Each is the largest sample in it, so that no peak is lost; without one it is the last sample before: rates and round
        trips stay what they were until told otherwise.  None where nothing is known.  Columns begin at whole steps since the
        origin, so a sample stays in its column while time goes on.
        """
        column = 1 + FIELDS.index(field)
        samples, last = self._samples, self._moment(end)
        first = math.floor(last / step) - count + 1
        found: list[float | None] = []
        index, value = 0, _MISSING
        for number in range(first - 1, first + count):
            told: list[float] = []
            while index < len(samples) and samples[index] <= last and samples[index] < (number + 1) * step:
                value = samples[index + column]
                told.append(value)
                index += _WIDTH
            found.append(_known(max(told, default=value)))
        # The one before the first holds all that is older.
        del found[0]
        return found

    def _moment(self, at: float) -> float:
        """Since the origin, as a sample has it: a sample of this very moment is not later than it."""
        return array("f", (at - self._origin,))[0]


def _known(value: float) -> float | None:
    return None if value == _MISSING else value
