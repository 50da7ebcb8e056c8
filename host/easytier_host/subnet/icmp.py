"""Pings for networks behind this node: echo requests go on from a socket of this machine, and replies find their way back.

The socket is a raw one, or an unprivileged one of the kernel where `net.ipv4.ping_group_range` allows it; without either pings
are dropped and counted, and a warning says so once.  An unprivileged socket chooses its own identifier, so requests are told
apart by their sequence number alone, of which each gets one of ours.

Bounds: 4096 requests wait for a reply, at most 20 s; then the one that waits longest gives way.  Of several replies to one
request the first one counts.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final, NamedTuple

import anyio

from easytier_hooks.errors import DialRefused
from easytier_hooks.types import IPAddress
from easytier_host import echo, ipv4
from easytier_host.echo import ECHO_REPLY, ECHO_REQUEST, Echo
from easytier_host.metrics import Metrics
from easytier_host.subnet.fragments import cut

logger = logging.getLogger("easytier.subnet")

# Wire: stock decides (data plane 1.7).
FRAGMENT_SIZE: Final = 1200
"""Payload bytes of each fragment of an answer."""
TIMEOUT: Final = 20.0
"""Seconds."""

# Fixed by Linux (include/uapi/linux/icmp.h).
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1

# Ours.
MAX_PENDING: Final = 4096
REPLIES_PER_TURN: Final = 64
_LARGEST: Final = 65_535


class Request(NamedTuple):
    """An echo request that waits for its reply; addresses as the source knows them."""

    source: bytes
    destination: bytes
    identifier: int
    sequence: int
    real: str
    """The address to which it went."""
    at: float


class PendingRequests:
    """Requests under way, by the sequence number that we gave them.  Sans-IO."""

    def __init__(self, *, max_pending: int = MAX_PENDING) -> None:
        self._max_pending = max_pending
        self._requests: dict[int, Request] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> int:
        """The sequence number to send it with."""
        if len(self._requests) >= self._max_pending:
            del self._requests[next(iter(self._requests))]
        sequence = self._next
        self._next = (self._next + 1) & 0xFFFF
        self._requests[sequence] = request
        return sequence

    def settle(self, sequence: int, replier: str, now: float) -> Request | None:
        """The request that a reply from the address `replier` answers, which is done with then; None if nobody waits."""
        request = self._requests.get(sequence)
        if request is None or request.real != replier:
            return None
        del self._requests[sequence]
        return request if now - request.at < TIMEOUT else None


class IcmpProxy:
    """Pings of all peers.

    `real_address(ip, exit_node)` says where a request really goes, or raises DialRefused; `reply(address, packets)` sends
    packets to an overlay address; `own_address` is answered by this node itself; `identifier` is that of our requests; `mtu`
    that of the overlay, in bytes.
    """

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        real_address: Callable[[IPAddress, bool], IPAddress],
        reply: Callable[[bytes, list[bytes]], None],
        own_address: IPv4Address | None,
        identifier: int,
        mtu: int,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._real_address = real_address
        self._reply = reply
        self._own_address = own_address
        self._identifier = identifier
        self._fragment_size = min(FRAGMENT_SIZE, mtu - ipv4.HEADER_SIZE)
        self._identification = 0
        self._pending = PendingRequests()
        self._socket: socket.socket | None = None

    def take(self, packet: bytes, exit_node: bool) -> bool:
        """Send on the echo request in a whole ICMP packet of a peer, or answer it; False if it is something else."""
        request = echo.parse(packet)
        if request is None or request.kind != ECHO_REQUEST:
            return False
        source, destination = packet[12:16], packet[16:20]
        ip = IPv4Address(destination)
        if ip == self._own_address:
            self._answer(source, destination, request)
            return True
        try:
            real = str(self._real_address(ip, exit_node))
            if self._socket is None:
                raise OSError("there is no socket for pings")
            waiting = Request(source, destination, request.identifier, request.sequence, real, self._clock())
            sequence = self._pending.add(waiting)
            message = Echo(ECHO_REQUEST, self._identifier, sequence, request.data).encode()
            self._socket.sendto(message, (real, 0))
        except (DialRefused, OSError):
            self._metrics.dropped_subnet += 1
        return True

    async def run(self) -> None:
        """Let pings go further than this node, for ever; returns at once, with a warning, where there can be no socket."""
        try:
            opened = _open_socket()
        except OSError as error:
            logger.warning(
                "pings to networks behind this node get no answer (%s): run as root, give CAP_NET_RAW, or set "
                "net.ipv4.ping_group_range",
                error.strerror,
            )
            return
        with opened:
            self._socket = opened
            try:
                while True:
                    await anyio.wait_readable(opened)
                    self._carry_replies(opened)
            finally:
                self._socket = None

    def _carry_replies(self, source: socket.socket) -> None:
        for _ in range(REPLIES_PER_TURN):
            try:
                data, (host, _) = source.recvfrom(_LARGEST)
            except OSError:
                # Empty; or the kernel tells of an error once and goes on.
                return
            raw = source.type == socket.SOCK_RAW
            reply = Echo.parse(data[(data[0] & 15) * 4 :] if raw and data else data)
            if reply is None or reply.kind != ECHO_REPLY or (raw and reply.identifier != self._identifier):
                # A raw socket hears the replies to everybody's pings.
                continue
            request = self._pending.settle(reply.sequence, host, self._clock())
            if request is not None:
                answered = Echo(ECHO_REPLY, request.identifier, request.sequence, reply.data)
                self._answer(request.source, request.destination, answered)

    def _answer(self, source: bytes, destination: bytes, message: Echo) -> None:
        """Reply to `source`, from the `destination` that it asked."""
        self._identification = (self._identification + 1) & 0xFFFF
        payload = message._replace(kind=ECHO_REPLY).encode()
        packet = ipv4.build(destination, source, ipv4.ICMP, payload, identification=self._identification, fragment=0)
        self._reply(source, cut(packet, self._fragment_size))


def _open_socket() -> socket.socket:
    """A socket that takes echo requests and gives replies; raises OSError."""
    try:
        opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    else:
        # A set bit blocks its type.
        opened.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("I", ~(1 << ECHO_REPLY) & 0xFFFF_FFFF))
    opened.setblocking(False)
    return opened
