"""See `reporting`."""

from tests.netns.reporting import pytest_runtest_makereport, pytest_sessionstart

__all__ = ["pytest_runtest_makereport", "pytest_sessionstart"]
