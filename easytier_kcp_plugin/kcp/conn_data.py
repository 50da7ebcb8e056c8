"""The body of a SYN: stock's `KcpConnData`, in the wire format of protobuf, and our own field in it.  Layout only.

Wire specification, data plane 3.4; each level is a list of fields (number, wire type, value)::

    KcpConnData   1 src SocketAddr   4 dst SocketAddr   104729 offer (ours; see Offer)
    SocketAddr    1 ipv4 Ipv4Addr    2 ipv6 Ipv6Addr    3 port varint
    Ipv4Addr      1 addr varint, the octets as one big-endian number
    Ipv6Addr      1..4 varints, big-endian groups of 32 bits, first group first

Zeros are not written.  Unknown fields are skipped, and so are known ones of another wire type.  A message that is cut short
does not decode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

Value: TypeAlias = int | bytes

# Wire constants: stock decides.
_SRC, _DST = 1, 4
_IPV4, _IPV6, _PORT = 1, 2, 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_MAX_VARINT_BYTES: Final = 10
_MAX_FIELD: Final = (1 << 29) - 1

# Ours.
OFFER_FIELD: Final = 104_729
"""High enough that stock, which numbers its fields from 1, will hardly come to it."""
OFFER_VERSION: Final = 1
ACK_RUNS: Final = 1
"""Feature: acknowledgements of runs (segment.py)."""
MAX_SIZE: Final = 512
"""Bytes; stock's own limit for the same message over QUIC.  The largest that stock writes has 70."""


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An IP address and a TCP port."""

    ip: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node of our kind says of itself, in a SYN and, if it was asked there, in the SYN|ACK."""

    version: int = OFFER_VERSION
    window: int = 1024
    """Receive window in segments."""
    features: int = 0
    """Bits; those that nobody knows are ignored.  Each says that the sender of this offer understands something."""


@dataclass(frozen=True, slots=True)
class ConnData:
    """Who asks for what.  Stock 2.2.0 and 2.2.1 send no `src`; without `dst` a request cannot be served."""

    src: SocketAddress | None
    dst: SocketAddress | None
    offer: Offer | None = None

    def encode(self) -> bytes:
        """The message on the wire."""
        message = b""
        if self.src is not None:
            message += _bytes_field(_SRC, _encode_address(self.src))
        if self.dst is not None:
            message += _bytes_field(_DST, _encode_address(self.dst))
        if self.offer is not None:
            offer = (self.offer.version, self.offer.window, self.offer.features)
            message += _bytes_field(OFFER_FIELD, _varint_fields(offer))
        return message

    @classmethod
    def decode(cls, message: bytes) -> ConnData:
        """Raises ValueError if `message` is too long, cut short, or holds a port above 65535."""
        if len(message) > MAX_SIZE:
            raise ValueError(f"connection data of {len(message)} bytes; {MAX_SIZE} are allowed")
        src = dst = offer = None
        for number, value in _fields(message):
            if isinstance(value, int):
                continue
            if number == _SRC:
                src = _decode_address(value)
            elif number == _DST:
                dst = _decode_address(value)
            elif number == OFFER_FIELD:
                offer = _decode_offer(value)
        return cls(src, dst, offer)


def _encode_address(address: SocketAddress) -> bytes:
    if address.ip.version == 4:
        ip = _bytes_field(_IPV4, _varint_fields((int(address.ip),)))
    else:
        groups = tuple(int(address.ip) >> shift & _U32 for shift in (96, 64, 32, 0))
        ip = _bytes_field(_IPV6, _varint_fields(groups))
    return ip + (_varint(_PORT << 3 | _VARINT) + _varint(address.port) if address.port else b"")


def _decode_address(message: bytes) -> SocketAddress:
    """Stock reads an address without `ip` as 0.0.0.0 port 0."""
    ip: IPv4Address | IPv6Address | None = None
    port = 0
    for number, value in _fields(message):
        if number == _PORT and isinstance(value, int):
            port = value & _U32
        elif number == _IPV4 and isinstance(value, bytes):
            ip = IPv4Address(_numbers(value, 1)[0])
        elif number == _IPV6 and isinstance(value, bytes):
            first, second, third, fourth = _numbers(value, 4)
            ip = IPv6Address(first << 96 | second << 64 | third << 32 | fourth)
    if port > 0xFFFF:
        raise ValueError(f"connection data with port {port}")
    return SocketAddress(IPv4Address(0), 0) if ip is None else SocketAddress(ip, port)


def _decode_offer(message: bytes) -> Offer:
    version, window, features = _numbers(message, 3)
    return Offer(version, window, features)


def _numbers(message: bytes, count: int) -> list[int]:
    """The varints of the fields 1 to `count`, cut to 32 bits, 0 where there is none."""
    numbers = [0] * count
    for number, value in _fields(message):
        if 1 <= number <= count and isinstance(value, int):
            numbers[number - 1] = value & _U32
    return numbers


def _varint_fields(numbers: tuple[int, ...]) -> bytes:
    return b"".join(_varint(index << 3 | _VARINT) + _varint(value) for index, value in enumerate(numbers, 1) if value)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """All fields of one level; those of a fixed size are skipped.  Raises ValueError where the message does not decode."""
    offset, size = 0, len(message)
    while offset < size:
        key, offset = _read_varint(message, offset)
        number, wire_type = key >> 3, key & 7
        if not 1 <= number <= _MAX_FIELD:
            raise ValueError(f"connection data with field number {number}")
        if wire_type == _VARINT:
            value, offset = _read_varint(message, offset)
            yield number, value
        elif wire_type == _BYTES:
            length, offset = _read_varint(message, offset)
            if length > size - offset:
                raise ValueError("connection data is cut short")
            yield number, message[offset : offset + length]
            offset += length
        elif wire_type in (_FIXED64, _FIXED32):
            offset += 8 if wire_type == _FIXED64 else 4
            if offset > size:
                raise ValueError("connection data is cut short")
        else:
            raise ValueError(f"connection data with wire type {wire_type}")


def _read_varint(message: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(message[offset : offset + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & _U64, offset + index + 1
    raise ValueError("connection data is cut short")
