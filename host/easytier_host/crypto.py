"""Keys, network digest and the sealing of payloads (wire specification, control plane 3.3 and 4).

Sans-IO: no clock and no socket; randomness comes in as a callable.  Both ends derive the key from the network secret, so every
node of a network can open every other's packets.  Neither the algorithm nor its use is negotiated: a frame's ENCRYPTED flag is
all there is.

Layout of a sealed payload: ciphertext, 16 bytes of tag, 12 bytes of nonce.  With `xor`: the xored bytes alone, no tail, no
integrity.  What travels in bulk is sealed and opened by the batch, as frames: a peer header, then a sealed payload.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from easytier_host.packet import PAYLOAD_LENGTH, PEER_HEADER_SIZE

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_BE64: Final = struct.Struct(">Q")
_LONG_KEY_LABEL: Final = b"easytier-256bit-key"

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
DIGEST_SIZE: Final = 32
ALGORITHMS: Final = ("aes-gcm", "aes-256-gcm", "chacha20", "xor")


class OpenError(Exception):
    """A sealed payload is too short, or was not sealed with our key."""


class Cipher(ABC):
    """Seals and opens payloads with the key of one network.

    One object serves all peers, since they share the key.
    """

    overhead: int
    """Bytes that sealing adds to a payload."""

    @abstractmethod
    def seal(self, payload: bytes) -> bytes:
        """The sealed payload, tail included."""

    @abstractmethod
    def open(self, sealed: bytes) -> bytes:
        """The plain payload; raises `OpenError` if it was not sealed with this key."""

    def seal_frames(self, head: bytes, payloads: Sequence[bytes]) -> list[bytes]:
        """The frames of `payloads`; `head` is the peer header of them all, without the length."""
        seal, length = self.seal, PAYLOAD_LENGTH.pack
        return [b"".join((head, length(len(payload)), seal(payload))) for payload in payloads]

    def open_frames(self, frames: Sequence[bytes]) -> list[bytes | None]:
        """The plain payload of each frame; None in the place of one that was not sealed with this key."""
        opened: list[bytes | None] = []
        for frame in frames:
            try:
                opened.append(self.open(frame[PEER_HEADER_SIZE:]))
            except OpenError:
                opened.append(None)
        return opened


class Nonces:
    """The nonces of one key at this node, none of them twice: all that seals with the key takes them from here.

    A nonce is a random prefix of 8 bytes and a counter of 4: one random read in 2^32 packets instead of one each.  Other
    nodes seal with the same key and wholly random nonces; 64 random bits per node start keep the chance of a repeat as small
    as theirs.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._prefix = random_bytes(8)
        self._next = 0

    def take(self, count: int) -> tuple[bytes, int]:
        """Prefix and first counter of `count` nonces in a row."""
        first = self._next
        if first + count > 1 << 32:
            self._prefix = self._random_bytes(8)
            first = 0
        self._next = first + count
        return self._prefix, first


class AeadCipher(Cipher):
    """AES-GCM or ChaCha20-Poly1305 with the tail of stock."""

    overhead = TAG_SIZE + NONCE_SIZE

    def __init__(self, aead: AESGCM | ChaCha20Poly1305, nonces: Nonces) -> None:
        self._encrypt = aead.encrypt
        self._decrypt = aead.decrypt
        self._nonces = nonces

    def seal(self, payload: bytes) -> bytes:
        prefix, counter = self._nonces.take(1)
        nonce = prefix + counter.to_bytes(4, "big")
        return self._encrypt(nonce, payload, None) + nonce

    def open(self, sealed: bytes) -> bytes:
        if len(sealed) < TAG_SIZE + NONCE_SIZE:
            raise OpenError(f"sealed payload of {len(sealed)} bytes is shorter than its tail")
        try:
            return self._decrypt(sealed[-NONCE_SIZE:], sealed[:-NONCE_SIZE], None)
        except InvalidTag:
            raise OpenError("payload was not sealed with this network's key") from None

    def seal_frames(self, head: bytes, payloads: Sequence[bytes]) -> list[bytes]:
        encrypt, length = self._encrypt, PAYLOAD_LENGTH.pack
        prefix, counter = self._nonces.take(len(payloads))
        frames = []
        for number, payload in enumerate(payloads, counter):
            nonce = prefix + number.to_bytes(4, "big")
            frames.append(head + length(len(payload)) + encrypt(nonce, payload, None) + nonce)
        return frames


class NativeAead(Protocol):
    """One key of the native module, as `_native.pyi` describes it."""

    def seal(self, head: bytes, payloads: Sequence[bytes], prefix: bytes, counter: int) -> list[bytes]: ...

    def open(self, frames: Sequence[bytes]) -> list[bytes | None]: ...


class NativeAeadCipher(AeadCipher):
    """The same, with batches left to the native module, at half the cost a packet; single payloads are few."""

    def __init__(self, aead: AESGCM | ChaCha20Poly1305, nonces: Nonces, native: NativeAead) -> None:
        super().__init__(aead, nonces)
        self._seal_batch = native.seal
        self._open_batch = native.open

    def seal_frames(self, head: bytes, payloads: Sequence[bytes]) -> list[bytes]:
        return self._seal_batch(head, payloads, *self._nonces.take(len(payloads)))

    def open_frames(self, frames: Sequence[bytes]) -> list[bytes | None]:
        return self._open_batch(frames)


class XorCipher(Cipher):
    """Stock's `xor`: byte i is xored with byte i mod 16 of the key.  It hides nothing from anyone who tries."""

    overhead = 0

    def __init__(self, key: bytes) -> None:
        # As one long number; a frame never exceeds this many repeats, a larger payload is xored in its own length.
        self._key = key
        self._pads: dict[int, int] = {}

    def seal(self, payload: bytes) -> bytes:
        size = len(payload)
        pad = self._pads.get(size)
        if pad is None:
            if len(self._pads) >= 4096:
                self._pads.clear()
            repeated = self._key * (size // len(self._key) + 1)
            pad = self._pads[size] = int.from_bytes(repeated[:size], "little")
        return (int.from_bytes(payload, "little") ^ pad).to_bytes(size, "little")

    def open(self, sealed: bytes) -> bytes:
        return self.seal(sealed)


def make_cipher(
    algorithm: str,
    secret: str,
    random_bytes: Callable[[int], bytes],
    native: Callable[[str, bytes], NativeAead] | None = None,
) -> Cipher:
    """The cipher that `algorithm` names in a configuration; ValueError for a name that stock does not know.

    `native` makes the native module's AEAD of an algorithm and a key, where there is one.
    """
    if algorithm == "xor":
        return XorCipher(key_128(secret))
    if algorithm not in ALGORITHMS:
        raise ValueError(f"unknown encryption algorithm {algorithm!r}; one of {', '.join(ALGORITHMS)}")
    key = key_128(secret) if algorithm == "aes-gcm" else key_256(secret)
    aead = ChaCha20Poly1305(key) if algorithm == "chacha20" else AESGCM(key)
    nonces = Nonces(random_bytes)
    return AeadCipher(aead, nonces) if native is None else NativeAeadCipher(aead, nonces, native(algorithm, key))


def network_digest(name: str, secret: str) -> bytes:
    """The 32 bytes by which two nodes see that they share name and secret (control plane 3.3)."""
    seed = (name + secret).encode()
    digest = b""
    for _ in range(4):
        digest += _BE64.pack(siphash_1_3(seed))
        seed += digest
    return digest


def key_128(secret: str) -> bytes:
    """The 16-byte key of aes-gcm and xor; the network's name does not enter (control plane 4.1)."""
    seed = secret.encode()
    first = _BE64.pack(siphash_1_3(seed))
    return first + _BE64.pack(siphash_1_3(seed + first))


def key_256(secret: str) -> bytes:
    """The 32-byte key of aes-256-gcm and chacha20 (control plane 4.1)."""
    seed = secret.encode() + _LONG_KEY_LABEL
    key = b""
    for index in range(4):
        seed += key + bytes([index])
        key += _BE64.pack(siphash_1_3(seed))
    return key


def siphash_1_3(data: bytes) -> int:
    """SipHash with one compression and three finalisation rounds, both key halves 0 (Aumasson and Bernstein, 2012)."""
    v0, v1, v2, v3 = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573

    def sip_round() -> None:
        nonlocal v0, v1, v2, v3
        v0 = (v0 + v1) & _MASK
        v1 = _rotate(v1, 13) ^ v0
        v0 = _rotate(v0, 32)
        v2 = (v2 + v3) & _MASK
        v3 = _rotate(v3, 16) ^ v2
        v0 = (v0 + v3) & _MASK
        v3 = _rotate(v3, 21) ^ v0
        v2 = (v2 + v1) & _MASK
        v1 = _rotate(v1, 17) ^ v2
        v2 = _rotate(v2, 32)

    tail = len(data) % 8
    padded = data + bytes(7 - tail) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        v3 ^= word
        sip_round()
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        sip_round()
    return v0 ^ v1 ^ v2 ^ v3


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK
