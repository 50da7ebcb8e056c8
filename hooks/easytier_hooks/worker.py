"""The thread on which one plugin's hooks run, and the bounded queue in front of it.

A plugin may be slow or stop altogether: it then holds up its own thread and nothing else. The event loop thread posts calls and
never waits for them; a question is answered by an event that the loop can wait for as long as it likes.
A thread cannot be killed, so a plugin that never returns keeps its (daemon) thread until the process ends.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.from_thread
import pluggy
from anyio.lowlevel import EventLoopToken

from easytier_hooks.guard import Fault, Guard


@dataclass(slots=True, eq=False)
class Call:
    """A call waiting for the plugin's thread. `answered` is there for a question only."""

    hook: str
    impl: pluggy.HookImpl
    arguments: Mapping[str, object]
    answered: anyio.Event | None = None
    answer: object = None
    expired: bool = False
    """Nobody waits for the answer any more."""


class Worker:
    """Runs calls one after the other: first `initial`, then those posted.

    The queue holds `capacity` calls. When it is full the oldest is dropped and counted with `guard`; the asker of a question
    that was dropped gets no answer.
    """

    def __init__(self, guard: Guard, token: EventLoopToken, *, capacity: int, initial: Sequence[Call] = ()) -> None:
        self.guard = guard
        self.stopped = anyio.Event()
        self._token = token
        self._capacity = capacity
        self._initial = initial
        self._queue: deque[Call] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._abandoned = False

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name=f"plugin {self.guard.name}", daemon=True).start()

    def post(self, call: Call) -> None:
        """Queue a call. Never blocks."""
        with self._changed:
            oldest = self._queue.popleft() if len(self._queue) >= self._capacity else None
            self._queue.append(call)
            self._changed.notify()
        if oldest is not None and not oldest.expired:
            self.guard.report(Fault.DROPPED, "is too slow, a call of %s was dropped", oldest.hook)

    def stop(self) -> None:
        """Let the thread end after the calls that are queued; it then sets `stopped`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def abandon(self) -> None:
        """Let the thread end after the call that it is in."""
        with self._changed:
            self._abandoned = True
            self._queue.clear()

    def _run(self) -> None:
        for call in self._initial:
            if self._abandoned:
                break
            self._do(call)
        while (queued := self._next()) is not None:
            self._do(queued)
        self._tell_loop(self.stopped)

    def _next(self) -> Call | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping)
            return self._queue.popleft() if self._queue else None

    def _do(self, call: Call) -> None:
        if call.expired:
            return
        call.answer = self.guard.call(call.hook, call.impl, call.arguments)
        if call.answered is not None:
            self._tell_loop(call.answered)

    def _tell_loop(self, event: anyio.Event) -> None:
        # The loop may be gone by the time a slow plugin returns; then nobody is left to be told.
        with suppress(anyio.RunFinishedError, RuntimeError):
            anyio.from_thread.run_sync(event.set, token=self._token)
