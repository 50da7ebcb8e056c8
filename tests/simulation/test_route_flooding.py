"""Networks of 20 nodes whose links come and go at random: all that are joined end up knowing the same, and the right.

Every step of the simulation is one second.  Links change, nodes change their records, and calls between neighbours are lost on
their way or on their way back.  Then the changes stop, and the network has to come to rest within a bounded number of rounds.
"""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Network
from uuid import UUID

import pytest

from easytier_host.next_hop import compute
from easytier_host.route import LinkState
from easytier_host.route_records import OwnRecord

NODES = range(1, 21)
CHAOS_SECONDS = 300
ROUNDS_TO_REST = 60
"""Three rounds for each hop of the longest line possible."""


class Network:
    """The nodes, their links, and the time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.links: set[tuple[int, int]] = set()
        self.nodes = {peer_id: self.start(peer_id) for peer_id in NODES}

    def start(self, peer_id: int) -> LinkState:
        own = OwnRecord(UUID(int=peer_id), hostname=f"n{peer_id}")
        return LinkState(peer_id, own, lambda: self.rng.getrandbits(64), self.now)

    def toggle_link(self) -> None:
        left, right = sorted(self.rng.sample(NODES, 2))
        self.set_link(left, right, (left, right) not in self.links)

    def set_link(self, left: int, right: int, up: bool) -> None:
        if up:
            self.links.add((left, right))
            self.nodes[left].add_neighbour(right)
            self.nodes[right].add_neighbour(left)
        else:
            self.links.discard((left, right))
            self.nodes[left].remove_neighbour(right)
            self.nodes[right].remove_neighbour(left)

    def change_record(self) -> None:
        state = self.nodes[self.rng.choice(NODES)]
        state.update_own(replace(state.own, proxy_cidrs=(IPv4Network((self.rng.getrandbits(32), 32)),)))

    def synchronise(self, loss: float) -> int:
        """Let every node call each neighbour that lacks something, in random order; returns the number of calls."""
        directions = [*self.links, *((right, left) for left, right in self.links)]
        directions.sort()
        self.rng.shuffle(directions)
        calls = 0
        for caller, callee in directions:
            sender = self.nodes[caller]
            request = sender.build_request(callee, self.now, self.now)
            if request is None:
                continue
            calls += 1
            assert all(item.peer_id != callee for item in request.peer_infos.items)
            if self.rng.random() < loss:
                sender.on_failure(callee)
                continue
            response = self.nodes[callee].handle_request(caller, request, self.now)
            if self.rng.random() < loss:
                sender.on_failure(callee)
                continue
            assert sender.on_response(callee, request, response, self.now)
        return calls

    def tick(self, loss: float) -> None:
        self.now += 1
        self.synchronise(loss)
        if self.now % 60 == 0:
            for state in self.nodes.values():
                state.expire(self.now)

    def rest(self) -> None:
        for _ in range(ROUNDS_TO_REST):
            if self.synchronise(loss=0.0) == 0:
                return
        pytest.fail(f"still talking after {ROUNDS_TO_REST} rounds")

    def component(self, peer_id: int) -> set[int]:
        found = {peer_id}
        while True:
            wider = found | {peer for link in self.links if found & set(link) for peer in link}
            if wider == found:
                return found
            found = wider

    def assert_all_know_the_truth(self) -> None:
        for peer_id, state in self.nodes.items():
            others = self.component(peer_id) - {peer_id}
            assert state.reachable() == others
            records = {record.peer_id: record for record in state.peers()}
            connections = state.connections()
            for other in others:
                assert records[other].proxy_cidrs == self.nodes[other].own.proxy_cidrs
                assert connections[other] == self.nodes[other].neighbours
            hops = compute(peer_id, state.neighbours, records.keys(), connections, set(), {}).least_hops
            assert hops.keys() == others
            assert all(path.next_hop in state.neighbours for path in hops.values())


@pytest.mark.parametrize("seed", range(5))
def test_networks_in_turmoil_come_to_rest_and_agree(seed: int) -> None:
    network = Network(seed)
    for _ in range(25):
        network.toggle_link()
    for _ in range(CHAOS_SECONDS):
        for _ in range(network.rng.choice([0, 0, 0, 1, 3])):
            network.toggle_link()
        if network.rng.random() < 0.2:
            network.change_record()
        network.tick(loss=0.3)
    network.rest()
    network.assert_all_know_the_truth()


def test_halves_that_were_apart_for_long_join_again() -> None:
    network = Network(seed=1)
    for peer_id in NODES[:-1]:
        network.set_link(peer_id, peer_id + 1, up=True)
    network.rest()
    network.set_link(10, 11, up=False)
    for _ in range(300):
        network.tick(loss=0.0)
    assert len(network.nodes[1].peers()) == 9
    network.set_link(10, 11, up=True)
    network.rest()
    network.assert_all_know_the_truth()


def test_halves_that_were_apart_until_some_had_forgotten_join_again() -> None:
    network = Network(seed=2)
    for peer_id in NODES[:-1]:
        network.set_link(peer_id, peer_id + 1, up=True)
    network.rest()
    network.set_link(10, 11, up=False)
    network.rest()
    # Nodes look at different times what has expired: here only every other one did.
    network.now += 100
    for peer_id in NODES[::2]:
        network.nodes[peer_id].expire(network.now)
    network.set_link(10, 11, up=True)
    network.rest()
    network.assert_all_know_the_truth()


def test_a_node_that_starts_again_under_another_id_replaces_the_old_one() -> None:
    network = Network(seed=3)
    for peer_id in NODES[:-1]:
        network.set_link(peer_id, peer_id + 1, up=True)
    network.rest()
    network.set_link(19, 20, up=False)
    del network.nodes[20]
    network.nodes[21] = network.start(21)
    network.set_link(19, 21, up=True)
    network.rest()
    network.assert_all_know_the_truth()
    for _ in range(180):
        network.tick(loss=0.0)
    assert all(record.peer_id != 20 for state in network.nodes.values() for record in state.peers())


def test_nobody_is_forgotten_in_a_quiet_day() -> None:
    network = Network(seed=4)
    for peer_id in NODES[:-1]:
        network.set_link(peer_id, peer_id + 1, up=True)
    network.rest()
    while network.now < 24 * 3600:
        network.now += 59
        for state in network.nodes.values():
            state.expire(network.now)
        network.rest()
        assert all(len(state.reachable()) == len(NODES) - 1 for state in network.nodes.values())
