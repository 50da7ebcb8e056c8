"""IPv4 fragments: put together what peers send in pieces, and cut what is too large for the overlay (RFC 791 section 3.2).
Sans-IO.

Only for packets that end at the subnet router; what goes to the device is the kernel's to assemble.  Pieces that overlap spoil
their packet: no honest sender makes them, and guessing which one counts has been an attack (RFC 5722).

Bounds: a peer may fill 1 MiB with packets that are not whole, the one that waits longest gives way to a new piece; all peers
together 8 MiB, then the new piece is dropped.  A packet has 10 s from its first piece on.  `Metrics.dropped_subnet` counts what
is given up.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from easytier_host import ipv4
from easytier_host.metrics import Metrics

# Wire: stock decides (data plane 1.7).
TIMEOUT: Final = 10.0
"""Seconds."""

# Ours, in bytes.
MAX_BYTES_PER_PEER: Final = 1 << 20
MAX_BYTES: Final = 8 << 20
OVERHEAD: Final = 256
"""What a piece counts besides its payload, which bounds the number of pieces, too."""

_UINT16: Final = struct.Struct("!H")


class Reassembler:
    """The packets that are not whole yet."""

    def __init__(self, metrics: Metrics, *, max_bytes_per_peer: int = MAX_BYTES_PER_PEER, max_bytes: int = MAX_BYTES) -> None:
        self._metrics = metrics
        self.size = 0
        """Bytes held, as they count against the bounds."""
        self._max_bytes_per_peer = max_bytes_per_peer
        self._max_bytes = max_bytes
        self._peers: dict[int, _Share] = {}

    def add(self, packet: bytes, peer_id: int, now: float) -> bytes | None:
        """Take a fragment, an IPv4 packet of at least 20 bytes; returns the whole packet if this was its last piece."""
        piece = _Piece.parse(packet)
        if piece is None:
            self._metrics.dropped_subnet += 1
            return None
        share = self._peers.setdefault(peer_id, _Share())
        self._expire(share, now)
        cost = len(piece.payload) + OVERHEAD
        while share.partials and share.size + cost > self._max_bytes_per_peer:
            self._give_up(share, next(iter(share.partials)))
        if self.size + cost > self._max_bytes:
            self._metrics.dropped_subnet += 1
            return None
        # Addresses, identification and protocol tell the packets of one sender apart.
        key = packet[12:20] + packet[4:6] + packet[9:10]
        partial = share.partials.setdefault(key, _Partial(now))
        known = partial.pieces.get(piece.start)
        if known == piece.payload:
            return None
        if known is not None or not partial.put(piece):
            self._give_up(share, key)
            return None
        partial.size += cost
        share.size += cost
        self.size += cost
        if not partial.may_be_whole:
            return None
        whole = partial.join()
        self._give_up(share, key, in_vain=whole is None)
        return whole

    def expire(self, now: float) -> None:
        """Give up what has waited too long; to be called every few seconds."""
        for peer_id, share in list(self._peers.items()):
            self._expire(share, now)
            if not share.partials:
                del self._peers[peer_id]

    def _expire(self, share: _Share, now: float) -> None:
        for key, partial in list(share.partials.items()):
            if now - partial.began < TIMEOUT:
                break
            self._give_up(share, key)

    def _give_up(self, share: _Share, key: bytes, *, in_vain: bool = True) -> None:
        size = share.partials.pop(key).size
        share.size -= size
        self.size -= size
        self._metrics.dropped_subnet += in_vain


def cut(packet: bytes, payload_size: int) -> list[bytes]:
    """The fragments of a whole IPv4 packet without options, with at most `payload_size` bytes each (rounded down to eight);
    the packet alone if it needs none."""
    header, payload = packet[: ipv4.HEADER_SIZE], packet[ipv4.HEADER_SIZE :]
    if len(payload) <= payload_size:
        return [packet]
    step = max(8, payload_size & ~7)
    identification = int.from_bytes(header[4:6], "big")
    return [
        ipv4.build(
            header[12:16],
            header[16:20],
            header[9],
            payload[start : start + step],
            identification=identification,
            fragment=start // 8 | (ipv4.MORE_FRAGMENTS if start + step < len(payload) else 0),
        )
        for start in range(0, len(payload), step)
    ]


class _Piece(NamedTuple):
    start: int
    payload: bytes
    is_last: bool
    header: bytes

    @classmethod
    def parse(cls, packet: bytes) -> _Piece | None:
        """None for what cannot be a part of any packet."""
        header_size = (packet[0] & 15) * 4
        (total,) = _UINT16.unpack_from(packet, 2)
        (field,) = _UINT16.unpack_from(packet, 6)
        start, is_last = (field & ipv4.OFFSET_MASK) * 8, not field & ipv4.MORE_FRAGMENTS
        size = total - header_size
        if header_size < ipv4.HEADER_SIZE or size <= 0 or total > len(packet):
            return None
        if start + size > ipv4.MAX_PACKET - header_size or (size % 8 and not is_last):
            return None
        return cls(start, packet[header_size:total], is_last, packet[: ipv4.HEADER_SIZE])


class _Partial:
    """The pieces of one packet, by where they begin."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.size = 0
        self.pieces: dict[int, bytes] = {}
        self._header = b""
        self._received = 0
        self._total: int | None = None

    def put(self, piece: _Piece) -> bool:
        """False if it contradicts the others."""
        if piece.is_last:
            if self._total is not None:
                return False
            self._total = piece.start + len(piece.payload)
        if piece.start == 0:
            self._header = piece.header
        self.pieces[piece.start] = piece.payload
        self._received += len(piece.payload)
        return self._total is None or self._received <= self._total

    @property
    def may_be_whole(self) -> bool:
        return self._received == self._total

    def join(self) -> bytes | None:
        """The packet, its options left out; None if the pieces overlap."""
        end = 0
        ordered = []
        for start, payload in sorted(self.pieces.items()):
            if start != end:
                return None
            ordered.append(payload)
            end += len(payload)
        header = self._header
        identification = int.from_bytes(header[4:6], "big")
        return ipv4.build(header[12:16], header[16:20], header[9], b"".join(ordered), identification=identification, fragment=0)


class _Share:
    """What one peer has under way, the packet that began first in front."""

    def __init__(self) -> None:
        self.size = 0
        self.partials: dict[bytes, _Partial] = {}
