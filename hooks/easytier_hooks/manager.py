"""The manager: loads plugins, tells them what happens, and asks them for a transport. Hosts call it; plugins never see it.

Everything here is to be called on the event loop thread. None of it waits for a plugin longer than stated:

    notify_*     posts to the plugin's own thread and returns        queue full: the oldest call is dropped and counted
    select       at most QUESTION_DEADLINE for all plugins           too late: the plugin passes; after 5 misses it rests
    running      at its end at most STOP_TIMEOUT                     still busy: the thread is left behind and named
    load, transports, tcp_stacks, capabilities                       at the start only, on this thread, without limit

A plugin that raises or answers nonsense is logged with its name and its hook; the flow goes on.
"""

import logging
import os
import re
import reprlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from itertools import islice
from types import MappingProxyType
from typing import TypeAlias, TypeGuard, TypeVar

import anyio
import pluggy
from anyio.lowlevel import current_token

from easytier_hooks import loading, specs
from easytier_hooks.errors import PluginLoadError
from easytier_hooks.guard import FAILED, Fault, Guard, PluginCounters
from easytier_hooks.loading import PluginInfo, PluginState
from easytier_hooks.selection import default, judged, named
from easytier_hooks.services import HostServices, TcpStack, Transport
from easytier_hooks.types import TCP, Candidate, Capability, FlowEvent, PeerCapabilities, PeerInfo, Selection, TcpFlow
from easytier_hooks.worker import Call, Worker

logger = logging.getLogger(__name__)

TRACE_VARIABLE = "ET_TRACE_HOOKS"

QUESTION_DEADLINE = 0.1
"""Seconds for all plugins together: a TCP SYN waits for the answer, and a tenth of a second more is hardly felt."""
MISSES_BEFORE_REST = 5
REST = 30.0
"""Seconds for which a plugin that missed so many questions in a row is not asked."""
QUEUE_CALLS = 1024
"""Calls waiting for one plugin: the events of some 200 flows."""
STOP_TIMEOUT = 1.0
"""Seconds for all plugins together to finish the calls that are queued."""
MAX_PEERS = 4096
"""As many as the host keeps route records."""
MAX_REGISTERED = 64

WORKER_HOOKS = frozenset({"on_tcp_flow", "on_peer_capabilities", "select_transport"})
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

HostFactory: TypeAlias = Callable[[str, Mapping[str, object]], HostServices]
"""Makes the services for one plugin from its name and options."""
_T = TypeVar("_T", Transport, TcpStack)


@dataclass(frozen=True, slots=True)
class PluginHealth:
    """How a plugin fares at one moment. Neither its options nor texts of its exceptions are in it."""

    faults: PluginCounters = field(default_factory=PluginCounters)
    last_fault: str = ""
    """In words, "" while there was none."""
    last_fault_ago: float = 0.0
    """Seconds."""
    rests_for: float = 0.0
    """Seconds for which it is not asked for a transport, as it was too slow."""


@dataclass(slots=True, eq=False)
class _Plugin:
    guard: Guard
    options: Mapping[str, object]
    hooks: tuple[str, ...]
    misses: int = 0
    rests_until: float = 0.0

    def health(self, now: float) -> PluginHealth:
        last = self.guard.last_fault
        text, ago = ("", 0.0) if last is None else (last.text, max(0.0, now - last.at))
        return PluginHealth(self.guard.counters, text, ago, max(0.0, self.rests_until - now))


class PluginManager:
    """The plugins of one node.

    `table` maps names to true, false or options, as the configuration's `[plugins]` does; `defaults` names those that are
    loaded without being mentioned. ET_DISABLE_PLUGINS=a,b in `environ` switches plugins off whatever the table says,
    ET_TRACE_HOOKS=1 logs each call of a hook. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        table: Mapping[str, object] | None = None,
        *,
        defaults: Collection[str] = (),
        environ: Mapping[str, str] = os.environ,
        installed: Iterable[EntryPoint] | None = None,
        clock: Callable[[], float] = time.monotonic,
        question_deadline: float = QUESTION_DEADLINE,
        queue_calls: int = QUEUE_CALLS,
        stop_timeout: float = STOP_TIMEOUT,
    ) -> None:
        self._table = table or {}
        self._defaults = defaults
        self._environ = environ
        self._installed = loading.installed_plugins() if installed is None else installed
        self._clock = clock
        self.question_deadline = question_deadline
        self._queue_calls = queue_calls
        self._stop_timeout = stop_timeout
        self._trace = environ.get(TRACE_VARIABLE, "0") not in ("", "0")
        self._pluggy = pluggy.PluginManager(specs.PROJECT)
        self._pluggy.add_hookspecs(specs)
        self._plugins: dict[str, _Plugin] = {}
        self._rows: dict[str, PluginInfo] = {}
        self._workers: dict[str, Worker] = {}
        self._peers: dict[int, tuple[PeerInfo, PeerCapabilities]] = {}

    # Loading

    def load(self, *, strict: bool = True) -> None:
        """Import and register every plugin that is wanted, the defaults first, then those of the table in its order.

        Raises PluginConfigError if the table is wrong, PluginLoadError if a plugin of the table cannot be loaded. A default
        plugin that cannot be loaded is logged and left out; with `strict` false, which is for listings, any other is too.
        """
        choices = loading.choose(self._installed, self._table, self._defaults, self._environ)
        known = [choice.entry.name for choice in choices]
        for unknown in sorted(loading.switched_off(self._environ).difference(known)):
            hint = loading.nearest(unknown, known)
            logger.warning("%s: plugin %r is not installed%s", loading.DISABLE_VARIABLE, unknown, hint)
        for choice in choices:
            name = choice.entry.name
            self._rows[name] = loading.info(choice)
            if choice.state is not PluginState.LOADED:
                continue
            try:
                self.register(name, loading.build(choice), choice.options)
            except PluginLoadError as error:
                if strict and choice.required:
                    raise
                logger.error("plugin %s is left out: %s", name, error.problem)
                self._rows[name] = loading.info(choice, error=error.problem)
            else:
                self._rows[name] = loading.info(choice, hooks=self._plugins[name].hooks)

    def register(self, name: str, plugin: object, options: Mapping[str, object] | None = None) -> None:
        """Take in a plugin object of this process. Raises PluginLoadError if the name is taken or it does not fit the hooks."""
        if name in self._plugins:
            raise PluginLoadError(name, "the name is taken")
        hooks = loading.hooks_of(self._pluggy, name, plugin)
        try:
            self._pluggy.register(plugin, name)
            self._pluggy.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._pluggy.has_plugin(name):
                self._pluggy.unregister(name=name)
            raise PluginLoadError(name, " ".join(str(error).split())) from error
        guard = Guard(name, clock=self._clock, trace=self._trace)
        self._plugins[name] = _Plugin(guard, MappingProxyType(dict(options or {})), hooks)
        self._rows[name] = PluginInfo(name, PluginState.LOADED, hooks=hooks)

    def describe(self) -> list[PluginInfo]:
        """Every plugin known after `load`, by name."""
        return [self._rows[name] for name in sorted(self._rows)]

    def counters(self) -> dict[str, PluginCounters]:
        """The faults of each loaded plugin."""
        return {name: plugin.guard.counters for name, plugin in self._plugins.items()}

    def health(self) -> dict[str, PluginHealth]:
        """How each loaded plugin fares."""
        now = self._clock()
        return {name: plugin.health(now) for name, plugin in self._plugins.items()}

    # Registering, at the start

    def transports(self, host_for: HostFactory) -> dict[str, Transport]:
        """What plugins bring along, by name. A second one of the same name, and one called "tcp", is refused and logged."""
        return self._registered("register_transports", _is_transport, host_for)

    def tcp_stacks(self, host_for: HostFactory) -> dict[str, TcpStack]:
        """The same for TCP stacks."""
        return self._registered("register_tcp_stacks", _is_tcp_stack, host_for)

    def capabilities(self) -> frozenset[Capability]:
        """What the plugins want our node to announce. The host takes away what its configuration forbids."""
        wanted = set()
        for plugin, item in self._contributions("advertise_capabilities", None):
            if isinstance(item, Capability):
                wanted.add(item)
            else:
                plugin.guard.report(Fault.NONSENSE, "advertise_capabilities: %s is not a Capability", reprlib.repr(item))
        return frozenset(wanted)

    def _registered(self, hook: str, fits: Callable[[object], TypeGuard[_T]], host_for: HostFactory) -> dict[str, _T]:
        accepted: dict[str, _T] = {}
        for plugin, item in self._contributions(hook, host_for):
            try:
                name = item.name if fits(item) else None
            # The name is a property of the plugin's and may do anything.
            except Exception as error:
                plugin.guard.report(Fault.RAISED, "%s: the name raised", hook, error=error)
                continue
            if not fits(item) or not isinstance(name, str) or not _NAME.fullmatch(name):
                plugin.guard.report(Fault.NONSENSE, "%s: %s does not fit, or has no proper name", hook, type(item).__name__)
            elif name == TCP or name in accepted:
                plugin.guard.report(Fault.NONSENSE, "%s: the name %r is taken", hook, name)
            else:
                accepted[name] = item
        return accepted

    def _contributions(self, hook: str, host_for: HostFactory | None) -> Iterator[tuple[_Plugin, object]]:
        for impl in self._impls(hook):
            plugin = self._plugins[impl.plugin_name]
            arguments = {} if host_for is None else {"host": host_for(impl.plugin_name, plugin.options)}
            answer = plugin.guard.call(hook, impl, arguments)
            if answer is None or answer is FAILED:
                continue
            try:
                items = list(islice(answer, MAX_REGISTERED)) if isinstance(answer, Iterable) else None
            except Exception as error:
                plugin.guard.report(Fault.RAISED, "%s raised while its answer was read", hook, error=error)
                continue
            if items is None:
                plugin.guard.report(Fault.NONSENSE, "%s answered %s, not a sequence", hook, type(answer).__name__)
                continue
            for item in items:
                yield plugin, item

    # Running

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While this is entered hooks are called, each plugin's on a thread of its own.

        At the end plugins get STOP_TIMEOUT to finish what is queued. Raises RuntimeError if entered twice at a time.
        """
        if self._workers:
            raise RuntimeError("the plugins run already")
        token = current_token()
        present = {impl.plugin_name: impl for impl in self._impls("on_peer_capabilities")}
        for name, plugin in self._plugins.items():
            if not WORKER_HOOKS.intersection(plugin.hooks):
                continue
            initial = [_capabilities_call(present[name], *state) for state in self._peers.values()] if name in present else ()
            self._workers[name] = Worker(plugin.guard, token, capacity=self._queue_calls, initial=initial)
        for worker in self._workers.values():
            worker.start()
        try:
            yield
        finally:
            workers, self._workers = self._workers, {}
            await self._stop(workers)

    async def _stop(self, workers: Mapping[str, Worker]) -> None:
        for worker in workers.values():
            worker.stop()
        with anyio.CancelScope(deadline=anyio.current_time() + self._stop_timeout, shield=True):
            for worker in workers.values():
                await worker.stopped.wait()
        for name, worker in workers.items():
            if not worker.stopped.is_set():
                worker.abandon()
                logger.warning("plugin %s did not finish within %g s and is left behind", name, self._stop_timeout)

    def notify_flow(self, flow: TcpFlow, event: FlowEvent) -> None:
        """Tell the plugins. Does nothing unless running."""
        if self._workers:
            for impl in self._impls("on_tcp_flow"):
                self._workers[impl.plugin_name].post(Call("on_tcp_flow", impl, {"flow": flow, "event": event}))

    def notify_capabilities(self, peer: PeerInfo, capabilities: PeerCapabilities) -> None:
        """Keep the state of a peer and tell the plugins if it is new. When not running they are told at the next start.

        MAX_PEERS are kept; beyond them the one that was told longest ago is forgotten.
        """
        if self._peers.get(peer.peer_id) == (peer, capabilities):
            return
        self.forget_peer(peer.peer_id)
        if len(self._peers) >= MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        self._peers[peer.peer_id] = (peer, capabilities)
        if self._workers:
            for impl in self._impls("on_peer_capabilities"):
                self._workers[impl.plugin_name].post(_capabilities_call(impl, peer, capabilities))

    def forget_peer(self, peer_id: int) -> None:
        """The peer has left the network. Plugins are not told; should it come back they hear of it as of a new one."""
        self._peers.pop(peer_id, None)

    # Asking for a transport

    @property
    def asks_for_transport(self) -> bool:
        """Whether any plugin implements select_transport; if not, the answer is `selection.default`, without asking."""
        return bool(self._impls("select_transport"))

    async def select(self, flow: TcpFlow, peer: PeerInfo | None, candidates: Sequence[Candidate]) -> Selection:
        """Ask the plugins one after the other, the last loaded first; without an answer, `selection.default`.

        All of them together have the question deadline. When it is missed, the miss is that of the plugin that took most of it.
        """
        arguments = {"flow": flow, "peer": peer, "candidates": tuple(candidates)}
        started = anyio.current_time()
        deadline = started + self.question_deadline
        asked: list[tuple[float, _Plugin]] = []
        passed_over: list[str] = []
        for impl in self._impls("select_transport") if self._workers else ():
            plugin = self._plugins[impl.plugin_name]
            if plugin.rests_until > self._clock():
                passed_over.append(f"plugin {impl.plugin_name} rests, it was too slow")
                continue
            answered = anyio.Event()
            question = Call("select_transport", impl, arguments, answered)
            self._workers[impl.plugin_name].post(question)
            try:
                with anyio.CancelScope(deadline=deadline):
                    await answered.wait()
            finally:
                question.expired = True
            # How late the loop itself was is nobody's share.
            finished = min(anyio.current_time(), deadline)
            asked.append((finished - started, plugin))
            started = finished
            # An answer that came while a busy loop was itself too late still counts.
            if not answered.is_set():
                _, slowest = max(asked, key=lambda share: share[0])
                self._missed(slowest)
                return default(candidates, [*passed_over, f"plugin {slowest.guard.name} was too slow"])
            if question.answer is FAILED:
                passed_over.append(f"plugin {impl.plugin_name} failed, see the log")
            elif question.answer is not None:
                try:
                    selection = judged(question.answer, candidates, impl.plugin_name)
                except ValueError as problem:
                    plugin.guard.report(Fault.NONSENSE, "select_transport answered %s", problem)
                    passed_over.append(f"plugin {impl.plugin_name} answered {named(question.answer)}")
                else:
                    break
        else:
            selection = default(candidates, passed_over)
        for _, plugin in asked:
            plugin.misses = 0
        return selection

    def _missed(self, plugin: _Plugin) -> None:
        now = self._clock()
        plugin.misses += 1
        begins_rest = plugin.misses >= MISSES_BEFORE_REST and plugin.rests_until <= now
        verdict = ""
        if begins_rest:
            plugin.rests_until = now + REST
            verdict = f": {plugin.misses} times in a row, it is not asked for {REST:g} s"
        plugin.guard.report(
            Fault.MISSED,
            "select_transport was too slow, all plugins together have %g ms%s",
            self.question_deadline * 1000,
            verdict,
            always=begins_rest,
        )

    def _impls(self, hook: str) -> list[pluggy.HookImpl]:
        """In the order in which they are to be called."""
        caller: pluggy.HookCaller = getattr(self._pluggy.hook, hook)
        return caller.get_hookimpls()[::-1]


def _is_transport(item: object) -> TypeGuard[Transport]:
    return isinstance(item, Transport)


def _is_tcp_stack(item: object) -> TypeGuard[TcpStack]:
    return isinstance(item, TcpStack)


def _capabilities_call(impl: pluggy.HookImpl, peer: PeerInfo, capabilities: PeerCapabilities) -> Call:
    return Call("on_peer_capabilities", impl, {"peer": peer, "capabilities": capabilities})
