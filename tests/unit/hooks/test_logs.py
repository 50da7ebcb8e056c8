"""A logger that writes little of what comes often."""

from __future__ import annotations

import logging

import pytest

from easytier_hooks.logs import MAX_LIMITED_KEYS, RateLimitedLogger

LOGGER = logging.getLogger("easytier.test")


def test_one_line_an_interval_for_each_key(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    limited = RateLimitedLogger(LOGGER, lambda: now[0], interval=10.0)
    with caplog.at_level(logging.INFO):
        shown = []
        for moment, key in (
            (100, "a"),
            (101, "a"),
            (101, "b"),
            (109.9, "a"),
            (110, "a"),
            (115, "a"),
            (125, "a"),
            (140, "a"),
        ):
            now[0] = float(moment)
            shown.append(limited.log(logging.INFO, key, "%s", key))
    assert shown == [True, False, True, False, True, False, True, True]
    assert [r.getMessage() for r in caplog.records] == ["a", "b", "a (and 2 more like it)", "a (and 1 more like it)", "a"]


def test_keys_from_the_wire_do_not_add_up(caplog: pytest.LogCaptureFixture) -> None:
    limited = RateLimitedLogger(LOGGER, lambda: 0.0)
    with caplog.at_level(logging.INFO):
        assert limited.log(logging.INFO, 0, "x")
        assert all(limited.log(logging.INFO, key, "x") for key in range(1, MAX_LIMITED_KEYS))
        assert not limited.log(logging.INFO, 0, "x"), "still remembered, and now the youngest"
        assert limited.log(logging.INFO, "one more", "x")
        assert limited.log(logging.INFO, 1, "x"), "the oldest was forgotten"
        assert not limited.log(logging.INFO, 0, "x")
