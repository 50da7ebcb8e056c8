"""Where a network's secret comes from, and who else may see it there.

A secret may stand in a configuration file, in a file of its own (`--secret-file`), in `ET_NETWORK_SECRET`, and, as stock has
it, on the command line.  All users of a machine see command lines, so one that holds a secret is replaced at once: the program
starts again, as the same process, with the secret in its environment, which is for its own user and root to read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any, Final

MAX_SECRET_BYTES: Final = 4096
"""Ours: whoever names another file by mistake shall hear of it."""
OPTION: Final = "--network-secret"
VARIABLE: Final = "ET_NETWORK_SECRET"


def read_secret(path: str) -> str:
    """The secret in a file, without the line feed at its end.  Raises ValueError, for the user, if there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as fault:
        raise ValueError(f"{path}: {fault.strerror}") from None
    try:
        secret = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not valid UTF-8") from None
    if not secret or "\n" in secret or len(data) > MAX_SECRET_BYTES:
        raise ValueError(f"{path} does not hold one line with a secret of at most {MAX_SECRET_BYTES} bytes")
    return secret


def warning_of(path: str) -> str:
    """What to tell the user of the file that a secret was read from; "" if all is well."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    return f"other users can read the secret in {path}: chmod 600 {path}" if _is_open(mode) else ""


def is_open_to_others(file: Any) -> bool:
    """Whether an open file is a plain one that any user of the machine can read."""
    return _is_open(os.fstat(file.fileno()).st_mode)


def _is_open(mode: int) -> bool:
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def hidden(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]] | None:
    """A command line without its secret, and an environment with it; None if there is none in it.

    Both forms count, `--network-secret SECRET` and `--network-secret=SECRET`, and of several the last.
    """
    kept: list[str] = []
    secret: str | None = None
    words = iter(argv)
    for word in words:
        if word == OPTION:
            secret = next(words, None)
            if secret is None:
                # The parser has a word for it.
                return None
        elif word.startswith(f"{OPTION}="):
            secret = word.partition("=")[2]
        else:
            kept.append(word)
    # An empty one is no secret, and an empty variable no setting.
    return (kept, {**environ, VARIABLE: secret}) if secret else None
