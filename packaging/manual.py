"""Prints the man pages of the three commands, made from their own tables of options.

    python packaging/manual.py packaging/man        writes easytier-core.1, easytier-cli.1 and easytier-tui.1 into that folder

The pages are part of the package; a test compares them with what this prints.  Nothing in them depends on the day, the Python
or the width of a terminal.
"""

from __future__ import annotations

import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from easytier_cli.arguments import make_parser as cli_parser
from easytier_host.config.option_table import MISSING
from easytier_host.config.options import DOCUMENTATION
from easytier_host.config.options import make_parser as core_parser
from easytier_tui.main import make_parser as tui_parser

ROOT: Final = Path(__file__).resolve().parents[1]
PROJECT: Final = "easytier-kcp-plugin"

SUMMARIES: Final = {
    "easytier-core": "run a node of an EasyTier mesh network",
    "easytier-cli": "ask a running EasyTier node",
    "easytier-tui": "watch what EasyTier nodes carry, by which transport, and why",
}
CORE_EXIT: Final = {
    "0": "It ended as asked.",
    "1": "The configuration is wrong, or a node could not start; each fault is a line on standard error.",
    "2": "Wrong usage.",
}
TUI_EXIT: Final = {"0": "The user has quit.", "1": "It could not start.", "2": "Wrong usage."}
SIGNALS: Final = {
    "SIGHUP": "Read the files again: what can change while nodes run is changed, the rest is logged.",
    "SIGTERM": "Stop: new flows are refused, those under way have drain_timeout seconds to end. A second one ends it at once.",
    "SIGINT": "Stop without waiting. A second one ends the process at once.",
}
VARIABLES: Final = {
    "ET_DISABLE_PLUGINS": "Plugins to leave out, with commas between.",
    "ET_TRACE_HOOKS": "If it is 1, each call of a plugin is logged.",
    "NOTIFY_SOCKET, WATCHDOG_USEC": "Set by systemd, which is told when the nodes run, stop, and that they live.",
}
FILES: Final = {
    "/etc/easytier/NAME.toml": "Read by the systemd unit easytier-core@NAME.service.",
    "/dev/net/tun": "Needed but for \\fB\\-\\-no\\-tun\\fR, with the capability CAP_NET_ADMIN.",
}


def pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    core, cli, tui = core_parser(), cli_parser(), tui_parser()
    made = {
        "easytier-core": [
            *_head("easytier-core", "[\\fB\\-c\\fR \\fIFILE\\fR] [\\fIOPTION\\fR ...]"),
            "One node of an EasyTier mesh network, for each configuration file.",
            "Options, files and environment variables are those of stock EasyTier 2.6.",
            *_options(core),
            ".SH ENVIRONMENT\nEach option that takes a value, and most switches, can be given as a variable:",
            "\\fBET_\\fR and the long name in capitals, with underscores, such as \\fBET_NETWORK_SECRET\\fR.",
            *_entries(VARIABLES),
            *_section("SIGNALS", SIGNALS),
            *_section("FILES", FILES),
            *_section("EXIT STATUS", CORE_EXIT),
        ],
        "easytier-cli": [
            *_head("easytier-cli", "\\fICOMMAND\\fR [\\fIOPTION\\fR ...]"),
            "Asks a running process, of this project or a stock one, and prints what it says.",
            *_options(cli),
            *_commands(cli),
            *_section("EXIT STATUS", _cli_exit()),
        ],
        "easytier-tui": [
            *_head("easytier-tui", "[\\fIOPTION\\fR ...]"),
            "A program for a terminal. Inside it \\fB?\\fR shows all keys.",
            *_options(tui),
            *_section("EXIT STATUS", TUI_EXIT),
        ],
    }
    return {f"{name}.1": "\n".join((*lines, *_see_also(name), "")) for name, lines in made.items()}


def escape(text: str) -> str:
    """`text` as roff prints it: no dash becomes a hyphen, no line a request."""
    plain = text.replace("\\", "\\(rs").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", plain, flags=re.MULTILINE)


def _head(name: str, usage: str) -> Iterator[str]:
    yield f'.\\" Made by packaging/manual.py\n.TH {name.upper()} 1 "" "{PROJECT}" "User Commands"'
    yield f".SH NAME\n{name} \\- {SUMMARIES[name]}"
    yield f".SH SYNOPSIS\n.B {name}\n{usage}"
    yield ".SH DESCRIPTION"


def _options(parser: ArgumentParser) -> Iterator[str]:
    yield ".SH OPTIONS"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.option_strings]
        if not actions:
            continue
        title = group.title or ""
        if title == MISSING:
            yield ".SS Without effect in this version\nKnown from stock and accepted, with a warning where that is a loss:"
            yield ", ".join(f"\\fB{escape(action.option_strings[-1])}\\fR" for action in actions)
            continue
        if title != "options":
            yield f".SS {title[:1].upper()}{title[1:]}"
        yield from map(_option, actions)


def _option(action: Action) -> str:
    value = "" if action.nargs == 0 else escape(_metavar(action))
    if value:
        value = f" [\\fI{value}\\fR]" if action.nargs == "?" else f" \\fI{value}\\fR"
    names = ", ".join(f"\\fB{escape(name)}\\fR" for name in action.option_strings)
    return f".TP\n{names}{value}\n{_text(action)}"


def _commands(parser: ArgumentParser) -> Iterator[str]:
    (commands,) = (action for action in parser._actions if isinstance(action, _SubParsersAction))
    common = {name for action in parser._actions for name in action.option_strings}
    yield ".SH COMMANDS"
    for name, sub in commands.choices.items():
        words = [_positional(action) for action in sub._actions if not action.option_strings]
        yield f".TP\n\\fB{' '.join((name, *words))}\\fR\n{escape(_sentence(sub.description or ''))}"
        own = [action for action in sub._actions if action.option_strings and not common.issuperset(action.option_strings)]
        if own:
            yield "\n".join((".RS", *map(_option, own), ".RE"))


def _positional(action: Action) -> str:
    word = f"\\fI{escape(_metavar(action))}\\fR" if action.metavar else "|".join(map(escape, action.choices or ()))
    return f"[{word}]" if action.nargs == "?" else word


def _metavar(action: Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(action.choices) if action.choices else action.dest.upper()


def _text(action: Action) -> str:
    text = "" if action.help in (None, SUPPRESS) else str(action.help).replace("%%", "%")
    return escape(_sentence(text))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text and text[-1] not in ".!?" else text


def _section(title: str, entries: Mapping[str, str]) -> Iterator[str]:
    yield f".SH {title}"
    yield from _entries(entries)


def _entries(entries: Mapping[str, str]) -> Iterator[str]:
    for name, text in entries.items():
        yield f".TP\n\\fB{escape(name)}\\fR\n{text}"


def _cli_exit() -> dict[str, str]:
    """From docs/cli.md, which a test compares with the code."""
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|$", page, re.MULTILINE)
    return {number: escape(_sentence(text.replace("`", ""))) for number, text in rows}


def _see_also(name: str) -> Iterator[str]:
    others = [other for other in SUMMARIES if other != name]
    yield ".SH SEE ALSO\n" + ",\n".join(f".BR {other} (1)" for other in others)
    yield f".PP\nThe documentation is in \\fI{escape(DOCUMENTATION)}\\fR of the installation; begin with \\fIREADME.md\\fR."


def main() -> None:
    """Write all pages into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
