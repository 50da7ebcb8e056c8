"""The loop that keeps a node connected: pauses, back-off and what it logs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from easytier_host import connector
from easytier_host import tunnel as tunnels
from easytier_host.admission import Admission
from easytier_host.connector import Connectors, keep_connected
from easytier_host.handshake import HandshakeError
from easytier_host.peer_conn import PeerConn
from easytier_host.tunnel import Tunnel, TunnelError, TunnelUrl
from tests.unit.host.helpers import OTHER, PEER, FakeClock, FakeTunnel, fake_tunnel, make_conn
from tests.unit.host.tunnel.helpers import running, until

pytestmark = pytest.mark.anyio

URL = TunnelUrl("udp", "192.0.2.1", 11010)


class World:
    """Underlay and admission as the connector sees them: each dial takes the next of `outcomes`; sleeping moves the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, outcomes: list[Exception | PeerConn]) -> None:
        self.clock = FakeClock()
        self.pauses: list[float] = []
        self.outcomes = outcomes
        self.dials = 0
        self.finished = anyio.Event()
        monkeypatch.setattr(tunnels, "connect", self._connect)

    async def _connect(self, url: TunnelUrl, _tasks: object) -> Tunnel:
        assert url == URL
        self.dials += 1
        outcome = self.outcomes[0]
        if isinstance(outcome, TunnelError):
            del self.outcomes[0]
            raise outcome
        return FakeTunnel()

    async def join(self, _tunnel: Tunnel) -> PeerConn:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)
        if not self.outcomes:
            self.finished.set()
            await anyio.sleep_forever()


@asynccontextmanager
async def kept(world: World, jitter: Callable[[], float] = lambda: 0.5) -> AsyncIterator[None]:
    async with running() as tasks:
        tasks.start_soon(keep_connected, URL, tasks, cast("Admission", world), world.clock, jitter, world.sleep)
        yield


def gone_conn() -> PeerConn:
    """A neighbour that has left again."""
    conn = make_conn(PEER)
    conn.gone.set()
    return conn


async def test_pauses_double_up_to_four_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [TunnelError("nobody there") for _ in range(7)])
    async with kept(world):
        await world.finished.wait()
    assert world.pauses == [1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0]


@pytest.mark.parametrize(("jitter", "pause"), [(0.0, 0.75), (1.0, 1.25)])
async def test_jitter_spreads_the_pauses(monkeypatch: pytest.MonkeyPatch, jitter: float, pause: float) -> None:
    world = World(monkeypatch, [TunnelError("nobody there")])
    async with kept(world, lambda: jitter):
        await world.finished.wait()
    assert world.pauses == [pause]


async def test_a_failure_is_logged_when_it_changes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Exception | PeerConn] = [TunnelError("refused"), TunnelError("refused"), HandshakeError("wrong secret")]
    world = World(monkeypatch, [*failures, HandshakeError("wrong secret"), TunnelError("refused")])
    with caplog.at_level(logging.WARNING, "easytier.connector"):
        async with kept(world):
            await world.finished.wait()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert all(reason in line for reason, line in zip(("refused", "wrong secret", "refused"), told, strict=True))


async def test_the_same_failure_is_logged_again_after_a_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(monkeypatch, [TunnelError("refused"), gone_conn(), TunnelError("refused")])
    with caplog.at_level(logging.WARNING, "easytier.connector"):
        async with kept(world):
            await world.finished.wait()
    assert len(caplog.records) == 2


async def test_a_connection_is_left_alone_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    conn = make_conn(PEER)
    world = World(monkeypatch, [conn])
    async with kept(world):
        await until(lambda: world.dials == 1 and not world.outcomes)
        assert world.pauses == []
        fake_tunnel(conn).close("lost")
        conn.gone.set()
        await world.finished.wait()
    assert world.pauses == [1.0]


async def test_a_steady_connection_clears_the_back_off_and_a_short_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = make_conn(PEER)
    world = World(monkeypatch, [*(TunnelError("x") for _ in range(4)), gone_conn(), steady])
    async with kept(world):
        await until(lambda: not world.outcomes and world.dials == 6)
        world.clock.advance(connector.STEADY_AFTER)
        steady.gone.set()
        await world.finished.wait()
    assert world.pauses == [1.0, 2.0, 4.0, 4.0, 4.0, 0.2]


async def test_the_url_stands_in_the_line_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    world = World(monkeypatch, [TunnelError(f"{URL}: connection refused")])
    with caplog.at_level(logging.WARNING, "easytier.connector"):
        async with kept(world):
            await world.finished.wait()
    assert [record.getMessage() for record in caplog.records] == [f"no connection to {URL}: connection refused; trying again"]


async def test_a_url_that_is_named_no_more_is_left_and_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_conn(PEER), make_conn(OTHER)
    joined = [first, second]
    dialled: list[str] = []

    async def connect(url: TunnelUrl, _tasks: object) -> Tunnel:
        dialled.append(str(url))
        return FakeTunnel()

    async def join(_tunnel: Tunnel) -> PeerConn:
        return joined.pop(0)

    monkeypatch.setattr(tunnels, "connect", connect)
    async with running() as tasks:
        admission = cast("Admission", SimpleNamespace(join=join))
        connectors = Connectors(tasks, admission, FakeClock(), lambda: 0.5)
        connectors.replace([str(URL)])
        await until(lambda: not joined[1:])
        connectors.replace([str(URL), "tcp://192.0.2.2:1"])
        await until(lambda: not joined)
        assert not first.tunnel.closed
        connectors.replace(["tcp://192.0.2.2:1"])
        await until(lambda: first.tunnel.closed)
        assert not second.tunnel.closed
        assert dialled == [str(URL), "tcp://192.0.2.2:1"]


async def test_who_waits_to_dial_again_need_not_once_the_network_has_changed() -> None:
    async with running() as tasks:
        connectors = Connectors(tasks, cast("Admission", None), FakeClock(), lambda: 0.5)
        done = anyio.Event()

        async def wait() -> None:
            await connectors.pause(3600)
            done.set()

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not done.is_set()
        connectors.hurry()
        await done.wait()
