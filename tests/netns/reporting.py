"""What the `conftest.py` of `tests/netns` and of `tests/interop` share: the sweep before a session, logs in failure reports."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.netns.requirements import missing_for_netns
from tests.netns.topology import live_processes, sweep_stale


def pytest_sessionstart() -> None:
    if not missing_for_netns():
        sweep_stale()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for process in live_processes():
            state = "running" if process.running else f"ended with {process.popen.returncode}"
            report.sections.append((f"log of {process.label}, {state}", process.log_tail()))
    return report
