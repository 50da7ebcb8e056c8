"""A logger for what others can cause at any rate.  For the host, and for plugins that like it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeAlias

# Ours.
MAX_LIMITED_KEYS: Final = 256
"""Reasons for drops are a few dozen; a key from the wire must not grow the table."""

AnyLogger: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"


class RateLimitedLogger:
    """At most one line in `interval` seconds for each key, for what a peer can cause at any rate.

    The lines held back are counted, and the number stands in the next line of that key.  Of more than 256 keys the one that
    came up longest ago is forgotten.
    """

    def __init__(self, logger: AnyLogger, clock: Callable[[], float], interval: float = 10.0) -> None:
        self._logger = logger
        self._clock = clock
        self._interval = interval
        self._keys: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()
        """When a key may log again (by `clock`), and how many lines it has held back."""

    def log(self, level: int, key: Hashable, message: str, *args: object, error: BaseException | None = None) -> bool:
        """Log, with the traceback of `error`, or count; returns whether there was a line."""
        now = self._clock()
        again, held_back = self._keys.get(key, (now, 0))
        if now < again:
            self._keys[key] = (again, held_back + 1)
            self._keys.move_to_end(key)
            return False
        self._keys[key] = (now + self._interval, 0)
        self._keys.move_to_end(key)
        if len(self._keys) > MAX_LIMITED_KEYS:
            self._keys.popitem(last=False)
        if held_back:
            message, args = message + " (and %d more like it)", (*args, held_back)
        self._logger.log(level, message, *args, exc_info=error)
        return True
