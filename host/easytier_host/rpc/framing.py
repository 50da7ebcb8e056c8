"""RPC packets: cutting a request or response into pieces and joining them again (control plane 6.1 - 6.4).  Sans-IO.

Stock receivers accept pieces in any order; so does `Reassembler`, within caps that a hostile peer cannot widen.  A call of
which one piece is refused cannot be completed, so it is refused as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from easytier_host.pb import common_pb2

# Wire: stock decides.
COMPRESSION_NONE: Final = common_pb2.CompressionNone
MAX_PIECES: Final = 32_768

# Ours.
PIECE_SIZE: Final = 1100
"""Content bytes of one piece; with headers and tail it fits 1300 bytes of UDP payload, as stock's pieces do."""
REASSEMBLY_TIMEOUT: Final = 10.0
"""Seconds after which an unfinished call is forgotten, as in stock."""
MAX_CALL_BYTES: Final = 1 << 20
MAX_PEER_BYTES: Final = 1 << 20
MAX_PEER_CALLS: Final = 64
MAX_NEIGHBOUR_CALLS: Final = 256
MAX_NEIGHBOUR_BYTES: Final = 2 << 20
"""Of all peers whose packets one neighbour brings: it may have invented them."""
MAX_TOTAL_CALLS: Final = 1024
MAX_TOTAL_BYTES: Final = 8 << 20
MAX_REFUSED: Final = 2048
"""Neighbours remembered of which something was refused; the oldest go."""
PIECE_COST: Final = 128
"""Bytes that a piece takes besides its content: empty ones would otherwise be free."""


class FramingError(Exception):
    """An RPC packet breaks the rules of pieces, or does not fit a cap; it is dropped."""


def split_call(template: common_pb2.RpcPacket, content: bytes) -> list[bytes]:
    """Encoded RpcPackets that carry `content`; the descriptor is repeated in each for old peers, compression told in the first.

    `template` gives everything but the body and the piece numbers.  An empty content is one piece.
    """
    pieces = [content[start : start + PIECE_SIZE] for start in range(0, len(content), PIECE_SIZE)] or [b""]
    encoded = []
    for index, body in enumerate(pieces):
        packet = common_pb2.RpcPacket()
        packet.CopyFrom(template)
        packet.body = body
        packet.total_pieces = len(pieces)
        packet.piece_idx = index
        if index == 0:
            packet.compression_info.algo = COMPRESSION_NONE
            packet.compression_info.accepted_algo = COMPRESSION_NONE
        else:
            packet.ClearField("compression_info")
        encoded.append(packet.SerializeToString())
    return encoded


@dataclass(slots=True)
class _Partial:
    total: int
    started_at: float
    size: int = 0
    first: common_pb2.RpcPacket | None = None
    bodies: dict[int, bytes] = field(default_factory=dict)


class Reassembler:
    """Joins the pieces of calls, per neighbour that brings them, sender, transaction and direction: so nobody can spoil the
    calls of a sender whose packets take another way.

    Caps: 64 unfinished calls and 1 MiB a peer, 256 calls and 2 MiB of all that one neighbour brings, 1024 calls and 8 MiB in
    all, 10 s each.  What would pass a cap raises `FramingError`.

    For 10 s after something of a neighbour was refused a call of it begins with its first piece alone, for others may well be
    pieces of a call of which some were refused.
    """

    def __init__(self) -> None:
        self._partials: dict[tuple[int, int, int, bool], _Partial] = {}
        self._calls: dict[Hashable, int] = {}
        """Unfinished calls of each neighbour, by its id, and of each peer behind it, by both."""
        self._bytes: dict[Hashable, int] = {}
        """What these hold."""
        self._total_bytes = 0
        self._refused: dict[int, float] = {}
        """When something of a neighbour was last refused, the oldest first."""

    @property
    def unfinished(self) -> int:
        """Calls of which pieces are missing."""
        return len(self._partials)

    def add(
        self, packet: common_pb2.RpcPacket, now: float, neighbour: int | None = None
    ) -> tuple[common_pb2.RpcPacket, bytes] | None:
        """Take one packet; returns piece 0 and the whole content when the call is complete, else None.  `neighbour` brought it,
        if that was not its sender.

        Raises `FramingError` for piece numbers that cannot be, an unknown compression, or a full buffer.
        """
        peer = packet.from_peer
        neighbour = peer if neighbour is None else neighbour
        key = (neighbour, peer, packet.transaction_id, packet.is_request)
        unheard_since = self._refused.get(neighbour, -math.inf)
        if packet.piece_idx and key not in self._partials and now - unheard_since < REASSEMBLY_TIMEOUT:
            raise FramingError(f"a piece of a call of peer {peer} of which others may have been refused")
        try:
            _check(packet)
            if packet.total_pieces == 1:
                return packet, packet.body
            return self._join(key, packet, now)
        except FramingError:
            if key in self._partials:
                self._forget(key)
            self._note_refusal(neighbour, now)
            raise

    def refuse(self, neighbour: int, now: float) -> int:
        """A packet that this neighbour brought was not read: none of its unfinished calls is completed any more; returns how
        many there were."""
        self._note_refusal(neighbour, now)
        if neighbour not in self._calls:
            return 0
        lost = [key for key in self._partials if key[0] == neighbour]
        for key in lost:
            self._forget(key)
        return len(lost)

    def _note_refusal(self, neighbour: int, now: float) -> None:
        self._refused.pop(neighbour, None)
        if len(self._refused) >= MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[neighbour] = now

    def _join(
        self, key: tuple[int, int, int, bool], packet: common_pb2.RpcPacket, now: float
    ) -> tuple[common_pb2.RpcPacket, bytes] | None:
        neighbour, peer, total = key[0], key[1], packet.total_pieces
        partial = self._partials.get(key)
        if partial is None:
            self.expire(now)
            if self._calls.get((neighbour, peer), 0) >= MAX_PEER_CALLS:
                raise FramingError(f"peer {peer} has {MAX_PEER_CALLS} unfinished calls")
            if self._calls.get(neighbour, 0) >= MAX_NEIGHBOUR_CALLS:
                raise FramingError(f"neighbour {neighbour} has brought {MAX_NEIGHBOUR_CALLS} unfinished calls")
            if len(self._partials) >= MAX_TOTAL_CALLS:
                raise FramingError(f"{MAX_TOTAL_CALLS} calls are unfinished already")
            partial = self._partials[key] = _Partial(total, now)
            _add(self._calls, key, 1)
        if partial.total != total:
            raise FramingError(f"call of {partial.total} pieces has become one of {total}")
        if packet.piece_idx in partial.bodies:
            return None
        size = len(packet.body) + PIECE_COST
        if (
            partial.size + size > MAX_CALL_BYTES
            or self._bytes.get((neighbour, peer), 0) + size > MAX_PEER_BYTES
            or self._bytes.get(neighbour, 0) + size > MAX_NEIGHBOUR_BYTES
            or self._total_bytes + size > MAX_TOTAL_BYTES
        ):
            raise FramingError(f"call of peer {peer} is larger than the reassembly buffer")
        partial.bodies[packet.piece_idx] = packet.body
        partial.size += size
        _add(self._bytes, key, size)
        self._total_bytes += size
        if packet.piece_idx == 0:
            partial.first = packet
        if len(partial.bodies) < total or partial.first is None:
            return None
        self._forget(key)
        return partial.first, b"".join(partial.bodies[index] for index in range(total))

    def expire(self, now: float) -> int:
        """Forget calls older than 10 s; returns how many there were."""
        stale = [key for key, partial in self._partials.items() if now - partial.started_at >= REASSEMBLY_TIMEOUT]
        for key in stale:
            self._forget(key)
        return len(stale)

    def _forget(self, key: tuple[int, int, int, bool]) -> None:
        partial = self._partials.pop(key)
        self._total_bytes -= partial.size
        _add(self._calls, key, -1)
        _add(self._bytes, key, -partial.size)


def _check(packet: common_pb2.RpcPacket) -> None:
    """Raises `FramingError` for what is no piece of any call."""
    total = packet.total_pieces
    if not 1 <= total <= MAX_PIECES or packet.piece_idx >= total:
        raise FramingError(f"piece {packet.piece_idx} of {total}")
    if packet.piece_idx == 0 and not packet.HasField("descriptor"):
        raise FramingError("first piece without a descriptor")
    if packet.HasField("compression_info") and packet.compression_info.algo != COMPRESSION_NONE:
        raise FramingError(f"compressed by algorithm {packet.compression_info.algo}, which this node never offered to accept")


def _add(table: dict[Hashable, int], key: tuple[int, int, int, bool], amount: int) -> None:
    """Change what the neighbour and the peer of a call have; entries of those that have nothing go."""
    for owner in (key[0], key[:2]):
        table[owner] = table.get(owner, 0) + amount
        if not table[owner]:
            del table[owner]
