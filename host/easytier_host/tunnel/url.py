"""URLs that name one end of a tunnel: `udp://192.0.2.1:11010`, `tcp://[2001:db8::1]:11010`, `udp://node.example`.

Pure parsing, no I/O: names are resolved when a tunnel is opened (`resolve.py`).  Users write these URLs, configuration files
hold them and neighbours announce them, so any text may come in.  Schemes and ports: wire specification, control plane 1.1.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

from easytier_host.tunnel.base import TunnelError

# Wire constants: stock decides.
DEFAULT_PORT: Final = 11010
"""Port of a `tcp` or `udp` URL that names none."""

# Ours.
SCHEMES: Final = ("tcp", "udp")
FOREIGN_SCHEMES: Final = frozenset({"wg", "ws", "wss", "quic", "faketcp", "ring", "unix", "http", "https", "txt", "srv"})
"""What stock knows and this node does not speak: a peer may announce them, so they get a message of their own."""
MAX_URL_LENGTH: Final = 512
"""Characters; a DNS name has at most 253 of them."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class TunnelUrl:
    """Scheme, host and port.  `host` is an IP address in its shortest form, without brackets, or a DNS name in lower case."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an URL; a missing port is 11010, port 0 means any (to listen).

        Raises `TunnelError` if it is malformed, if the scheme is not `tcp` or `udp`, or if it has a user, path, query or
        fragment.
        """
        shown = repr(text[:100])
        if len(text) > MAX_URL_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
            raise TunnelError(f"{shown} is not a URL")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise TunnelError(f"{shown} is not a URL: {error}") from None
        if not parts.netloc:
            raise TunnelError(f"{shown} is not a URL: write it as udp://host:port")
        if parts.scheme in FOREIGN_SCHEMES:
            raise TunnelError(f"{shown}: tunnels of type {parts.scheme} are not supported by this node (it has tcp and udp)")
        if parts.scheme not in SCHEMES:
            raise TunnelError(f"{shown}: unknown scheme {parts.scheme!r} (this node has tcp and udp)")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise TunnelError(f"{shown}: only scheme, host and port are supported")
        host = _checked_host(parts.hostname or "", bracketed=parts.netloc.startswith("["))
        if host is None:
            raise TunnelError(f"{shown}: the host is neither an IP address nor a DNS name")
        return cls(parts.scheme, host, DEFAULT_PORT if port is None else port)

    @classmethod
    def from_address(cls, scheme: str, address: tuple[Any, ...]) -> Self:
        """The URL of a socket address as the socket module gives it: (host, port) or (host, port, flow info, scope id)."""
        host, port = address[:2]
        if len(address) == 4 and address[3] and "%" not in host:
            host = f"{host}%{address[3]}"
        return cls(scheme, host, port)

    @property
    def is_literal(self) -> bool:
        """True if the host is an IP address rather than a name."""
        return _ip_address(self.host) is not None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def subscriber(host: str) -> str:
    """Whom an underlay address counts for where there are caps: an IPv6 address for its /64, of which one host may have all."""
    address = _ip_address(host)
    if address is None or address.version == 4:
        return host
    return str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))


def _checked_host(host: str, *, bracketed: bool) -> str | None:
    address = _ip_address(host)
    if address is not None:
        return str(address) if bracketed == (address.version == 6) else None
    # A last label of digits would be read as an odd spelling of an IPv4 address by some resolvers and as a name by others.
    if bracketed or len(host) > 253 or not _DNS_NAME.fullmatch(host) or host.rstrip(".").rpartition(".")[2].isdigit():
        return None
    return host.lower()


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
