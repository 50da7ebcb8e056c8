"""What an endpoint keeps of each peer: its path, its conversations, and what waits to be opened.  Sans-IO.

A peer without sessions is kept for what its path has learnt, up to a number; then the one idle longest is forgotten.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from easytier_kcp_plugin.kcp.engine import Path, PathFactory
from easytier_kcp_plugin.kcp.openings import Openings
from easytier_kcp_plugin.kcp.segment_size import STOCK_MSS

if TYPE_CHECKING:
    from easytier_kcp_plugin.kcp.events import Role
    from easytier_kcp_plugin.kcp.session import Session

# Ours.
MAX_IDLE: Final = 1024


@dataclass(slots=True)
class Peer:
    """One of them."""

    path: Path
    by_conv: dict[tuple[Role, int], Session] = field(default_factory=dict)
    """With those that linger, and with every attempt of an opener."""
    live: int = 0
    """Sessions that are not over."""
    is_ours: bool = False
    openings: Openings[Session] = field(default_factory=Openings)
    heard_at: float = -math.inf
    segment_bytes: int = STOCK_MSS


class Peers(dict[int, Peer]):
    """By peer id."""

    def __init__(self, make_path: PathFactory) -> None:
        super().__init__()
        self._make_path = make_path
        self._idle: OrderedDict[int, None] = OrderedDict()

    def meet(self, peer_id: int) -> Peer:
        """The record of a peer that is about to get a session."""
        peer = self.get(peer_id)
        if peer is None:
            peer = self[peer_id] = Peer(self._make_path())
            self.note_idle(peer_id)
        return peer

    def note_idle(self, peer_id: int) -> None:
        """To be called when a session or a conversation may have been the last one of a peer."""
        peer = self[peer_id]
        if peer.live or peer.by_conv:
            return
        self._idle.pop(peer_id, None)
        self._idle[peer_id] = None
        while len(self._idle) > MAX_IDLE:
            idlest, _ = self._idle.popitem(last=False)
            record = self[idlest]
            if not record.live and not record.by_conv:
                del self[idlest]
