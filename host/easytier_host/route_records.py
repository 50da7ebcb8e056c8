"""Route records and connection info: between protobuf messages and what this node computes with.

Pure functions and values, no state.  Called by `route`; the record views are read by `lookup`, monitors and the RPC portal.
Messages come from other nodes and may hold anything; what is wrong in one is left out of its view, and `may_pass_on` says
whether stock nodes could be harmed by it.  Format: wire specification, control plane sections 7.1, 7.2, 9 and 12.3.

Connection info travels as a matrix: bit `i * n + j`, least significant of a byte first, says that the i-th peer listed has a
connection to the j-th.  Row i is all of peer i's neighbours at the version listed; a version of 0 only mentions the peer, and
its row means nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from itertools import compress
from typing import Final
from uuid import UUID

from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.steps import Steps, finish

# Wire constants: stock decides.
MAX_OWN_HOSTNAME: Final = 32
"""Characters; stock cuts its own at this length (control plane 7.1)."""
DEFAULT_PREFIX_LENGTH: Final = 24
"""How a `network_length` of 0 is read (control plane 7.1)."""

# Ours.
MAX_TEXT: Final = 255
"""Characters of a foreign hostname or version that are kept for showing: the longest name in DNS."""
MAX_NEIGHBOURS: Final = 1024
"""Neighbours of one peer: as many connections as a node of ours accepts."""

_ONE: Final = ord("1")
_BIT_VALUES: Final = bytes.maketrans(b"01", b"\x00\x01")

Versioned = tuple[int, int, frozenset[int]]
"""(peer id, version of its connection info, its neighbours)"""


@dataclass(frozen=True, slots=True)
class OwnRecord:
    """What this node tells the network about itself.

    `proxy_cidrs` are the networks that it offers, as others see them.
    """

    inst_id: UUID
    hostname: str = ""
    ipv4: IPv4Interface | None = None
    ipv6: IPv6Interface | None = None
    proxy_cidrs: tuple[IPv4Network, ...] = ()
    # Others do not punch holes towards a symmetric NAT, which this node could not answer.
    udp_nat_type: int = common_pb2.Symmetric
    easytier_version: str = ""
    feature_flag: common_pb2.PeerFeatureFlag = field(default_factory=common_pb2.PeerFeatureFlag)


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What a peer told about itself, as far as it makes sense.  `last_seen`: arrival of this version, seconds, monotonic.

    Two are equal when they say the same, whatever their version and age.  Do not change `feature_flag`.
    """

    peer_id: int
    hostname: str
    ipv4: IPv4Interface | None
    ipv6: IPv6Interface | None
    proxy_cidrs: tuple[IPv4Network, ...]
    udp_nat_type: int
    easytier_version: str
    feature_flag: common_pb2.PeerFeatureFlag
    inst_id: UUID
    version: int = field(compare=False)
    last_seen: float = field(compare=False)


def encode_record(
    own: OwnRecord, peer_id: int, peer_route_id: int, version: int, wall_now: float
) -> peer_rpc_pb2.RoutePeerInfo:
    """The message for our own record; `wall_now` in seconds since 1970."""
    words = [own.inst_id.int >> shift & 0xFFFF_FFFF for shift in (96, 64, 32, 0)]
    message = peer_rpc_pb2.RoutePeerInfo(
        peer_id=peer_id,
        inst_id=common_pb2.UUID(part1=words[0], part2=words[1], part3=words[2], part4=words[3]),
        proxy_cidrs=[str(cidr) for cidr in own.proxy_cidrs],
        # Lone surrogates, which the system's host name may hold, cannot be encoded.
        hostname=own.hostname.encode(errors="replace").decode()[:MAX_OWN_HOSTNAME],
        version=version,
        easytier_version=own.easytier_version,
        feature_flag=own.feature_flag,
        peer_route_id=peer_route_id,
    )
    message.udp_nat_type = own.udp_nat_type  # type: ignore[assignment]
    message.last_update.seconds = int(wall_now)
    if own.ipv4 is not None:
        message.ipv4_addr.addr = int(own.ipv4)
        message.network_length = own.ipv4.network.prefixlen
    if own.ipv6 is not None:
        message.ipv6_addr.CopyFrom(encode_ipv6_inet(own.ipv6))
    return message


def encode_ipv6_inet(interface: IPv6Interface) -> common_pb2.Ipv6Inet:
    """The message for an IPv6 address with its prefix length."""
    value = int(interface)
    words = [value >> shift & 0xFFFF_FFFF for shift in (96, 64, 32, 0)]
    address = common_pb2.Ipv6Addr(part1=words[0], part2=words[1], part3=words[2], part4=words[3])
    return common_pb2.Ipv6Inet(address=address, network_length=interface.network.prefixlen)


def decode_record(message: peer_rpc_pb2.RoutePeerInfo, now: float) -> PeerRecord:
    """The view of a peer's record; never raises.  Impossible prefixes and CIDRs that do not parse are left out."""
    ipv4 = None
    if message.HasField("ipv4_addr") and message.network_length <= 32:
        ipv4 = IPv4Interface((message.ipv4_addr.addr, message.network_length or DEFAULT_PREFIX_LENGTH))
    ipv6 = None
    if message.HasField("ipv6_addr") and message.ipv6_addr.network_length <= 128:
        address = message.ipv6_addr.address
        ipv6 = IPv6Interface((_join(address), message.ipv6_addr.network_length))
    cidrs = (parse_cidr(text) for text in message.proxy_cidrs)
    feature_flag = common_pb2.PeerFeatureFlag()
    feature_flag.CopyFrom(message.feature_flag)
    return PeerRecord(
        peer_id=message.peer_id,
        hostname=message.hostname[:MAX_TEXT],
        ipv4=ipv4,
        ipv6=ipv6,
        proxy_cidrs=tuple(cidr for cidr in cidrs if cidr is not None),
        udp_nat_type=int(message.udp_nat_type),
        easytier_version=message.easytier_version[:MAX_TEXT],
        feature_flag=feature_flag,
        inst_id=UUID(int=_join(message.inst_id)),
        version=message.version,
        last_seen=now,
    )


def parse_cidr(text: str) -> IPv4Network | None:
    """The network of a `proxy_cidrs` entry; None unless it is canonical.

    Canonical is `a.b.c.d/len` without host bits.  A single address may stand without its `/32`: stock prints it so.
    """
    try:
        network = IPv4Network(text)
    except ValueError:
        return None
    bare = str(network.network_address) if network.prefixlen == 32 else None
    return network if text == str(network) or text == bare else None


def may_pass_on(message: peer_rpc_pb2.RoutePeerInfo) -> bool:
    """Whether no stock node ends itself over this record (control plane 12.3)."""
    lengths = [
        inet.network_length for inet in (message.ipv6_addr, message.ipv6_public_addr_prefix, message.ipv6_public_addr_lease)
    ]
    return (
        message.version > 0
        and message.network_length <= 32
        and max(lengths) <= 128
        and all(parse_cidr(text) is not None for text in message.proxy_cidrs)
    )


def encode_bitmap(rows: Mapping[int, tuple[int, Collection[int]]]) -> peer_rpc_pb2.RouteConnBitmap:
    """The matrix with the rows given, as peer id -> (version, neighbours); peers without a row are mentioned with version 0."""
    return finish(encode_bitmap_in_steps(rows))


def encode_bitmap_in_steps(rows: Mapping[int, tuple[int, Collection[int]]]) -> Steps[peer_rpc_pb2.RouteConnBitmap]:
    """The same in steps."""
    mentioned = set(rows)
    for _, neighbours in rows.values():
        mentioned.update(neighbours)
        yield
    peer_ids = sorted(mentioned)
    position = {peer_id: index for index, peer_id in enumerate(peer_ids)}
    size = len(peer_ids)
    message = peer_rpc_pb2.RouteConnBitmap()
    parts: list[bytes] = []
    # Eight rows begin and end with a byte.
    for start in range(0, size, 8):
        octet = peer_ids[start : start + 8]
        bits = bytearray(b"0") * (size * len(octet))
        for row, peer_id in enumerate(octet):
            version, neighbours = rows.get(peer_id, (0, ()))
            message.peer_ids.add(peer_id=peer_id, version=version)
            for neighbour in neighbours:
                bits[row * size + position[neighbour]] = _ONE
        # The first bit is the least significant, thus the last in text.
        bits.reverse()
        parts.append(int(bits, 2).to_bytes((len(bits) + 7) // 8, "little"))
        yield
    message.bitmap = b"".join(parts)
    return message


def decode_bitmap(message: peer_rpc_pb2.RouteConnBitmap, known_versions: Mapping[int, int]) -> Iterator[Versioned]:
    """The rows that are newer than the versions known, at most MAX_NEIGHBOURS neighbours each: longer ones are skipped.

    Raises ValueError at the first step if the bitmap is too short for its matrix.
    """
    size = len(message.peer_ids)
    bitmap = message.bitmap
    if len(bitmap) < (size * size + 7) // 8:
        raise ValueError(f"bitmap of {len(bitmap)} bytes for {size} peers")
    peer_ids = [entry.peer_id for entry in message.peer_ids]
    for index, entry in enumerate(message.peer_ids):
        if entry.version <= known_versions.get(entry.peer_id, 0):
            continue
        first, last = index * size, index * size + size
        row = int.from_bytes(bitmap[first // 8 : (last + 7) // 8], "little") >> first % 8 & (1 << size) - 1
        if row.bit_count() > MAX_NEIGHBOURS:
            continue
        chosen = f"{row:0{size}b}"[::-1].encode().translate(_BIT_VALUES)
        yield entry.peer_id, entry.version, frozenset(compress(peer_ids, chosen))


def decode_peer_list(message: peer_rpc_pb2.RouteConnPeerList, known_versions: Mapping[int, int]) -> Iterator[Versioned]:
    """The same from the form of stock 2.5.0 and later, which names the neighbours."""
    for info in message.peer_conn_infos:
        peer_id, version = info.peer_id.peer_id, info.peer_id.version
        if version > known_versions.get(peer_id, 0) and len(info.connected_peer_ids) <= MAX_NEIGHBOURS:
            yield peer_id, version, frozenset(info.connected_peer_ids)


def _join(words: common_pb2.UUID | common_pb2.Ipv6Addr) -> int:
    return words.part1 << 96 | words.part2 << 64 | words.part3 << 32 | words.part4
