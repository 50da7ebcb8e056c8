"""Sessions on disk: what the feeds told, one JSON object a line, to be looked at again later.

    {"format": "easytier-tui", "version": 1, "address": "127.0.0.1:15888"}
    {"at": 1750000000.25, "link": {...}, "node": {...}, "peers": [...], "flows": [...], "is_whole": true}
    {"at": 1750000001.25, "flows": [...], "notes": [...]}

Fields are those of `records`; what has its default may be left out.  A file from elsewhere is checked line by line: what does
not fit raises `RecordingError` with the number of the line.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec
from msgspec.structs import replace

from easytier_tui.feed import FeedError
from easytier_tui.records import FlowNote, Link, Update
from easytier_tui.words import clean, clock

FORMAT: Final = "easytier-tui"
VERSION: Final = 1
MAX_FILE_BYTES: Final = 1 << 30
"""A recording that has grown so large ends."""
MAX_LINE_BYTES: Final = 64 << 20
"""All flows of a full node, and the same again."""
LONGEST_WAIT: Final = 1.0
"""Seconds for one step of a replay."""

# JSON may spell any character by its number or a short escape; none of these may reach a terminal.
_CONTROL: Final = re.compile(
    r"\\\\|(?P<found>\\u(?:00[01][0-9a-f]|007f|00[89][0-9a-f]|202[89a-e]|206[6-9])|\\[bfnrt]|[\x7f-\x9f\u2028-\u202e\u2066-\u2069])",
    re.IGNORECASE,
)
Line = TypeVar("Line")


class RecordingError(ValueError):
    """A recording cannot be written or read; the message says where and why."""


class Header(msgspec.Struct, frozen=True):
    """The first line."""

    format: str
    version: int
    address: str = ""


class Recorder:
    """Writes updates to a new file at `path`.  Raises `RecordingError` if there is one already, or if it cannot be made."""

    def __init__(self, path: Path, address: str) -> None:
        self.path = path
        self.size = 0
        try:
            self._file: IO[bytes] = path.open("xb")
        except FileExistsError:
            raise RecordingError(f"{path} exists already: choose another name") from None
        except OSError as error:
            raise RecordingError(f"cannot write {path}: {error.strerror or error}") from None
        self._line(Header(FORMAT, VERSION, address))

    def write(self, update: Update) -> None:
        """Add a line.  Raises `RecordingError` when the disk does not take it or the file is large enough."""
        self._line(update)

    def close(self) -> None:
        """End the file; idempotent.  Raises `RecordingError` if the disk does not take the rest."""
        try:
            self._file.close()
        except OSError as error:
            raise RecordingError(f"cannot write {self.path}: {error.strerror or error}") from None

    def _line(self, value: Header | Update) -> None:
        line = msgspec.json.encode(value) + b"\n"
        if self.size + len(line) > MAX_FILE_BYTES:
            raise RecordingError(f"{self.path} has {self.size >> 20} MB: the recording ends here")
        try:
            self._file.write(line)
        except OSError as error:
            raise RecordingError(f"cannot write {self.path}: {error.strerror or error}") from None
        self.size += len(line)


class ReplayFeed:
    """A `Feed` from a file, at `speed` times the pace at which it was written.

    Raises `RecordingError` for what is no recording.
    """

    acts = False

    def __init__(self, path: Path, speed: float = 1.0, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.address = path.name
        self._path = path
        self._speed = speed
        self._monotonic = monotonic
        self._woken = threading.Event()
        self._number = 0
        self._ended = False
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror or error}") from None
        try:
            try:
                header = self._read(Header)
            except RecordingError:
                # Of a file of another kind it says nothing what is wrong with its first line.
                header = None
            if header is None or header.format != FORMAT:
                raise RecordingError(f"{path} is no recording of easytier-tui")
            if header.version != VERSION:
                raise RecordingError(f"{path} has version {header.version} of the format; this program reads {VERSION}")
            first = self._read(Update)
            if first is None:
                raise RecordingError(f"{path} holds no updates")
        except RecordingError:
            self._file.close()
            raise
        self._next: Update | None = first
        self._last_at = self._first_at = first.at
        self._began = monotonic()

    def clock(self) -> float:
        """See `Feed`: the time of the recording."""
        if self._ended:
            return self._last_at
        return self._first_at + (self._monotonic() - self._began) * self._speed

    def step(self) -> Update:
        """See `Feed`.  A line that does not fit ends the replay with a word on it."""
        update = self._next
        if update is None or self._ended:
            self._woken.wait(LONGEST_WAIT)
            return Update(self._last_at)
        wait = (update.at - self.clock()) / self._speed
        if wait > 0 and (self._woken.wait(min(wait, LONGEST_WAIT)) or wait > LONGEST_WAIT):
            return Update(self.clock())
        self._last_at = update.at
        link = Link("replayed", f"recording, {clock(update.at)[:8]}")
        try:
            self._next = self._read(Update)
            if self._next is None:
                link = Link("ended", "the recording has ended")
        except RecordingError as error:
            self._next = None
            link = Link("ended", str(error))
        self._ended = self._next is None
        if update.link is not None and update.link.kind == "gone" and not self._ended:
            # That the daemon was away belongs to what is told.
            link = replace(update.link, retry_at=None)
        return replace(update, link=link)

    def wake(self) -> None:
        """See `Feed`: a recording keeps its pace."""

    def close(self) -> None:
        """See `Feed`."""
        self._ended = True
        self._woken.set()
        self._file.close()

    def history(self, flow_id: int) -> Sequence[FlowNote]:
        """See `Feed`: what was recorded is all there is."""
        return ()

    def close_flow(self, flow_id: int) -> None:
        """See `Feed`."""
        raise FeedError("a recording cannot be changed")

    def _read(self, kind: type[Line]) -> Line | None:
        """The next line; None at the end of the file."""
        self._number += 1
        where = f"{self._path}, line {self._number}"
        try:
            line = self._file.readline(MAX_LINE_BYTES)
            if not line:
                return None
            text = line.decode()
            if any(match["found"] for match in _CONTROL.finditer(text.rstrip("\n"))):
                raise RecordingError(f"{where}: holds control characters")
            return msgspec.json.decode(text, type=kind)
        except OSError as error:
            raise RecordingError(f"{where}: {error.strerror or error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RecordingError(f"{where}: {clean(str(error))}") from None
