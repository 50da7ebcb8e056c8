"""Filters on flows, as they are typed after `--filter`.

    transport:kcp           by field; a prefix of the value is enough: state:conn
    port:22                 at either end
    cidr:10.1.0.0/16        either end in a network; src: and dst: look at one end
    dst:10.1.               a part of an address as text
    -state:closed           everything but; in a command line write --filter=-state:closed
    transport:kcp,quic      one of several
    kcp port:22             all terms must hold; a word without a field is looked for everywhere

Capitals do not matter.  What cannot be understood raises ValueError, which names the nearest field.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from typing import Final, TypeAlias

from easytier_cli.flows import FlowRow

Predicate: TypeAlias = Callable[[FlowRow], bool]


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
        raise ValueError(f"no field {name}; " + (f"did you mean {near[0]}:" if near else f"there are {', '.join(FIELDS)}"))
    if not values:
        raise ValueError(f"{name}: what?")
    any_of = [make(value) for value in values.split(",")]
    return lambda row: any(holds(row) for holds in any_of)


def _text(row: FlowRow) -> str:
    words = (row.source, row.destination, row.peer, row.transport, row.state, row.direction, row.chosen_by, row.why)
    return " ".join(words).lower()


def _starts(read: Callable[[FlowRow], str]) -> Callable[[str], Predicate]:
    return lambda value: lambda row: read(row).lower().startswith(value)


def _contains(read: Callable[[FlowRow], str]) -> Callable[[str], Predicate]:
    return lambda value: lambda row: value in read(row).lower()


def _port(value: str) -> Predicate:
    if not (value.isascii() and value.isdecimal() and int(value) <= 0xFFFF):
        raise ValueError(f"port:{value} is not a port, 0 to 65535")
    ending = f":{int(value)}"
    return lambda row: row.source.endswith(ending) or row.destination.endswith(ending)


def _ends(*read: Callable[[FlowRow], str]) -> Callable[[str], Predicate]:
    def make(value: str) -> Predicate:
        if "/" not in value:
            return lambda row: any(end(row).startswith((value, f"[{value}")) for end in read)
        try:
            network = ip_network(value, strict=False)
        except ValueError:
            raise ValueError(f"{value} is not a network such as 10.1.0.0/16") from None
        return lambda row: any(ip_address(end(row).rpartition(":")[0].strip("[]")) in network for end in read)

    return make


FIELDS: Final[dict[str, Callable[[str], Predicate]]] = {
    "transport": _starts(lambda row: row.transport),
    "state": _starts(lambda row: row.state),
    "peer": _starts(lambda row: row.peer),
    "port": _port,
    "cidr": _ends(lambda row: row.source, lambda row: row.destination),
    "src": _ends(lambda row: row.source),
    "dst": _ends(lambda row: row.destination),
    "direction": _starts(lambda row: row.direction),
    "by": _starts(lambda row: row.chosen_by),
    "why": _contains(lambda row: row.why),
}
