"""See `tests/netns/reporting.py`."""

from tests.netns.reporting import _swept, pytest_runtest_makereport

__all__ = ["_swept", "pytest_runtest_makereport"]
