"""Handshakes over real in-memory tunnels: who gets in, who is told what, and what strangers may cost."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from anyio.abc import TaskGroup

from easytier_host import admission as admission_module
from easytier_host.admission import MAX_EARLY_FRAMES, MAX_HALF_OPEN, MAX_HALF_OPEN_PER_ADDRESS, Admission
from easytier_host.crypto import network_digest
from easytier_host.handshake import ZERO_DIGEST, HandshakeError, Identity, encode_hello, parse_hello
from easytier_host.metrics import Metrics
from easytier_host.packet import PacketType, build_frame
from easytier_host.peer_conn import PeerConn
from easytier_host.peers import MAX_CONNECTIONS_PER_PEER, PeerMap
from easytier_host.tunnel import ring
from tests.unit.host.helpers import ME, PEER, FakeTunnel, make_conn
from tests.unit.host.tunnel.helpers import Observer, running, until

pytestmark = pytest.mark.anyio


def identity(peer_id: int, name: str = "lab", secret: str = "s3cret") -> Identity:
    return Identity(peer_id, name, network_digest(name, secret))


def numbered(count: int) -> list[bytes]:
    return [build_frame(PEER, ME, PacketType.DATA, number.to_bytes(4, "big")) for number in range(count)]


class Side:
    """One node's admission, and what became of it."""

    def __init__(self, tasks: TaskGroup, me: Identity) -> None:
        self.metrics = Metrics()
        self.peers = PeerMap(lambda _conn: None, lambda peer_id, reason: self.left.append((peer_id, reason)), self.metrics)
        self.left: list[tuple[int, str]] = []
        self.received: list[bytes] = []
        self.admission = Admission(me, self.peers, self._receive, tasks, self.metrics, lambda: 1000.0)

    def _receive(self, _conn: PeerConn, frames: list[bytes]) -> None:
        self.received += frames


@asynccontextmanager
async def two_sides(first: Identity, second: Identity) -> AsyncIterator[tuple[TaskGroup, Side, Side]]:
    async with running() as tasks:
        yield tasks, Side(tasks, first), Side(tasks, second)


async def outcome(join: Callable[[], object]) -> str:
    """What the refused initiator was told."""
    with pytest.raises(HandshakeError) as caught:
        await join()  # type: ignore[misc]
    return str(caught.value)


async def test_two_nodes_of_a_network_become_neighbours() -> None:
    async with two_sides(identity(1), identity(2)) as (tasks, a, b):
        left, right = ring.pair(tasks)
        b.admission.accept(right)
        conn = await a.admission.join(left)
        assert (conn.peer_id, conn.is_initiator, conn.is_foreign_relay) == (2, True, False)
        await until(lambda: b.peers.neighbours() == {1})
        (other,) = b.peers.connections(1)
        assert not other.is_initiator
        conn.tunnel.send(numbered(3))
        await until(lambda: b.received == numbered(3))
        assert (a.metrics.tunnels_opened, b.metrics.tunnels_accepted) == (1, 1)
        assert a.metrics.handshakes_refused == b.metrics.handshakes_refused == 0


async def test_both_sides_hear_that_the_other_is_gone() -> None:
    async with two_sides(identity(1), identity(2)) as (tasks, a, b):
        left, right = ring.pair(tasks)
        b.admission.accept(right)
        conn = await a.admission.join(left)
        await until(lambda: b.peers.neighbours())
        conn.tunnel.close("enough")
        await conn.gone.wait()
        await until(lambda: b.left)
        assert a.left == [(2, "enough")]
        assert b.left == [(1, "closed by the other side")]


async def test_a_wrong_secret_is_told_to_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    async with two_sides(identity(1, secret="wrong"), identity(2)) as (tasks, a, b):
        left, right = ring.pair(tasks)
        b.admission.accept(right)
        with caplog.at_level(logging.WARNING):
            assert "another secret" in await outcome(lambda: a.admission.join(left))
            await until(lambda: right.closed)
        assert left.closed
        assert "another secret" in caplog.text
        assert (a.metrics.handshakes_refused, b.metrics.handshakes_refused) == (1, 1)
        assert not a.peers.neighbours()
        assert not b.peers.neighbours()


async def test_the_refusal_reaches_a_stock_initiator_before_the_close() -> None:
    async with two_sides(identity(1), identity(2)) as (tasks, a, _):
        left, right = ring.pair(tasks)
        a.admission.accept(right)
        observer = Observer(left)
        left.send([encode_hello(identity(3, secret="wrong"))])
        await until(lambda: observer.reasons)
        (answer,) = observer.frames
        assert parse_hello(answer).digest == ZERO_DIGEST


async def test_another_network_is_refused_without_a_word() -> None:
    async with two_sides(identity(1), identity(2)) as (tasks, a, _):
        left, right = ring.pair(tasks)
        a.admission.accept(right)
        observer = Observer(left)
        left.send([encode_hello(identity(3, name="elsewhere"))])
        await until(lambda: observer.reasons)
        assert observer.frames == []


async def test_a_node_notices_that_it_has_connected_to_itself() -> None:
    async with two_sides(identity(1), identity(2)) as (tasks, a, _):
        left, right = ring.pair(tasks)
        a.admission.accept(right)
        assert "itself" in await outcome(lambda: a.admission.join(left))
        await until(lambda: right.closed)
        assert not a.peers.neighbours()
        assert a.metrics.handshakes_refused == 2


async def test_a_public_relay_of_another_network_is_joined_as_one() -> None:
    async with running() as tasks:
        side = Side(tasks, identity(1))
        left, right = ring.pair(tasks)
        Observer(right)
        right.send([encode_hello(identity(9, name="relay"), ZERO_DIGEST)])
        conn = await side.admission.join(left)
        assert (conn.peer_id, conn.is_foreign_relay) == (9, True)


async def test_frames_behind_the_handshake_are_kept_in_order() -> None:
    async with running() as tasks:
        side = Side(tasks, identity(ME))
        left, right = ring.pair(tasks)
        side.admission.accept(right)
        frames = numbered(40)
        left.send([encode_hello(identity(PEER)), *frames[:20]])
        left.send(frames[20:30])
        await until(lambda: side.peers.neighbours())
        left.send(frames[30:])
        await until(lambda: len(side.received) >= 40)
        assert side.received == frames


async def test_early_frames_beyond_the_cap_are_dropped_from_the_end() -> None:
    async with running() as tasks:
        side = Side(tasks, identity(ME))
        left, right = ring.pair(tasks)
        side.admission.accept(right)
        left.send([encode_hello(identity(PEER)), *numbered(MAX_EARLY_FRAMES + 50)])
        await until(lambda: side.received)
        assert side.received == numbered(MAX_EARLY_FRAMES)


async def test_a_stranger_who_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "HANDSHAKE_TIMEOUT", 0.05)
    async with running() as tasks:
        side = Side(tasks, identity(1))
        left, right = ring.pair(tasks)
        observer = Observer(left)
        side.admission.accept(right)
        await until(lambda: observer.reasons)
        assert side.metrics.handshakes_refused == 1
        assert side.admission._half_open == {}


async def test_an_acceptor_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "HANDSHAKE_TIMEOUT", 0.05)
    async with running() as tasks:
        side = Side(tasks, identity(1))
        left, _right = ring.pair(tasks)
        assert "no answer" in await outcome(lambda: side.admission.join(left))
        assert left.closed


async def test_a_hello_is_repeated_over_udp_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "HELLO_REPEAT", 0.01)
    async with running() as tasks:
        side = Side(tasks, identity(1))
        tunnel = FakeTunnel("udp")
        tasks.start_soon(side.admission.join, tunnel)
        await until(lambda: len(tunnel.sent) >= 3)
        tunnel.on_frames([encode_hello(identity(2))])
        await until(lambda: side.peers.neighbours() == {2})
        assert set(tunnel.sent) == {encode_hello(identity(1))}


async def test_a_hello_is_said_once_over_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "HELLO_REPEAT", 0.001)
    monkeypatch.setattr(admission_module, "HANDSHAKE_TIMEOUT", 0.05)
    async with running() as tasks:
        side = Side(tasks, identity(1))
        tunnel = FakeTunnel("tcp")
        await outcome(lambda: side.admission.join(tunnel))
        assert len(tunnel.sent) == 1


async def test_one_address_has_64_half_open_tunnels() -> None:
    async with running() as tasks:
        side = Side(tasks, identity(1))
        tunnels = [FakeTunnel(remote=f"192.0.2.7:{port}") for port in range(1000, 1000 + MAX_HALF_OPEN_PER_ADDRESS + 3)]
        for tunnel in tunnels:
            side.admission.accept(tunnel)
        assert [tunnel.closed for tunnel in tunnels] == [False] * MAX_HALF_OPEN_PER_ADDRESS + [True] * 3
        assert side.metrics.tunnels_refused == 3
        other = FakeTunnel(remote="192.0.2.8:1")
        side.admission.accept(other)
        assert not other.closed
        # Whoever shakes hands makes room.
        tunnels[0].on_frames([encode_hello(identity(2))])
        await until(lambda: side.peers.neighbours())
        latecomer = FakeTunnel(remote="192.0.2.7:9")
        await until(lambda: side.admission._half_open["192.0.2.7"] < MAX_HALF_OPEN_PER_ADDRESS)
        side.admission.accept(latecomer)
        assert not latecomer.closed


async def test_a_node_has_256_half_open_tunnels() -> None:
    async with running() as tasks:
        side = Side(tasks, identity(1))
        tunnels = [FakeTunnel(remote=f"[2001:db8:0:{number:x}::1]:1") for number in range(MAX_HALF_OPEN + 1)]
        for tunnel in tunnels:
            side.admission.accept(tunnel)
        assert [number for number, tunnel in enumerate(tunnels) if tunnel.closed] == [MAX_HALF_OPEN]
        for tunnel in tunnels[:10]:
            tunnel.close("gone")
        await until(lambda: side.admission._half_open.total() == MAX_HALF_OPEN - 10)


async def test_a_ninth_connection_of_one_peer_is_refused() -> None:
    async with running() as tasks:
        side = Side(tasks, identity(ME))
        for _ in range(MAX_CONNECTIONS_PER_PEER):
            side.peers.add(make_conn(PEER))
        tunnel = FakeTunnel()
        side.admission.accept(tunnel)
        tunnel.on_frames([encode_hello(identity(PEER))])
        await until(lambda: tunnel.closed)
        assert "8 connections" in (tunnel.reason or "")
        assert len(side.peers.connections(PEER)) == MAX_CONNECTIONS_PER_PEER


@pytest.mark.parametrize("role", ["accept", "join"])
async def test_a_tunnel_that_ends_right_behind_its_hello_leaves_no_neighbour(role: str) -> None:
    """Its end came before anybody could hear of it; such a neighbour would stay for ever."""
    async with running() as tasks:
        side = Side(tasks, identity(1))
        tunnel = FakeTunnel("tcp")
        failures: list[str] = []

        async def join() -> None:
            failures.append(await outcome(lambda: side.admission.join(tunnel)))

        if role == "accept":
            side.admission.accept(tunnel)
        else:
            tasks.start_soon(join)
            await until(lambda: tunnel.sent)
        tunnel.on_frames([encode_hello(identity(2))])
        tunnel.close("closed by the other side")
        await until(lambda: side.metrics.handshakes_refused)
        assert not side.peers.neighbours()
        if role == "join":
            await until(lambda: failures)
            assert failures == ["closed by the other side"]


@pytest.mark.parametrize("first", [bytes(16), build_frame(5, 1, PacketType.PING, bytes(4)), b"\xff" * 2000])
async def test_garbage_as_first_frame_is_refused_and_counted(first: bytes) -> None:
    async with running() as tasks:
        side = Side(tasks, identity(1))
        left, right = ring.pair(tasks)
        observer = Observer(left)
        side.admission.accept(right)
        left.send([first])
        await until(lambda: observer.reasons)
        assert observer.frames == []
        assert side.metrics.handshakes_refused == 1


async def test_what_overtakes_the_answer_over_udp_is_kept_for_later() -> None:
    async with running() as tasks:
        side = Side(tasks, identity(ME))
        tunnel = FakeTunnel("udp")
        tasks.start_soon(side.admission.join, tunnel)
        await until(lambda: tunnel.sent)
        frames = numbered(3)
        tunnel.on_frames(frames[:1])
        tunnel.on_frames([frames[1], encode_hello(identity(PEER)), frames[2]])
        await until(lambda: side.peers.neighbours() == {PEER})
        assert side.received == frames


@pytest.mark.parametrize("first", [numbered(1)[0], build_frame(PEER, ME, PacketType.NOISE_HANDSHAKE_1, bytes(8))])
async def test_over_tcp_nothing_else_can_be_the_first_frame_and_noise_nowhere(first: bytes) -> None:
    noise = first[8] == PacketType.NOISE_HANDSHAKE_1
    async with running() as tasks:
        side = Side(tasks, identity(ME))
        tunnel = FakeTunnel("udp" if noise else "tcp")
        failures: list[str] = []

        async def join() -> None:
            failures.append(await outcome(lambda: side.admission.join(tunnel)))

        tasks.start_soon(join)
        await until(lambda: tunnel.sent)
        tunnel.on_frames([first])
        await until(lambda: failures)
        assert ("secure mode" if noise else "type 1") in failures[0]


async def test_an_acceptor_remembers_its_answer_and_an_initiator_has_none() -> None:
    async with two_sides(identity(1), identity(2)) as (tasks, a, b):
        left, right = ring.pair(tasks)
        b.admission.accept(right)
        conn = await a.admission.join(left)
        await until(lambda: b.peers.neighbours())
        assert conn.repeat_answer() is None
        assert b.peers.best[1].repeat_answer() == encode_hello(identity(2))


async def test_refusals_at_any_rate_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as tasks:
        side = Side(tasks, identity(1))
        with caplog.at_level(logging.WARNING):
            for number in range(50):
                tunnel = FakeTunnel(remote=f"192.0.2.{number}:1")
                side.admission.accept(tunnel)
                tunnel.on_frames([encode_hello(identity(2, name=f"other{number}"))])
            await until(lambda: side.metrics.handshakes_refused == 50)
        assert len(caplog.records) == 1
        assert "refused udp://192.0.2." in caplog.text
