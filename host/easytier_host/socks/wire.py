"""The server's side of SOCKS version 5 (RFC 1928), up to the reply; and the header of relayed datagrams.  Sans-IO.

::

    client                                            server
    5 | number of methods | methods              ->
                                                 <-   5 | 0 (no authentication), or 5 | 255 (none of these) and the end
    5 | command | 0 | kind | address | port      ->
                                                 <-   5 | reply | 0 | kind | address | port

    datagram: 0 | 0 | fragment | kind | address | port | data

Kinds of address: 1 IPv4, 4 bytes; 3 name, its length in one byte first; 4 IPv6, 16 bytes.  Numbers are big-endian.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, TypeAlias

from easytier_hooks.services import Endpoint
from easytier_hooks.types import IPAddress

# Wire: RFC 1928.
VERSION: Final = 5
NO_AUTHENTICATION: Final = 0
NO_ACCEPTABLE_METHOD: Final = 255
_KIND_IPV4: Final = 1
_KIND_NAME: Final = 3
_KIND_IPV6: Final = 4
_PORT: Final = struct.Struct("!H")
_NOWHERE: Final = IPv4Address(0), 0

Host: TypeAlias = IPAddress | str
"""An address, or a name to be resolved."""


class Command(IntEnum):
    """What a client may ask for."""

    CONNECT = 1
    BIND = 2
    UDP_ASSOCIATE = 3


class Reply(IntEnum):
    """What it is told."""

    SUCCEEDED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TIMED_OUT = 6
    COMMAND_UNKNOWN = 7
    ADDRESS_KIND_UNKNOWN = 8


class Request(NamedTuple):
    """What a client wants.  `command` may be one that this class does not name."""

    command: int
    host: Host
    port: int


class SocksError(Exception):
    """What came is not SOCKS5, or nothing that can be answered; `answer` is what to send before the end, perhaps nothing."""

    def __init__(self, problem: str, answer: bytes = b"") -> None:
        super().__init__(problem)
        self.answer = answer


class Handshake:
    """One client, from its first byte to its request.

    Read at most `missing` bytes and give them to `receive`, until there is a `request`: so nothing is read that belongs to the
    destination.
    """

    def __init__(self) -> None:
        self.request: Request | None = None
        self._greeted = False
        self._buffer = b""
        self._wanted = 2

    @property
    def missing(self) -> int:
        """Bytes that can be read without reading too far, at least 1 until the request is there."""
        return self._wanted - len(self._buffer)

    def receive(self, data: bytes) -> bytes:
        """Take what was read; returns what to send.  Raises `SocksError`, after which nothing more may come."""
        self._buffer += data
        answer = b""
        # Each look may only find out how much more there has to be.
        while self.request is None and not self.missing:
            answer += self._look()
        return answer

    def _look(self) -> bytes:
        seen = self._buffer
        if seen[0] != VERSION:
            raise SocksError(f"version {seen[0]} instead of 5")
        if not self._greeted:
            return self._greet(seen)
        if len(seen) == 5:
            self._wanted = 4 + _address_size(seen[3], seen[4]) + 2
            return b""
        host, end = _read_address(seen, 3)
        self.request = Request(seen[1], host, _PORT.unpack_from(seen, end)[0])
        return b""

    def _greet(self, seen: bytes) -> bytes:
        if len(seen) == 2:
            self._wanted = 2 + seen[1]
            if seen[1]:
                return b""
        if NO_AUTHENTICATION not in seen[2:]:
            raise SocksError("the client insists on authentication", bytes((VERSION, NO_ACCEPTABLE_METHOD)))
        # Of the request first what tells its length: up to the first byte of the address.
        self._greeted, self._buffer, self._wanted = True, b"", 5
        return bytes((VERSION, NO_AUTHENTICATION))


def encode_reply(reply: Reply, bound: Endpoint = _NOWHERE) -> bytes:
    """The answer to a request; `bound` is where datagrams are to be sent, and of no use to anybody else."""
    return bytes((VERSION, reply, 0)) + _encode_endpoint(bound)


class UdpHeader(NamedTuple):
    """What stands before a relayed datagram: where it goes, or where it is from."""

    host: Host
    port: int


def parse_datagram(packet: bytes) -> tuple[UdpHeader, bytes] | None:
    """Header and data; None for what is cut, malformed, or a fragment, which RFC 1928 lets us drop."""
    if len(packet) < 5 or packet[2]:
        return None
    try:
        if len(packet) < 4 + _address_size(packet[3], packet[4]) + 2:
            return None
        host, end = _read_address(packet, 3)
    except SocksError:
        return None
    return UdpHeader(host, _PORT.unpack_from(packet, end)[0]), packet[end + 2 :]


def encode_datagram(source: Endpoint, data: bytes) -> bytes:
    """A datagram for the client."""
    return b"\0\0\0" + _encode_endpoint(source) + data


def _address_size(kind: int, first: int) -> int:
    """Bytes of an address whose first byte is `first`, the length of a name included."""
    if kind == _KIND_IPV4:
        return 4
    if kind == _KIND_IPV6:
        return 16
    if kind != _KIND_NAME:
        raise SocksError(f"unknown kind of address {kind}", encode_reply(Reply.ADDRESS_KIND_UNKNOWN))
    if not first:
        raise SocksError("an empty name", encode_reply(Reply.FAILED))
    return 1 + first


def _read_address(packet: bytes, at: int) -> tuple[Host, int]:
    """The address whose kind stands at `at`, all of it there, and where it ends."""
    kind, start = packet[at], at + 1
    if kind == _KIND_IPV4:
        return IPv4Address(packet[start : start + 4]), start + 4
    if kind == _KIND_IPV6:
        return IPv6Address(packet[start : start + 16]), start + 16
    end = start + 1 + packet[start]
    try:
        name = packet[start + 1 : end].decode("ascii")
    except UnicodeDecodeError:
        name = ""
    if not name.isprintable() or not name:
        raise SocksError("a name that is none", encode_reply(Reply.FAILED))
    return name, end


def _encode_endpoint(endpoint: Endpoint) -> bytes:
    ip, port = endpoint
    return bytes((_KIND_IPV4 if ip.version == 4 else _KIND_IPV6,)) + ip.packed + _PORT.pack(port)
