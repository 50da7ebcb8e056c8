"""What a UDP socket is asked for, and what it counts.

The options are Linux's; a system that lacks one says so when asked, and `udp_socket.py`, the only caller, does without.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

# Linux's numbers; the socket module has no names for them.
_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_IP_MTU_DISCOVER: Final = 10
_PMTUDISC_DONT: Final = 0
_PMTUDISC_WANT: Final = 1
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_IPV6_LEAST_MTU: Final = 1280
"""Of any link (RFC 8200, 5)."""
_IPV6_DSTOPTS: Final = 59
_UDP6_HEADERS: Final = 48
_PADDING: Final = 224
"""Bytes by which a packet of more than 1280 becomes one of more than 1500."""
_EXPERIMENTAL: Final = 0x1E
"""An option that whoever does not know it skips (RFC 4727, 5); of what is called padding Linux takes seven bytes at most."""
_DESTINATION_OPTIONS: Final = bytes((0, _PADDING // 8 - 1, _EXPERIMENTAL, _PADDING - 4)) + bytes(_PADDING - 4)
"""The header (RFC 8200, 4.6) with one option that says nothing."""

AncillaryItem: TypeAlias = tuple[int, int, bytes]

CUT: Final[AncillaryItem] = (socket.IPPROTO_IPV6, _IPV6_DSTOPTS, _DESTINATION_OPTIONS)
"""Control message that has a datagram cut, which would not be without it."""
CUT_ABOVE: Final = _IPV6_LEAST_MTU - _UDP6_HEADERS
"""Bytes of the largest datagram that every link carries whole."""

# Ours.
SOCKET_BUFFER_BYTES: Final = 4 << 20
"""Asked for each way: about 30 ms at 1 Gbit/s, longer than this node is busy elsewhere."""


@dataclass(slots=True)
class UdpCounters:
    """What happened on one socket since it was opened, in datagrams.

    `received` counts all; each one that did not become a frame is in exactly one of the next five or was a SYN that was
    answered.
    """

    received: int = 0
    malformed: int = 0
    """Too short for a header, or of another length than it says."""
    bad_size: int = 0
    """Data with a frame below 16 or above 2000 bytes."""
    unknown: int = 0
    """Data for a connection that does not exist, or from another address than its own."""
    ignored: int = 0
    """Of a kind that means nothing here: hole punching, FIN, STUN, a late SACK."""
    refused: int = 0
    """SYNs above the limits of tunnels, or turned away by the layer above."""
    sent: int = 0
    backlog_dropped: int = 0
    """Not sent because the backlog was full."""
    send_errors: int = 0
    """Refused by the network: no route, firewall, unreachable."""
    receive_errors: int = 0


def segment_option(segment: int) -> AncillaryItem:
    """Control message that has a send cut into datagrams of `segment` bytes."""
    return (_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", segment))


def segment_size(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """Size of the datagrams that a read holds, all but the last; 0 if it is only one."""
    for level, kind, data in ancillary:
        if level == _SOL_UDP and kind == _UDP_GRO:
            return int.from_bytes(data[:4], sys.byteorder)
    return 0


def enlarge_buffers(sock: socket.socket) -> None:
    """Ask for large buffers: past the system's limit if this process may, up to it otherwise."""
    for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER_BYTES)
        except OSError:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER_BYTES)


def path_mtu(family: int, address: tuple[Any, ...]) -> int:
    """Bytes of the largest packet that the system would send to `address` in one piece: the MTU of the link, or what routers
    have told; 0 if there is no way."""
    level, option = (socket.IPPROTO_IP, _IP_MTU) if family == socket.AF_INET else (socket.IPPROTO_IPV6, _IPV6_MTU)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            return sock.getsockopt(level, option)
    except OSError:
        return 0


def set_fragments(sock: socket.socket, *, allowed: bool) -> bool:
    """Whether packets may be cut on their way where routers do not tell that they are too large: IPv4 without DF, so by the
    routers; IPv6 here, in the size that every link carries, if this process may set its options (CAP_NET_RAW).

    Otherwise as the system does by itself: one that is larger than the path is known to carry is cut here, others never.

    Returns whether datagrams above `CUT_ABOVE` have to be sent with `CUT` for that: Linux cuts IPv6 to the size that is set,
    but only what is larger than the MTU of the way, here of links up to 1500 bytes.  Smaller ones must not be made larger.
    """
    with contextlib.suppress(OSError):
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT if allowed else _PMTUDISC_WANT)
            return False
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU, _IPV6_LEAST_MTU if allowed else 0)
        if allowed:
            # Set and taken back, to see whether this process may.
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DSTOPTS, _DESTINATION_OPTIONS)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DSTOPTS, b"")
            return True
    return False


def has_gso(sock: socket.socket) -> bool:
    """True if the system can cut one send into datagrams."""
    try:
        sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
    except OSError:
        return False
    return True


def enable_gro(sock: socket.socket) -> bool:
    """Have several datagrams of one sender come in one read; False if the system cannot."""
    try:
        sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    except OSError:
        return False
    return True
