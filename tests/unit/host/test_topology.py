"""From route records to next hops, look-ups, kernel routes and news for plugins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import anyio
import pytest
from anyio.abc import TaskGroup

from easytier_hooks.types import PathFigures, PeerCapabilities, PeerInfo
from easytier_host import topology as topology_module
from easytier_host.config.model import Config, Flags
from easytier_host.events import EventBoard, NodeEvent
from easytier_host.next_hop import NextHops, compute_in_steps
from easytier_host.nic.base import NicError
from easytier_host.nic.memory import MemoryNic
from easytier_host.pb import common_pb2
from easytier_host.peer_conn import PeerConn
from easytier_host.route_records import OwnRecord, PeerRecord
from easytier_host.route_tables import RouteCounters
from easytier_host.topology import Topology, capabilities_of, peer_info
from tests.unit.host.helpers import FAR, ME, OTHER, PEER, Recorder
from tests.unit.host.tunnel.helpers import running, until

pytestmark = pytest.mark.anyio


def record(peer_id: int, number: int, *cidrs: str, **flags: bool) -> PeerRecord:
    return PeerRecord(
        peer_id,
        f"host{number}",
        IPv4Interface(f"10.144.0.{number}/24"),
        None,
        tuple(IPv4Network(cidr) for cidr in cidrs),
        6,
        "2.6.4",
        common_pb2.PeerFeatureFlag(**flags),
        UUID(int=peer_id),
        1,
        0.0,
    )


@dataclass
class Net:
    """What the route protocol, the connections and the peer center say."""

    records: list[PeerRecord]
    links: dict[int, frozenset[int]]
    near: frozenset[int] = frozenset({PEER})
    live: set[int] = field(default_factory=set)
    probe: Recorder = field(default_factory=Recorder)
    best: dict[int, PeerConn] = field(default_factory=dict)
    latencies: dict[tuple[int, int], int] = field(default_factory=dict)
    told: list[tuple[PeerInfo, PeerCapabilities]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    succeeded: list[int] = field(default_factory=list)
    outbound: SimpleNamespace = field(default_factory=SimpleNamespace)
    inbound: SimpleNamespace = field(default_factory=SimpleNamespace)
    events: EventBoard = field(default_factory=EventBoard)
    counters: RouteCounters = field(default_factory=RouteCounters)
    carried_to: set[IPv4Address] = field(default_factory=set)
    underlay: list[str] = field(default_factory=list)

    def neighbours(self) -> frozenset[int]:
        return self.near

    def __iter__(self) -> Iterator[PeerConn]:
        """One connection to each underlay address."""
        infos = [SimpleNamespace(remote_url=f"udp://{address}:11010") for address in self.underlay]
        return iter([cast("PeerConn", SimpleNamespace(tunnel=SimpleNamespace(info=info))) for info in infos])

    def is_live(self, peer_id: int, _within: float = 3.0) -> bool:
        return peer_id in self.live

    def topology(self, **flags: bool) -> Topology:
        state = SimpleNamespace(
            peer_id=ME,
            peers=lambda: self.records,
            connections=lambda: self.links,
            own=OwnRecord(UUID(int=1)),
            counters=self.counters,
        )
        plugins = SimpleNamespace(
            notify_capabilities=lambda info, capabilities: self.told.append((info, capabilities)),
            forget_peer=self.forgotten.append,
        )
        config = Config(ipv4=IPv4Interface("10.144.0.1/24"), flags=Flags(**flags))  # type: ignore[arg-type]
        return Topology(
            state,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self.outbound,  # type: ignore[arg-type]
            self.inbound,  # type: ignore[arg-type]
            plugins,  # type: ignore[arg-type]
            self.events,
            config,
            latencies=lambda: self.latencies,
            on_succeeded=self.succeeded.append,
            carried_to=lambda: self.carried_to,
        )


def row() -> Net:
    """ME - PEER - FAR, and OTHER alone."""
    links = {PEER: frozenset({ME, FAR}), FAR: frozenset({PEER}), OTHER: frozenset[int]()}
    return Net([record(PEER, 2), record(FAR, 4, "192.168.9.0/24"), record(OTHER, 3)], links)


@asynccontextmanager
async def started(topology: Topology, nic: MemoryNic | None = None) -> AsyncIterator[TaskGroup]:
    async with running() as tasks:
        tasks.start_soon(topology.run, nic)
        await until(lambda: topology.reachable_records())
        yield tasks


async def test_what_can_be_reached_gets_hops_addresses_and_next_hops() -> None:
    net = row()
    topology = net.topology()
    async with started(topology):
        assert {item.peer_id for item in topology.reachable_records()} == {PEER, FAR}
        assert (topology.hops_to(PEER), topology.hops_to(FAR), topology.hops_to(OTHER)) == (1, 2, None)
        assert net.outbound.next_hops == net.inbound.next_hops_by_hops == {PEER: PEER, FAR: PEER}
        assert topology.peer_for(IPv4Address("10.144.0.4")) == peer_info(net.records[1])
        assert topology.peer_for(IPv4Address("192.168.9.77")) == peer_info(net.records[1])
        for nobody in ("10.144.0.3", "10.144.0.255", "10.144.0.1", "8.8.8.8"):
            assert topology.peer_for(IPv4Address(nobody)) is None
        assert topology.record(FAR) == net.records[1]


async def test_the_path_to_a_peer_is_told_by_its_first_hop() -> None:
    net = row()
    net.latencies = {(ME, PEER): 10, (PEER, FAR): 30}
    net.best[PEER] = cast("PeerConn", SimpleNamespace(latency=0.0123, loss=0.25, pings=8))
    topology = net.topology()
    async with started(topology):
        near, far = (topology.peer_for(IPv4Address(address)) for address in ("10.144.0.2", "10.144.0.4"))
        assert near is not None
        assert near.path == PathFigures(0.0123, 0.25, 8)
        assert far is not None
        assert far.path == PathFigures(0.04, 0.25, 8)
        net.best.clear()
        unknown = topology.peer_for(IPv4Address("10.144.0.2"))
        assert unknown is not None
        assert unknown.path is None
        assert topology.record(OTHER) is None


@pytest.mark.parametrize("ids", [(PEER, OTHER), (OTHER, PEER)])
async def test_the_address_of_a_node_that_started_again_leads_to_the_record_that_came_last(ids: tuple[int, int]) -> None:
    records = [replace(record(peer_id, 2), hostname="again") for peer_id in ids]
    net = Net(records, {}, near=frozenset(ids), latencies={(ME, ids[0]): 1})
    topology = net.topology()
    async with started(topology):
        assert topology.peer_for(IPv4Address("10.144.0.2")) == peer_info(records[1])


async def test_a_neighbour_that_is_heard_keeps_its_address_from_another_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easytier_host.topology.DISPUTE_INTERVAL", 0.01)
    first, second = (replace(record(peer_id, 2), hostname="again") for peer_id in (PEER, OTHER))
    net = Net([first, second], {}, near=frozenset({PEER, OTHER}), live={PEER, OTHER}, latencies={(ME, PEER): 9, (ME, OTHER): 1})
    topology = net.topology()
    async with started(topology):
        await until(lambda: len(net.probe.calls) > 2)
        assert set(net.probe.calls) == {(PEER,)}
        assert topology.peer_for(IPv4Address("10.144.0.2")) == peer_info(first)
        # It was a restart after all: nothing comes from the old one any more.
        net.live.discard(PEER)
        await until(lambda: topology.peer_for(IPv4Address("10.144.0.2")) == peer_info(second))


async def test_an_address_stays_with_the_peer_that_had_it() -> None:
    first = record(PEER, 2)
    net = Net([first], {}, near=frozenset({PEER, OTHER}), latencies={(ME, PEER): 9, (ME, OTHER): 1})
    topology = net.topology()
    async with started(topology):
        # Nearer, and under a name of its own.
        net.records = [replace(record(OTHER, 2), hostname="thief"), first]
        topology.changed()
        await until(lambda: topology.record(OTHER))
        assert topology.peer_for(IPv4Address("10.144.0.2")) == peer_info(first)
        net.records = net.records[:1]
        topology.changed()
        await until(lambda: topology.record(PEER) is None)
        assert topology.peer_for(IPv4Address("10.144.0.2")) == peer_info(net.records[0])


async def test_a_node_that_started_again_puts_its_predecessor_in_doubt() -> None:
    net = row()
    topology = net.topology()
    async with started(topology):
        assert net.succeeded == []
        again = replace(net.records[1], peer_id=77)
        net.records.append(again)
        net.links[PEER] = net.links[PEER] | {77}
        topology.changed()
        await until(lambda: topology.record(77))
        assert net.succeeded == [FAR]


async def test_latency_first_takes_the_quicker_way() -> None:
    links = {PEER: frozenset({ME, FAR}), OTHER: frozenset({ME, 9}), 9: frozenset({OTHER, FAR}), FAR: frozenset({PEER, 9})}
    records = [record(PEER, 2), record(OTHER, 3), record(FAR, 4), record(9, 9)]
    net = Net(records, links, near=frozenset({PEER, OTHER}))
    net.latencies = {(ME, PEER): 300, (PEER, FAR): 300, (ME, OTHER): 5, (OTHER, 9): 5, (9, FAR): 5}
    topology = net.topology(latency_first=True)
    async with started(topology):
        assert net.outbound.next_hops[FAR] == net.inbound.next_hops_by_latency[FAR] == OTHER
        assert net.inbound.next_hops_by_hops[FAR] == PEER
        assert topology.hops_to(FAR) == 3


async def test_a_twin_with_our_peer_id_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    net = row()
    topology = net.topology()
    async with started(topology):
        for claims in (1, 2):
            net.counters.own_id_claimed = claims
            net.records.append(record(OTHER + claims + 10, 20 + claims))
            net.links[PEER] = net.links[PEER] | {OTHER + claims + 10}
            topology.changed()
            await until(lambda: topology.record(net.records[-1].peer_id))
    assert caplog.text.count("restart one of them") == 1


async def test_changes_become_events_and_news_for_plugins() -> None:
    net = row()
    topology = net.topology()
    reader = net.events.subscribe()
    async with started(topology):
        assert {info.peer_id for info, _ in net.told} == {PEER, FAR}
        net.records[0] = replace(net.records[0], feature_flag=common_pb2.PeerFeatureFlag(kcp_input=True))
        net.links[PEER] = frozenset({ME})
        topology.changed()
        await until(lambda: net.forgotten == [FAR])
        assert net.told[-1][1].kcp_input
    net.events.close()
    events = [event async for event in reader]
    assert {*events[:2]} == {NodeEvent("route_added", PEER, "host2"), NodeEvent("route_added", FAR, "host4")}
    assert events[2:] == [NodeEvent("route_removed", FAR, "host4")]


async def test_many_changes_are_one_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    net = row()
    topology = net.topology()
    calls: list[int] = []

    def counted(*given: Any) -> Generator[None, None, NextHops]:
        calls.append(1)
        return compute_in_steps(*given)

    monkeypatch.setattr("easytier_host.topology.compute_in_steps", counted)
    async with started(topology):
        for _ in range(1000):
            topology.changed()
        await until(lambda: len(calls) == 2)
        await anyio.wait_all_tasks_blocked()
        assert len(calls) == 2


async def test_public_servers_are_no_center_and_get_rpc_in_clear() -> None:
    net = row()
    net.records = [record(5, 2, is_public_server=True), record(7, 4)]
    net.links = {5: frozenset({ME, 7}), 7: frozenset({5})}
    net.near = frozenset({5})
    topology = net.topology()
    assert topology.center() == ME
    async with started(topology):
        assert topology.center() == 7
        assert net.outbound.public_servers == frozenset({5})


async def test_networks_of_peers_become_routes_of_the_device_and_a_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Nic(MemoryNic):
        wanted: frozenset[object] = frozenset()
        refuse = False
        refused = 0

        async def replace_routes(self, cidrs: object) -> None:
            if self.refuse:
                self.refused += 1
                raise NicError("no rights")
            assert isinstance(cidrs, frozenset)
            self.wanted = cidrs

    net, nic = row(), Nic()
    topology = net.topology()
    async with started(topology, nic):
        await until(lambda: nic.wanted == {IPv4Network("192.168.9.0/24")})
        nic.refuse = True
        topology.changed()
        await until(lambda: nic.refused == 1)
        topology.changed()
        await until(lambda: nic.refused == 2)
        assert caplog.text.count("no rights") == 1
        nic.refuse = False
        net.near = frozenset()
        topology.changed()
        await until(lambda: not nic.wanted)


async def test_hosts_of_a_network_that_is_gone_keep_their_way_while_flows_lead_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nic(MemoryNic):
        wanted: frozenset[object] = frozenset()

        async def replace_routes(self, cidrs: object) -> None:
            assert isinstance(cidrs, frozenset)
            self.wanted = cidrs

    monkeypatch.setattr(topology_module, "HOSTS_LOOK", 0.01)
    net, nic = row(), Nic()
    network, host = IPv4Network("192.168.9.0/24"), IPv4Network("192.168.9.7/32")
    net.carried_to = {IPv4Address("192.168.9.7"), IPv4Address("10.144.0.2")}
    topology = net.topology()
    async with started(topology, nic):
        await until(lambda: nic.wanted == {network})
        net.near = frozenset()
        topology.changed()
        await until(lambda: nic.wanted == {host})
        net.near = frozenset({PEER})
        topology.changed()
        await until(lambda: nic.wanted == {network})
        net.near = frozenset()
        topology.changed()
        await until(lambda: nic.wanted == {host})
        # That would lead the tunnel of a neighbour into itself.
        net.underlay = ["192.168.9.7"]
        topology.changed()
        await until(lambda: not nic.wanted)
        net.underlay = []
        net.near = frozenset({PEER})
        topology.changed()
        await until(lambda: nic.wanted == {network})
        net.near = frozenset()
        topology.changed()
        await until(lambda: nic.wanted == {host})
        # The last flow ends, of which nobody tells.
        net.carried_to = set()
        await until(lambda: not nic.wanted)


def test_capabilities_are_those_announced() -> None:
    flags = {"kcp_input": True, "no_relay_kcp": True, "is_public_server": True, "avoid_relay_data": True}
    capabilities = capabilities_of(record(PEER, 2, **flags))
    assert capabilities == PeerCapabilities(
        kcp_input=True, no_relay_kcp=True, is_public_server=True, avoid_relay_data=True, version="2.6.4"
    )
