"""What has come and was not read: bounded for a peer and in all, while nothing is lost and whoever reads goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from easytier_kcp_plugin.kcp import arq
from easytier_kcp_plugin.kcp.arq import memory as memory_module
from easytier_kcp_plugin.kcp.arq.engine import ArqEngine
from easytier_kcp_plugin.kcp.arq.memory import SMALLEST_LIMIT, GrowingWindow, PathMemory, WindowMemory
from easytier_kcp_plugin.kcp.conn_data import ACK_RUNS, Offer
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.events import CloseReason, Incoming
from easytier_kcp_plugin.kcp.header import ACK_DATA, SYN, PacketType, SessionHeader
from easytier_kcp_plugin.kcp.segment import Command, Segment
from tests.unit.arq.parts import Pair
from tests.unit.kcp import network as network_module
from tests.unit.kcp.network import ACCEPTOR, OPENER, Application, Network, request

SEGMENTS = 2048
"""For a node; a peer alone may have half."""
FLOWS = 60
UPLOAD = random.Random(1).randbytes(150_000)
BUSY = 40_000
"""Ports from here on are of flows that are read."""


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "UNREAD_SEGMENTS", SEGMENTS)
    monkeypatch.setattr(network_module, "ikcp", SimpleNamespace(paths=arq.paths))


def path_memory(endpoint: Endpoint, peer_id: int = OPENER) -> PathMemory:
    found = endpoint._peers[peer_id].path.memory  # type: ignore[attr-defined]
    assert isinstance(found, PathMemory)
    return found


def held(endpoint: Endpoint) -> int:
    """Segments, counted one by one."""
    receivers = [engine.receiver for engine in endpoint._engines if isinstance(engine, ArqEngine)]
    return sum(len(receiver._queue) + len(receiver._ahead) for receiver in receivers)


def serve(served: list[Application]) -> Callable[[Incoming], Application]:
    def accept(incoming: Incoming) -> Application:
        asked = incoming.session.conn_data.src
        assert asked is not None
        served.append(Application(incoming.session, asleep=asked.port < BUSY))
        return served[-1]

    return accept


def test_readers_that_sleep_cost_a_bounded_memory_and_lose_nothing_while_one_that_reads_goes_on() -> None:
    network, served = Network(), list[Application]()
    network.serve = serve(served)
    for port in range(1, FLOWS + 1):
        network.connect(UPLOAD, port)
    network.run(5.0)
    assert len(served) == FLOWS
    memory = path_memory(network.acceptor)
    assert memory.unread == memory.memory.unread == held(network.acceptor)
    assert SEGMENTS / 3 < memory.unread <= SEGMENTS / 2 + FLOWS * SMALLEST_LIMIT

    reader = network.connect(UPLOAD, BUSY)
    network.run(60.0, until=lambda: reader.reason is not None)
    assert reader.reason is CloseReason.FINISHED
    assert bytes(served[-1].incoming) == UPLOAD
    assert held(network.acceptor) <= SEGMENTS / 2 + FLOWS * SMALLEST_LIMIT

    for application in served[:FLOWS]:
        application.asleep = False
        application.run(network.acceptor, network.now)
    network.run(60.0, until=network.settled)
    assert [bytes(application.incoming) for application in served] == [UPLOAD] * (FLOWS + 1)
    assert (memory.unread, memory.memory.unread) == (0, 0)


def test_who_heeds_no_window_fills_no_more_and_what_others_send_is_taken_as_ever() -> None:
    attacker, conv_count = 666, 200
    endpoint = Endpoint(ACCEPTOR, arq.paths(), first_conv=0)
    for conv in range(conv_count):
        header = SessionHeader(conv, attacker, ACCEPTOR, SYN).encode()
        endpoint.receive(attacker, PacketType.KCP_SRC, [header + request(conv + 1).encode()], 0.0)
    for start in range(0, 1024, 64):
        for conv in range(conv_count):
            header = SessionHeader(conv, attacker, ACCEPTOR, ACK_DATA).encode()
            # In order, and with a gap that is never filled.
            first = start + conv % 2
            bodies = [Segment(conv, Command.PUSH, 0, 128, sn, sn, 0, 9).encode(b"9 bytes..") for sn in range(first, first + 64)]
            endpoint.receive(attacker, PacketType.KCP_SRC, [header + body for body in bodies], start / 1000)
        endpoint.poll(start / 1000)
        assert held(endpoint) <= SEGMENTS / 2 + conv_count * SMALLEST_LIMIT
    assert path_memory(endpoint, attacker).unread == held(endpoint) > SEGMENTS / 3
    # Another peer finds as much as the attacker has, and its flows the windows that this is good for.
    window = GrowingWindow(PathMemory(path_memory(endpoint, attacker).memory), 1024)
    assert window.limit() >= SEGMENTS / 2 / memory_module.FLOW_SHARE * 0.7


def test_one_peer_has_half_two_a_third_each_and_a_newcomer_as_much_as_they(monkeypatch: pytest.MonkeyPatch) -> None:
    node, segments = WindowMemory(), 65_536
    monkeypatch.setattr(memory_module, "UNREAD_SEGMENTS", segments)
    for count, share in ((1, 1 / 2), (2, 1 / 3), (3, 1 / 4)):
        paths = [PathMemory(node) for _ in range(count)]
        windows = [GrowingWindow(path, 1024) for _ in range(300) for path in paths]
        for size in range(0, 1025, 16):
            for window in windows:
                window.hold(max(window.held, min(window.limit(), size)))
        for path in paths:
            assert path.unread == pytest.approx(segments * share, rel=0.1)
        assert segments - node.unread == pytest.approx(segments * share, rel=0.3)
        for window in windows:
            window.hold(0)
        assert node.unread == 0


def test_what_a_window_has_reserved_is_not_counted_twice_nor_given_back_while_it_is_full() -> None:
    node = WindowMemory(segments=4096)
    path = PathMemory(node)
    full, other = GrowingWindow(path, 1024), GrowingWindow(path, 1024)
    for window in (full, other):
        window.allow(2048)
    assert node.take(full, 1024, 0.0)
    full.size = 2048
    full.hold(1500)
    assert node.unread == 476
    assert full.limit() >= 1024 + SMALLEST_LIMIT
    assert node.take(other, 1024, 100.0)
    assert not node.take(other, 1024, 100.0), "it is idle, and full"
    full.hold(1024)
    assert node.take(other, 1024, 100.0)
    assert full.size == 1024
    full.hold(1024)
    assert node.unread == 1024


def test_what_is_left_of_a_session_that_was_reset_counts_until_it_is_read() -> None:
    network, served = Network(), list[Application]()
    network.serve = serve(served)
    flow = network.connect(UPLOAD[:50_000], 1, then_finish=False)
    network.run(2.0)
    memory = path_memory(network.acceptor)
    unread = memory.unread
    assert unread >= 50_000 / 1176
    network.opener.reset(flow.session, network.now)
    network.run(1.0)
    assert served[0].reason is CloseReason.RESET
    assert memory.unread == unread
    served[0].asleep = False
    served[0].run(network.acceptor, network.now)
    assert bytes(served[0].incoming) == UPLOAD[:50_000]
    assert (memory.unread, memory.memory.unread) == (0, 0)


def test_a_sender_repeats_nothing_of_what_a_window_that_has_shrunk_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    for engine in (pair.a, pair.b):
        engine.meet(Offer(window=1024, features=ACK_RUNS))
    pair.a.send(UPLOAD[:40_000])
    pair.run(3.0, lambda: pair.a.drained)
    assert pair.b.receive(1 << 20) == UPLOAD[:40_000]
    # Somebody else has filled the memory: nothing is left but the smallest window.
    monkeypatch.setattr(memory_module, "UNREAD_SEGMENTS", 0)
    repeated = pair.a.statistics.segments_repeated
    pair.a.send(UPLOAD[40_000:])
    pair.run(3.0)
    statistics = pair.a.statistics
    assert statistics.segments_repeated == repeated
    assert statistics.segments_in_flight > 0
    assert statistics.path_inflight_bytes == 0, "what was refused holds up no other flow"
    assert statistics.loss == 0.0
    received = b""
    for _ in range(20_000):
        received += pair.b.receive(1 << 20)
        if len(received) == 110_000:
            break
        pair.step()
    assert received == UPLOAD[40_000:]
