"""How a flow ended, as its users are told."""

from __future__ import annotations

from ipaddress import IPv4Address

import anyio
import pytest

from easytier_hooks.types import Failed, FlowEvent
from easytier_host.pipe import PipeEnd, pipe
from easytier_host.relay import carry

pytestmark = pytest.mark.anyio
ENDS = (IPv4Address("10.144.0.1"), 1), (IPv4Address("10.144.0.2"), 2)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (anyio.BrokenResourceError(), "the source side broke"),
        (anyio.BrokenResourceError("gone for 60 s"), "the source side broke: gone for 60 s"),
        (OSError(110, "Connection timed out"), "the source side broke: Connection timed out"),
        (ConnectionResetError(), "reset by the source"),
    ],
)
async def test_a_flow_that_breaks_says_why_in_words(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (near, _), (_, far) = pipe(*ENDS), pipe(*ENDS)

    async def fail(max_bytes: int = 0) -> bytes:
        if isinstance(error, OSError):
            raise anyio.BrokenResourceError from error
        raise error

    monkeypatch.setattr(near, "receive", fail)
    events: list[FlowEvent] = []
    with anyio.fail_after(5):
        await carry(near, far, events.append)
    assert events[-1] == Failed(reason)


async def test_an_end_that_does_not_close_says_so_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    (near, application), (server, far) = pipe(*ENDS), pipe(*ENDS)

    async def fail() -> None:
        raise TimeoutError

    monkeypatch.setattr(PipeEnd, "aclose", lambda _: fail())
    await application.send_eof()
    await server.send_eof()
    events: list[FlowEvent] = []
    with anyio.fail_after(5):
        await carry(near, far, events.append)
    assert events[-1] == Failed("did not close in time")
