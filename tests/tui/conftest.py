"""What the monitor shows does not depend on the machine."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def shown_in_utc(in_utc: None) -> None:
    """For times of the day on the screen."""
