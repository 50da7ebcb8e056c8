"""Shortest paths by both policies."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.next_hop import UNKNOWN_LATENCY_MS, NextHops, Path, compute

ME = 1
Graph = dict[int, frozenset[int]]


def both_ways(*edges: tuple[int, int]) -> Graph:
    peers = {peer_id for edge in edges for peer_id in edge}
    return {a: frozenset(y if x == a else x for x, y in edges if a in (x, y)) for a in peers}


def paths(graph: Graph, *, avoid: Iterable[int] = (), latencies: dict[tuple[int, int], int] | None = None) -> NextHops:
    others = graph.keys() - {ME}
    return compute(ME, graph.get(ME, frozenset()), others, graph, set(avoid), latencies or {})


def test_a_line_goes_through_its_first_node() -> None:
    result = paths(both_ways((1, 2), (2, 3), (3, 4)))
    assert result.least_hops == {
        2: Path(2, 1, UNKNOWN_LATENCY_MS, False),
        3: Path(2, 2, 2 * UNKNOWN_LATENCY_MS, False),
        4: Path(2, 3, 3 * UNKNOWN_LATENCY_MS, False),
    }
    assert result.least_cost == result.least_hops


def test_equal_hops_are_decided_by_latency() -> None:
    graph = both_ways((1, 2), (1, 3), (2, 4), (3, 4))
    result = paths(graph, latencies={(1, 2): 10, (2, 4): 50, (1, 3): 20, (3, 4): 30})
    assert result.least_hops[4] == Path(3, 2, 50)


def test_fewer_hops_against_less_latency() -> None:
    graph = both_ways((1, 2), (2, 5), (1, 3), (3, 4), (4, 5))
    result = paths(graph, latencies={(1, 2): 100, (2, 5): 100, (1, 3): 5, (3, 4): 5, (4, 5): 5})
    assert result.least_hops[5] == Path(2, 2, 200)
    assert result.least_cost[5] == Path(3, 3, 15)


def test_a_neighbour_is_reached_directly_even_if_slow() -> None:
    graph = both_ways((1, 2), (1, 3), (3, 2), (2, 4))
    result = paths(graph, latencies={(1, 2): 1000, (1, 3): 1, (3, 2): 1, (2, 4): 1})
    assert result.least_cost[2] == Path(2, 1, 1000)
    # What lies behind it is still cheaper by the detour.
    assert result.least_cost[4] == Path(3, 3, 3)


def test_latency_known_in_the_other_direction_counts() -> None:
    assert paths(both_ways((1, 2)), latencies={(2, 1): 7}).least_cost[2].latency_ms == 7


def test_of_a_path_one_part_of_which_nobody_measured_that_is_known() -> None:
    result = paths(both_ways((1, 2), (2, 3), (3, 4)), latencies={(1, 2): 3, (3, 4): 4})
    assert [result.least_cost[peer_id].is_measured for peer_id in (2, 3, 4)] == [True, False, False]
    assert result.least_hops == result.least_cost


@pytest.mark.parametrize(("reported", "taken"), [(-5, 0), (0, 0), (2**31 - 1, 60_000)])
def test_absurd_latencies_are_bounded(reported: int, taken: int) -> None:
    assert paths(both_ways((1, 2)), latencies={(1, 2): reported}).least_cost[2].latency_ms == taken


def test_unwilling_transit_comes_last() -> None:
    graph = both_ways((1, 2), (2, 6), (1, 3), (3, 4), (4, 5), (5, 6))
    assert paths(graph).least_hops[6].next_hop == 2
    result = paths(graph, avoid={2}, latencies={(1, 2): 1, (2, 6): 1})
    assert result.least_hops[6] == Path(3, 4, 2000, False)
    assert result.least_cost[6] == Path(3, 4, 2000, False)


def test_unwilling_transit_is_used_where_nothing_else_leads() -> None:
    result = paths(both_ways((1, 2), (2, 3)), avoid={2, ME})
    assert result.least_hops[3] == Path(2, 2, 2 * UNKNOWN_LATENCY_MS, False)


def test_fewest_unwilling_transits_win() -> None:
    graph = both_ways((1, 2), (2, 3), (3, 6), (1, 4), (4, 5), (5, 7), (7, 6))
    assert paths(graph, avoid={2, 3, 4}).least_hops[6].next_hop == 4


def test_edges_are_one_way() -> None:
    edges: Graph = {2: frozenset({ME}), 3: frozenset({2})}
    assert compute(ME, frozenset({2}), {2, 3}, edges, frozenset(), {}).least_hops.keys() == {2}


def test_peers_without_record_are_no_transit() -> None:
    graph = both_ways((1, 2), (2, 3))
    assert compute(ME, graph[ME], {3}, graph, frozenset(), {}).least_hops == {}


def test_a_peer_without_edges_is_no_surprise() -> None:
    assert compute(ME, frozenset({2}), {2, 9}, {}, frozenset(), {}).least_hops.keys() == {2}


def reference(graph: Graph, latencies: dict[tuple[int, int], int], by_hops: bool) -> dict[int, tuple[int, int]]:
    """Costs by Bellman-Ford."""
    costs = {ME: (0, 0)}
    for _ in graph:
        for a, neighbours in graph.items():
            for b in neighbours:
                if a in costs:
                    step = latencies.get((a, b), latencies.get((b, a), UNKNOWN_LATENCY_MS))
                    first, second = (1, step) if by_hops else (step, 1)
                    cost = costs[a][0] + first, costs[a][1] + second
                    costs[b] = min(costs.get(b, cost), cost)
    return costs


@given(
    st.sets(st.tuples(st.integers(1, 8), st.integers(1, 8)).filter(lambda edge: edge[0] < edge[1]), max_size=20),
    st.dictionaries(st.tuples(st.integers(1, 8), st.integers(1, 8)), st.integers(0, 300), max_size=20),
)
def test_costs_are_those_of_another_algorithm(edges: set[tuple[int, int]], latencies: dict[tuple[int, int], int]) -> None:
    graph = both_ways(*edges)
    result = paths(graph, latencies=latencies)
    direct = graph.get(ME, frozenset())
    for table, by_hops in ((result.least_hops, True), (result.least_cost, False)):
        costs = reference(graph, latencies, by_hops)
        assert table.keys() == costs.keys() - {ME}
        for peer_id, path in table.items():
            assert path.next_hop in direct
            if peer_id in direct:
                assert (path.next_hop, path.hops) == (peer_id, 1)
            else:
                assert costs[peer_id] == ((path.hops, path.latency_ms) if by_hops else (path.latency_ms, path.hops))


@pytest.mark.parametrize("degree", [4, 499])
def test_500_peers_do_not_stall_the_event_loop(degree: int) -> None:
    rng = random.Random(1)
    peers = range(1, 501)
    edges = {peer_id: frozenset(rng.sample(peers, degree)) - {peer_id} for peer_id in peers}
    started = time.process_time()
    result = compute(ME, edges[ME], frozenset(peers) - {ME}, edges, frozenset(), {})
    # A fifth of this on the slowest machine tried; the limit only catches a worse algorithm.
    assert time.process_time() - started < 2.0
    assert len(result.least_hops) > 450
