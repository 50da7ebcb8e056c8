"""What is done to every packet, in Rust or in Python: which of the two a node has is decided here, once, when it starts.

The Rust is `native/host`, built where cargo is found at installation.  Both give the same bytes; what differs is the time that
they take (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from easytier_host.crypto import NativeAead
from easytier_host.nic import offload


@dataclass(frozen=True, slots=True)
class Batch:
    """The functions for device frames are described in `nic/offload.py`."""

    split: Callable[[bytes, int], list[bytes]]
    coalesce: Callable[[Sequence[bytes], Container[bytes]], list[bytes]]
    aead: Callable[[str, bytes], NativeAead] | None
    """Seals and opens frames with the key of an algorithm, for `crypto.make_cipher`; None leaves that to Python."""


IN_PYTHON = Batch(offload.split, offload.coalesce, None)


def choose_batch() -> Batch:
    """Rust if it is there."""
    try:
        import easytier_host._native as native
    except ImportError:
        return IN_PYTHON
    return Batch(native.split, native.coalesce, native.Aead)
