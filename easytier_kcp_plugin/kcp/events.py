"""What an endpoint tells its user: roles, events, reasons and errors, and what is to be sent.  Data only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, TypeAlias

from easytier_kcp_plugin.kcp.conn_data import ConnData
from easytier_kcp_plugin.kcp.header import PacketType

if TYPE_CHECKING:
    from easytier_kcp_plugin.kcp.session import Session


class Role(IntEnum):
    """Which end of a session we are; the value is the type of the packets that we send."""

    SOURCE = PacketType.KCP_SRC
    """The opener."""
    DESTINATION = PacketType.KCP_DST
    """The acceptor."""


class CloseReason(StrEnum):
    """Why a session is over.  Only FINISHED means that both streams are whole."""

    FINISHED = "finished"
    RESET = "reset by the peer"
    ABORTED = "reset by this node"
    REFUSED = "refused by the peer"
    NO_ANSWER = "the peer did not answer"
    DESTINATION_REFUSED = "refused by the destination, or out of the peer's reach"
    DESTINATION_UNREACHABLE = "the peer cannot reach the destination"
    DESTINATION_SILENT = "the peer has no answer of the destination yet"
    NOT_ACCEPTED = "the peer did not accept the connection"
    SILENT = "nothing heard from the peer for 60 s"
    STALLED = "the peer acknowledged nothing for 60 s"
    PEER_REPLACED = "the peer has left, and another has the address"
    GAVE_WAY = "too many connections are being opened, and this one took long"
    SUPERSEDED = "the peer uses another connection for this flow"


class KcpError(Exception):
    """Base of what this package raises."""


class SessionClosed(KcpError):
    """The session is over, or its writing side has been ended."""


@dataclass(frozen=True, slots=True)
class Established:
    """A session that we opened has been answered; bytes may have been written before."""

    session: Session


@dataclass(frozen=True, slots=True)
class Incoming:
    """A peer asks for a flow to `conn_data.dst`, which is never None.  Serve it, or `reset` it."""

    session: Session
    conn_data: ConnData


@dataclass(frozen=True, slots=True)
class Readable:
    """`read` returned nothing before and would return something by now."""

    session: Session


@dataclass(frozen=True, slots=True)
class Writable:
    """`write` took less than it was given before and would take more by now."""

    session: Session


@dataclass(frozen=True, slots=True)
class PeerFinished:
    """The peer ended its direction; end of stream follows once all has been read."""

    session: Session


@dataclass(frozen=True, slots=True)
class Closed:
    """The last event of a session.  What came in order can still be read."""

    session: Session
    reason: CloseReason


Event: TypeAlias = Established | Incoming | Readable | Writable | PeerFinished | Closed


@dataclass(frozen=True, slots=True)
class Batch:
    """Payloads for one peer, in the order to send them."""

    peer_id: int
    packet_type: PacketType
    payloads: list[bytes]


@dataclass(frozen=True, slots=True)
class Poll:
    """What `Endpoint.poll` found."""

    batches: list[Batch]
    events: list[Event]
    deadline: float
    """When to poll again at the latest; infinite if only input can change anything."""
    resized: Sequence[tuple[int, int]] = ()
    """Peers to which segments carry another number of bytes from now on, and that number."""
