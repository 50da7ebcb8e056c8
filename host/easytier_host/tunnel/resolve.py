"""From the host of an URL to socket addresses.  The only place of the tunnels that asks the system's resolver."""

from __future__ import annotations

import socket
from typing import Any, Final, NamedTuple

import anyio
import anyio.lowlevel

from easytier_host.tunnel.base import TunnelError
from easytier_host.tunnel.url import TunnelUrl

MAX_ENDPOINTS: Final = 8
"""Addresses of one name that are tried; the rest of a longer answer could not be reached within a connect timeout anyway."""


class Endpoint(NamedTuple):
    """Where to connect or bind: the address family and a numeric socket address."""

    family: socket.AddressFamily
    address: tuple[Any, ...]


async def resolve(url: TunnelUrl, *, timeout: float, prefer_ipv6: bool = False) -> list[Endpoint]:
    """All addresses of the URL's host, those of the preferred family first; IP addresses do not reach the resolver.

    Waits at most `timeout` seconds.  Raises `TunnelError` if the name has no address, or none in time.
    """
    if url.is_literal:
        await anyio.lowlevel.checkpoint()
        family = socket.AF_INET6 if ":" in url.host else socket.AF_INET
        return [Endpoint(family, (url.host, url.port))]
    try:
        with anyio.fail_after(timeout):
            answers = await anyio.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise TunnelError(f"{url}: the name was not resolved within {timeout:g} s") from None
    except (OSError, UnicodeError) as error:
        raise TunnelError(f"{url}: the name was not resolved: {describe(error)}") from None
    first = socket.AF_INET6 if prefer_ipv6 else socket.AF_INET
    endpoints = [Endpoint(family, address) for family, _, _, _, address in answers]
    return sorted(endpoints, key=lambda endpoint: endpoint.family != first)[:MAX_ENDPOINTS]


def describe(error: Exception) -> str:
    """A system error in words, without its number."""
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
