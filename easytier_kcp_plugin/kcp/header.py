"""The session header: 14 bytes before every KcpSrc (11) and KcpDst (12) payload.  Layout only.

Little-endian (wire specification, data plane 5.1)::

    offset size field
    0      4    conv
    4      4    src_session_id   peer id of the opener
    8      4    dst_session_id   peer id of the acceptor; neither is swapped in answers
    12     1    flags
    13     1    reserved         written 0, ignored on receipt
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

# Wire constants: stock decides.
HEADER: Final = struct.Struct("<IIIBB")
HEADER_SIZE: Final = 14


class PacketType(IntEnum):
    """The types of the peer header that carry a session header."""

    KCP_SRC = 11
    """From the opener to the acceptor."""
    KCP_DST = 12
    """From the acceptor to the opener."""


class Flag(IntFlag):
    """Bits of the header's `flags`."""

    SYN = 0x01
    ACK = 0x02
    FIN = 0x04
    DATA = 0x08
    RST = 0x10
    PING = 0x20
    PONG = 0x40


# Every combination that is ever sent.
SYN: Final = Flag.SYN
SYN_ACK: Final = Flag.SYN | Flag.ACK
ACK_DATA: Final = Flag.ACK | Flag.DATA
FIN: Final = Flag.FIN
RST: Final = Flag.RST
PING: Final = Flag.PING
PONG: Final = Flag.PING | Flag.PONG


class SessionHeader(NamedTuple):
    """A session header, decoded.  `flags` may hold bits that nobody knows."""

    conv: int
    src_session_id: int
    dst_session_id: int
    flags: int

    @classmethod
    def parse(cls, payload: bytes | memoryview) -> SessionHeader:
        """Decode the first 14 bytes; ValueError if there are fewer."""
        if len(payload) < HEADER_SIZE:
            raise ValueError(f"payload of {len(payload)} bytes is shorter than a session header ({HEADER_SIZE})")
        conv, source, destination, flags, _reserved = HEADER.unpack_from(payload)
        return cls(conv, source, destination, flags)

    def encode(self) -> bytes:
        """The 14 bytes of this header."""
        return HEADER.pack(self.conv, self.src_session_id, self.dst_session_id, self.flags, 0)
