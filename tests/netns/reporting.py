"""What the `conftest.py` of `tests/netns` and of `tests/interop` share: the sweep before a session, logs in failure reports."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.netns.requirements import missing_for_netns
from tests.netns.topology import sweep_stale, take_logs


@pytest.fixture(scope="session", autouse=True)
def _swept() -> None:
    """Before the first test here, remove what a killed run has left behind."""
    if not missing_for_netns():
        sweep_stale()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    logs = take_logs()
    if report.failed:
        report.sections.extend((f"log of {title}", text) for title, text in logs)
    return report
