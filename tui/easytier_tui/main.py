"""The command `easytier-tui`, which has no features in this version: it says so and ends."""

from __future__ import annotations

import sys
from typing import Final

USAGE: Final = 2


def main() -> int:
    """Print what is missing and what to use instead; always returns 2."""
    print(
        "easytier-tui: this version has no terminal monitor; see the log of easytier-core",
        file=sys.stderr,
    )
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
