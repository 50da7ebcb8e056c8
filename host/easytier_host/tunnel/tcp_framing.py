"""Frames on a TCP stream, sans-IO; `tcp.py` is the caller.  Source: wire specification, control plane 1.3.

Layout::

    offset size field
    0      4    length   of the frame, little-endian, 16 to 2000
    4      n    frame

A stream that breaks this rule cannot be read any further.
"""

from __future__ import annotations

import struct
from typing import Final

from easytier_host.packet import MAX_FRAME_SIZE, PEER_HEADER_SIZE

LENGTH: Final = struct.Struct("<I")


class FramingError(Exception):
    """The stream holds a length that no frame has; `frames` are the whole ones before it that were not returned yet."""

    def __init__(self, message: str, frames: list[bytes]) -> None:
        super().__init__(message)
        self.frames = frames


class FrameParser:
    """Cuts a byte stream into frames, in whatever pieces it comes.  Keeps less than one frame (2003 bytes)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """All frames that `data` completes.  Raises `FramingError` at a forbidden length; the parser is of no use after it."""
        if self._rest:
            data = self._rest + data
        frames: list[bytes] = []
        start, size = 0, len(data)
        while size - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(data, start)
            if not PEER_HEADER_SIZE <= length <= MAX_FRAME_SIZE:
                allowed = f"{PEER_HEADER_SIZE} to {MAX_FRAME_SIZE}"
                raise FramingError(f"a frame of {length} bytes came in, {allowed} are allowed", frames)
            end = start + LENGTH.size + length
            if end > size:
                break
            frames.append(data[start + LENGTH.size : end])
            start = end
        self._rest = data[start:]
        return frames
