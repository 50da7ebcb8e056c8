"""What a sender remembers of a segment and of each time it was sent.  Plain records, changed by `sender.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

# Ours.
OVERHEAD: Final = 118
"""Bytes on the wire beside a lone payload: KCP 24, session 14, peer header 16, AEAD 28, tunnel 8, UDP and IPv4 28."""
FULL_SIZE: Final = 1300
"""Bytes on the wire of a full segment, roughly; unit of windows."""


class Fate(IntEnum):
    """What has become of a transmission."""

    OUT = 0
    ACKED = 1
    LOST = 2
    PRESUMED = 3
    """Probably arrived; the datagram with its ACK seems to be lost."""
    REFUSED = 4
    """Beyond the peer's window, which has shrunk since it was sent."""


@dataclass(slots=True, eq=False)
class OutSegment:
    """A segment that the peer has not said to have, with all before it."""

    sn: int
    data: bytes
    sent: list[Transmission]
    acked: bool = False
    outstanding: int = 0
    """Transmissions OUT or PRESUMED."""
    in_repair: bool = False
    copies_due: int = 0
    """In the heap of copies, or among the repairs of presumed ones."""


@dataclass(slots=True, eq=False)
class Moment:
    """What the path was like when a burst left.  Its transmissions share it."""

    sent_at: float
    delivered: int
    """By the path; with the next two, the base of a rate sample."""
    delivered_at: float
    first_sent_at: float
    limited: bool
    """Whether the path was short of data or of peer window."""
    slow: bool
    """Whether the path was being kept empty."""


@dataclass(slots=True, eq=False)
class Transmission:
    """One PUSH.  Its number is what `ts` says, so an ACK names exactly one."""

    number: int
    segment: OutSegment
    size: int
    """Bytes on the wire."""
    moment: Moment
    fate: int = Fate.OUT
