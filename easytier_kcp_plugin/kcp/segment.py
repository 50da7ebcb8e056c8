"""The segments in a body of ACK|DATA: 24 bytes before each.  Layout only, used by engines.

Little-endian (wire specification, data plane 5.8; ikcp.c of skywind3000/kcp)::

    offset size field
    0      4    conv
    4      1    cmd     81 PUSH, 82 ACK, 83 WASK, 84 WINS
    5      1    frg     fragments that follow; always 0 in a stream
    6      2    wnd     segments that the sender of this one can still take
    8      4    ts      PUSH: the sender's clock in ms; ACK: that of the PUSH it answers
    12     4    sn      sequence number
    16     4    una     all before it have been received
    20     4    len     of the payload that follows, 0 for all but PUSH

Between two ends of our kind there is one more command, 85: it acknowledges runs of transmission numbers, which are what our
PUSHes have in `ts`.  Its `ts` and `sn` are 0, and its payload is any number of these::

    0      4    first number of a run
    4      4    how many, at least 1
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

# Wire constants: stock decides.
SEGMENT: Final = struct.Struct("<IBBHIIII")
SEGMENT_SIZE: Final = 24
SEGMENT_HEAD: Final = struct.Struct("<IBBH")
"""conv, command, fragment, window: the same in most segments of a flow."""
SEGMENT_TAIL: Final = struct.Struct("<IIII")
"""ts, sn, una, length: what follows them."""


class Command(IntEnum):
    """Values of `cmd`."""

    PUSH = 81
    ACK = 82
    WASK = 83
    """Asks for the window."""
    WINS = 84
    """Tells the window."""


COMMANDS: Final = frozenset(Command)

# Ours.
ACK_RUNS: Final = 85
"""Only for a peer that has offered the feature of this name."""
RUN: Final = struct.Struct("<II")


class Segment(NamedTuple):
    """One segment without its payload."""

    conv: int
    cmd: int
    frg: int
    wnd: int
    ts: int
    sn: int
    una: int
    length: int

    def encode(self, payload: bytes = b"") -> bytes:
        """The segment on the wire; `length` is not checked against `payload`."""
        return SEGMENT.pack(*self) + payload


def parse_segments(body: bytes, conv: int) -> tuple[list[Segment], int]:
    """The segments of a body that stock would act on, and how many bytes they fill, payloads included.

    As in stock, the first segment of another conversation, with an unknown command or with a length beyond the body ends the
    walk; what came before it counts.  Never raises.
    """
    segments: list[Segment] = []
    offset, size = 0, len(body)
    while size - offset >= SEGMENT_SIZE:
        segment = Segment._make(SEGMENT.unpack_from(body, offset))
        end = offset + SEGMENT_SIZE + segment.length
        if segment.conv != conv or segment.cmd not in COMMANDS or end > size:
            break
        segments.append(segment)
        offset = end
    return segments, offset
