"""Compressed payloads: one zstd frame and a tail of one byte that names the algorithm (control plane 4.5).

Compression happens before sealing.  The receiver needs no option: it acts on the COMPRESSED flag.
"""

from __future__ import annotations

from typing import Final

import zstandard

ALGORITHM_ZSTD: Final = 1

MAX_PLAIN_SIZE: Final = 16_384
"""Largest payload that may come out, in bytes: more than a packet has on any device, as only what fits a frame uncompressed is
compressed.  A frame of 20 bytes could claim gigabytes, and a batch of a thousand frames may hold nothing else."""


class CompressError(Exception):
    """A payload flagged as compressed is not one, or is larger inside than an IP packet."""


class Compressor:
    """zstd both ways.  Holds contexts that are reused, so one object serves one thread."""

    def __init__(self) -> None:
        self._compress = zstandard.ZstdCompressor(level=1).compress
        self._decompress = zstandard.ZstdDecompressor(max_window_size=MAX_PLAIN_SIZE * 16).decompress

    def compress(self, payload: bytes) -> bytes | None:
        """The compressed payload with its tail, or None where that would be longer than the payload."""
        packed = self._compress(payload) + bytes([ALGORITHM_ZSTD])
        return packed if len(packed) <= len(payload) else None

    def decompress(self, packed: bytes, length: int) -> bytes:
        """The plain payload of exactly `length` bytes; raises `CompressError` for anything else."""
        if length > MAX_PLAIN_SIZE:
            raise CompressError(f"payload claims {length} bytes, more than an IP packet holds")
        if not packed or packed[-1] != ALGORITHM_ZSTD:
            raise CompressError("payload is flagged as compressed by an algorithm other than zstd")
        try:
            declared = zstandard.frame_content_size(packed[:-1])
            if declared > length:
                raise CompressError(f"payload holds {declared} bytes, its header says {length}")
            # A frame without a declared size is held to the header's by max_output_size; one extra byte shows an overrun.
            plain = self._decompress(packed[:-1], max_output_size=length + 1)
        except zstandard.ZstdError as error:
            raise CompressError(f"payload is not a zstd frame: {error}") from None
        if len(plain) != length:
            raise CompressError(f"payload holds {len(plain)} bytes, its header says {length}")
        return plain
