"""Filters on flows, as they are typed after `--filter`, and in the TUI.

    transport:kcp           by field; a prefix of the value is enough: state:conn
    port:22                 at either end
    cidr:10.1.0.0/16        either end in a network; src: and dst: look at one end
    dst:10.1.               addresses that begin so
    -state:closed           everything but; in a command line write --filter=-state:closed
    transport:kcp,quic      one of several
    kcp port:22             all terms must hold; a word without a field is looked for everywhere

Capitals do not matter.  What cannot be understood, or can hold for no flow, raises ValueError, which names the nearest field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, Protocol, TypeAlias

STATES: Final = ("seen", "connecting", "connected", "half-closed", "closed", "failed", "unknown")
"""The last one is for states of stock nodes that this program has no name for."""
DIRECTIONS: Final = ("outbound", "inbound", "forwarded")

_OCTET: Final = r"(25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4: Final = rf"{_OCTET}(\.{_OCTET}){{0,2}}\.?|{_OCTET}(\.{_OCTET}){{3}}(:\d*)?"
_IPV6: Final = r"\[?[0-9a-f]*(:[0-9a-f:.]*)?(\](:\d*)?)?"
_BEGINNING: Final = re.compile(f"{_IPV4}|{_IPV6}", re.ASCII)
"""What an address with its port may begin with."""


class Row(Protocol):
    """What filters look at: the rows of the command, the records of the TUI.  `source` and `destination` are ip:port."""

    @property
    def source(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def transport(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def direction(self) -> str: ...
    @property
    def chosen_by(self) -> str: ...
    @property
    def why(self) -> str: ...


Predicate: TypeAlias = Callable[[Row], bool]


def parse(text: str) -> Predicate:
    """The filter as a question about one flow; raises ValueError."""
    terms = [_term(word) for word in text.lower().split()]
    return lambda row: all(term(row) for term in terms)


def _term(word: str) -> Predicate:
    if word.startswith("-") and len(word) > 1:
        positive = _term(word[1:])
        return lambda row: not positive(row)
    name, colon, values = word.partition(":")
    # The colons of an IPv6 address are no field.
    if not colon or not (name.isalpha() and name.isascii()):
        return lambda row: word in _text(row)
    make = FIELDS.get(name)
    if make is None:
        near = get_close_matches(name, FIELDS, n=1)
        raise ValueError(f"no field {name}; " + (f'did you mean "{near[0]}:"?' if near else f"there are {', '.join(FIELDS)}"))
    if not values:
        raise ValueError(f"{name}: what?")
    any_of = [make(value) for value in values.split(",")]
    return lambda row: any(holds(row) for holds in any_of)


def _text(row: Row) -> str:
    words = (row.source, row.destination, row.peer, row.transport, row.state, row.direction, row.chosen_by, row.why)
    return " ".join(words).lower()


def _starts(read: Callable[[Row], str], known: Sequence[str] = ()) -> Callable[[str], Predicate]:
    def make(value: str) -> Predicate:
        if known and not any(word.startswith(value) for word in known):
            near = get_close_matches(value, known, n=1)
            raise ValueError(f"{value}: " + (f'did you mean "{near[0]}"?' if near else f"there are {', '.join(known)}"))
        return lambda row: read(row).lower().startswith(value)

    return make


def _contains(read: Callable[[Row], str]) -> Callable[[str], Predicate]:
    return lambda value: lambda row: value in read(row).lower()


def _port(value: str) -> Predicate:
    if not (value.isascii() and value.isdecimal() and int(value) <= 0xFFFF):
        raise ValueError(f"port:{value} is not a port, 0 to 65535")
    ending = f":{int(value)}"
    return lambda row: row.source.endswith(ending) or row.destination.endswith(ending)


def _ends(*read: Callable[[Row], str]) -> Callable[[str], Predicate]:
    def make(value: str) -> Predicate:
        if "/" not in value:
            if not _BEGINNING.fullmatch(value):
                raise ValueError(f"{value} is not an address, nor a network such as 10.1.0.0/16")
            return lambda row: any(end(row).startswith((value, f"[{value}")) for end in read)
        try:
            network = ip_network(value, strict=False)
        except ValueError:
            raise ValueError(f"{value} is not a network such as 10.1.0.0/16") from None
        return lambda row: any(_is_in(end(row), network) for end in read)

    return make


def _is_in(end: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        return ip_address(end.rpartition(":")[0].strip("[]")) in network
    except ValueError:
        # A recording of the TUI may hold anything.
        return False


FIELDS: Final[dict[str, Callable[[str], Predicate]]] = {
    "transport": _starts(lambda row: row.transport),
    "state": _starts(lambda row: row.state, STATES),
    "peer": _starts(lambda row: row.peer),
    "port": _port,
    "cidr": _ends(lambda row: row.source, lambda row: row.destination),
    "src": _ends(lambda row: row.source),
    "dst": _ends(lambda row: row.destination),
    "direction": _starts(lambda row: row.direction, DIRECTIONS),
    "by": _starts(lambda row: row.chosen_by),
    "why": _contains(lambda row: row.why),
}
