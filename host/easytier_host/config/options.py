"""The command line of `easytier-core` and its environment variables, read by the schema.

An option on the command line wins over its variable.  What they say about settings is handed on as `Given` values of the same
shape as those of a file; what they say about the program itself are the fields of `Options`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from easytier_host.config.completions import SHELLS
from easytier_host.config.errors import ConfigError, nearest
from easytier_host.config.kinds import choice, switch_from_text
from easytier_host.config.option_table import MISSING, OPTIONS, Form, Option
from easytier_host.config.schema import SETTINGS, Status
from easytier_host.config.secret import warning_of
from easytier_host.config.toml_lines import Path

PROGRAM_NAME: Final = "easytier-core"
DISTRIBUTION: Final = "easytier-kcp-plugin"
LOG_FORMATS: Final = ("text", "json")
SECRET_FILE: Final = "secret-file"
DOCUMENTATION: Final = f"share/doc/{DISTRIBUTION}"


@dataclass(frozen=True, slots=True)
class Given:
    """One value as it was given, not checked yet: from `source` at `path`, whose lines (if it is a file) are in `lines`."""

    key: str
    value: Any
    source: str
    path: Path = ()
    lines: Mapping[Path, int] = field(default_factory=dict)

    def place(self, within: Path = ()) -> str:
        """`a.toml:12`, `--mtu` or `ET_MTU`; `within` leads further into the value."""
        line = self.lines.get((*self.path, *within)) or self.lines.get(self.path)
        return f"{self.source}:{line}" if line else self.source


@dataclass(frozen=True, slots=True)
class Options:
    """What command line and environment say."""

    settings: tuple[Given, ...] = ()
    config_files: tuple[str, ...] = ()
    config_dir: str = ""
    expand_environment: bool = True
    no_listener: bool = False
    check_config: bool = False
    list_plugins: bool = False
    complete_for: str = ""
    """A shell, if its completions are asked for."""
    log_format: str = "text"
    warnings: tuple[str, ...] = ()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists all options\n")


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        # Looked up here since it costs more than all the rest of the start.
        sys.stdout.write(f"{parser.prog} {importlib.metadata.version(DISTRIBUTION)}\n")
        parser.exit()


def make_parser(program: str = PROGRAM_NAME) -> argparse.ArgumentParser:
    """The parser, with its options in groups; every value stays the text that was given."""
    made = _Parser(
        program,
        usage=f"{program} [-c FILE] [option ...]",
        description="One node of an EasyTier mesh network.",
        epilog="Most options can be given as an environment variable: ET_ and the long name, as in ET_NETWORK_SECRET.  Where "
        "several values are taken, the option may be repeated as well.  `easytier-cli config template` prints a file with "
        f"every key; {DOCUMENTATION} of the installation has the documentation.  Exit status: 0 ended as asked, 1 wrong "
        "configuration or no start, 2 wrong usage.",
        allow_abbrev=False,
    )
    made.add_argument("-V", "--version", action=_ShowVersion, nargs=0, help="show the version, and end")
    groups = {
        name: made.add_argument_group(name)
        for name in dict.fromkeys(option.group for option in OPTIONS.values())
        if name != MISSING
    }
    groups[MISSING] = made.add_argument_group(MISSING)
    for option in OPTIONS.values():
        names = [f"-{option.short}", f"--{option.name}"] if option.short else [f"--{option.name}"]
        text = _help(option).replace("%", "%%")
        if option.form is Form.ACTION:
            groups[option.group].add_argument(*names, action="append_const", const="true", dest=option.name, help=text)
        elif option.form is Form.SWITCH:
            groups[option.group].add_argument(
                *names, action="append", nargs="?", const="true", dest=option.name, metavar="true|false", help=text
            )
        else:
            metavar = f"{option.metavar},..." if option.form is Form.LIST else option.metavar
            groups[option.group].add_argument(*names, action="append", dest=option.name, metavar=metavar, help=text)
    return made


def _help(option: Option) -> str:
    default = SETTINGS[option.key].default if option.key and option.status is Status.USED else None
    # That of a switch goes without saying.
    return f"{option.text} (default: {default})" if default and not isinstance(default, bool) else option.text


def parse(argv: Sequence[str], environ: Mapping[str, str], *, program: str = PROGRAM_NAME) -> Options:
    """Read both.

    SystemExit (2) for wrong usage, or (0) after --help and --version; ConfigError for a value that its option cannot mean.
    """
    made = make_parser(program)
    found, unknown = made.parse_known_args(argv)
    if unknown:
        # An unknown option may be a misspelt --network-secret=...: its value is not for the screen or a log.
        name = unknown[0].partition("=")[0]
        if name.startswith("--"):
            made.error(f'unrecognized option "{name}"{nearest(name, [f"--{known}" for known in OPTIONS])}')
        # So may a word without an option be.
        place = list(argv).index(unknown[0]) + 1
        made.error(f'unrecognized option "{name[:2]}"' if name.startswith("-") else f"word {place} belongs to no option")

    reader = _Reader()
    for option in OPTIONS.values():
        texts: list[str] | None = getattr(found, option.name)
        if texts:
            reader.read(option, f"--{option.name}", texts)
        elif option.variable and (text := environ.get(option.variable)):
            reader.read(option, option.variable, [text])
    return reader.finished()


class _Reader:
    def __init__(self) -> None:
        self._settings: list[Given] = []
        self._program: dict[str, list[str]] = {}
        self._warnings: list[str] = []
        self._problems: list[str] = []

    def read(self, option: Option, source: str, texts: Iterable[str]) -> None:
        if option.form is Form.LIST:
            texts = [item.strip() for text in texts for item in text.split(",") if item.strip()]
        else:
            texts = list(texts)[-1:]
        try:
            if option.key:
                if option.name == SECRET_FILE:
                    self._warnings += filter(None, map(warning_of, texts))
                self._settings += [Given(option.key, value, source) for text in texts for value in _values(option, text)]
            elif option.status is Status.IGNORED:
                if option.form is not Form.SWITCH or any(map(switch_from_text, texts)):
                    self._warnings.append(f"{source}: has no effect in this version")
            elif option.form is Form.SWITCH:
                self._program[option.name] = ["true"] if any(map(switch_from_text, texts)) else []
            else:
                self._program[option.name] = list(texts)
        except ValueError as fault:
            self._problems.append(f"{source}: {fault}")

    def finished(self) -> Options:
        log_format = self._one_of("log-format", LOG_FORMATS, "text")
        complete_for = self._one_of("gen-autocomplete", SHELLS, "")
        secrets = [given.source for given in self._settings if given.key == "network_identity.network_secret"]
        if len(secrets) > 1:
            self._problems.append(f"{' and '.join(secrets)} both give the secret of the network; one is enough")
        if self._problems:
            raise ConfigError(self._problems)
        return Options(
            settings=tuple(self._settings),
            config_files=tuple(self._program.get("config-file", ())),
            config_dir="".join(self._program.get("config-dir", ())),
            expand_environment=not self._program.get("disable-env-parsing"),
            no_listener=bool(self._program.get("no-listener")),
            check_config=bool(self._program.get("check-config")),
            list_plugins=bool(self._program.get("list-plugins")),
            complete_for=complete_for,
            log_format=log_format,
            warnings=tuple(self._warnings),
        )

    def _one_of(self, name: str, choices: Sequence[str], default: str) -> str:
        given = self._program.get(name)
        try:
            return str(choice(choices).parse(given[-1])) if given else default
        except ValueError as fault:
            self._problems.append(f"--{name}: {fault}")
            return default


def _values(option: Option, text: str) -> list[Any]:
    value = option.to_toml(text)
    return value if isinstance(value, list) else [value]
