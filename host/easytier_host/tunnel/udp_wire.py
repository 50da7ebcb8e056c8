"""The UDP tunnel header, and how frames are packed into large sends.

Pure functions, no sockets.  `udp_socket.py` and `udp.py` call them.  Source: wire specification, control plane 1.4 and 1.5.

Tunnel header, 8 bytes, little-endian::

    offset size field
    0      4    conn_id
    4      1    kind
    5      1    padding   written 0, ignored on receipt (stock leaves garbage in it)
    6      2    length    of what follows; a datagram of another length is dropped
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from easytier_host.packet import MAX_FRAME_SIZE, PEER_HEADER_SIZE

# Wire constants: stock decides.
UDP_HEADER: Final = struct.Struct("<IBxH")
UDP_HEADER_SIZE: Final = 8
KIND_SYN: Final = 1
KIND_SACK: Final = 2
KIND_DATA: Final = 3
MAGIC_SIZE: Final = 8
MIN_DATA_SIZE: Final = UDP_HEADER_SIZE + PEER_HEADER_SIZE
MAX_DATA_SIZE: Final = UDP_HEADER_SIZE + MAX_FRAME_SIZE

# Limits of Linux for one segmented send: 64 segments in every version that has it, and one IP packet.
MAX_SEGMENTS: Final = 64
MAX_BATCH_BYTES: Final = 65_000


class Batch(NamedTuple):
    """Datagrams laid end to end, all of `segment` bytes; the last one may be shorter."""

    payload: bytes
    segment: int
    frames: int


def build_control(conn_id: int, kind: int, magic: bytes) -> bytes:
    """A SYN or SACK datagram."""
    return UDP_HEADER.pack(conn_id, kind, len(magic)) + magic


def build_goodbye(conn_id: int) -> bytes:
    """A Data datagram without a frame: the sender knows no such connection, or not any more.

    Nothing on this wire was made for that.  Stock from 2.6.0 on ends a connection at such a datagram, older ones skip it; a
    node of our kind takes it for a reason to ask (`Tunnel.on_doubt`), since anybody may send one.
    """
    return UDP_HEADER.pack(conn_id, KIND_DATA, 0)


def is_sack(datagram: bytes, conn_id: int, magic: bytes) -> bool:
    """True for the answer to the SYN with this connection id and magic."""
    return (
        len(datagram) == UDP_HEADER_SIZE + MAGIC_SIZE
        and UDP_HEADER.unpack_from(datagram) == (conn_id, KIND_SACK, MAGIC_SIZE)
        and datagram[UDP_HEADER_SIZE:] == magic
    )


def batch_frames(conn_id: int, frames: Sequence[bytes]) -> Iterator[Batch]:
    """Pack frames into Data datagrams and these into batches, in order.

    A batch is a run of frames of one size, closed by a shorter one if that comes next.  Frames of a forbidden size (below 16
    or above 2000 bytes) are left out: the sum of `frames` is the number of frames that were packed.
    """
    index, total = 0, len(frames)
    while index < total:
        size = len(frames[index])
        if not PEER_HEADER_SIZE <= size <= MAX_FRAME_SIZE:
            index += 1
            continue
        segment = UDP_HEADER_SIZE + size
        limit = min(total, index + min(MAX_SEGMENTS, MAX_BATCH_BYTES // segment))
        end = index + 1
        while end < limit and len(frames[end]) == size:
            end += 1
        # The header is the same for all of the run, so it is what joins them: one copy in C instead of one a datagram.
        payload = UDP_HEADER.pack(conn_id, KIND_DATA, size).join((b"", *frames[index:end]))
        if end < limit and PEER_HEADER_SIZE <= len(frames[end]) < size:
            last = frames[end]
            payload = b"".join((payload, UDP_HEADER.pack(conn_id, KIND_DATA, len(last)), last))
            end += 1
        yield Batch(payload, segment, end - index)
        index = end


@lru_cache(maxsize=64)
def data_layout(segment: int) -> struct.Struct:
    """Layout of a Data datagram of `segment` bytes as (conn_id, kind, length, frame), to unpack a run of them in C."""
    return struct.Struct(f"<IBxH{segment - UDP_HEADER_SIZE}s")
