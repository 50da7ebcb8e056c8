"""Arbitrary bytes read as choices: what a fuzz target with more than one input, or with a story to tell, takes them for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Choice = TypeVar("Choice")


class Script:
    """Reads from the front.  At the end numbers are 0 and bytes are none, so that every input means something."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        """Of so many bytes, little-endian."""
        return int.from_bytes(self.take(size), "little")

    def below(self, bound: int) -> int:
        """Of one byte."""
        return self.number() % bound

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """One of at most 256."""
        return choices[self.below(len(choices))]

    def take(self, size: int) -> bytes:
        """So many, or as many as there are."""
        start, self._at = self._at, min(len(self._data), self._at + size)
        return self._data[start : self._at]

    def string(self) -> bytes:
        """As many as two bytes before them say, 2047 at most."""
        return self.take(self.number(2) & 0x7FF)

    def strings(self, most: int) -> Iterator[bytes]:
        """At most so many, until nothing is left."""
        while self and most:
            yield self.string()
            most -= 1

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))


def told(*strings: bytes) -> bytes:
    """What `Script.strings` reads these from."""
    return b"".join(len(string).to_bytes(2, "little") + string for string in strings)
