"""Which plugins are installed, which of them are wanted, and whether a plugin fits the hooks.

Pure decisions over entry points and the configuration's table; the manager acts on them. A plugin that is not wanted is never
imported, so a listing can say nothing of its hooks.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points

import pluggy

from easytier_hooks import specs
from easytier_hooks.errors import PluginConfigError, PluginLoadError
from easytier_hooks.guard import place_of

ENTRY_POINT_GROUP = "easytier.plugins"
DISABLE_VARIABLE = "ET_DISABLE_PLUGINS"

HOOK_NAMES = tuple(name for name, value in vars(specs).items() if hasattr(value, f"{specs.PROJECT}_spec"))


class PluginState(StrEnum):
    """Where a plugin stands. "installed" is not asked for, "disabled" is switched off, "broken" cannot be loaded."""

    LOADED = "loaded"
    INSTALLED = "installed"
    DISABLED = "disabled"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One line of a listing. `distribution` and `version` are "" for a plugin that was registered in the program itself."""

    name: str
    state: PluginState
    distribution: str = ""
    version: str = ""
    hooks: tuple[str, ...] = ()
    """Empty unless loaded."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """An installed plugin and what the configuration says of it."""

    entry: EntryPoint
    state: PluginState
    options: Mapping[str, object]
    required: bool
    """The table asks for it by name, so the node shall not start without it."""
    clash: str = ""
    """Why the name is ambiguous."""


def installed_plugins() -> Iterable[EntryPoint]:
    """Every plugin that this Python finds."""
    return entry_points(group=ENTRY_POINT_GROUP)


def installed_packages() -> frozenset[str]:
    """Top-level packages and modules that plugins come from; those of plugins that are not loaded are not imported either."""
    return frozenset(map(_package, installed_plugins()))


def switched_off(environ: Mapping[str, str]) -> frozenset[str]:
    """Names of plugins that the environment switches off."""
    return frozenset(filter(None, map(str.strip, environ.get(DISABLE_VARIABLE, "").split(","))))


def choose(
    installed: Iterable[EntryPoint], table: Mapping[str, object], defaults: Collection[str], environ: Mapping[str, str]
) -> list[Choice]:
    """Every installed plugin: first those that the table does not mention, by name, then the others in the order of the table.

    `state` LOADED means: to be loaded. Raises PluginConfigError for a name that is not installed or a value that is neither a
    bool nor a table.
    """
    offers: dict[str, list[EntryPoint]] = {}
    for entry in sorted(installed, key=lambda entry: (entry.name, _distribution(entry))):
        offers.setdefault(entry.name, []).append(entry)
    for name, value in table.items():
        if name not in offers:
            known = ", ".join(offers) or "none"
            raise PluginConfigError(name, f"plugin {name!r} is not installed{nearest(name, offers)}; installed: {known}")
        if not isinstance(value, bool | Mapping):
            raise PluginConfigError(name, f"plugin {name!r}: expected true, false or a table of options, not {value!r}")
    blocked = switched_off(environ)

    choices = []
    for name in [*(name for name in offers if name not in table), *table]:
        setting = table.get(name)
        if name in blocked or setting is False:
            state = PluginState.DISABLED
        elif name in table or name in defaults:
            state = PluginState.LOADED
        else:
            state = PluginState.INSTALLED
        entry, *others = offers[name]
        clash = f"several distributions offer it: {', '.join(map(_distribution, offers[name]))}" if others else ""
        options = setting if isinstance(setting, Mapping) else {}
        choices.append(Choice(entry, state, options, required=name in table, clash=clash))
    return choices


def build(choice: Choice) -> object:
    """Import the plugin; where the entry point names a callable, call it with the options. Raises PluginLoadError."""
    entry = choice.entry
    if choice.clash:
        raise PluginLoadError(entry.name, choice.clash)
    # Code of others may do anything while it is imported or called, sys.exit() included.
    try:
        loaded: object = entry.load()
    except (Exception, SystemExit) as error:
        raise PluginLoadError(entry.name, _fault(entry, error)) from error
    if not callable(loaded):
        return loaded
    if not _takes_one(loaded):
        raise PluginLoadError(entry.name, f"{entry.value} must take one argument: its options, a mapping")
    try:
        plugin: object = loaded(choice.options)
    except (Exception, SystemExit) as error:
        # What a plugin says of its options is for users; anything else is a fault of its own.
        words = str(error) if isinstance(error, ValueError) and str(error) else _fault(entry, error)
        raise PluginLoadError(entry.name, words) from error
    return plugin


def _fault(entry: EntryPoint, error: BaseException) -> str:
    return f"{type(error).__name__}: {error}{place_of(error, _package(entry))}"


def _takes_one(made: Callable[..., object]) -> bool:
    try:
        signature = inspect.signature(made)
    # Some callables of C have none.
    except (ValueError, TypeError):
        return True
    try:
        signature.bind({})
    except TypeError:
        return False
    return True


def check_options(options: Mapping[str, object], *known: str) -> None:
    """For plugins: raises ValueError if there is an option other than those that are `known`, with the nearest of them."""
    for name in options:
        if name not in known:
            hint = nearest(name, known) or f"; it has {', '.join(map(repr, known)) or 'none'}"
            raise ValueError(f"there is no option {name!r}{hint}")


def hooks_of(manager: pluggy.PluginManager, name: str, plugin: object) -> tuple[str, ...]:
    """The hooks that a plugin implements.

    Raises PluginLoadError if one of them is misspelt, a wrapper, asynchronous or has other arguments, or if there is none.
    """
    found = []
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            continue
        hook = options.get("specname") or attribute
        if hook not in HOOK_NAMES:
            raise PluginLoadError(name, f"there is no hook {hook!r}{nearest(hook, HOOK_NAMES)}")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginLoadError(name, f"{hook} is a wrapper; hooks of this program cannot be wrapped")
        problem = _misfit(hook, getattr(plugin, attribute))
        if problem:
            raise PluginLoadError(name, f"{hook} {problem}")
        found.append(hook)
    if not found:
        raise PluginLoadError(name, "no function of it is marked with @hookimpl")
    return tuple(hook for hook in HOOK_NAMES if hook in found)


def _misfit(hook: str, function: Callable[..., object]) -> str:
    """Why a function cannot be called as this hook; "" if it can."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "is asynchronous; hooks must be plain functions"
    offered = tuple(inspect.signature(getattr(specs, hook)).parameters)
    for parameter in inspect.signature(function).parameters.values():
        name, has_default = parameter.name, parameter.default is not parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name not in offered and not has_default:
            return f"has no argument {name!r}{nearest(name, offered)}; it has {', '.join(offered) or 'none'}"
        if name in offered and has_default:
            return f"would never be given its argument {name!r}, which has a default: leave that out"
        if name in offered and parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            return f"cannot be given its argument {name!r}: leave out the / or * among the arguments"
    return ""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ` (did you mean 'x'?)`, or nothing if nothing is near."""
    matches = get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def info(choice: Choice, *, hooks: tuple[str, ...] = (), error: str = "") -> PluginInfo:
    """The line of the listing for an installed plugin."""
    dist = choice.entry.dist
    return PluginInfo(
        name=choice.entry.name,
        state=PluginState.BROKEN if error else choice.state,
        distribution=dist.name if dist else "",
        version=dist.version if dist else "",
        hooks=hooks,
        error=error,
    )


def listing(plugins: Sequence[PluginInfo]) -> str:
    """The text that `easytier-core --list-plugins` prints: one line for each plugin."""
    if not plugins:
        return f"no plugins are installed (entry point group {ENTRY_POINT_GROUP!r})"
    rows = [("PLUGIN", "VERSION", "STATE", "HOOKS")]
    rows += [(row.name, row.version or "-", row.state.value, row.error or ", ".join(row.hooks) or "-") for row in plugins]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    pad: Callable[[str, int], str] = str.ljust
    return "\n".join("  ".join([*map(pad, row[:3], widths), " ".join(row[3].split())]) for row in rows)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else ""


def _package(entry: EntryPoint) -> str:
    return entry.module.partition(".")[0]
