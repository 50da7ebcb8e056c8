"""Inputs made from those of a corpus: the usual small damage, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final

LARGEST: Final = 4096
"""Bytes.  The longest frame has 2000."""
_NUMBERS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


def mutations(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """For ever, one after the other."""
    chance = random.Random(seed)
    while True:
        data = bytearray(
            chance.choice(corpus) if corpus and chance.random() < 0.95 else chance.randbytes(chance.randrange(200))
        )
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            _damage(data, corpus, chance)
        yield bytes(data[:LARGEST])


def _damage(data: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    match chance.randrange(8):
        case 0 | 1 if data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        case 2 if data:
            data[at % len(data)] = chance.randrange(256)
        case 3:
            del data[at : at + chance.choice((1, 1, 2, 4, 8, len(data)))]
        case 4:
            data[at:at] = chance.randbytes(chance.choice((1, 1, 2, 4, 40)))
        case 5:
            size = chance.choice((1, 2, 4))
            number = chance.choice(_NUMBERS) + chance.randrange(-2, 3)
            data[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, chance.choice(("little", "big")))
        case 6 if corpus:
            other = chance.choice(corpus)
            start = chance.randrange(len(other) + 1)
            data[at : at + chance.randrange(2) * 8] = other[start : start + chance.choice((4, 24, 200))]
        case _:
            start = chance.randrange(len(data) + 1)
            data[at:at] = data[start : start + chance.choice((1, 8, 60))]
