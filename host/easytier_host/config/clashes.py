"""What several networks of one process cannot share: found in their configurations, before the first of them starts.

Ports, names of devices and the addresses of one network are errors: a second holder cannot start, or would be taken for the
first one.  Equal names of instances work, but leave commands and SIGHUP without a way to tell them apart: a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from easytier_host.config.model import Config
from easytier_host.config.toml_lines import Path

_ANY: Final = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a configuration came from: a file, and on which line each of its keys stands."""

    source: str = ""
    lines: Mapping[Path, int] = field(default_factory=dict)

    def place(self, *path: str | int) -> str:
        """`a.toml:12`, or the file alone if it does not name the key; "" without a file."""
        line = self.lines.get(path)
        return f"{self.source}:{line}" if line else self.source


@dataclass(frozen=True, slots=True)
class _Holding:
    """Something that one network has for itself: `what` and its `value` as users write it."""

    place: str
    what: str
    value: str


def clashes(configs: Sequence[Config], origins: Sequence[Origin]) -> Iterator[str]:
    """Lines on what two of the networks cannot both have, each with the places of both."""
    bound: dict[tuple[str, int], list[tuple[str, _Holding]]] = {}
    """By protocol and port, with the hosts."""
    held: dict[tuple[str, ...], _Holding] = {}
    for config, origin in zip(configs, origins, strict=True):
        for key, holding in _holdings(config, origin):
            first = held.setdefault(key, holding)
            if first is not holding:
                yield f"{holding.place}: {holding.what}: {holding.value} is taken by {first.place}"
        for protocol, host, port, holding in _binds(config, origin):
            others = bound.setdefault((protocol, port), [])
            taken = next((first for other, first in others if port and _overlap(host, other)), None)
            if taken is not None:
                yield f"{holding.place}: {holding.what}: {holding.value} is taken by {taken.value} of {taken.place}"
            others.append((host, holding))


def twins(configs: Sequence[Config], origins: Sequence[Origin]) -> Iterator[str]:
    """Lines on networks that commands cannot tell apart."""
    named: dict[str, str] = {}
    for config, origin in zip(configs, origins, strict=True):
        place = origin.place("instance_name")
        if config.instance_name in named:
            yield (
                f'{place}: instance_name: "{config.instance_name}" is that of {named[config.instance_name]} too: '
                "easytier-cli -n cannot tell the two apart, and SIGHUP changes neither"
            )
        named.setdefault(config.instance_name, place)


def _overlap(one: str, other: str) -> bool:
    """Whether two sockets cannot be bound to a port of these hosts; IPv4 and IPv6 are apart here."""
    return one == other or ((one in _ANY or other in _ANY) and (":" in one) == (":" in other))


def _holdings(config: Config, origin: Origin) -> Iterator[tuple[tuple[str, ...], _Holding]]:
    flags = config.flags
    if flags.dev_name and not flags.no_tun:
        yield ("device", flags.dev_name), _Holding(origin.place("flags", "dev_name"), "dev_name", flags.dev_name)
    for key, interface in (("ipv4", config.ipv4), ("ipv6", config.ipv6)):
        if interface is not None:
            value = f"{interface.ip} in network {config.network_name}"
            network = (config.network_name, config.network_secret)
            yield ("address", *network, str(interface.ip)), _Holding(origin.place(key), key, value)


def _binds(config: Config, origin: Origin) -> Iterator[tuple[str, str, int, _Holding]]:
    for url in config.listeners:
        parts = urlsplit(url)
        yield parts.scheme, parts.hostname or "", parts.port or 0, _Holding(origin.place("listeners"), "listeners", url)
    if config.socks5:
        host, port = _host_and_port(config.socks5.partition("://")[2])
        yield "tcp", host, port, _Holding(origin.place("socks5_proxy"), "socks5_proxy", config.socks5)
    for index, forward in enumerate(config.port_forwards):
        host, port = _host_and_port(forward.bind_addr)
        holding = _Holding(origin.place("port_forward", index), "port_forward", f"{forward.proto}://{forward.bind_addr}")
        yield forward.proto, host, port, holding


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
