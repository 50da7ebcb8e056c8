"""What the captured stock cores answered, all of it at once."""

from __future__ import annotations

from tests.unit.cli import replay


def known(version: str) -> dict[replay.Method, bytes]:
    """All that the captured core answered."""
    found: dict[replay.Method, bytes] = {}
    for conversation in replay.conversations(version):
        found |= replay.answers(conversation)
    return found
