"""Which peer gets an IP packet: destination address -> peer ids.

A `Lookup` is a snapshot of one generation of the route protocol, made anew when something changed; `resolve` is on the hot path
and answers repeated questions from a cache.  It does not know next hops: those lead to the peer that it names.

Rules of stock 2.6.4 in their order (wire specification, data plane 1.3)::

    broadcast, multicast, last address of a block of our prefix's length   every peer with a virtual address
    a virtual address                                                      the peer that has it, see below
    inside our own virtual prefix                                          nobody
    inside a proxy network                                                 who offers the longest prefix, the nearest of several
    else                                                                   the first exit node that can be reached, if any

A network that we offer ourselves is ours, and remote networks inside it are not looked at.  Proxy networks are IPv4 alone.
Unlike with stock, a prefix of 31 or 32 bits has no broadcast address (RFC 3021): by the letter of the rule every address would
be one.

Of several peers that claim one address the nearest has it with stock; here it stays with the one that had it, so that nobody
takes the address of a peer that is there.  But a node that starts again has another peer id, and over UDP nobody hears that the
one before it is gone.  So of several records with the same host name and the same address only the one that came last counts,
unless the one before it is a *firm* peer: a neighbour of ours that is still heard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, ip_address
from typing import Final

from easytier_host.next_hop import Path
from easytier_host.route_records import PeerRecord
from easytier_host.steps import Steps, finish

IPAddress = IPv4Address | IPv6Address

DEFAULT_PREFIX_LENGTH: Final = 24
"""Of the blocks that have a broadcast address, while we have no address ourselves (data plane 1.3)."""
MAX_CACHED: Final = 65_536
"""Answers kept; at this number the cache starts over."""
MAX_PROXY_NETWORKS: Final = 16_384
"""Remote networks looked at, nearest peers first; further ones are ignored."""

_LIMITED_BROADCAST: Final = IPv4Address("255.255.255.255")


class Kind(Enum):
    """What became of a question."""

    PEER = "peer"
    FANOUT = "fan-out"
    OWN = "own"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a packet goes: `peers` is one for PEER, any number for FANOUT, else empty.

    `reason` says in words why; with `exit_node` the EXIT_NODE flag has to be set.
    """

    kind: Kind
    peers: tuple[int, ...]
    reason: str
    exit_node: bool = False


@dataclass(frozen=True, slots=True)
class _Network:
    first: int
    mask: int
    target: Target


class Lookup:
    """Answers for one snapshot.

    `records` are in the order of their arrival.  `paths` are those of the policy for our own packets; records of peers without
    one are left out.  `own_proxy_cidrs` are the networks that we offer, as others see them; `exit_nodes` are tried in their
    order.  `before` is the lookup before this one, which knows who has which address.
    """

    def __init__(
        self,
        records: Iterable[PeerRecord],
        paths: Mapping[int, Path],
        own_ipv4: IPv4Interface | None = None,
        own_ipv6: IPv6Interface | None = None,
        own_proxy_cidrs: Sequence[IPv4Network] = (),
        exit_nodes: Sequence[IPAddress] = (),
        *,
        before: Lookup | None = None,
        firm: Collection[int] = (),
    ) -> None:
        self._cache: dict[bytes, Target] = {}
        self._own_ipv4 = own_ipv4
        self._own_ipv6 = own_ipv6
        self._hosts: dict[IPAddress, Target] = {}
        self._proxy_routes: set[IPv4Network] = set()
        self._networks: list[_Network] = []
        self.disputed: frozenset[int] = frozenset()
        """Firm peers whose name and address another record has."""
        finish(self.fill(records, paths, own_proxy_cidrs, exit_nodes, before, firm))

    def fill(
        self,
        records: Iterable[PeerRecord],
        paths: Mapping[int, Path],
        own_proxy_cidrs: Sequence[IPv4Network],
        exit_nodes: Sequence[IPAddress],
        before: Lookup | None,
        firm: Collection[int],
    ) -> Steps[None]:
        """Put these into a lookup that was made without any, in steps; it answers when they are done."""
        with_path = [record for record in records if record.peer_id in paths]
        yield
        kept, self.disputed = _without_predecessors(with_path, firm)
        yield
        # Nearest first, so that the first claim of an address or a network is the one to keep.
        reachable = sorted(
            kept,
            key=lambda record: (paths[record.peer_id].hops, paths[record.peer_id].latency_ms, record.peer_id),
        )
        yield
        yield from self._add_hosts(reachable, {} if before is None else before._hosts)
        self._networks = yield from self._longest_first(reachable, own_proxy_cidrs)
        self._exit_target = self._find_exit(exit_nodes)

    def resolve(self, address: bytes) -> Target:
        """The target for a destination as it stands in the packet: 4 or 16 bytes.  Any other length has no target."""
        target = self._cache.get(address)
        if target is None:
            target = self._find(address)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[address] = target
        return target

    def proxy_routes(self) -> frozenset[IPv4Network]:
        """The remote networks whose packets belong into our device.

        Left out: what lies inside a network that we offer or inside our own prefix, where `resolve` would not look for it; the
        whole address space, which would take the node's own underlay away; loopback and multicast.
        """
        return frozenset(self._proxy_routes)

    def _find(self, address: bytes) -> Target:
        if len(address) not in (4, 16):
            return Target(Kind.NONE, (), "no IP address")
        ip = ip_address(address)
        if ip.is_multicast or (isinstance(ip, IPv4Address) and self._is_broadcast(ip)):
            return self._fanout4 if isinstance(ip, IPv4Address) else self._fanout6
        host = self._hosts.get(ip)
        if host is not None:
            return host
        own = self._own_ipv4 if isinstance(ip, IPv4Address) else self._own_ipv6
        if own is not None and ip in own.network:
            return Target(Kind.NONE, (), f"no reachable peer has {ip} of our own network")
        if isinstance(ip, IPv4Address):
            value = int(ip)
            for network in self._networks:
                if value & network.mask == network.first:
                    return network.target
        elif ip.is_link_local:
            return Target(Kind.NONE, (), f"{ip} is link-local")
        if self._exit_target is not None:
            return self._exit_target
        return Target(Kind.NONE, (), f"no reachable peer offers a network around {ip}")

    def _is_broadcast(self, ip: IPv4Address) -> bool:
        length = self._own_ipv4.network.prefixlen if self._own_ipv4 is not None else DEFAULT_PREFIX_LENGTH
        host_mask = (1 << 32 - length) - 1
        return ip == _LIMITED_BROADCAST or (length < 31 and int(ip) & host_mask == host_mask)

    def _add_hosts(self, reachable: Sequence[PeerRecord], before: Mapping[IPAddress, Target]) -> Steps[None]:
        for own in (self._own_ipv4, self._own_ipv6):
            if own is not None:
                self._hosts[own.ip] = Target(Kind.OWN, (), "our own address")
        for record in reachable:
            for interface in (record.ipv4, record.ipv6):
                if interface is None:
                    continue
                mine = Target(Kind.PEER, (record.peer_id,), "a peer's virtual address")
                if self._hosts.setdefault(interface.ip, mine).kind is Kind.PEER and before.get(interface.ip) == mine:
                    self._hosts[interface.ip] = mine
            yield
        with_ipv4 = tuple(record.peer_id for record in reachable if record.ipv4 is not None)
        with_address = tuple(record.peer_id for record in reachable if record.ipv4 is not None or record.ipv6 is not None)
        self._fanout4 = Target(Kind.FANOUT, with_ipv4, "broadcast or multicast")
        self._fanout6 = Target(Kind.FANOUT, with_address, "multicast")

    def _longest_first(self, reachable: Sequence[PeerRecord], own_cidrs: Sequence[IPv4Network]) -> Steps[list[_Network]]:
        chosen = {cidr: Target(Kind.OWN, (), f"our own network {cidr}") for cidr in own_cidrs}
        for record in reachable:
            for cidr in record.proxy_cidrs:
                if len(chosen) >= MAX_PROXY_NETWORKS + len(own_cidrs):
                    break
                if cidr in chosen or any(cidr.subnet_of(own) for own in own_cidrs):
                    continue
                chosen[cidr] = Target(Kind.PEER, (record.peer_id,), f"network {cidr} of a peer")
                if self._wants_route(cidr):
                    self._proxy_routes.add(cidr)
            yield
        longest_first = sorted(chosen, key=lambda cidr: cidr.prefixlen, reverse=True)
        return [_Network(int(cidr.network_address), int(cidr.netmask), chosen[cidr]) for cidr in longest_first]

    def _wants_route(self, cidr: IPv4Network) -> bool:
        in_own_prefix = self._own_ipv4 is not None and cidr.subnet_of(self._own_ipv4.network)
        return cidr.prefixlen > 0 and not (in_own_prefix or cidr.is_loopback or cidr.is_multicast)

    def _find_exit(self, exit_nodes: Sequence[IPAddress]) -> Target | None:
        for address in exit_nodes:
            host = self._hosts.get(address)
            if host is not None and host.kind is Kind.PEER:
                return Target(Kind.PEER, host.peers, f"exit node {address}", exit_node=True)
        return None


def _without_predecessors(records: Sequence[PeerRecord], firm: Collection[int]) -> tuple[list[PeerRecord], frozenset[int]]:
    """Those that count, and the firm ones among them of which another one has name and address."""
    chosen: dict[tuple[str, IPv4Interface | None], int] = {}
    disputed = set()
    for record in records:
        name = record.hostname, record.ipv4
        if record.ipv4 is not None and chosen.get(name) in firm:
            disputed.add(chosen[name])
        else:
            chosen[name] = record.peer_id
    kept = [record for record in records if record.ipv4 is None or chosen[record.hostname, record.ipv4] == record.peer_id]
    return kept, frozenset(disputed)
