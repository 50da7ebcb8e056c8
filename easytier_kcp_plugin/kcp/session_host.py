"""What a session asks of its endpoint: convs, packets, engines, and to be told on.  `endpoint.py` is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from easytier_kcp_plugin.kcp.engine import Engine
from easytier_kcp_plugin.kcp.events import Event
from easytier_kcp_plugin.kcp.header import Flag
from easytier_kcp_plugin.kcp.sending import SendingMemory

if TYPE_CHECKING:
    from easytier_kcp_plugin.kcp.session import Session


class SessionHost(Protocol):
    """What a session asks of its endpoint."""

    half_close_idle: float
    sending: SendingMemory

    def opening_slot(self, session: Session, now: float) -> float:
        """When the first SYN of `session` may leave; infinite if `begin_attempts` will be called again."""
        ...

    def opening_ended(self, session: Session) -> None:
        """`session` is served, or will not be: another may open."""
        ...

    def is_stream(self, peer_id: int) -> bool:
        """Whether the way to a peer keeps the order and repeats what is lost."""
        ...

    def crowd(self, peer_id: int) -> tuple[int, float]:
        """How many conversations there are with a peer, and when the last packet of any of them came."""
        ...

    def new_conv(self, session: Session) -> int:
        """A conv that leads to `session` from now on."""
        ...

    def forget(self, session: Session, conv: int) -> None:
        """Packets for `conv` are for strangers from now on."""
        ...

    def send(self, session: Session, conv: int, flags: Flag, body: bytes) -> None:
        """Queue a packet."""
        ...

    def open_engine(self, session: Session, conv: int, now: float) -> Engine:
        """An engine on the session's path, whose datagrams leave as packets of `conv`."""
        ...

    def engine_closed(self, engine: Engine) -> None:
        """No datagram of `engine` will leave any more."""
        ...

    def emit(self, event: Event) -> None:
        """Queue an event."""
        ...

    def established(self, session: Session, now: float) -> None:
        """An acceptor's session got its third packet."""
        ...

    def proven(self, session: Session, now: float) -> None:
        """The peer's engine was heard for the first time."""
        ...

    def over(self, session: Session) -> None:
        """The session has ended for the application; a conversation of it may linger."""
        ...
