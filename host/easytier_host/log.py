"""Logging of the node: lines for people or JSON for machines, on standard error and in a rotated file.

Loggers are called `easytier.<part>`, those of plugins after their packages; of other libraries warnings alone are written.
Who works for one instance or peer logs through `bind`, which adds both to each line.
Only `main` calls `configured`; a program that embeds a node sets up logging as it likes.  Secrets are never given to a
logger; a filter would be too late.  Host names and the like come from peers, so control characters in a message are written
as escapes; and what peers cause comes at any rate, so each handler writes a hundred lines a second, after the first thousand,
and tells how many it left out.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from easytier_hooks.logs import AnyLogger
from easytier_host.config.model import FileLog
from easytier_host.log_file import LogFile

TRACE: Final = 5
LEVELS: Final[Mapping[str, int]] = {
    "off": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
MEGABYTE: Final = 1_000_000

_FIELDS: Final = ("instance", "peer")
_LEVEL_NAMES: Final = {level: name.upper() for name, level in LEVELS.items()}
_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {0x2028: "\\u2028", 0x2029: "\\u2029"}

LINES_PER_SECOND: Final = 100.0
LINES_AT_ONCE: Final = 1000
"""Ours, of each of three kinds, so that none crowds out another: warnings and errors, news, and what is for debugging.  Some
hundred peers that all join at once have room."""


class _Bound(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def bind(logger: AnyLogger, *, instance: str | None = None, peer: int | None = None) -> logging.LoggerAdapter[logging.Logger]:
    """A logger that adds these to what `logger` adds already."""
    known: dict[str, object] = {}
    while isinstance(logger, logging.LoggerAdapter):
        known = {**(logger.extra or {}), **known}
        logger = logger.logger
    given = {"instance": instance, "peer": peer}
    return _Bound(logger, known | {name: value for name, value in given.items() if value is not None})


class TextFormatter(logging.Formatter):
    """`2026-11-22T17:15:04.123Z WARN  peers [a] peer 42: message`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        instance, peer = (getattr(record, name, None) for name in _FIELDS)
        where = (
            record.name.removeprefix("easytier.") + (f" [{instance}]" if instance else "") + (f" peer {peer}" if peer else "")
        )
        level = _LEVEL_NAMES.get(record.levelno, record.levelname)
        line = f"{_timestamp(record)} {level:<5} " + f"{where}: {record.getMessage()}".translate(_ESCAPES)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message and, where known, instance, peer and exception."""

    def format(self, record: logging.LogRecord) -> str:
        level = _LEVEL_NAMES.get(record.levelno, record.levelname).lower()
        line: dict[str, object] = {"time": _timestamp(record), "level": level, "logger": record.name}
        line |= {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _timestamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.created * 1000) % 1000:03d}Z"


class _OursOrSerious:
    """A filter: lines of the node and of packages that belong to it at each level, of other libraries from warnings on."""

    def __init__(self, packages: Collection[str]) -> None:
        self._packages = frozenset(packages)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        name = record.name
        return record.levelno >= logging.WARNING or name.startswith("easytier") or name.partition(".")[0] in self._packages


class Levels:
    """From which level on each handler writes; `configured` gives one."""

    def __init__(self, console: logging.Handler, file: logging.Handler | None) -> None:
        self._console = console
        self._file = file

    def set(self, console: str, file: str) -> bool:
        """Change both, as keys of `LEVELS`; False if there should be a file and is none, which takes a restart."""
        self._console.setLevel(LEVELS[console])
        if self._file is not None:
            self._file.setLevel(LEVELS[file or "off"])
        levels = [handler.level for handler in (self._console, self._file) if handler is not None]
        logging.getLogger().setLevel(min(levels))
        return self._file is not None or file in ("", "off")


@contextmanager
def configured(
    console_level: str = "info",
    file: FileLog | None = None,
    *,
    log_format: str = "text",
    packages: Collection[str] = (),
    stream: TextIO | None = None,
) -> Iterator[Levels]:
    """Log to `stream` (standard error if None) and to `file` while entered.

    Levels are the keys of `LEVELS`, `log_format` is `text` or `json`.  `packages` are those whose loggers write at each level,
    as the node's own do: plugins.  Raises OSError if the file or its directory cannot be made.
    """
    console = logging.StreamHandler(stream or sys.stderr)
    handlers: list[logging.Handler] = [console]
    written = None
    if file is not None and file.level not in ("", "off"):
        path = Path(file.dir) / file.file
        path.parent.mkdir(parents=True, exist_ok=True)
        written = LogFile(path, maxBytes=file.size * MEGABYTE, backupCount=file.count, encoding="utf-8", errors="replace")
        handlers.append(written)
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    root = logging.getLogger()
    level_before = root.level
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(_OursOrSerious(packages))
        handler.addFilter(LineBudget(handler, time.monotonic))
        root.addHandler(handler)
    levels = Levels(console, written)
    levels.set(console_level, "" if file is None else file.level)
    try:
        yield levels
    finally:
        root.setLevel(level_before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class LineBudget:
    """A filter of one handler that lets `LINES_PER_SECOND` through after `LINES_AT_ONCE`, for each kind of line.

    What is left out is counted, and the number written before the next line of that kind.
    """

    def __init__(self, handler: logging.Handler, clock: Callable[[], float]) -> None:
        self._handler = handler
        self._clock = clock
        self._buckets: dict[bool | None, tuple[float, float, int]] = {}
        """Kind -> lines left, when that was so, and lines left out."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        kind = None if record.levelno < logging.INFO else record.levelno >= logging.WARNING
        now = self._clock()
        left, at, left_out = self._buckets.get(kind, (LINES_AT_ONCE, now, 0))
        left = min(LINES_AT_ONCE, left + (now - at) * LINES_PER_SECOND)
        if left < 1:
            self._buckets[kind] = left, now, left_out + 1
            return False
        self._buckets[kind] = left - 1, now, 0
        if left_out:
            self._tell(record, left_out)
        return True

    def _tell(self, record: logging.LogRecord, left_out: int) -> None:
        told = logging.LogRecord(
            "easytier.log", record.levelno, "", 0, "%d lines were left out: too many at once", (left_out,), None
        )
        self._handler.acquire()
        try:
            self._handler.emit(told)
        finally:
            self._handler.release()
