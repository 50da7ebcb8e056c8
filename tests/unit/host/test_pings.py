"""Echo requests of a node without a device."""

from __future__ import annotations

from ipaddress import IPv4Address

import anyio
import pytest

from easytier_host import echo, pings
from easytier_host.pings import Pings

pytestmark = pytest.mark.anyio

ME, THERE = IPv4Address("10.144.0.1"), IPv4Address("10.144.0.2")


async def test_a_request_that_was_lost_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pings, "FIRST_WAIT", 0.01)
    sent: list[bytes] = []

    def send(packet: bytes) -> None:
        sent.append(packet)
        reply = echo.answer(packet, THERE)
        assert reply is not None
        if len(sent) == 3:
            assert asked.take(reply)

    asked = Pings(send, lambda: float(len(sent)))
    with anyio.fail_after(10):
        assert await asked.ask(ME, THERE, 8, 10.0) == 1.0
    assert len(sent) == 3


async def test_nobody_answers() -> None:
    asked = Pings(lambda _packet: None, lambda: 0.0)
    with pytest.raises(TimeoutError):
        await asked.ask(ME, THERE, 8, 0.01)


def test_what_is_no_reply_is_for_others_and_a_late_one_harms_nothing() -> None:
    asked = Pings(lambda _packet: None, lambda: 0.0)
    request = echo.echo_request(ME, THERE, 1, 1, b"")
    reply = echo.answer(request, THERE)
    assert reply is not None
    assert not asked.take(request)
    assert asked.take(reply)
