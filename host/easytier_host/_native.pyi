"""What the host does for every packet, in Rust: sealing and opening frames, super-packets to packets and back.

Built from `native/host` at installation where `cargo` is found, else missing: `batch.py`, the only importer, catches
ImportError.  No I/O, no clock, no random source, no state but keys; nothing in a packet or frame raises anything but what is
written here.  All of it holds the GIL: a batch takes some 20 us, and who gives the GIL away for that may wait 5 ms for it.
"""

from collections.abc import Container, Sequence
from typing import final

__all__ = ["Aead", "coalesce", "split"]

@final
class Aead:
    """One key.  algorithm: "aes-gcm", "aes-256-gcm" or "chacha20", as in a configuration.

    Frames are a peer header of 16 bytes in clear, ciphertext, 16 bytes of tag, 12 bytes of nonce.

    Raises ValueError for another algorithm, or a key that is not of its size (16, 32 and 32 bytes).
    """

    def __new__(cls, algorithm: str, key: bytes) -> Aead: ...
    def seal(self, head: bytes, payloads: Sequence[bytes], prefix: bytes, counter: int) -> list[bytes]:
        """The frames of `payloads`; `head` is the peer header without its last field, the length, which is written here.

        The nonces are `prefix`, 8 bytes, with `counter` and the numbers that follow it: the caller gives none a second time.
        ValueError if there are not enough of them below 2**32, or `head` has not 12 bytes.
        """

    def open(self, frames: Sequence[bytes]) -> list[bytes | None]:
        """The payload of each frame; None in the place of one that is too short, or was not sealed with this key."""

def split(frame: bytes, mtu: int) -> list[bytes]:
    """`nic.offload.split`."""

def coalesce(packets: Sequence[bytes], own: Container[bytes]) -> list[bytes]:
    """`nic.offload.coalesce`."""
