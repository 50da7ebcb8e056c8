"""Calls on a portal connection: one frame a packet, both directions.  Sans-IO; the portal server and its client share it.

Layout of a frame (wire specification, CLI portal 10.2), after the `length` of four bytes that TCP tunnels have too::

    offset size field
    0      16   peer header: from 1, to 1, type 8 (request) or 9 (response)
    16     n    RpcPacket, a whole call or a piece of one

There is no handshake and no encryption.  Neither side of ours offers to take compressed bodies.
"""

from __future__ import annotations

import struct
from typing import Final

from google.protobuf.message import DecodeError

from easytier_host.packet import MAX_FRAME_SIZE, PEER_HEADER_SIZE, PacketType, PeerHeader, build_frame
from easytier_host.pb import common_pb2
from easytier_host.rpc.framing import FramingError, split_call

# Wire: stock decides.
LENGTH: Final = struct.Struct("<I")
PORTAL_PEER_ID: Final = 1
"""Both ends of a portal connection call themselves this."""


def encode_call(packet: common_pb2.RpcPacket, content: bytes) -> bytes:
    """The frames of a request or response with their lengths, ready for the stream; `packet` is all but the body."""
    packet.from_peer = packet.to_peer = PORTAL_PEER_ID
    packet_type = PacketType.RPC_REQ if packet.is_request else PacketType.RPC_RESP
    frames = (build_frame(PORTAL_PEER_ID, PORTAL_PEER_ID, packet_type, piece) for piece in split_call(packet, content))
    return b"".join(LENGTH.pack(len(frame)) + frame for frame in frames)


def check_length(prefix: bytes) -> int:
    """The size of the frame that four bytes announce; raises `FramingError` for one that no frame has."""
    (size,) = LENGTH.unpack(prefix)
    if not PEER_HEADER_SIZE <= size <= MAX_FRAME_SIZE:
        raise FramingError(f"a frame of {size} bytes, {PEER_HEADER_SIZE} to {MAX_FRAME_SIZE} are allowed")
    return int(size)


def decode_frame(frame: bytes, *, is_request: bool) -> common_pb2.RpcPacket:
    """The packet in a frame of 16 bytes or more; raises `FramingError` unless it is one of that direction."""
    header = PeerHeader.parse(frame)
    wanted = PacketType.RPC_REQ if is_request else PacketType.RPC_RESP
    try:
        packet = common_pb2.RpcPacket.FromString(frame[PEER_HEADER_SIZE:])
    except DecodeError:
        raise FramingError("a frame without an RPC packet inside") from None
    if header.packet_type != wanted or packet.is_request != is_request:
        raise FramingError(f"a frame of type {header.packet_type} where {int(wanted)} belongs")
    # Very old senders leave it out.
    packet.total_pieces = packet.total_pieces or 1
    return packet
