"""The engine `arq` with segments that fill packets of 1500 bytes, towards a stock receiver unless said: what it has to reach.

100 Mbit/s, 50 ms and a queue of 625 kB, where nothing else is said; goodput in Mbit/s, queueing in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.arq.simulator import Cubic, Scene, scene

MSS = 1382
SECONDS, SETTLED = 12.0, 4.0
BULK = float("inf")
FAR = {"rtt": 0.1, "loss": 0.10, "queue": 1_250_000}


def bulk(pair: str = "ours-stock", seconds: float = SECONDS, **link: Any) -> Scene:
    result = scene(pair, mss=MSS, **link)
    result.clock.run(seconds)
    return result


def goodput(result: Scene, since: float = SETTLED) -> float:
    return sum(content.mbits(since, result.clock.now) for content in result.contents.values())


@pytest.mark.parametrize(
    ("link", "mbits", "redundancy"),
    [
        pytest.param({}, 91, 1.02, id="no-loss"),
        pytest.param({"loss": 0.01}, 87, 1.07, id="1-percent"),
        pytest.param({"loss": 0.05}, 75, 1.2, id="5-percent"),
        pytest.param(FAR, 43, 1.65, id="100-ms-10-percent"),
    ],
)
def test_to_stock(link: dict[str, Any], mbits: float, redundancy: float) -> None:
    result = bulk(**link)
    assert goodput(result) >= mbits
    assert result.redundancy <= redundancy
    assert result.there.overflowed == 0
    assert result.there.queueing(SETTLED, 0.99) <= 0.015


@pytest.mark.parametrize(
    ("link", "loss"),
    [
        pytest.param({}, 0.0, id="no-loss"),
        pytest.param({"loss": 0.01}, 0.01, id="1-percent"),
        pytest.param({"loss": 0.05}, 0.05, id="5-percent"),
        pytest.param(FAR, 0.10, id="100-ms-10-percent"),
    ],
)
def test_between_two_of_our_kind(link: dict[str, Any], loss: float) -> None:
    result = bulk("met-met", **link)
    assert goodput(result) >= 89
    assert result.redundancy <= 1 / (1 - loss) + 0.05
    assert result.there.overflowed == 0


@pytest.mark.parametrize(
    ("pair", "link", "mbits"),
    [
        pytest.param("ours-stock", {"loss": 0.01, "burst": 5.0}, 85, id="bursts-1-percent"),
        pytest.param("met-met", {"loss": 0.05, "burst": 5.0}, 86, id="bursts-5-percent-met"),
        pytest.param("ours-stock", {"loss": 0.05, "loses_behind": True}, 71, id="behind-the-queue"),
        pytest.param("ours-stock", {"loss": 0.01, "jitter": 0.010}, 50, id="jitter"),
        pytest.param("met-met", {"loss": 0.01, "jitter": 0.010}, 86, id="jitter-met"),
        pytest.param("ours-stock", {"loss": 0.01, "queue": 64_000}, 86, id="small-queue"),
        pytest.param("ours-stock", {"rate": 20e6, "rtt": 0.02, "loss": 0.02}, 17.5, id="20-mbits-20-ms"),
        pytest.param("ours-stock", {"rate": 1e6, "rtt": 0.1, "loss": 0.02}, 0.85, id="1-mbits-100-ms"),
        pytest.param("ours-stock", {"rate": 20e6, "rtt": 0.3, "loss": 0.02}, 16, id="20-mbits-300-ms"),
    ],
)
def test_on_other_lines(pair: str, link: dict[str, Any], mbits: float) -> None:
    assert goodput(bulk(pair, **link)) >= mbits


def test_long_bursts_to_stock_in_the_long_run() -> None:
    assert goodput(bulk(loss=0.05, burst=5.0, seconds=20.0), 5.0) >= 58


def test_a_policer_costs_little() -> None:
    result = bulk(queue=16_000)
    assert goodput(result) >= 85
    assert result.there.overflowed < 0.07 * result.there.sent


def _rate(bits: float) -> Callable[[Scene], None]:
    def change(result: Scene) -> None:
        result.there.rate = bits

    return change


def _delay(seconds: float) -> Callable[[Scene], None]:
    def change(result: Scene) -> None:
        result.there.delay = result.back.delay = seconds

    return change


@pytest.mark.parametrize(
    ("link", "change", "mbits"),
    [
        pytest.param({}, _rate(30e6), 26, id="rate-falls"),
        pytest.param({"rate": 30e6}, _rate(100e6), 86, id="rate-rises"),
        pytest.param({}, _delay(0.060), 38, id="way-becomes-longer"),
        pytest.param({"rtt": 0.12, "queue": 1_250_000}, _delay(0.025), 85, id="way-becomes-shorter"),
    ],
)
def test_after_a_change(link: dict[str, Any], change: Callable[[Scene], None], mbits: float) -> None:
    result = bulk(**link, seconds=6.0)
    change(result)
    result.clock.run(14.0)
    assert goodput(result, 8.5) >= mbits
    assert result.there.queueing(8.5, 0.99) <= 0.035


@pytest.mark.parametrize(("flows", "loss"), [(2, 0.0), (4, 0.05)])
def test_flows_of_a_path_share_it_evenly(flows: int, loss: float) -> None:
    result = bulk(loss=loss, sizes=(BULK,) * flows, seconds=20.0)
    shares = [content.mbits(5.0, 20.0) for content in result.contents.values()]
    assert max(shares) <= 1.05 * min(shares)
    assert sum(shares) >= 90


def test_paths_that_share_a_bottleneck_fill_it_without_overrunning_it() -> None:
    result = bulk(loss=0.01, sizes=(BULK,) * 4, apart=True)
    assert goodput(result) >= 89
    assert min(content.mbits(SETTLED, SECONDS) for content in result.contents.values()) >= 8
    assert result.there.queueing(SETTLED, 0.99) <= 0.025


def test_beside_a_tcp_flow_with_cubic_neither_starves() -> None:
    result = scene("ours-stock", mss=MSS)
    other = Cubic(result.clock, result.there, result.back, flow=2)
    result.left[2], result.right[2] = other, other.sink
    other.send()
    result.clock.run(40.0)
    assert result.content.mbits(5.0, 40.0) >= 25
    assert other.sink.received * 8 / 40e6 >= 25


def test_a_blackout_is_over_at_once() -> None:
    result = bulk(seconds=3.0)
    for link in (result.there, result.back):
        link.filter = lambda body: False
    result.clock.run(3.2)
    sent = result.there.sent
    result.clock.run(5.0)
    assert result.there.sent - sent <= 12
    for link in (result.there, result.back):
        link.filter = None
    got = result.content.read
    result.clock.run(5.4, lambda: result.content.read > got)
    assert result.content.read > got
