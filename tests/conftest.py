"""Shared by all tests: how deep property tests go, event loop, time zone, what runs beside what, nodes that stop at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from easytier_host import lifecycle
from easytier_kcp_plugin.kcp import stream

# A shared machine may stall for longer than any one example takes.
settings.register_profile("fast", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("ET_HYPOTHESIS", "fast"))


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times of the day are those of UTC, whatever the machine's zone."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def anyio_backend() -> str:
    """The loop on which tests marked `anyio` run."""
    return "asyncio"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup` only what names a group of its own runs beside the others."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("others"))


@pytest.fixture(autouse=True)
def _brief_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost between the nodes of a test; those of `tests/netns` are processes, and take their time."""
    monkeypatch.setattr(lifecycle, "LAST_WORDS", 0.02)
    monkeypatch.setattr(lifecycle, "GOODBYE_GAP", 0.002)
    monkeypatch.setattr(stream, "LAST_WORDS_GAP", 0.005)
