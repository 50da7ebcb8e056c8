"""The version of this distribution, and the one that peers are told."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

DISTRIBUTION: Final = "easytier-kcp-plugin"
COMPATIBLE_WITH: Final = "2.6.4"
"""The stock version whose wire behaviour this node follows."""


def own_version() -> str:
    """The installed version, or `0` when run from a tree that was never installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"


EASYTIER_VERSION: Final = f"{COMPATIBLE_WITH}-py{own_version()}"
"""As other nodes list it: stock's form is crate version, dash, short hash."""
