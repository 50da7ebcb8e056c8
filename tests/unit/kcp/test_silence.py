"""When sessions of a crowd ask, and when they are given up."""

from __future__ import annotations

import pytest

from easytier_kcp_plugin.kcp.silence import CROWD, PING_AFTER, PING_AGAIN, SILENCE, asks_at, given_up_at


@pytest.mark.parametrize("before", [1, CROWD, 2 * CROWD, 5 * CROWD, 20 * CROWD])
@pytest.mark.parametrize("after", [1, CROWD, 2 * CROWD, 20 * CROWD])
@pytest.mark.parametrize("conv", [0, 1, 100, 255, 2**32 - 1])
def test_whoever_is_given_up_has_asked_before_as_a_crowd_comes_or_goes(before: int, after: int, conv: int) -> None:
    """The time to ask was set when there were others than now, and the peer is heard all the while."""
    asked = asks_at(conv, 100.0, (before, 100.0 + 300.0))
    asked = max(asked, asks_at(conv, 100.0, (after, 100.0 + 300.0)))
    assert asked + 5 * PING_AGAIN < given_up_at(100.0, 100.0 + 300.0)


def test_a_peer_that_says_nothing_at_all_is_given_up_after_a_minute_having_been_asked() -> None:
    for sessions in (1, 20 * CROWD):
        assert asks_at(7, 100.0, (sessions, 100.0)) <= 100.0 + 1.5 * PING_AFTER
        assert given_up_at(100.0, 100.0) == 100.0 + SILENCE
