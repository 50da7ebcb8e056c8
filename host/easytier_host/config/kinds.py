"""What a value may be: each kind has a name for the user and checks one value, as TOML or an option gives it.

A check raises ValueError with a clause for the user, or `UnsupportedError` where the value is good for stock and of no use
here. Secrets are plain text, whose check repeats no value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from easytier_host.config.errors import MisplacedError, UnsupportedError, nearest

DEFAULT_PORT: Final = 11010
PORT_OFFSETS: Final = {"tcp": 0, "udp": 0, "wg": 1, "ws": 1, "wss": 2, "quic": 2, "faketcp": 3}
"""Wire: the default port of each scheme, above 11010 (control plane 1.1)."""
SPOKEN: Final = ("tcp", "udp")

# Ours: TUN drivers take 15 bytes of name; below 576 no IPv4 host need accept; 1956 is the largest packet that fits a frame of
# stock.
MAX_DEVICE_NAME_BYTES: Final = 15
MIN_MTU: Final = 576
MAX_MTU: Final = 1956


@dataclass(frozen=True, slots=True)
class Kind:
    """`name` is for tables shown to users; `parse` checks a value as TOML gives it and makes what `Config` holds."""

    name: str
    parse: Callable[[Any], Any]
    from_text: Callable[[str], Any] = str
    """Makes of an option's text what TOML would have given."""


@dataclass(frozen=True, slots=True)
class TableKind(Kind):
    """A table with these keys and no others."""

    fields: Mapping[str, Kind] = field(default_factory=dict)


def toml_type(value: object) -> str:
    """What TOML calls the type of `value`, with its article."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "a table"}
    return names.get(type(value), "a date or time")


def expect(value: object, kind: type[Any]) -> Any:
    """`value` if TOML gave exactly that type; ValueError else."""
    if type(value) is not kind:
        raise ValueError(f"expected {toml_type(kind())}, found {toml_type(value)}")
    return value


def _text(value: object) -> str:
    text: str = expect(value, str)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not valid UTF-8") from None
    if "\0" in text:
        raise ValueError("the text holds a NUL character")
    return text


def switch_from_text(text: str) -> bool:
    """What stands after a switch or in its environment variable."""
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise ValueError(f'expected true or false, found "{text}"')
    return words[text.lower()]


def _integer_from_text(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'expected a whole number, found "{text[:40]}"') from None


def integer(least: int, most: int) -> Kind:
    """A whole number within bounds, both included."""

    def parse(value: object) -> int:
        number: int = expect(value, int)
        if not least <= number <= most:
            raise ValueError(f"{number} is not within {least} to {most}")
        return number

    return Kind("integer", parse, _integer_from_text)


def choice(known: Iterable[str], unsupported: Iterable[str] = ()) -> Kind:
    """One of these names; `unsupported` ones exist in stock only."""
    good, foreign = tuple(known), tuple(unsupported)

    def parse(value: object) -> str:
        name = _text(value).lower()
        if name in foreign:
            raise UnsupportedError(f'"{name}" is not implemented by this node')
        if name not in good:
            hint = nearest(name, (*good, *foreign)) or f"; known: {', '.join(good)}"
            raise ValueError(f'unknown value "{name}"{hint}')
        return name

    return Kind(" or ".join(f'"{name}"' for name in good), parse)


def _parsed(text: str, parse: Callable[[str], Any], what: str) -> Any:
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f'"{text}" is not {what}') from None


def _ipv4_interface(value: object) -> IPv4Interface:
    text = _text(value)
    interface: IPv4Interface = _parsed(text, IPv4Interface, "an IPv4 address, with or without /prefix")
    if interface.network.prefixlen == 32:
        interface = IPv4Interface((interface.ip, 24))
    if interface.ip.is_multicast or interface.ip.is_unspecified or interface.ip.is_loopback:
        raise ValueError(f'"{text}" cannot be the address of a node')
    return interface


def _ipv6_interface(value: object) -> IPv6Interface:
    interface: IPv6Interface = _parsed(_text(value), IPv6Interface, "an IPv6 address with /prefix")
    return interface


def _ipv4_network(value: object) -> IPv4Network:
    text = _text(value)
    network: IPv4Network = _parsed(text, lambda cidr: IPv4Network(cidr, strict=False), "an IPv4 network like 10.1.2.0/24")
    if str(network.network_address) != text.partition("/")[0]:
        raise ValueError(f'"{text}" has bits set behind its prefix; the network is {network}')
    return network


def _ip_address(value: object) -> IPv4Address | IPv6Address:
    address: IPv4Address | IPv6Address = _parsed(_text(value), ip_address, "an IP address")
    return address


def _ip_network_text(value: object) -> str:
    return str(_parsed(_text(value), lambda cidr: ip_network(cidr, strict=False), "an IP network"))


def _ip_network(value: object) -> IPv4Network | IPv6Network:
    network: IPv4Network | IPv6Network = _parsed(_text(value), ip_network, "an IP network without bits behind its prefix")
    return network


def _port_range(value: object) -> tuple[int, int]:
    """`80`, or `8000-8100` with both ends; 0 stands for no port at all in stock's lists, where an empty one means all."""
    first, dash, last = _text(value).replace(" ", "").partition("-")
    ports = (first, last if dash else first)
    if not all(port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535 for port in ports):
        raise ValueError(f'"{value}" is neither a port nor a range like 8000-8100')
    if int(ports[0]) > int(ports[1]):
        raise ValueError(f'"{value}" ends before it begins')
    return int(ports[0]), int(ports[1])


def _port_ranges(value: object) -> tuple[tuple[int, int], ...]:
    return tuple(_port_range(item) for item in expect(value, list))


def _split_url(text: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(text)
        return parts, parts.port
    except ValueError as fault:
        raise ValueError(f'"{text}" is not a URL: {fault}') from None


def _tunnel_url(value: object) -> str:
    """A tcp or udp URL with its port written out."""
    from easytier_host.tunnel.base import TunnelError
    from easytier_host.tunnel.url import FOREIGN_SCHEMES, TunnelUrl

    text = _text(value)
    try:
        return str(TunnelUrl.parse(text))
    except TunnelError as fault:
        scheme, mark, _ = text.partition("://")
        if mark and scheme.lower() in FOREIGN_SCHEMES:
            raise UnsupportedError(f'"{text}" is left out: this node speaks tcp and udp, not {scheme.lower()}') from None
        raise ValueError(str(fault)) from None


def listeners_from_text(text: str) -> list[str]:
    """The URLs that one item of `--listeners` means: a URL, a port, a protocol, or `protocol:port`.

    A bare port means every protocol of stock; those that this node does not speak are left out.  ValueError if it is none of
    these.
    """
    if "://" in text:
        return [text]
    if text.isascii() and text.isdigit():
        if int(text) > 65_535:
            raise ValueError(f'"{text}" is not a port')
        return [f"{scheme}://0.0.0.0:{int(text)}" for scheme in SPOKEN]
    scheme, colon, port = text.partition(":")
    if scheme not in PORT_OFFSETS:
        raise ValueError(f'"{text}" is neither a URL, a port nor a protocol{nearest(scheme, PORT_OFFSETS)}')
    return [f"{scheme}://0.0.0.0:{port if colon else DEFAULT_PORT + PORT_OFFSETS[scheme]}"]


def proxy_network_from_text(text: str) -> dict[str, str]:
    """The table that `real` or `real->mapped` means."""
    cidr, arrow, mapped = text.partition("->")
    return {"cidr": cidr, "mapped_cidr": mapped} if arrow else {"cidr": cidr}


def port_forward_from_text(text: str) -> dict[str, str]:
    """The table that `proto://bind:port/dst:port` means."""
    parts, _ = _split_url(text)
    if not (parts.scheme and parts.netloc and parts.path.removeprefix("/")):
        raise ValueError(f'expected tcp://BIND:PORT/DESTINATION:PORT, found "{text[:80]}"')
    return {"proto": parts.scheme, "bind_addr": parts.netloc, "dst_addr": parts.path.removeprefix("/")}


def vpn_portal_from_text(text: str) -> dict[str, str]:
    """The table that `wg://ip:port/cidr` means."""
    parts, _ = _split_url(text)
    return {"wireguard_listen": parts.netloc, "client_cidr": parts.path.removeprefix("/")}


def socks5_from_text(text: str) -> str:
    """The URL that a bare port means; anything else is one already.

    Stock takes a bare port for one of 0.0.0.0, which opens the overlay to whoever is in the neighbourhood.
    """
    return f"socks5://127.0.0.1:{text}" if text.isdigit() else text


def compression_from_text(text: str) -> int | str:
    """`--compression` takes names, the file a number."""
    return int(text) if text.isdigit() else text


def _compression(value: object) -> int:
    names = {"none": 1, "zstd": 2}
    number = names.get(value.lower()) if isinstance(value, str) else value
    if type(number) is not int or number not in names.values():
        raise ValueError('expected 1 ("none") or 2 ("zstd")')
    return number


def _device_name(value: object) -> str:
    name = _text(value)
    if (
        len(name.encode()) > MAX_DEVICE_NAME_BYTES
        or "/" in name
        or name in (".", "..")
        or any(letter.isspace() for letter in name)
    ):
        raise ValueError(f'"{name}" cannot be the name of a network device')
    return name


def _uuid(value: object) -> UUID:
    identity: UUID = _parsed(_text(value), UUID, "a UUID")
    return identity


def _socket_address(value: object) -> str:
    text = _text(value)
    try:
        parts = urlsplit(f"//{text}")
        if parts.port is None or not parts.hostname:
            raise ValueError
        ip_address(parts.hostname)
    except ValueError:
        raise ValueError(f'"{text}" is not an address like 10.0.0.1:80') from None
    return text


def _socks5_url(value: object) -> str:
    text = _text(value)
    if not text:
        return ""
    scheme, mark, address = text.partition("://")
    if not mark or scheme.lower() != "socks5":
        raise ValueError(f'"{text}" is not a URL like socks5://127.0.0.1:1080')
    return f"socks5://{_socket_address(address)}"


def table(name: str, *, required: Iterable[str], build: Callable[..., Any], **fields: Kind) -> TableKind:
    """A table: `build` gets its checked fields as keyword arguments."""
    needed = tuple(required)

    def parse(value: object) -> Any:
        given: dict[str, Any] = expect(value, dict)
        checked = {}
        for key, item in given.items():
            if key not in fields:
                raise MisplacedError((key,), f'unknown key "{key}" in [[{name}]]{nearest(key, fields)}')
            try:
                checked[key] = fields[key].parse(item)
            except ValueError as fault:
                raise MisplacedError((key,), f"{key}: {fault}") from None
        for key in needed:
            if key not in given:
                raise ValueError(f'"{key}" is missing in [[{name}]]')
        return build(**checked)

    return TableKind("table", parse, fields=fields)


def _plugin_setting(value: object) -> Any:
    if type(value) not in (bool, dict):
        raise ValueError(f"expected true, false or a table of options, found {toml_type(value)}")
    return value


BOOLEAN: Final = Kind("boolean", lambda value: expect(value, bool), switch_from_text)
STRING: Final = Kind("string", _text)
TABLE: Final = Kind("table", lambda value: expect(value, dict))
ARRAY: Final = Kind("array", lambda value: expect(value, list))
UUID_TEXT: Final = Kind("UUID", _uuid)
IPV4_INTERFACE: Final = Kind("IPv4 address, /prefix", _ipv4_interface)
IPV6_INTERFACE: Final = Kind("IPv6 address, /prefix", _ipv6_interface)
IPV4_NETWORK: Final = Kind("IPv4 network", _ipv4_network)
IP_ADDRESS: Final = Kind("IP address", _ip_address)
IP_NETWORK_TEXT: Final = Kind("IP network", _ip_network_text)
IP_NETWORK: Final = Kind("IP network", _ip_network)
PORTS: Final = Kind("port or range", _port_range)
PORT_LIST: Final = Kind("array of port or range", _port_ranges)
TUNNEL_URL: Final = Kind("URL", _tunnel_url)
DEVICE_NAME: Final = Kind("device name", _device_name)
COMPRESSION: Final = Kind('1, 2, "none" or "zstd"', _compression, compression_from_text)
LEVEL: Final = choice(("off", "error", "warn", "info", "debug", "trace"))
SOCKS5_URL: Final = Kind("URL", _socks5_url)
SOCKET_ADDRESS: Final = Kind("ip:port", _socket_address)
PLUGIN: Final = Kind("boolean or table", _plugin_setting)
