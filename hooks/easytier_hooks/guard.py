"""Calling the hooks of one plugin so that nothing it does wrong gets any further.

The manager has one `Guard` for each plugin, used from the plugin's thread and from the event loop thread alike. It does not
limit time; that is the worker's and the manager's business.
"""

import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import pluggy

logger = logging.getLogger(__name__)

LOG_INTERVAL = 10.0
"""Seconds. A plugin that fails on every flow writes one line in this time for each kind of fault."""


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


class Guard:
    """Counts the faults of the plugin `name` and logs them, with its name, at a bounded rate."""

    def __init__(self, name: str, *, clock: Callable[[], float], trace: bool = False) -> None:
        self.name = name
        self._clock = clock
        self._trace = trace
        self._lock = threading.Lock()
        self._counters = PluginCounters()
        self._silent_until: dict[Fault, float] = {}
        self._unlogged: dict[Fault, int] = {}

    @property
    def counters(self) -> PluginCounters:
        """The counts of this moment."""
        return self._counters

    def call(self, hook: str, impl: pluggy.HookImpl, arguments: Mapping[str, object]) -> object:
        """The answer of the hook, None if it raised. `impl` gets those of the arguments that it names."""
        if self._trace:
            logger.info("hook %s of plugin %s: %s", hook, self.name, dict(arguments))
        try:
            answer: object = impl.function(**{name: arguments[name] for name in impl.argnames})
        # A plugin that calls sys.exit() must end neither its thread nor the node.
        except BaseException as error:
            self.report(Fault.RAISED, "%s raised %s", hook, type(error).__name__, error=error)
            return None
        if inspect.iscoroutine(answer):
            answer.close()
            self.report(Fault.NONSENSE, "%s is asynchronous; hooks must be plain functions", hook)
            return None
        return answer

    def report(self, fault: Fault, message: str, *args: object, error: BaseException | None = None) -> None:
        """Count a fault and log `message % args`, unless a line of that kind was written within LOG_INTERVAL."""
        now = self._clock()
        with self._lock:
            self._counters = replace(self._counters, **{fault.value: getattr(self._counters, fault.value) + 1})
            if now < self._silent_until.get(fault, now):
                self._unlogged[fault] = self._unlogged.get(fault, 0) + 1
                return
            self._silent_until[fault] = now + LOG_INTERVAL
            unlogged = self._unlogged.pop(fault, 0)
        suffix = f" ({unlogged} more like this before)" if unlogged else ""
        logger.warning("plugin %s: %s%s", self.name, message % args, suffix, exc_info=error)
