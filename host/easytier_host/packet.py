"""Layouts of everything that travels in the overlay: the peer header and the IP and TCP fields that a router needs.

Pure functions and constants, no state and no I/O.  A *frame* is a peer header followed by its payload; tunnels carry frames.

Peer header, 16 bytes, little-endian (wire specification, control plane section 2)::

    offset size field
    0      4    from_peer_id
    4      4    to_peer_id
    8      1    packet_type
    9      1    flags
    10     1    forward_counter   1 when built, +1 at each relay, not relayed above 7
    11     1    reserved          written 0, ignored on receipt (stock leaves garbage in it)
    12     4    length            of the payload before compression and encryption
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

# Wire constants: stock decides.
PEER_HEADER: Final = struct.Struct("<IIBBBBI")
PEER_HEADER_SIZE: Final = 16
PEER_HEAD: Final = struct.Struct("<IIBBBB")
"""The peer header without its length: what the frames of one batch have in common."""
PAYLOAD_LENGTH: Final = struct.Struct("<I")
MAX_FORWARD_COUNTER: Final = 7
MAX_FRAME_SIZE: Final = 2000
"""Largest frame that every stock version accepts, in bytes (control plane 1.2)."""


class PacketType(IntEnum):
    """Values of the peer header's `packet_type` (control plane 2.1)."""

    INVALID = 0
    DATA = 1
    HANDSHAKE = 2
    PING = 4
    PONG = 5
    RPC_REQ = 8
    RPC_RESP = 9
    FOREIGN_NETWORK = 10
    KCP_SRC = 11
    KCP_DST = 12
    NOISE_HANDSHAKE_1 = 13
    NOISE_HANDSHAKE_2 = 14
    NOISE_HANDSHAKE_3 = 15
    QUIC_SRC = 16
    QUIC_DST = 17
    DATA_KCP_SRC_MODIFIED = 18
    DATA_QUIC_SRC_MODIFIED = 19
    RELAY_HANDSHAKE = 20
    RELAY_HANDSHAKE_ACK = 21


class Flag(IntFlag):
    """Bits of the peer header's `flags` (control plane 2.2)."""

    ENCRYPTED = 0x01
    LATENCY_FIRST = 0x02
    EXIT_NODE = 0x04
    NO_PROXY = 0x08
    COMPRESSED = 0x10
    NOT_SEND_TO_TUN = 0x40


class PeerHeader(NamedTuple):
    """A peer header, decoded.  `length` is in bytes, of the plain payload."""

    from_peer_id: int
    to_peer_id: int
    packet_type: int
    flags: int
    forward_counter: int
    length: int

    @classmethod
    def parse(cls, frame: bytes | memoryview) -> PeerHeader:
        """Decode the first 16 bytes of `frame`; ValueError if it is shorter."""
        if len(frame) < PEER_HEADER_SIZE:
            raise ValueError(f"frame of {len(frame)} bytes is shorter than a peer header ({PEER_HEADER_SIZE})")
        source, target, packet_type, flags, counter, _reserved, length = PEER_HEADER.unpack_from(frame)
        return cls(source, target, packet_type, flags, counter, length)

    def encode(self) -> bytes:
        """The 16 bytes of this header, `reserved` being 0."""
        return PEER_HEADER.pack(
            self.from_peer_id, self.to_peer_id, self.packet_type, self.flags, self.forward_counter, 0, self.length
        )


def build_frame(
    from_peer_id: int, to_peer_id: int, packet_type: int, payload: bytes, *, flags: int = 0, forward_counter: int = 1
) -> bytes:
    """A frame around a plain payload; `length` in the header is the payload's."""
    return PEER_HEADER.pack(from_peer_id, to_peer_id, packet_type, flags, forward_counter, 0, len(payload)) + payload
