"""Turns what the route protocol knows into what the data path uses: next hops, the address lookup, kernel routes, and news for
plugins.

`changed` may be called for every record; the tables are made anew at most twenty times a second, since one flood brings many,
in slices (`turns`), and for a tenth of the time at most, since a hostile peer may invent thousands of nodes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

import anyio

from easytier_hooks.manager import PluginManager
from easytier_hooks.types import Capability, IPAddress, PathFigures, PeerCapabilities, PeerInfo
from easytier_host.config.model import Config
from easytier_host.datapath import Inbound, Outbound
from easytier_host.events import EventBoard, NodeEvent
from easytier_host.lookup import Lookup
from easytier_host.next_hop import NextHops, Path, compute_in_steps
from easytier_host.nic.base import Nic, NicError
from easytier_host.pb import common_pb2
from easytier_host.peers import PeerMap
from easytier_host.route import LinkState
from easytier_host.route_records import OwnRecord, PeerRecord
from easytier_host.turns import Pace, Turns
from easytier_host.version import EASYTIER_VERSION

logger = logging.getLogger("easytier.route")

Network = IPv4Network | IPv6Network

# Ours.
TWIN_PATIENCE: Final = 20.0
"""Seconds: others keep a node that has restarted, with its old id, for up to that long."""
DISPUTE_INTERVAL: Final = 2.0
"""Seconds for a neighbour to answer a ping, when another record has its name and address: then it has restarted, else the other
one is no successor of it."""
HOSTS_LOOK: Final = 5.0
"""Seconds between looks whether flows still lead to hosts whose network has gone."""


class Topology:
    """The network as this node sees it."""

    def __init__(
        self,
        state: LinkState,
        peers: PeerMap,
        outbound: Outbound,
        inbound: Inbound,
        plugins: PluginManager,
        events: EventBoard,
        config: Config,
        *,
        latencies: Callable[[], Mapping[tuple[int, int], int]],
        on_computed: Callable[[], object] = lambda: None,
        on_succeeded: Callable[[int], object] = lambda _peer_id: None,
        carried_to: Callable[[], Iterable[IPAddress]] = tuple,
        pace: Pace | None = None,
    ) -> None:
        """`on_computed` runs whenever `record` and `peer_for` may answer differently; `on_succeeded` is told the id of a peer
        whose name and address a newer one has: it was restarted.  `carried_to` gives the destinations of the device's flows
        that this node carries."""
        self._carried_to = carried_to
        self._on_computed = on_computed
        self._state = state
        self._peers = peers
        self._outbound = outbound
        self._inbound = inbound
        self._plugins = plugins
        self._events = events
        self.config = config
        self._latencies = latencies
        self._on_succeeded = on_succeeded
        self._pace = pace or Pace()
        self._records: dict[int, PeerRecord] = {}
        self._next_hops = NextHops({}, {})
        self._lookup = Lookup((), {})
        self._unsafe_routes: set[IPv4Network] = set()
        self._routed: frozenset[Network] = frozenset()
        """What leads into the device."""
        self._lone_hosts: frozenset[Network] = frozenset()
        """Those of it that are there for flows under way alone."""
        self._own_id_claims = 0
        self._twins: dict[int, float] = {}
        """Peers with our address, and since when they were seen; infinity once they were warned of."""
        self._disputed: frozenset[int] = frozenset()
        """Neighbours whose address another peer of their name claims."""
        self._told_failure = ""
        self._stale = anyio.Event()
        self._computed = anyio.Event()
        self.changed()

    def changed(self) -> None:
        """Records, connections or latencies are not what they were."""
        self._stale.set()

    async def run(self, nic: Nic | None) -> None:
        """Keep the tables current for ever."""
        while True:
            with anyio.move_on_after(self._patience()):
                await self._stale.wait()
            self._stale = anyio.Event()
            turns = Turns(self._pace)
            await self._compute(turns)
            turns.stop()
            if nic is not None:
                await self._route_device(nic)
            await turns.rest()

    def _patience(self) -> float:
        """Seconds until something may have changed of which nobody tells."""
        if self._disputed:
            return DISPUTE_INTERVAL
        if self._lone_hosts:
            return HOSTS_LOOK
        return TWIN_PATIENCE if any(since < math.inf for since in self._twins.values()) else math.inf

    def record(self, peer_id: int) -> PeerRecord | None:
        """The record of a peer that can be reached."""
        return self._records.get(peer_id)

    async def wait_known(self, peer_id: int) -> None:
        """Return when there is a record of a peer that can be reached."""
        while self.record(peer_id) is None:
            await self._computed.wait()

    def reachable_records(self) -> list[PeerRecord]:
        """The records of all peers that can be reached."""
        return list(self._records.values())

    @property
    def next_hops(self) -> NextHops:
        """Paths to all reachable peers, by both policies."""
        return self._next_hops

    def hops_to(self, peer_id: int) -> int | None:
        """Length of the path that our own packets take to a peer."""
        path = self._paths().get(peer_id)
        return None if path is None else path.hops

    def peer_for(self, ip: IPv4Address | IPv6Address) -> PeerInfo | None:
        """The one peer that packets to `ip` go to, with what is known of the path to it."""
        targets = self._lookup.resolve(ip.packed).peers
        record = self._records.get(targets[0]) if len(targets) == 1 else None
        return None if record is None else replace(peer_info(record), path=self._figures_of(record.peer_id))

    def _figures_of(self, peer_id: int) -> PathFigures | None:
        path = self._paths().get(peer_id)
        conn = None if path is None else self._peers.best.get(path.next_hop)
        if path is None or conn is None or conn.latency is None:
            return None
        return PathFigures(conn.latency if path.hops == 1 else path.latency_ms / 1000, conn.loss, conn.pings)

    def center(self) -> int:
        """The peer center: the smallest peer id that is no public server."""
        candidates = (peer_id for peer_id, record in self._records.items() if not record.feature_flag.is_public_server)
        return min((self._state.peer_id, *candidates))

    def _paths(self) -> Mapping[int, Path]:
        return self._chosen(self._next_hops)

    def _chosen(self, next_hops: NextHops) -> Mapping[int, Path]:
        """By the policy for our own packets."""
        return next_hops.least_cost if self.config.flags.latency_first else next_hops.least_hops

    async def _compute(self, turns: Turns) -> None:
        records = {record.peer_id: record for record in self._state.peers()}
        avoid = {peer_id for peer_id, record in records.items() if record.feature_flag.avoid_relay_data}
        next_hops = await turns.run(
            compute_in_steps(
                self._state.peer_id,
                self._peers.neighbours(),
                records.keys(),
                self._state.connections(),
                avoid,
                self._latencies(),
            )
        )
        config = self.config
        paths = self._chosen(next_hops)
        reachable = {peer_id: record for peer_id, record in records.items() if peer_id in paths}
        heard = (
            peer_id
            for peer_id in self._peers.neighbours()
            if (self._peers.is_live(peer_id, DISPUTE_INTERVAL) if peer_id in self._disputed else self._peers.is_live(peer_id))
        )
        lookup = Lookup((), {}, config.ipv4, config.ipv6)
        await turns.run(
            lookup.fill(
                reachable.values(), paths, self._state.own.proxy_cidrs, config.exit_nodes, self._lookup, frozenset(heard)
            )
        )
        before, self._records, self._next_hops, self._lookup = self._records, reachable, next_hops, lookup
        self._disputed = self._lookup.disputed
        for peer_id in self._disputed:
            self._peers.probe(peer_id)
        self._on_computed()
        self._computed.set()
        self._computed = anyio.Event()
        self._inbound.next_hops_by_hops = {peer_id: path.next_hop for peer_id, path in self._next_hops.least_hops.items()}
        self._inbound.next_hops_by_latency = {peer_id: path.next_hop for peer_id, path in self._next_hops.least_cost.items()}
        self._outbound.lookup = self._lookup
        self._outbound.next_hops = (
            self._inbound.next_hops_by_latency if config.flags.latency_first else self._inbound.next_hops_by_hops
        )
        self._outbound.public_servers = frozenset(
            peer_id for peer_id, record in self._records.items() if record.feature_flag.is_public_server
        )
        await self._tell(before, turns)

    async def _warn_of_twin(self, turns: Turns) -> None:
        now = anyio.current_time()
        own = [interface.ip for interface in (self.config.ipv4, self.config.ipv6) if interface is not None]
        for record in self._records.values():
            if turns.is_over():
                await turns.give()
            theirs = {interface.ip for interface in (record.ipv4, record.ipv6) if interface is not None}
            if not theirs.intersection(own):
                self._twins.pop(record.peer_id, None)
            elif self._twins.setdefault(record.peer_id, now) <= now - TWIN_PATIENCE:
                logger.warning(
                    "peer %d (%s) has this node's address too; give one of them another", record.peer_id, record.hostname
                )
                self._twins[record.peer_id] = math.inf
        self._twins = {peer_id: since for peer_id, since in self._twins.items() if peer_id in self._records}
        claims = self._state.counters.own_id_claimed
        if claims > self._own_id_claims and not self._own_id_claims:
            logger.warning("another node uses this node's peer id %d; restart one of them", self._state.peer_id)
        self._own_id_claims = claims

    async def _tell(self, before: Mapping[int, PeerRecord], turns: Turns) -> None:
        """Log, publish and hand to plugins what differs."""
        await self._warn_of_twin(turns)
        for peer_id in before.keys() - self._records.keys():
            if turns.is_over():
                await turns.give()
            logger.info("route to peer %d (%s) is gone", peer_id, before[peer_id].hostname)
            self._events.publish(NodeEvent("route_removed", peer_id, before[peer_id].hostname))
            self._plugins.forget_peer(peer_id)
        holders = {(each.hostname, each.ipv4): peer_id for peer_id, each in before.items()}
        for peer_id, record in self._records.items():
            if before.get(peer_id) is record:
                continue
            if turns.is_over():
                await turns.give()
            if peer_id not in before:
                predecessor = holders.get((record.hostname, record.ipv4))
                if predecessor is not None and record.ipv4 is not None:
                    self._on_succeeded(predecessor)
                logger.info(
                    "route to peer %d: %s, %s, version %s, %s",
                    peer_id,
                    record.hostname,
                    record.ipv4 or "no address",
                    record.easytier_version,
                    "direct" if self.hops_to(peer_id) == 1 else f"{self.hops_to(peer_id)} hops",
                )
                self._events.publish(NodeEvent("route_added", peer_id, record.hostname))
            self._plugins.notify_capabilities(peer_info(record), capabilities_of(record))

    def _underlay_addresses(self) -> list[IPv4Address | IPv6Address]:
        hosts = (urlsplit(conn.tunnel.info.remote_url).hostname for conn in self._peers)
        return [ip_address(host) for host in hosts if host is not None and "." in host]

    async def _route_device(self, nic: Nic) -> None:
        routes = self._lookup.proxy_routes() if self.config.routes is None else frozenset(self.config.routes)
        # A route over a neighbour's underlay address would lead its tunnel into itself.
        underlay = self._underlay_addresses()
        unsafe = {route for route in routes if any(address in route for address in underlay)}
        for route in unsafe - self._unsafe_routes:
            logger.warning("no route to %s: it would cover the underlay address of a neighbour", route)
        self._unsafe_routes = unsafe
        wanted = frozenset(routes - unsafe)
        self._lone_hosts = self._left_behind(wanted, underlay)
        self._routed = wanted | self._lone_hosts
        try:
            await nic.replace_routes(self._routed)
            self._told_failure = ""
        except NicError as error:
            if str(error) != self._told_failure:
                self._told_failure = str(error)
                logger.warning("routes of %s were not changed: %s", nic.name, error)

    def _left_behind(self, wanted: frozenset[Network], underlay: Collection[IPAddress]) -> frozenset[Network]:
        """Hosts in networks that are gone, or out of reach for a while, to which flows are under way: a transport carries these
        to a peer, whatever is offered, and the kernel would send them elsewhere."""
        gone = self._routed - wanted
        if not gone:
            return frozenset()
        hosts = {ip for ip in self._carried_to() if any(ip in network for network in gone) and ip not in underlay}
        return frozenset(ip_network(ip) for ip in hosts if not any(ip in network for network in wanted))


def own_record(config: Config, capabilities: frozenset[Capability]) -> OwnRecord:
    """What a node of this configuration announces about itself; `capabilities` are those that its plugins brought."""
    flags = config.flags
    return OwnRecord(
        inst_id=config.instance_id,
        hostname=config.hostname,
        ipv4=config.ipv4,
        ipv6=config.ipv6 if flags.enable_ipv6 else None,
        proxy_cidrs=offered_networks(config),
        easytier_version=EASYTIER_VERSION,
        feature_flag=common_pb2.PeerFeatureFlag(
            avoid_relay_data=flags.disable_relay_data,
            kcp_input=Capability.KCP_INPUT in capabilities and not flags.disable_kcp_input,
            no_relay_kcp=flags.disable_relay_kcp,
            support_conn_list_sync=True,
            need_p2p=flags.need_p2p,
            disable_p2p=flags.disable_p2p,
        ),
    )


def offered_networks(config: Config) -> tuple[IPv4Network, ...]:
    """The networks behind a node, as peers see them."""
    return tuple(network.mapped_cidr or network.cidr for network in config.proxy_networks)


def peer_info(record: PeerRecord) -> PeerInfo:
    """A record as plugins see it."""
    return PeerInfo(
        record.peer_id,
        record.hostname,
        None if record.ipv4 is None else record.ipv4.ip,
        None if record.ipv6 is None else record.ipv6.ip,
        record.easytier_version,
        record.proxy_cidrs,
    )


def capabilities_of(record: PeerRecord) -> PeerCapabilities:
    """What a record announces, as plugins see it."""
    flag = record.feature_flag
    return PeerCapabilities(
        kcp_input=flag.kcp_input,
        no_relay_kcp=flag.no_relay_kcp,
        quic_input=flag.quic_input,
        no_relay_quic=flag.no_relay_quic,
        avoid_relay_data=flag.avoid_relay_data,
        is_public_server=flag.is_public_server,
        version=record.easytier_version,
    )
