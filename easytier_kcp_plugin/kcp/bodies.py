"""What packets of a handshake carry behind their header: the request, what each end says of itself, marks of PING and RST."""

from __future__ import annotations

from typing import Final

from easytier_kcp_plugin.kcp.conn_data import ConnData, Offer
from easytier_kcp_plugin.kcp.header import PONG, SYN, SYN_ACK, Flag

# Ours.
HELD: Final = b"held"
"""Of a PING with which an acceptor of our kind says that it has the SYN, and is still reaching the destination."""
UNREACHABLE: Final = b"unreachable"
"""Of an RST with which such an acceptor says that it has no way to the destination.  Without a body: that refused."""
ASKED: Final = b"?"
"""Comes back in the answer, and so tells it from answers to the handshake's PINGs.  An acceptor that knows the opener to be of
its kind appends its offer: the SYN|ACK that had it may have been lost."""


def body_of(flags: Flag, request: ConnData, offer: Offer | None, *, echo: bytes = b"", accepted: bool = False) -> bytes:
    """The body of a packet.

    `request` is the session's, `offer` what to tell the peer if it is of our kind, else None; `echo` the body of the PING that
    is answered, `accepted` whether the peer has opened the session.
    """
    if flags == SYN:
        return request.encode()
    if flags == SYN_ACK and offer is not None:
        return ConnData(None, None, offer).encode()
    if flags == PONG:
        return echo + ConnData(None, None, offer).encode() if echo == ASKED and accepted and offer is not None else echo
    return b""
