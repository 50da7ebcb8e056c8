"""How the command ends, and what it says beside its output: the only module that writes to standard error."""

from __future__ import annotations

import sys
from enum import IntEnum

PROGRAM_NAME = "easytier-cli"


class Exit(IntEnum):
    """Exit status; docs/cli.md lists them for users."""

    OK = 0
    UNREACHABLE = 1
    """No node listens at the address."""
    USAGE = 2
    """The command line is wrong."""
    PARTIAL = 3
    """The output is not all that was asked for, since the node cannot tell it."""
    REFUSED = 4
    """The node answered with an error, or ended the connection."""
    TIMEOUT = 5
    """The node did not answer in time."""
    UNHEALTHY = 6
    """`doctor` found a failure."""
    INTERRUPTED = 130


def complain(text: str) -> None:
    """One message for the person who runs the command; what a node said in it cannot move the cursor."""
    from easytier_cli.output import printable

    # Without one, print would take standard output instead.
    if sys.stderr is not None:
        print(printable(f"{PROGRAM_NAME}: {text}"), file=sys.stderr)
