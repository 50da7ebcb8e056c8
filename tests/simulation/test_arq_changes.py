"""The engine `arq` where things change: rates, delays, blackouts, several flows on one path, short messages."""

from __future__ import annotations

import statistics

import pytest

from tests.unit.arq.simulator import MSS, Scene, scene

BULK = float("inf")


def test_two_flows_of_a_path_share_it_evenly() -> None:
    for loss in (0.0, 0.05):
        result = scene("ours-stock", loss=loss, sizes=(BULK, BULK))
        result.clock.run(6.0)
        shares = [content.mbits(2.0, 6.0) for content in result.contents.values()]
        assert min(shares) >= 0.8 * max(shares)
        assert sum(shares) >= 75
        assert result.there.overflowed == 0


def test_an_interactive_flow_does_not_wait_behind_a_bulk_flow() -> None:
    result = scene("ours-ours", sizes=(BULK, 0))
    clock, typed = result.clock, result.contents[2]
    clock.run(2.0)
    delays = []
    for _ in range(30):
        clock.run(clock.now + 0.037)
        typed.limit += 100
        began = clock.now
        result.sender.fill(2)
        result.sender.pump()
        clock.run(clock.now + 1.0, lambda: typed.read == typed.limit)
        delays.append(clock.now - began)
    assert typed.read == typed.limit
    assert statistics.median(delays) <= 0.025 + 0.010
    assert max(delays) <= 0.025 + 0.030
    assert result.content.mbits(2.0, clock.now) >= 77


@pytest.mark.parametrize(
    ("segments", "loss", "median", "worst"), [(1, 0.05, 0.03, 0.25), (10, 0.05, 0.04, 0.5), (55, 0.01, 0.05, 0.5)]
)
def test_short_messages(segments: int, loss: float, median: float, worst: float) -> None:
    delays = []
    for seed in range(40):
        result = scene("ours-stock", loss=loss, sizes=(segments * MSS,), seed=seed)
        result.clock.run(5.0, lambda content=result.content: content.read == content.limit)  # type: ignore[misc]
        assert result.content.read == segments * MSS
        delays.append(result.clock.now)
    assert statistics.median(delays) <= median
    assert max(delays) <= worst


def test_the_rate_falls_and_rises() -> None:
    queueing = []
    for seed in range(5):
        result = scene("ours-stock", loss=0.01, seed=seed)
        result.clock.run(4.0)
        result.there.rate = 30e6
        result.clock.run(8.0)
        assert result.content.mbits(5.5, 8.0) >= 20
        queueing.append(result.there.queueing(5.5, 0.5))
        result.there.rate = 100e6
        result.clock.run(13.0)
        assert result.content.mbits(11.0, 13.0) >= 60
    assert statistics.median(queueing) <= 0.05


def test_the_way_becomes_longer_and_shorter() -> None:
    result = scene("ours-stock", loss=0.01)
    result.clock.run(4.0)
    for link in (result.there, result.back):
        link.delay = 0.06
    result.clock.run(10.0)
    assert result.content.mbits(7.0, 10.0) >= 32
    for link in (result.there, result.back):
        link.delay = 0.025
    result.clock.run(14.0)
    assert result.content.mbits(11.0, 14.0) >= 65


def blackout(result: Scene, begin: float, seconds: float) -> int:
    """Returns how many datagrams were sent into it."""
    result.clock.run(begin)
    for link in (result.there, result.back):
        link.filter = lambda body: False
    # What was on its way arrives, and causes more to be sent.
    result.clock.run(begin + 0.2)
    before = result.there.sent
    result.clock.run(begin + seconds)
    for link in (result.there, result.back):
        link.filter = None
    return result.there.sent - before


def test_after_a_blackout_data_flows_at_once_and_during_it_next_to_nothing_is_sent() -> None:
    result = scene("ours-stock")
    assert blackout(result, 3.0, 2.0) <= 12
    resumed = len(result.content.reads)
    result.clock.run(7.0)
    first = next(time for time, size in result.content.reads[resumed:] if size)
    assert first <= 5.0 + 0.7
    assert result.content.mbits(6.0, 7.0) >= 70


@pytest.mark.parametrize("pair", ["ours-stock", "met-met"])
@pytest.mark.parametrize(("lateness", "mbits"), [(0.003, 45), (0.010, 30)])
def test_a_machine_that_is_busy_slows_a_flow_down_but_not_more_and_more(pair: str, lateness: float, mbits: float) -> None:
    result = scene(pair, lateness=lateness)
    result.clock.run(8.0)
    assert result.content.mbits(2.0, 5.0) >= mbits
    assert result.content.mbits(5.0, 8.0) >= mbits


def test_after_a_long_rest_the_path_is_measured_anew() -> None:
    result = scene("ours-stock", sizes=(3_000_000,))
    result.clock.run(20.0)
    assert result.content.read == 3_000_000
    result.there.rate = 10e6
    result.there.queue = 62_500
    result.content.limit = 6_000_000
    result.sender.fill(1)
    result.sender.pump()
    result.clock.run(26.0)
    assert result.content.read == 6_000_000
