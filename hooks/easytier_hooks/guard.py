"""Calling the hooks of one plugin so that nothing it does wrong gets any further.

The manager has one `Guard` for each plugin, used from the plugin's thread and from the event loop thread alike. It does not
limit time; that is the worker's and the manager's business.
"""

import inspect
import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import pluggy

from easytier_hooks.logs import RateLimitedLogger
from easytier_hooks.trace import brief

logger = logging.getLogger(__name__)

LOG_INTERVAL = 10.0
"""Seconds. A plugin that fails on every flow writes each line once in this time."""

FAILED: Final = object()
"""In place of the answer of a hook that gave none."""


class Fault(StrEnum):
    """What a plugin can do wrong. Each value is the name of a field of `PluginCounters`."""

    RAISED = "raised"
    NONSENSE = "nonsense"
    DROPPED = "dropped"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class PluginCounters:
    """Faults of one plugin since the start."""

    raised: int = 0
    """Hooks that ended in an exception."""
    nonsense: int = 0
    """Answers that could not be used."""
    dropped: int = 0
    """Calls thrown away because the plugin's queue was full."""
    missed: int = 0
    """Questions not answered in time."""


@dataclass(frozen=True, slots=True)
class LastFault:
    """The newest fault of one plugin."""

    text: str
    at: float
    """By the manager's clock."""


def place_of(error: BaseException, package: str) -> str:
    """` at /where/it/is.py:17`: the innermost line of a top-level package or module that led to an error; "" if none did."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            place = f" at {frame.f_code.co_filename}:{line}"
    return place


class Guard:
    """Counts the faults of the plugin `name` and logs them, with its name, at a bounded rate."""

    def __init__(self, name: str, *, clock: Callable[[], float], trace: bool = False) -> None:
        self.name = name
        self._clock = clock
        self._trace = trace
        self._lock = threading.Lock()
        self._counters = PluginCounters()
        self._limited = RateLimitedLogger(logger, clock, LOG_INTERVAL)
        self._last: LastFault | None = None

    @property
    def counters(self) -> PluginCounters:
        """The counts of this moment."""
        return self._counters

    @property
    def last_fault(self) -> LastFault | None:
        """None while there was none."""
        return self._last

    def call(self, hook: str, impl: pluggy.HookImpl, arguments: Mapping[str, object]) -> object:
        """The answer of the hook, FAILED if it raised. `impl` gets those of the arguments that it names."""
        if not self._trace:
            return self._answer(hook, impl, arguments)
        began = self._clock()
        answer = self._answer(hook, impl, arguments)
        took_ms = (self._clock() - began) * 1000
        told = "; ".join(map(brief, arguments.values()))
        shown = "nothing usable" if answer is FAILED else brief(answer)
        logger.info("hook %s of plugin %s, told %s: answered %s, took %.1f ms", hook, self.name, told or "-", shown, took_ms)
        return answer

    def _answer(self, hook: str, impl: pluggy.HookImpl, arguments: Mapping[str, object]) -> object:
        try:
            answer: object = impl.function(**{name: arguments[name] for name in impl.argnames})
        # A plugin that calls sys.exit() must end neither its thread nor the node.
        except BaseException as error:
            package = (impl.function.__module__ or "").partition(".")[0]
            self.report(Fault.RAISED, "%s raised %s%s", hook, type(error).__name__, place_of(error, package), error=error)
            return FAILED
        if inspect.iscoroutine(answer):
            answer.close()
            self.report(Fault.NONSENSE, "%s is asynchronous; hooks must be plain functions", hook)
            return FAILED
        return answer

    def report(
        self, fault: Fault, message: str, *args: object, error: BaseException | None = None, always: bool = False
    ) -> None:
        """Count a fault and log `message % args`, unless that line was written within LOG_INTERVAL; with `always` even then."""
        text = message % args
        with self._lock:
            self._counters = replace(self._counters, **{fault.value: getattr(self._counters, fault.value) + 1})
            self._last = LastFault(text, self._clock())
            if always:
                logger.warning("plugin %s: %s", self.name, text)
            else:
                self._limited.log(logging.WARNING, text, "plugin %s: %s", self.name, text, error=error)
