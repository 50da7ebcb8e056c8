"""The engine `arq` on seeded links in virtual time: a table of goodput per pair and loss, kept as lower bounds.

The bounds are about 85 % of what docs/arq.md reports.  What arrives is compared byte by byte by the simulator.
"""

from __future__ import annotations

import statistics

import pytest

from easytier_kcp_plugin.kcp.arq.rate import Mode
from tests.unit.arq.simulator import Scene, scene

SECONDS, SETTLED = 6.0, 2.0
LINKS = {"0 %": (0.05, 0.0, 625), "1 %": (0.05, 0.01, 625), "5 %": (0.05, 0.05, 625), "100 ms, 10 %": (0.1, 0.10, 1250)}
"""RTT in seconds, loss each way, queue in KiB; 100 Mbit/s."""


def bulk(pair: str, link: str, seed: int = 1) -> Scene:
    rtt, loss, queue = LINKS[link]
    result = scene(pair, rtt=rtt, loss=loss, queue=queue * 1024, seed=seed)
    result.clock.run(SECONDS)
    return result


@pytest.mark.parametrize(
    ("pair", "link", "mbits", "redundancy"),
    [
        ("ours-stock", "0 %", 77, 1.02),
        ("ours-stock", "1 %", 69, 1.07),
        ("ours-stock", "5 %", 60, 1.24),
        ("ours-stock", "100 ms, 10 %", 33, 1.70),
        ("ours-ours", "0 %", 77, 1.02),
        ("ours-ours", "1 %", 75, 1.07),
        ("ours-ours", "5 %", 70, 1.18),
        ("ours-ours", "100 ms, 10 %", 38, 1.60),
        ("stock-ours", "0 %", 77, 1.05),
        ("stock-ours", "1 %", 62, 1.20),
        ("stock-ours", "5 %", 48, 1.50),
        ("stock-ours", "100 ms, 10 %", 24, 1.80),
    ],
)
def test_goodput(pair: str, link: str, mbits: float, redundancy: float) -> None:
    """The goodput is the middle one of three: where so much is lost, an unlucky start alone costs a third of six seconds."""
    results = [bulk(pair, link, seed) for seed in (1, 2, 3)]
    assert statistics.median(result.content.mbits(SETTLED, SECONDS) for result in results) >= mbits
    for result in results:
        assert result.redundancy <= redundancy
        assert result.there.overflowed == 0
        assert result.there.queueing(SETTLED, 0.99) <= (0.025 if pair == "stock-ours" else 0.015)


@pytest.mark.parametrize(("link", "redundancy"), [("0 %", 1.02), ("1 %", 1.04), ("5 %", 1.12), ("100 ms, 10 %", 1.3)])
def test_between_two_of_our_kind_losses_cost_little(link: str, redundancy: float) -> None:
    result = bulk("met-met", link)
    assert result.content.mbits(SETTLED, SECONDS) >= 75
    assert result.redundancy <= redundancy
    assert result.there.overflowed == 0


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_between_two_of_our_kind_a_long_way_is_filled(loss: float) -> None:
    result = scene("met-met", rtt=0.2, loss=loss, queue=2_500_000)
    result.clock.run(10.0)
    assert result.content.mbits(5.0, 10.0) >= 75
    assert result.there.overflowed == 0


def test_between_two_of_our_kind_one_flow_fills_a_gigabit() -> None:
    result = scene("met-met", rate=1e9, loss=0.01, queue=6_250_000)
    result.clock.run(1.6)
    assert result.content.mbits(1.1, 1.6) >= 760
    assert result.there.overflowed == 0


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_between_two_of_our_kind_jitter_is_no_loss(loss: float) -> None:
    result = scene("met-met", loss=loss, jitter=0.005)
    result.clock.run(SECONDS)
    assert result.content.mbits(SETTLED, SECONDS) >= 75
    assert result.redundancy <= 1.02 + 1.3 * loss


@pytest.mark.parametrize("pair", ["ours-stock", "stock-ours", "ours-ours"])
@pytest.mark.parametrize("seed", [1, 2])
def test_everything_arrives_in_order_and_then_nothing_is_sent(pair: str, seed: int) -> None:
    size = 1_500_000
    result = scene(pair, rate=20e6, loss=0.1, sizes=(size,), seed=seed, queue=100_000)
    result.clock.run(30.0, lambda: result.content.read == size)
    assert result.content.read == size
    result.clock.run(result.clock.now + 3.0)
    sent = result.there.sent
    result.clock.run(result.clock.now + 5.0)
    assert result.there.sent == sent
    if pair.startswith("ours"):
        assert result.sender.engines[1].drained
        assert result.sender.path.model.inflight == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_small_queue_is_hardly_overrun_once_the_rate_is_known(seed: int) -> None:
    result = scene("ours-stock", loss=0.01, queue=64 * 1024, seed=seed)
    result.clock.run(SETTLED)
    overflowed, sent = result.there.overflowed, result.there.sent
    result.clock.run(SECONDS)
    assert result.content.mbits(SETTLED, SECONDS) >= 69
    assert result.there.overflowed - overflowed <= 0.01 * (result.there.sent - sent)


@pytest.mark.parametrize(("rate", "rtt", "mbits"), [(1e6, 0.1, 0.7), (20e6, 0.02, 14.0), (20e6, 0.3, 12.0), (0, 0.05, 65.0)])
def test_other_links_at_two_percent(rate: float, rtt: float, mbits: float) -> None:
    result = scene("ours-stock", rate=rate, rtt=rtt, loss=0.02, queue=max(64_000, int(rate / 8 * rtt)))
    result.clock.run(10.0)
    assert result.content.mbits(4.0, 10.0) >= mbits


def test_jitter_is_not_taken_for_loss_for_long() -> None:
    result = scene("ours-stock", loss=0.01, jitter=0.010)
    result.clock.run(SECONDS)
    assert result.content.mbits(SETTLED, SECONDS) >= 42
    assert result.sender.path.model.reordering > 0.001
    assert result.redundancy <= 1.25


@pytest.mark.parametrize(
    ("pair", "loss", "mbits"),
    [
        ("ours-ours", 0.001, 70),
        ("ours-ours", 0.01, 60),
        ("ours-ours", 0.1, 36),
        ("ours-stock", 0.01, 62),
        ("ours-stock", 0.1, 40),
        ("stock-ours", 0.01, 32),
        ("stock-ours", 0.1, 20),
    ],
)
def test_a_stream_that_stalls_at_each_loss_is_not_taken_for_a_queue(pair: str, loss: float, mbits: float) -> None:
    """As over an underlay of TCP: everything waits for what is repeated, for a round trip and more."""
    result = scene(pair, loss=loss, jitter=0.005, stream=True)
    result.clock.run(10.0)
    assert result.content.mbits(SETTLED, 10.0) >= mbits


def test_what_a_burst_of_small_flows_taught_does_not_hold_a_stream_down() -> None:
    """Each loss stalls them all, and what the accept queue of stock loses looks like losses of the line."""
    result = scene("ours-stock", loss=0.05, jitter=0.005, stream=True)
    model = result.sender.path.model
    model.told_stream = True
    model.mode, model.loss.share, model.loss.resolved = Mode.CRUISE, 0.25, 3000
    model._rates.add(0, 150_000.0)
    model.bandwidth = 150_000.0
    result.clock.run(6.0)
    assert result.content.mbits(1.0, 6.0) >= 20
