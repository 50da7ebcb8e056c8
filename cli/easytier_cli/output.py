"""How answers look: tables like stock's, JSON like stock's, cells (wire specification, CLI portal 10.7 to 10.9).

Names come from the network, so anything that a terminal would take for a command is replaced in tables and escaped in JSON.
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeAlias

from easytier_cli.diagnostics import Exit

ELLIPSIS: Final = "..."
SHORTEST_CUT: Final = 6
"""Characters, those of the ellipsis included; a shorter cell is cut without one."""

Narrowing: TypeAlias = Sequence[tuple[str, int]]
"""What is done, one after the other, until a table fits a narrow terminal: a column, and to how many characters it is cut; 0
leaves it out.
"""

_CONTROL = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Report:
    """What a command found: `data` for JSON; for people `text`, or a table."""

    data: object
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    narrowing: Narrowing = ()
    text: str | None = None
    status: Exit = Exit.OK
    notes: Sequence[str] = field(default_factory=tuple)
    """For the person at the terminal, not part of the output."""

    def render(self, width: int | None) -> str:
        """The text for people; `width` in columns, None: as wide as it is."""
        if self.text is not None:
            return "\n".join(printable(line) for line in self.text.rstrip("\n").split("\n"))
        return table(self.headers, self.rows, width, self.narrowing)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None, narrowing: Narrowing = ()) -> str:
    """A table in Markdown style that fits `width` columns, by `narrowing` first, and by cutting what is widest then."""
    lines = [[printable(cell) for cell in line] for line in (headers, *rows)]
    if width is not None:
        rooms = _fit(lines, width, narrowing)
        lines = [[_cut(cell, room) for cell, room in zip(line, rooms, strict=True) if room] for line in lines]
    widths = _widths(lines)
    drawn = ["| " + " | ".join(_pad(cell, width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    drawn.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(drawn)


def _fit(lines: Sequence[Sequence[str]], width: int, narrowing: Narrowing) -> list[int]:
    """The width of each column, 0 of those that are left out.  Below some 20 columns nothing fits, and lines wrap."""
    whole = _widths(lines)
    rooms = list(whole)

    def excess() -> int:
        shown = [room for room in rooms if room]
        return sum(shown) + 3 * len(shown) + 1 - width

    for name, room in narrowing:
        if excess() <= 0:
            break
        index = lines[0].index(name)
        rooms[index] = min(rooms[index], room)
    # What went last may have made room for more of what was cut before.
    for index, room in enumerate(rooms):
        if 0 < room < whole[index]:
            rooms[index] += max(0, min(whole[index] - room, -excess()))
    while excess() > 0 and max(rooms) > SHORTEST_CUT:
        rooms[rooms.index(max(rooms))] -= 1
    return rooms


def without(*names: str) -> Narrowing:
    """Leave these columns out, one after the other."""
    return tuple((name, 0) for name in names)


def to_json(data: object) -> str:
    """Indented by two, as stock's."""
    return harmless(json.dumps(data, indent=2, ensure_ascii=False))


def harmless(encoded: str) -> str:
    """JSON with the characters escaped that would move the cursor or more."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded)


def plain(message: Any) -> dict[str, Any]:
    """A message as stock's JSON has it: fields in order, absent messages null, enumerations as numbers."""
    result: dict[str, Any] = {}
    for descriptor in message.DESCRIPTOR.fields:
        oneof = descriptor.containing_oneof
        if oneof is not None and not _is_optional(oneof):
            continue
        result[descriptor.name] = _plain_field(message, descriptor)
    for oneof in message.DESCRIPTOR.oneofs:
        if _is_optional(oneof):
            continue
        chosen = message.WhichOneof(oneof.name)
        result[oneof.name] = None if chosen is None else {_camel(chosen): _plain_value(getattr(message, chosen))}
    return result


def printable(text: str) -> str:
    """`text` without characters that would move the cursor or more."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)


def decimal_bytes(count: int) -> str:
    """`17 B`, `1.54 kB`, `3.40 MB`, as `peer` shows them."""
    return _scaled(count, 1000, ("B", "kB", "MB", "GB", "TB", "PB", "EB"))


def binary_bytes(count: int) -> str:
    """`624 B`, `8.40 KiB`, as `stats` shows them."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))


def ipv4(message: Any) -> IPv4Address:
    """An Ipv4Addr."""
    return IPv4Address(message.addr)


def ipv6(message: Any) -> IPv6Address:
    """An Ipv6Addr."""
    return IPv6Address(message.part1 << 96 | message.part2 << 64 | message.part3 << 32 | message.part4)


def socket_address(message: Any) -> str:
    """A SocketAddr as `ip:port`; an empty one is 0.0.0.0:0."""
    match message.WhichOneof("ip"):
        case "ipv6":
            return f"[{ipv6(message.ipv6)}]:{message.port}"
        case "ipv4":
            return f"{_ipv4_text(message.ipv4.addr)}:{message.port}"
        case _:
            return f"0.0.0.0:{message.port}"


def local_time(seconds: int) -> str:
    """Epoch seconds as date and time of this machine's zone; the number, where there is no such date."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def uuid_text(message: Any) -> str:
    """A UUID in its usual form."""
    digits = "".join(f"{part:08x}" for part in (message.part1, message.part2, message.part3, message.part4))
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def enum_name(message: Any, field_name: str) -> str:
    """The name of an enumeration's value; its number, where this program has no name for it."""
    number = getattr(message, field_name)
    values = message.DESCRIPTOR.fields_by_name[field_name].enum_type.values_by_number
    return values[number].name if number in values else str(number)


@lru_cache(4096)
def _ipv4_text(number: int) -> str:
    # Thousands of flows have few addresses.
    return str(IPv4Address(number))


def _scaled(count: int, step: int, units: Sequence[str]) -> str:
    value, index = float(count), 0
    while value >= step and index < len(units) - 1:
        value /= step
        index += 1
    return f"{value:.0f} {units[index]}" if value.is_integer() else f"{value:.2f} {units[index]}"


def _columns(text: str) -> int:
    return len(text) if text.isascii() else sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _cut(cell: str, room: int) -> str:
    if _columns(cell) <= room:
        return cell
    ending = ELLIPSIS if room >= SHORTEST_CUT else ""
    while _columns(cell) > room - len(ending):
        cell = cell[:-1]
    return cell + ending


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - _columns(cell))


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_columns, column)) for column in zip(*lines, strict=True)]


def _is_optional(oneof: Any) -> bool:
    """`optional` makes a oneof of one field, with an underscore before its name."""
    return len(oneof.fields) == 1 and oneof.name == f"_{oneof.fields[0].name}"


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _plain_field(message: Any, descriptor: Any) -> Any:
    value = getattr(message, descriptor.name)
    if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
        return {str(key): _plain_value(value[key]) for key in sorted(value)}
    if descriptor.is_repeated:
        return [_plain_value(item) for item in value]
    if descriptor.has_presence and not message.HasField(descriptor.name):
        return None
    return _plain_value(value)


def _plain_value(value: Any) -> Any:
    if hasattr(value, "DESCRIPTOR"):
        return plain(value)
    return list(value) if isinstance(value, bytes) else value
