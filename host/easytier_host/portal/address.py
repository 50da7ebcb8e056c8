"""What the setting `rpc_portal` means: the addresses to try, in order.  Pure.

====================  ============================================================================================
value                 listens on
====================  ============================================================================================
empty                 127.0.0.1, the first free port of 15888 to 15899; without one the node runs without a portal
``off``               nothing
``0``                 127.0.0.1, the first free port of these, else any
``N``                 127.0.0.1, port N
``ip:0``              that address, the first free port of these, else any
``ip:port``           as given; IPv6 in brackets
====================  ============================================================================================

Stock listens on all addresses where none is given; this node only where it is told to (wire specification, CLI portal 10.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

# Wire: stock decides.
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 15888
PORTS: Final = range(DEFAULT_PORT, DEFAULT_PORT + 12)
OFF: Final = "off"


@dataclass(frozen=True, slots=True)
class PortalAddress:
    """`ports` to try on `host`, in order; 0 is any.  `required`: the user asked for it, so failing is an error."""

    host: str
    ports: tuple[int, ...]
    required: bool


def parse(text: str) -> PortalAddress | None:
    """The addresses that a setting stands for, None for `off`; raises ValueError with a clause for the user."""
    if text == OFF:
        return None
    if not text:
        return PortalAddress(DEFAULT_HOST, tuple(PORTS), required=False)
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f'"{text}" is not ip:port; IPv6 addresses stand in brackets')
    if not (port_text.isascii() and port_text.isdecimal()) or int(port_text) > 0xFFFF:
        raise ValueError(f'expected a port, ip:port or "{OFF}", found "{text[:100]}"')
    try:
        shown = str(ip_address(host)) if colon else DEFAULT_HOST
    except ValueError:
        raise ValueError(f'"{host[:100]}" is not an IP address') from None
    port = int(port_text)
    return PortalAddress(shown, (port,) if port else (*PORTS, 0), required=True)


def check(value: object) -> str:
    """`value` if it is such a setting; raises ValueError with a clause for the user."""
    if not isinstance(value, str):
        raise ValueError("expected a string")
    parse(value)
    return value


def parse_metrics(text: str) -> PortalAddress | None:
    """The same for `metrics_listener`, which is off if it is empty, and takes no other port than it was given."""
    wanted = parse(text) if text else None
    return None if wanted is None else PortalAddress(wanted.host, wanted.ports[-1:], required=True)
