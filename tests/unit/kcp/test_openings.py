"""When SYNs may leave for a peer with an accept queue of four."""

from __future__ import annotations

import math

from easytier_kcp_plugin.kcp.openings import AGAIN_GAP, BURST, GAP, STREAM_OPENINGS, Openings


def begin(
    openings: Openings[int], numbers: range, now: float = 0.0, *, stream: bool = False, again: bool = False
) -> list[float]:
    return [openings.begin(number, now, stream=stream, again=again) for number in numbers]


def test_a_burst_leaves_at_once_and_the_rest_apart() -> None:
    times = begin(Openings(), range(10))
    assert times[:BURST] == [0.0] * BURST
    gaps = [round(later - earlier, 9) for earlier, later in zip(times[BURST - 1 :], times[BURST:], strict=False)]
    assert set(gaps) == {GAP}


def test_flows_that_were_lost_leave_further_apart() -> None:
    times = begin(Openings(), range(10), again=True)
    assert round(times[-1] - times[-2], 9) == AGAIN_GAP


def test_a_pause_allows_another_burst() -> None:
    openings: Openings[int] = Openings()
    begin(openings, range(10))
    assert max(begin(openings, range(10, 10 + BURST), 5.0)) < 5.0 + GAP / 2


def test_on_a_stream_so_many_are_under_way_and_the_others_wait_their_turn() -> None:
    openings: Openings[int] = Openings()
    times = begin(openings, range(STREAM_OPENINGS + 3), stream=True)
    assert all(time < math.inf for time in times[:STREAM_OPENINGS])
    assert times[STREAM_OPENINGS:] == [math.inf] * 3
    assert openings.admit(every=False) == []
    openings.end(0)
    openings.end(0)
    openings.end(STREAM_OPENINGS + 1)
    assert openings.admit(every=False) == [STREAM_OPENINGS]
    assert openings.begin(STREAM_OPENINGS, 1.0, stream=True, again=False) == 1.0
    assert openings.admit(every=False) == []


def test_one_that_ended_before_its_turn_leaves_it_to_the_next() -> None:
    openings: Openings[int] = Openings()
    begin(openings, range(STREAM_OPENINGS + 2), stream=True)
    openings.end(0)
    openings.end(STREAM_OPENINGS)
    assert openings.admit(every=False) == [STREAM_OPENINGS + 1]


def test_all_may_begin_once_the_peer_turns_out_to_lose_none() -> None:
    openings: Openings[int] = Openings()
    begin(openings, range(STREAM_OPENINGS + 5), stream=True)
    assert openings.admit(every=True) == list(range(STREAM_OPENINGS, STREAM_OPENINGS + 5))
