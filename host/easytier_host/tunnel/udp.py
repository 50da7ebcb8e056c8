"""UDP tunnels: the opening handshake of both roles.

A connector sends a SYN with a random connection id and magic and waits for a SACK that repeats both (wire specification,
control plane 1.5); a listener's answers are in `udp_socket.py`, with the traffic.  Called by the package's `connect` and
`listen`.
"""

from __future__ import annotations

import itertools
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from easytier_host.tunnel.base import Listener, TunnelError
from easytier_host.tunnel.resolve import Endpoint, describe
from easytier_host.tunnel.udp_options import UdpCounters
from easytier_host.tunnel.udp_socket import MAX_TUNNELS, MAX_TUNNELS_PER_HOST, UdpSocket, UdpTunnel
from easytier_host.tunnel.udp_wire import KIND_SYN, MAGIC_SIZE, build_control, is_sack

# Ours.
ATTEMPT_SECONDS: Final = 1.0
"""After this time without an answer a further attempt starts; the earlier ones go on waiting, since a path may be slower."""
SETTLE_SECONDS: Final = 0.02
"""Pause after the SACK: stock sends it before its own entry exists, and what arrives in between is lost for good."""
_ANSWERS_PER_TURN: Final = 64


async def connect(endpoints: Sequence[Endpoint], tasks: TaskGroup, *, timeout: float) -> UdpTunnel:
    """Open a tunnel to one of `endpoints`, within `timeout` seconds; its reader runs in `tasks`.

    A lost SYN is never repeated from the same port: to stock, a second SYN from one address means a new connection that ends
    the first.  Each further attempt, once a second, has a socket, connection id and magic of its own; the first SACK wins.

    Raises `TunnelError` if nobody answered, or no endpoint can be reached from here.
    """
    opened: list[tuple[socket.socket, int, Endpoint]] = []
    failures: list[str] = []
    usable = list(endpoints)

    async def attempt(endpoint: Endpoint, failed: anyio.Event) -> None:
        try:
            sock, conn_id = await _exchange(endpoint)
        except OSError as error:
            failures.append(describe(error))
            if endpoint in usable:
                usable.remove(endpoint)
            failed.set()
        else:
            opened.append((sock, conn_id, endpoint))
            attempts.cancel_scope.cancel()

    try:
        with anyio.move_on_after(timeout):
            async with anyio.create_task_group() as attempts:
                for turn in itertools.count():
                    if not usable:
                        break
                    failed = anyio.Event()
                    attempts.start_soon(attempt, usable[turn % len(usable)], failed)
                    with anyio.move_on_after(ATTEMPT_SECONDS):
                        await failed.wait()
        if not opened:
            raise TunnelError("; ".join(dict.fromkeys(failures)) or f"no answer within {timeout:.2g} s")
        await anyio.sleep(SETTLE_SECONDS)
        winner, conn_id, endpoint = opened.pop(0)
        try:
            return UdpSocket(winner, tasks).add_tunnel(conn_id, endpoint.address)
        except BaseException:
            winner.close()
            raise
    finally:
        for sock, _, _ in opened:
            sock.close()


async def _exchange(endpoint: Endpoint) -> tuple[socket.socket, int]:
    """Send one SYN from a fresh port and wait, without limit, for its SACK, from whatever address; OSError if it cannot be
    sent."""
    sock = bind(endpoint.family, ("", 0))
    try:
        # A turn of the loop, so that it has forgotten an earlier socket of the same number before this one is waited for.
        await anyio.lowlevel.checkpoint()
        conn_id, magic = secrets.randbits(32), secrets.token_bytes(MAGIC_SIZE)
        sock.sendto(build_control(conn_id, KIND_SYN, magic), endpoint.address)
        while True:
            await anyio.wait_readable(sock)
            for _ in range(_ANSWERS_PER_TURN):
                try:
                    datagram = sock.recv(64)
                except BlockingIOError:
                    break
                if is_sack(datagram, conn_id, magic):
                    return sock, conn_id
    except BaseException:
        sock.close()
        raise


def bind(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    """A non-blocking UDP socket on `address`; one for IPv6 takes IPv6 only.  Raises OSError, as if the port is taken."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


class UdpListener(Listener):
    """A listening UDP socket; its tunnels share it and end with it."""

    def __init__(self, udp_socket: UdpSocket) -> None:
        self.url = str(udp_socket.url)
        self._socket = udp_socket

    @property
    def counters(self) -> UdpCounters:
        """Of the socket, with all its tunnels."""
        return self._socket.counters

    @property
    def tunnel_count(self) -> int:
        """Tunnels that came in here and are open."""
        return self._socket.tunnel_count

    def close(self) -> None:
        self._socket.close("the listener was closed")


def listen(
    endpoint: Endpoint,
    tasks: TaskGroup,
    on_tunnel: Callable[[UdpTunnel], None],
    *,
    max_tunnels: int = MAX_TUNNELS,
    max_tunnels_per_host: int = MAX_TUNNELS_PER_HOST,
) -> UdpListener:
    """Bind and give each tunnel that comes in to `on_tunnel`, which sets its callbacks, or closes it to refuse it silently.

    SYNs above the limits (tunnels in all, and from one IP address) get no answer.  Raises `TunnelError` if the address is not
    to be had.
    """
    try:
        sock = bind(endpoint.family, endpoint.address)
    except OSError as error:
        raise TunnelError(describe(error)) from None
    try:
        return UdpListener(
            UdpSocket(sock, tasks, on_tunnel, max_tunnels=max_tunnels, max_tunnels_per_host=max_tunnels_per_host)
        )
    except BaseException:
        sock.close()
        raise
