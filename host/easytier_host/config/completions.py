"""The script that completes the words of a command in a shell, made from the command's own parser by `shtab`.

Asked for by `easytier-core --gen-autocomplete` and `easytier-cli completions`.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from typing import Final

SHELLS: Final = ("bash", "zsh", "fish")


def completions(parser: ArgumentParser, shell: str) -> str:
    """The script for one of `SHELLS`.  Options whose value is FILE or DIR, or several of them, complete paths."""
    import shtab

    for action in parser._actions:
        kind = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}.get(str(action.metavar).partition(",")[0])
        if kind is not None:
            vars(action)["complete"] = kind
    script: str = shtab.complete(parser, shell=shell)
    # zsh would take IP:PORT for a name and the command that finds its values.
    return re.sub(r"(?<=\]:)[^\"]+(?=:\w*\"$)", _without_colons, script, flags=re.MULTILINE) if shell == "zsh" else script


def _without_colons(found: re.Match[str]) -> str:
    return found[0].replace(":", "\\:")
