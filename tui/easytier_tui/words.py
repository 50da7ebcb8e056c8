"""Numbers, times and states as people read them: fixed widths, human units, words instead of signs."""

from __future__ import annotations

import textwrap
import time
from typing import Final

from rich.cells import cell_len, set_cell_size

NOTHING: Final = "-"
ELLIPSIS: Final = "…"
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def clean(text: str, limit: int = 300) -> str:
    """`text` without what a terminal would take for a command, cut to `limit` characters."""
    text = text[:limit]
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)


def size(count: float | None) -> str:
    """`17 B`, `1.54 kB`, `38.4 MB`: three digits, at most 7 columns."""
    if count is None:
        return NOTHING
    value, index = max(0.0, float(count)), 0
    # What would be rounded up to 1000 belongs to the next unit.
    while value >= 999.5 and index < len(_UNITS) - 1:
        value /= 1000
        index += 1
    if index == 0 or value >= 99.95:
        return f"{value:.0f} {_UNITS[index]}"
    return f"{value:.1f} {_UNITS[index]}" if value >= 9.995 else f"{value:.2f} {_UNITS[index]}"


def rate(bytes_per_second: float | None) -> str:
    """`38.4 MB/s`, at most 9 columns."""
    return NOTHING if bytes_per_second is None else f"{size(bytes_per_second)}/s"


def duration(seconds: float | None) -> str:
    """A round trip: `0.42 ms`, `52 ms`, `1.20 s`."""
    if seconds is None:
        return NOTHING
    if seconds >= 0.9995:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.0f} s"
    ms = seconds * 1000
    return f"{ms:.0f} ms" if ms >= 9.95 else f"{ms:.1f} ms" if ms >= 0.995 else f"{ms:.2f} ms"


def share(value: float | None) -> str:
    """`5.1 %`."""
    return NOTHING if value is None else f"{value * 100:.1f} %"


def count(number: int | None) -> str:
    """`41`, `41.2k`, `1.3M`."""
    if number is None:
        return NOTHING
    if number < 10_000:
        return str(number)
    return f"{number / 1000:.1f}k" if number < 999_950 else f"{number / 1e6:.1f}M"


def clock(at: float) -> str:
    """Local time of the day, with milliseconds."""
    try:
        return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03}"
    except (OverflowError, ValueError, OSError):
        return NOTHING


def plural(number: int, noun: str) -> str:
    """`1 peer`, `3 peers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns; what continues a line stands two columns further in."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    if width <= 2 * len(indent):
        return [text]
    return textwrap.wrap(text, width, subsequent_indent=indent) or [""]


def fit(text: str, width: int, *, right: bool = False) -> str:
    """`text` in exactly `width` columns, cut with an ellipsis if it is longer."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + ELLIPSIS if width > 0 else ""
    return " " * (width - length) + text if right else text + " " * (width - length)
