"""Which of several equal requests is the real one: stock opens up to five conversations for one TCP connection and uses one.

A stock opener abandons the losers without a word, yet finishes their handshake if their SYN|ACK comes late.  Only behind the
winner is an engine, so the first session of which a segment arrives is the real one.  The first to be established is announced
before that is known, since most often it is the real one and its server may have to speak first.  Called by `endpoint.py`; no
I/O, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from easytier_kcp_plugin.kcp.conn_data import ConnData, SocketAddress
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.handshake import State

if TYPE_CHECKING:
    from easytier_kcp_plugin.kcp.session import Session

WINDOW: Final = 2.0
"""Seconds after the first SYN in which another counts as a sibling: stock's last attempt starts 0.8 s after its first."""


class Siblings:
    """Sessions of one peer with equal source and destination."""

    def __init__(self, now: float) -> None:
        self._until = now + WINDOW
        self.members: list[Session] = []
        self._chosen: Session | None = None
        self._proven = False

    def takes(self, now: float) -> bool:
        """Whether a further SYN belongs here, and not to the next connection from the same port."""
        if now >= self._until:
            return False
        return self._chosen is None or self._chosen.state in (State.ESTABLISHED, State.LOCAL_CLOSED)

    @property
    def settled(self) -> bool:
        """Whether the real one is known, so that further SYNs are losers for certain."""
        return self._proven

    def join(self, session: Session) -> None:
        """Count `session` in."""
        session.siblings = self
        self.members.append(session)

    def leave(self, session: Session) -> None:
        """`session` has ended."""
        session.siblings = None
        self.members.remove(session)
        if self._chosen is session and not self._proven:
            self._chosen = None

    def established(self, session: Session, now: float) -> bool:
        """Whether to announce `session`, which has got its third packet."""
        if self._chosen is None:
            self._chosen = session
            return True
        self._chosen.probe(now)
        session.probe(now)
        return False

    def proven(self, session: Session, now: float) -> bool:
        """An engine was heard behind `session`; whether to announce it.  Resets those that lost."""
        announce = self._chosen is not session
        if not self._proven:
            self._proven, self._chosen = True, session
            for other in [other for other in self.members if other is not session]:
                other.reset(CloseReason.SUPERSEDED, now)
        return announce


_Key: TypeAlias = tuple[int, SocketAddress | None, SocketAddress | None]


class SiblingsTable(dict[_Key, Siblings]):
    """All of a node, by peer, source and destination."""

    def of(self, peer_id: int, conn_data: ConnData, now: float) -> Siblings | None:
        """Those of a SYN, which is to join them.

        None for openers of our kind, which reset their losers, and for those that name no source, which do not hedge.
        """
        if conn_data.offer is not None or conn_data.src is None or conn_data.src.port == 0:
            return None
        key = (peer_id, conn_data.src, conn_data.dst)
        siblings = self.get(key)
        if siblings is None or not siblings.takes(now):
            siblings = self[key] = Siblings(now)
        return siblings

    def leave(self, session: Session) -> None:
        """`session` has ended."""
        siblings = session.siblings
        if siblings is not None:
            siblings.leave(session)
            key = (session.peer_id, session.conn_data.src, session.conn_data.dst)
            if not siblings.members and self.get(key) is siblings:
                del self[key]
