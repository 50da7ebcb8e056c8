"""Route records of hundreds of peers are taken and told in short steps, between which others may say something, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from easytier_host.lookup import Lookup
from easytier_host.next_hop import Path
from easytier_host.pb import peer_rpc_pb2
from easytier_host.route import LinkState, RouteError
from easytier_host.steps import Steps, finish
from tests.unit.host.test_route import FAR, LEFT, ME, RIGHT, Rows, answer, built, ids, node, record, request_from, rows_of

PEERS = range(100, 400)


def network(version: int = 1, hostname: str = "") -> peer_rpc_pb2.SyncRouteInfoRequest:
    """What LEFT says of a network behind it, in which each knows ten others."""
    rows: Rows = {peer: (version, set(range(peer - 10, peer))) for peer in PEERS}
    rows[LEFT] = (version, {ME, *PEERS})
    records = (record(peer, version, hostname=hostname) for peer in (LEFT, *PEERS))
    return request_from(LEFT, *records, rows=rows)


def each_step(steps: Steps[object]) -> Iterator[None]:
    """Like the generator itself, without its result."""
    yield from steps


def known(state: LinkState) -> tuple[int, int]:
    return len(state.peers()), len(state.connections())


def test_one_record_or_one_row_is_taken_in_a_step() -> None:
    state = node(neighbours=(LEFT,))
    before = known(state)
    for _ in each_step(state.handle_request_in_steps(LEFT, network(), 0.0)):
        after = known(state)
        assert sum(after) - sum(before) <= 1
        before = after
    assert before == (len(PEERS) + 1, len(PEERS) + 1)
    assert state.reachable() == {LEFT, *PEERS}


def test_a_request_is_made_one_record_or_row_a_step_and_is_the_same() -> None:
    state = node(neighbours=(LEFT, RIGHT))
    state.handle_request(LEFT, network(), 0.0)
    made = state.build_request_in_steps(RIGHT, 0.0, 1e9, keepalive=True)
    # Records and rows, the search before them, and eight rows at a time of the matrix.
    assert sum(1 for _ in each_step(made)) >= 2 * len(PEERS) + len(PEERS) + len(PEERS) // 8
    request = built(state, RIGHT)
    assert ids(request) == {ME, LEFT, *PEERS}
    again = finish(state.build_request_in_steps(RIGHT, 0.0, 1_700_000_000.0, keepalive=True))
    assert again == request
    assert rows_of(request)[150] == (1, set(range(140, 150)))


def test_what_is_newer_meanwhile_stays() -> None:
    """RIGHT brings a newer version of all while what LEFT brings is half taken."""
    state = node(neighbours=(LEFT, RIGHT))
    steps = state.handle_request_in_steps(LEFT, network(version=5, hostname="old"), 0.0)
    # The first half of the records; then the first half of the rows.
    for _ in range(len(PEERS) // 2):
        next(steps)
    newer = [record(peer, 9, hostname="new") for peer in PEERS]
    state.handle_request(RIGHT, request_from(RIGHT, *newer), 0.0)
    while len(state.connections()) < len(PEERS) // 2:
        next(steps)
    state.handle_request(RIGHT, request_from(RIGHT, rows={peer: (9, {FAR}) for peer in PEERS}), 0.0)
    finish(steps)
    assert {each.hostname for each in state.peers() if each.peer_id in PEERS} == {"new"}
    connections = state.connections()
    assert all(connections[peer] == {FAR} for peer in PEERS)


def test_a_neighbour_that_goes_meanwhile_is_heard_no_further() -> None:
    state = node(neighbours=(LEFT, RIGHT))
    steps = state.handle_request_in_steps(LEFT, network(), 0.0)
    for _ in range(10):
        next(steps)
    before = known(state)
    state.remove_neighbour(LEFT)
    with pytest.raises(RouteError, match="gone"):
        finish(steps)
    assert known(state) == before


def test_peers_that_go_while_a_request_is_made_are_left_out_or_said_as_they_were() -> None:
    state = node(neighbours=(LEFT, RIGHT))
    state.handle_request(LEFT, network(), 0.0)
    steps = state.build_request_in_steps(RIGHT, 4000.0, 1e9)
    for _ in range(len(PEERS) + 10):
        next(steps)
    state.expire(4000.0)
    assert state.peers() == []
    request = finish(steps)
    assert request is not None
    assert ME in ids(request)
    assert ids(request) <= {ME, LEFT, *PEERS}
    assert state.on_response(RIGHT, request, answer(), 4000.0)


def test_a_lookup_is_made_one_record_a_step() -> None:
    state = node(neighbours=(LEFT,))
    state.handle_request(LEFT, network(), 0.0)
    paths = {peer: Path(LEFT, 2, 1) for peer in PEERS}
    lookup = Lookup((), {})
    assert sum(1 for _ in lookup.fill(state.peers(), paths, (), (), None, ())) >= 2 * len(PEERS)
