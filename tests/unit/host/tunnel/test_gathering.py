"""When datagrams are gathered before they are read."""

from __future__ import annotations

import math

import pytest

from easytier_host.tunnel.gathering import SHORT_PATH, Gathering


def after(
    rate: float,
    batch: int,
    *,
    nearest: float = 0.05,
    seconds: float = 0.5,
    start: float = 100.0,
    gathering: Gathering | None = None,
) -> Gathering:
    """After `rate` wake-ups a second of `batch` datagrams each."""
    gathering = gathering or Gathering()
    received = 0
    for number in range(int(rate * seconds)):
        received += batch
        gathering.note(received, nearest, start + number / rate)
    return gathering


@pytest.mark.parametrize(
    ("wakeups", "batch", "wanted"),
    [
        pytest.param(8000, 1, True, id="100 Mbit/s, one by one"),
        pytest.param(1000, 8, True, id="100 Mbit/s, gathered"),
        pytest.param(2000, 1, False, id="questions and answers"),
        pytest.param(50, 10, False, id="little"),
        pytest.param(2500, 40, False, id="1 Gbit/s"),
    ],
)
def test_small_batches_of_a_quick_flow_are_gathered(wakeups: int, batch: int, wanted: bool) -> None:
    assert after(wakeups, batch).wanted is wanted


def test_what_comes_after_a_pause_is_not_made_to_wait_for_long() -> None:
    gathering = after(8000, 1)
    gathering.note(4001, 0.05, 200.0)
    assert not gathering.wanted


def test_on_a_short_path_nothing_waits_while_its_tunnel_brings_something() -> None:
    assert not after(8000, 1, nearest=SHORT_PATH / 2).wanted
    gathering = after(8000, 1)
    gathering.note(4001, 0.0, 100.5)
    gathering.note(5000, math.inf, 100.55)
    assert not gathering.wanted
