"""Shortest paths: which neighbour gets a frame for a peer further away.

Pure functions over a snapshot of the route protocol; called when its `generation` or a latency has changed, not per packet.  A
hostile peer may announce hundreds of thousands of connections, which take a second: so it can be done in steps.

Graph (wire specification, control plane 7.7): the nodes are the peers that published a record; an edge leads from A to B if A
announced B as its neighbour.  Peers that ask not to relay are transit only where nothing else leads.  Two policies:

- least hops, the normal one: fewest hops, then least latency;
- least cost, for frames with the LATENCY_FIRST flag: least latency, then fewest hops.

A neighbour is always reached directly, whatever a path around it would cost.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, NamedTuple

from easytier_host.steps import Steps, finish

UNKNOWN_LATENCY_MS: Final = 500
"""What stock takes for an edge that nobody measured (control plane 7.7)."""
MAX_LATENCY_MS: Final = 60_000
"""A larger report counts as this much, so that the fields of a cost below cannot run over."""

# Ours.
STEP_EDGES: Final = 100
"""Edges looked at in one step, besides those of one more peer: some tenth of a millisecond."""

# A cost is one integer, so that comparing two costs compares their fields in the order of a policy.
_HOP_BITS: Final = 16
_LATENCY_BITS: Final = 32
_AVOIDED: Final = 1 << (_HOP_BITS + _LATENCY_BITS)

_NOBODY: Final[frozenset[int]] = frozenset()


class Path(NamedTuple):
    """The way to a peer: the neighbour it begins with, its length, and the sum of the latencies known or assumed.

    `is_measured`: none of them is assumed.
    """

    next_hop: int
    hops: int
    latency_ms: int
    is_measured: bool = True


@dataclass(frozen=True, slots=True)
class NextHops:
    """Paths to all reachable peers by either policy; both have the same keys."""

    least_hops: Mapping[int, Path]
    least_cost: Mapping[int, Path]


def compute(
    own_id: int,
    neighbours: AbstractSet[int],
    nodes: AbstractSet[int],
    edges: Mapping[int, AbstractSet[int]],
    avoid_relay: AbstractSet[int],
    latencies: Mapping[tuple[int, int], int],
) -> NextHops:
    """Paths from `own_id` to every one of `nodes` that can be reached; see `compute_in_steps`."""
    return finish(compute_in_steps(own_id, neighbours, nodes, edges, avoid_relay, latencies))


def compute_in_steps(
    own_id: int,
    neighbours: AbstractSet[int],
    nodes: AbstractSet[int],
    edges: Mapping[int, AbstractSet[int]],
    avoid_relay: AbstractSet[int],
    latencies: Mapping[tuple[int, int], int],
) -> Steps[NextHops]:
    """The same in steps.

    `nodes` are the peers with a record, `edges` their announced neighbours, `avoid_relay` those that want no transit.
    `latencies` holds milliseconds by (from, to); where only the other direction is known, that counts.
    """
    graph = {own_id: nodes & neighbours}
    looked_at = 0
    for peer_id in nodes:
        if peer_id != own_id:
            announced = edges.get(peer_id, _NOBODY)
            graph[peer_id] = nodes & announced
            looked_at += len(announced)
            if looked_at >= 10 * STEP_EDGES:
                looked_at = 0
                yield
    arguments = own_id, graph, avoid_relay, latencies
    # Fields from the most significant: avoided transits, then hops and latency in the order of the policy.
    least_hops = yield from _search(*arguments, hop_unit=1 << _LATENCY_BITS, latency_unit=1)
    least_cost = yield from _search(*arguments, hop_unit=1, latency_unit=1 << _HOP_BITS)
    return NextHops(least_hops, least_cost)


def _search(
    own_id: int,
    graph: Mapping[int, AbstractSet[int]],
    avoid_relay: AbstractSet[int],
    latencies: Mapping[tuple[int, int], int],
    hop_unit: int,
    latency_unit: int,
) -> Steps[dict[int, Path]]:
    """Dijkstra's algorithm."""
    paths: dict[int, Path] = {own_id: Path(own_id, 0, 0)}
    costs = {own_id: 0}
    heap = [(0, own_id)]
    settled: set[int] = set()
    looked_at = 0
    while heap:
        cost, peer_id = heapq.heappop(heap)
        if peer_id in settled:
            continue
        settled.add(peer_id)
        looked_at += 1 + len(graph[peer_id])
        if looked_at >= STEP_EDGES:
            looked_at = 0
            yield
        next_hop, hops, latency_so_far, is_measured = paths[peer_id]
        step = cost + hop_unit + (_AVOIDED if peer_id in avoid_relay else 0)
        for other in graph[peer_id] - settled:
            best = costs.get(other)
            if best is not None and step >= best:
                continue
            # Nearly all of the time is spent here: no call where the answer is at hand.
            latency = latencies.get((peer_id, other), -1)
            is_known = is_measured
            if not 0 <= latency <= MAX_LATENCY_MS:
                latency, is_known = _latency(latencies, peer_id, other)
                is_known = is_known and is_measured
            total = step + latency * latency_unit
            if best is None or total < best:
                costs[other] = total
                paths[other] = Path(next_hop if hops else other, hops + 1, latency_so_far + latency, is_known)
                heapq.heappush(heap, (total, other))
    del paths[own_id]
    for neighbour in graph[own_id]:
        paths[neighbour] = Path(neighbour, 1, *_latency(latencies, own_id, neighbour))
    return paths


def _latency(latencies: Mapping[tuple[int, int], int], from_peer: int, to_peer: int) -> tuple[int, bool]:
    """Milliseconds, and whether somebody measured them."""
    latency = latencies.get((from_peer, to_peer), latencies.get((to_peer, from_peer)))
    if latency is None:
        return UNKNOWN_LATENCY_MS, False
    return min(max(latency, 0), MAX_LATENCY_MS), True
