"""From files and options to `Config`: read, find what is unknown, check every value, merge.

One file, or none: one network, and the options are merged into it (lists grow, single values are replaced).  Several files:
one network each, and only the options about the whole process count, as with stock.  All problems are reported at once, each
with its place.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final

from easytier_host.config.clashes import Origin, clashes, twins
from easytier_host.config.environment import expand
from easytier_host.config.errors import ConfigError, MisplacedError, UnsupportedError, nearest
from easytier_host.config.kinds import PLUGIN, listeners_from_text, toml_type
from easytier_host.config.model import HOSTNAME_LENGTH, Config, FileLog, Flags
from easytier_host.config.options import Given, Options
from easytier_host.config.schema import SETTINGS, Status
from easytier_host.config.secret import is_open_to_others
from easytier_host.config.toml_faults import explain
from easytier_host.config.toml_lines import find_lines

MAX_FILE_BYTES: Final = 1 << 20
"""Ours: a configuration with a thousand peers has a tenth of this."""
MAX_PROBLEMS: Final = 50
"""Ours: more on one screen helps nobody."""
PLUGINS: Final = "plugins"
STANDARD_INPUT: Final = "-"
NO_ITEM: Final = object()
"""Stands for an array itself: an empty one is not the same as none."""

_TABLES: Final = {key.partition(".")[0] for key in SETTINGS if "." in key}
_TOP_LEVEL: Final = {key.partition(".")[0] for key in SETTINGS} | {PLUGINS}
_TOML_PLACE: Final = re.compile(
    r"(?P<text>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One `Config` for each network, and what the user should be told."""

    configs: tuple[Config, ...]
    warnings: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()
    """Of each of the configurations."""


@dataclass(slots=True)
class _Findings:
    problems: list[str] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    """By what they are about, so that each is said once."""

    def warn(self, about: str, text: str) -> None:
        self.warnings.setdefault(about, text)

    def raise_problems(self) -> None:
        if len(self.problems) > MAX_PROBLEMS:
            self.problems[MAX_PROBLEMS:] = [f"and {len(self.problems) - MAX_PROBLEMS} more"]
        if self.problems:
            raise ConfigError(self.problems)


def load(options: Options, *, environ: Mapping[str, str] = os.environ, stdin: BinaryIO | None = None) -> Loaded:
    """Read what `options` name; ConfigError if anything in it cannot be used.

    `stdin` is read for a file called `-`; the process's own if None.
    """
    paths = list(options.config_files)
    if options.config_dir:
        paths += _files_in(Path(options.config_dir))
    if not paths:
        return load_text("", "", options, environ=environ)
    several = len(paths) > 1
    configs: list[Config] = []
    origins: list[Origin] = []
    findings = _Findings()
    for warning in options.warnings:
        findings.warn(warning, warning)
    for path in paths:
        source = "standard input" if path == STANDARD_INPUT else path
        try:
            text, is_open = _read(path, source, stdin)
            given = _whole_process(options.settings) if several else options.settings
            config, origin = _build(text, source, given, options, environ, findings)
            configs.append(config)
            origins.append(origin)
            secret = configs[-1].network_secret
            if is_open and secret and secret in text:
                findings.warn(f"{path} is open", f"{source} holds a secret, and other users can read it: chmod 600 {path}")
        except ConfigError as error:
            findings.problems += error.problems
    if several:
        for one in options.settings:
            if not SETTINGS[one.key].whole_process:
                findings.warn(one.source, f"{one.source}: not applied, since there are several configuration files")
    findings.problems += clashes(configs, origins)
    findings.raise_problems()
    for twin in twins(configs, origins):
        findings.warn(twin, twin)
    return Loaded(tuple(configs), tuple(findings.warnings.values()), tuple(origins))


def load_text(
    text: str, source: str = "text", options: Options | None = None, *, environ: Mapping[str, str] = os.environ
) -> Loaded:
    """The one network that `text` describes, with `options` merged in; ConfigError if anything in it cannot be used.

    An empty `source` stands for no file at all: then stock's default listeners apply.
    """
    options = options or Options()
    findings = _Findings()
    for warning in options.warnings:
        findings.warn(warning, warning)
    config, origin = _build(text, source, options.settings, options, environ, findings)
    return Loaded((config,), tuple(findings.warnings.values()), (origin,))


def _files_in(directory: Path) -> list[str]:
    try:
        found = sorted(str(path) for path in directory.iterdir() if path.suffix == ".toml")
    except OSError as fault:
        raise ConfigError([f"{directory}: {fault.strerror}"]) from None
    if not found:
        raise ConfigError([f"{directory}: there is no *.toml file"])
    return found


def _read(path: str, source: str, stdin: BinaryIO | None) -> tuple[str, bool]:
    """The text, and whether any user can read it."""
    is_open = False
    try:
        if path == STANDARD_INPUT:
            if stdin is None and sys.stdin is None:
                raise ConfigError([f"{source}: is closed"])
            data = (stdin or sys.stdin.buffer).read(MAX_FILE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
                is_open = is_open_to_others(file)
    except OSError as fault:
        raise ConfigError([f"{source}: {fault.strerror}"]) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError([f"{source}: is larger than {MAX_FILE_BYTES} bytes"])
    try:
        return data.decode(), is_open
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        raise ConfigError([f"{source}:{line}: the file is not valid UTF-8"]) from None


def _whole_process(given: Iterable[Given]) -> tuple[Given, ...]:
    return tuple(one for one in given if SETTINGS[one.key].whole_process)


def _build(
    text: str, source: str, from_options: Iterable[Given], options: Options, environ: Mapping[str, str], findings: _Findings
) -> tuple[Config, Origin]:
    local = _Findings(warnings=findings.warnings)
    text = text.replace("\r\n", "\n")
    if options.expand_environment:
        text = expand(
            text,
            environ,
            lambda line, fault: local.problems.append(f"{source}:{line}: {fault}"),
            lambda line, fault: local.warn(f"{source}:{line}", f"{source}:{line}: {fault}"),
        )
        local.raise_problems()
    document, lines = _parse_toml(text, source)
    given, plugins = _walk(document, source, lines, local)
    values = _check([*given, *from_options], local)
    local.raise_problems()
    _warn_of_contradiction([*given, *from_options], plugins, local)
    _warn_of_mapped_networks([*given, *from_options], values, local)
    if options.no_listener:
        values["listeners"] = []
    elif not source:
        values.setdefault("listeners", listeners_from_text("11010"))
    return _assemble(values, plugins), Origin(source, lines)


def _warn_of_contradiction(given: Iterable[Given], plugins: Mapping[str, Any], findings: _Findings) -> None:
    """The flag and the table both say whether flows go by KCP; where the table names the plugin, it is asked."""
    flags = [one for one in given if one.key == "flags.enable_kcp_proxy"]
    if flags and flags[-1].value and plugins.get("kcp") is False:
        findings.warn(
            "plugins.kcp",
            f"{flags[-1].place()}: enable_kcp_proxy has no effect, for [plugins] says kcp = false; leave that out to have KCP",
        )
    if flags and not flags[-1].value and plugins.get("kcp", False) is not False:
        findings.warn(
            "plugins.kcp",
            f"{flags[-1].place()}: enable_kcp_proxy = false has no effect, for [plugins] names kcp; "
            "leave kcp out there to have this node accept KCP and not begin it, or set kcp = false to have none",
        )


def _warn_of_mapped_networks(given: Iterable[Given], values: Mapping[str, Any], findings: _Findings) -> None:
    """The kernel knows nothing of mapped addresses, and without a device nothing is left to it."""
    flags = [one for one in given if one.key == "flags.proxy_forward_by_system"]
    mapped = [network for network in values.get("proxy_networks", ()) if network.mapped_cidr is not None]
    if flags and flags[-1].value and mapped and not values.get("flags.no_tun"):
        findings.warn(
            f"mapped {mapped[0].mapped_cidr}",
            f"{flags[-1].place()}: the kernel does not know {mapped[0].cidr} as {mapped[0].mapped_cidr}, so only KCP reaches "
            "anybody there; leave proxy_forward_by_system out, or offer the network under its own addresses",
        )


def _parse_toml(text: str, source: str) -> tuple[dict[str, Any], Mapping[tuple[str | int, ...], int]]:
    try:
        return tomllib.loads(text), find_lines(text)
    except tomllib.TOMLDecodeError as fault:
        place = _TOML_PLACE.match(str(fault))
        if place is None:
            raise ConfigError([f"{source}: {fault}"]) from None
        line, column = int(place["line"] or text.rstrip().count("\n") + 1), place["column"] or 1
        raise ConfigError([f"{source}:{line}:{column}: {explain(place['text'], line, text)}"]) from None
    except RecursionError:
        raise ConfigError([f"{source}: brackets are nested too deeply"]) from None
    except ValueError as fault:
        # A date that does not exist, or a number of thousands of digits.
        raise ConfigError([f"{source}: {fault}"]) from None


def _walk(
    document: Mapping[str, Any], source: str, lines: Mapping[tuple[str | int, ...], int], findings: _Findings
) -> tuple[list[Given], dict[str, Any]]:
    """The values of a document whose keys are known, and its plugins; other keys are problems."""
    given: list[Given] = []
    plugins: dict[str, Any] = {}

    def problem(path: tuple[str | int, ...], text: str) -> None:
        findings.problems.append(f"{source}:{lines.get(path, 0)}: {text}")

    def setting(key: str, path: tuple[str, ...], value: Any) -> None:
        if not SETTINGS[key].many:
            given.append(Given(key, value, source, path, lines))
        elif not isinstance(value, list):
            problem(path, f"{key}: expected an array, found {toml_type(value)}")
        else:
            given.append(Given(key, NO_ITEM, source, path, lines))
            given.extend(Given(key, item, source, (*path, index), lines) for index, item in enumerate(value))

    for name, value in document.items():
        if name in SETTINGS:
            setting(name, (name,), value)
        elif name not in _TOP_LEVEL:
            problem((name,), f'unknown key "{name}" in [root]{_place_for(name) or nearest(name, _TOP_LEVEL)}')
        elif not isinstance(value, dict):
            problem((name,), f"{name}: expected a table, found {toml_type(value)}")
        elif name == PLUGINS:
            for plugin, choice in value.items():
                try:
                    plugins[plugin] = PLUGIN.parse(choice)
                except ValueError as fault:
                    problem((name, plugin), f"{name}.{plugin}: {fault}{_place_for(plugin)}")
        else:
            for part, item in value.items():
                key = f"{name}.{part}"
                if key in SETTINGS:
                    setting(key, (name, part), item)
                else:
                    known = [other.partition(".")[2] for other in SETTINGS if other.startswith(f"{name}.")]
                    problem((name, part), f'unknown key "{part}" in [{name}]{_place_for(part) or nearest(part, known)}')
    return given, plugins


def _place_for(name: str) -> str:
    """A clause that says where a key belongs which is in the wrong place; empty if it is in no other."""
    if name in SETTINGS:
        return "; it belongs above the first [table] of the file"
    tables = [key.partition(".")[0] for key in SETTINGS if key.partition(".")[2] == name]
    return f"; it belongs below [{tables[0]}]" if len(tables) == 1 else ""


def _check(given: Iterable[Given], findings: _Findings) -> dict[str, Any]:
    """The checked values by target, the last one of each; those of lists together, without repeats."""
    values: dict[str, Any] = {}
    for one in given:
        setting = SETTINGS[one.key]
        if one.value is NO_ITEM and not setting.target:
            continue
        if one.value is NO_ITEM:
            values.setdefault(setting.target, [])
            continue
        try:
            value = setting.kind.parse(one.value)
        except MisplacedError as fault:
            text, _, hint = str(fault).partition("; ")
            if text.startswith("unknown key"):
                text += _place_for(str(fault.path[-1])) or (hint and f"; {hint}")
            else:
                text = str(fault)
            findings.problems.append(f"{one.place(fault.path)}: {text}")
            continue
        except ValueError as fault:
            findings.problems.append(f"{one.place()}: {one.key + ': ' if one.path else ''}{fault}")
            continue
        except UnsupportedError as fault:
            findings.warn(f"{one.place()} {fault}", f"{one.place()}: {fault}")
            continue
        if setting.status is Status.IGNORED and (setting.many or value != setting.default):
            about = f'"{one.key}"' if one.path else "this option"
            findings.warn(one.key, f"{one.place()}: {about} has no effect in this version")
        if not setting.target:
            continue
        if not setting.many:
            values[setting.target] = value
        elif value not in (items := values.setdefault(setting.target, [])):
            items.append(value)
    return values


def _assemble(values: Mapping[str, Any], plugins: Mapping[str, Any]) -> Config:
    top: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {"flags": {}, "file_log": {}}
    for target, value in values.items():
        table, dot, name = target.partition(".")
        if dot:
            tables[table][name] = value
        else:
            top[table] = tuple(value) if isinstance(value, list) else value
    if "hostname" in top:
        top["hostname"] = top["hostname"][:HOSTNAME_LENGTH]
    if tables["file_log"]:
        # Who names a file or its directory wants the file.
        tables["file_log"].setdefault("level", "info")
    return Config(
        **top,
        flags=Flags(**tables["flags"]),
        file_log=FileLog(**tables["file_log"]),
        plugins=MappingProxyType(dict(plugins)),
    )
