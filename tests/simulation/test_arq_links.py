"""The engine `arq` on seeded links in virtual time: a table of goodput per pair and loss, kept as lower bounds.

The bounds are about 85 % of what docs/arq.md reports.  What arrives is compared byte by byte by the simulator.
"""

from __future__ import annotations

import pytest

from tests.unit.arq.simulator import Scene, scene

SECONDS, SETTLED = 6.0, 2.0
LINKS = {"0 %": (0.05, 0.0, 625), "1 %": (0.05, 0.01, 625), "5 %": (0.05, 0.05, 625), "100 ms, 10 %": (0.1, 0.10, 1250)}
"""RTT in seconds, loss each way, queue in KiB; 100 Mbit/s."""


def bulk(pair: str, link: str, window: int = 1024) -> Scene:
    rtt, loss, queue = LINKS[link]
    result = scene(pair, rtt=rtt, loss=loss, queue=queue * 1024, window=window)
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
    result = bulk(pair, link)
    assert result.content.mbits(SETTLED, SECONDS) >= mbits
    assert result.redundancy <= redundancy
    assert result.there.overflowed == 0
    assert result.there.queueing(SETTLED, 0.99) <= (0.025 if pair == "stock-ours" else 0.015)


@pytest.mark.parametrize("link", ["5 %", "100 ms, 10 %"])
def test_a_large_window_makes_up_for_loss(link: str) -> None:
    result = bulk("ours-ours", link, window=8192)
    assert result.content.mbits(SETTLED, SECONDS) >= 77
    assert result.there.overflowed == 0


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


def test_a_small_queue_is_not_overrun_once_the_rate_is_known() -> None:
    result = scene("ours-stock", loss=0.01, queue=64 * 1024)
    result.clock.run(SETTLED)
    overflowed = result.there.overflowed
    result.clock.run(SECONDS)
    assert result.content.mbits(SETTLED, SECONDS) >= 69
    assert result.there.overflowed - overflowed <= 20


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
