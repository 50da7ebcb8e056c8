"""Tunnels: one underlay connection between neighbours each, frames in and frames out in batches.

Nothing here knows of peers, keys or routes.  `connector` and `listeners` call `connect` and `listen`; `peer_conn` uses what
they give.

    base.py         Tunnel, Listener: what the layers above see       url.py       TunnelUrl
    udp.py          opening handshake of both roles                   resolve.py   names to addresses
    udp_socket.py   a bound socket, its tunnels, GSO and GRO          udp_wire.py  header, packing into batches (pure)
    tcp.py          framing, connections, listener                    ring.py      a pair in memory

Each socket has one reader task in the task group it was opened with; cancelling the group closes the sockets.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from easytier_host.tunnel import ring, tcp, udp
from easytier_host.tunnel.base import Listener, Tunnel, TunnelError, TunnelInfo
from easytier_host.tunnel.resolve import resolve
from easytier_host.tunnel.udp_socket import MAX_TUNNELS, MAX_TUNNELS_PER_HOST
from easytier_host.tunnel.url import TunnelUrl

__all__ = ["Listener", "Tunnel", "TunnelError", "TunnelInfo", "TunnelUrl", "connect", "listen", "ring"]

CONNECT_SECONDS = 3.0
"""Stock's own limit for an UDP answer."""


async def connect(url: TunnelUrl, tasks: TaskGroup, *, timeout: float = CONNECT_SECONDS, prefer_ipv6: bool = False) -> Tunnel:
    """Open a tunnel to `url`, within `timeout` seconds for name, connection and opening handshake together.

    Nothing is delivered before the caller's next await, so that it can set `on_frames` and `on_close` first.

    Raises `TunnelError`, naming the URL, if the host has no address or nobody answers.
    """
    if not url.port:
        raise TunnelError(f"{url}: there is no port 0 to connect to")
    deadline = anyio.current_time() + timeout
    endpoints = await resolve(url, timeout=timeout, prefer_ipv6=prefer_ipv6)
    remaining = deadline - anyio.current_time()
    try:
        if url.scheme == "udp":
            return await udp.connect(endpoints, tasks, timeout=remaining)
        return await tcp.connect(endpoints, tasks, timeout=remaining)
    except TunnelError as error:
        raise TunnelError(f"{url}: {error}") from None


async def listen(
    url: TunnelUrl,
    tasks: TaskGroup,
    on_tunnel: Callable[[Tunnel], None],
    *,
    max_tunnels: int = MAX_TUNNELS,
    max_tunnels_per_host: int = MAX_TUNNELS_PER_HOST,
) -> Listener:
    """Listen at `url`; IPv6 addresses take IPv6 only.  `on_tunnel` gets each tunnel before its first frame and must not raise.

    It sets `on_frames` and `on_close`, or closes the tunnel to refuse it; it does not send, since over UDP the answer that
    opens the connector's end leaves after it returns.  The limits, in all and for one IP address, hold for UDP, where a
    tunnel costs a stranger one datagram.

    Raises `TunnelError`, naming the URL, if the address is not to be had.
    """
    endpoint = (await resolve(url, timeout=CONNECT_SECONDS))[0]
    try:
        if url.scheme == "udp":
            return udp.listen(endpoint, tasks, on_tunnel, max_tunnels=max_tunnels, max_tunnels_per_host=max_tunnels_per_host)
        return tcp.listen(endpoint, tasks, on_tunnel)
    except TunnelError as error:
        raise TunnelError(f"cannot listen on {url}: {error}") from None
