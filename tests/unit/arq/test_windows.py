"""Between two ends of our kind: windows that grow, the memory that bounds them, and acknowledgements of runs."""

from __future__ import annotations

import random
import struct

import pytest

from easytier_kcp_plugin.kcp.arq.engine import MAX_NUMBERS, ArqEngine
from easytier_kcp_plugin.kcp.arq.memory import (
    IDLE_AFTER,
    LARGEST_WINDOW,
    PATH_SHARE,
    ROUND_TRIPS,
    GrowingWindow,
    PathMemory,
    WindowMemory,
)
from easytier_kcp_plugin.kcp.arq.receiver import RUNS_RETOLD
from easytier_kcp_plugin.kcp.conn_data import ACK_RUNS as FEATURE
from easytier_kcp_plugin.kcp.conn_data import Offer
from easytier_kcp_plugin.kcp.segment import ACK_RUNS, RUN, SEGMENT, SEGMENT_SIZE, Command
from tests.unit.arq.parts import CONV, Pair, alone, head, new_path, sent_by

OFFER = Offer(window=LARGEST_WINDOW, features=FEATURE)
RTT = 0.05


def window_of(memory: WindowMemory | None = None, first: int = 1024, largest: int = LARGEST_WINDOW) -> GrowingWindow:
    window = GrowingWindow(PathMemory(memory or WindowMemory()), first)
    window.allow(largest)
    return window


def use(window: GrowingWindow, per_rtt: int, rounds: int, now: float = 0.0) -> float:
    """Have so many segments come by in each RTT; returns the time after that."""
    for number in range(rounds + 1):
        window.pass_on(number * per_rtt, RTT, now + number * RTT)
    return now + rounds * RTT


# Windows.


def test_a_window_does_not_grow_for_a_reader_that_sleeps() -> None:
    path = new_path()
    path.sample_rtt(RTT)
    engine = path.open(CONV, 32, 0.0, largest=1024)
    assert isinstance(engine, ArqEngine)
    for number in range(200):
        engine.input(head(Command.PUSH, ts=number, sn=number, length=100).encode(bytes(100)), 1.0 + number / 1000)
        path.pump(1.0 + number / 1000)
    assert engine.receiver.space.size == 32


def test_a_window_that_a_crowd_made_small_grows_to_stocks_size_for_a_flow_that_needs_it() -> None:
    path = new_path()
    path.sample_rtt(RTT)
    engine = path.open(CONV, 32, 0.0, largest=1024)
    assert isinstance(engine, ArqEngine)
    told: list[int] = []
    number, now = 0, 1.0
    for _ in range(400):
        now += 0.005
        for _ in range(min(40, told[-1] if told else 32)):
            engine.input(head(Command.PUSH, ts=int(now * 1000), sn=number, length=100).encode(bytes(100)), now)
            number += 1
        told += [segment.wnd for segment in sent_by(path, now)]
        engine.receive(1 << 20)
    assert told[0] <= 32
    assert max(told) > 512
    assert engine.receiver.space.size == 1024
    assert path.memory.reserved == 1024 - 32
    engine.close()
    engine.release()
    assert path.memory.reserved == 0


def test_a_window_grows_to_hold_the_round_trips_it_should_and_no_further() -> None:
    window = window_of()
    use(window, 600, 20)
    assert 600 * ROUND_TRIPS <= window.size < 2 * 600 * ROUND_TRIPS
    slow = window_of()
    use(slow, 1024 // ROUND_TRIPS, 20)
    assert slow.size == 1024


def test_a_window_grows_only_if_both_ends_can_and_never_beyond_the_largest() -> None:
    for largest, size in ((0, 1024), (1024, 1024), (5000, 5000), (0xFFFF_FFFF, LARGEST_WINDOW)):
        window = window_of(largest=largest)
        use(window, 100_000, 20)
        assert window.size == size


def test_one_peer_gets_no_more_than_its_share_and_all_together_no_more_than_there_is() -> None:
    memory = WindowMemory(segments=20_000)
    first, second = PathMemory(memory), PathMemory(memory)
    windows = [GrowingWindow(path, 1024) for path in (first, first, first, second, second, second)]
    for window in windows:
        window.allow(LARGEST_WINDOW)
        use(window, 100_000, 20)
        assert first.reserved <= memory.segments // PATH_SHARE
    assert memory.reserved == sum(window.size - window.first for window in windows) <= memory.segments
    assert windows[0].size > 1024 < windows[3].size
    for window in windows:
        window.shrink()
        window.shrink()
    assert (memory.reserved, first.reserved, second.reserved) == (0, 0, 0)


def test_a_window_that_rests_makes_room_for_one_that_needs_it() -> None:
    memory = WindowMemory(segments=2 * 7168)
    path = PathMemory(memory)
    resting, busy = GrowingWindow(path, 1024), GrowingWindow(path, 1024)
    resting.allow(LARGEST_WINDOW)
    busy.allow(LARGEST_WINDOW)
    now = use(resting, 2000, 10)
    assert resting.size == 8192
    now = use(busy, 2000, 10, now)
    assert (resting.size, busy.size) == (8192, 1024)
    use(busy, 2000, 10, now + IDLE_AFTER)
    assert (resting.size, busy.size) == (1024, 8192)


def met(window: int = 1024) -> Pair:
    pair = Pair(window)
    pair.a.meet(OFFER)
    pair.b.meet(OFFER)
    return pair


def test_what_is_reserved_is_given_back_when_a_conversation_ends() -> None:
    pair = met()
    memory = pair.paths["b"].memory
    written = 0
    for _ in range(1500):
        written += pair.a.send(bytes(100_000))
        pair.step()
        pair.b.receive(1 << 22)
    assert memory.reserved > 0
    assert pair.b.receiver.space.size == 1024 + memory.reserved
    pair.b.close()
    assert memory.reserved > 0
    pair.b.release()
    assert (memory.reserved, memory.memory.reserved) == (0, 0)


def test_without_the_offer_nothing_exceeds_stock() -> None:
    for offer in (None, Offer(), Offer(window=4096)):
        pair = Pair()
        for engine in (pair.a, pair.b):
            if offer is not None:
                engine.meet(offer)
        for _ in range(800):
            pair.a.send(bytes(100_000))
            pair.step()
            pair.b.receive(1 << 22)
        assert pair.b.statistics.duplicates_received is not None
        assert max(segment.wnd for segment in pair.segments("b")) <= 1024
        assert {segment.cmd for segment in pair.segments("b")} == {Command.ACK}


# Acknowledgements of runs.


def runs_in(datagram: bytes) -> list[tuple[int, int]]:
    assert datagram[4] == ACK_RUNS
    return list(RUN.iter_unpack(datagram[SEGMENT_SIZE:]))


def runs_body(*runs: tuple[int, int], una: int = 0) -> bytes:
    payload = b"".join(RUN.pack(*run) for run in runs)
    return SEGMENT.pack(CONV, ACK_RUNS, 0, 1024, 0, 0, una, len(payload)) + payload


def test_runs_name_what_arrived_and_are_told_again() -> None:
    path, engine = alone()
    engine.meet(OFFER)
    told = []
    for step, numbers in enumerate([(1, 2, 3), (5, 4, 9, 9), (), (), ()]):
        for number in numbers:
            engine.input(head(Command.PUSH, sn=number, ts=number, length=1).encode(b"x"), float(step))
        if not numbers:
            engine.input(head(Command.PUSH, sn=20 + step, ts=20 + step, length=1).encode(b"x"), float(step))
        ((_, (datagram,)),) = path.pump(float(step))[0]
        told.append(runs_in(datagram))
    assert told[0] == [(1, 3)]
    assert told[1] == [(4, 2), (9, 1), (1, 3)]
    assert [sum((1, 3) in runs for runs in told), sum((9, 1) in runs for runs in told)] == [1 + RUNS_RETOLD] * 2


def test_a_run_acknowledges_all_its_transmissions_once() -> None:
    path, engine = alone()
    engine.meet(OFFER)
    engine.send(bytes(16 * 1176))
    sent = len(sent_by(path, 0.0))
    assert sent == 16
    inflight = path.model.inflight
    engine.input(runs_body((1, 4), (6, 1)), 0.05)
    assert path.model.inflight == pytest.approx(inflight * 11 / 16)
    delivered = path.model.delivered
    engine.input(runs_body((1, 4), (6, 1)), 0.051)
    assert path.model.delivered == delivered
    engine.input(runs_body((1, 16), una=16), 0.06)
    assert engine.drained
    assert path.model.inflight == 0


@pytest.mark.parametrize(
    "body",
    [
        runs_body((1, MAX_NUMBERS + 1)),
        runs_body(*[(1, 0xFFFF_FFFF)] * 100),
        runs_body((1, 1))[:-1],
        SEGMENT.pack(CONV, ACK_RUNS, 0, 1024, 0, 0, 0, 7) + bytes(7),
        head(86).encode(),
    ],
)
def test_runs_that_cannot_be_are_rejected(body: bytes) -> None:
    path, engine = alone()
    engine.send(bytes(5 * 1176))
    sent_by(path, 0.0)
    inflight = path.model.inflight
    engine.input(body, 0.05)
    assert engine.statistics.datagrams_rejected == 1
    assert path.model.inflight == inflight


def test_runs_of_what_was_never_sent_are_ignored() -> None:
    path, engine = alone()
    engine.send(bytes(5 * 1176))
    sent_by(path, 0.0)
    inflight = path.model.inflight
    for run in ((0, 1), (6, 1000), (0xFFFF_FFF0, 16), (0x8000_0000, 5)):
        engine.input(runs_body(run), 0.05)
    assert path.model.inflight == inflight
    engine.input(runs_body((0xFFFF_FFFF, 7), una=5), 0.05)
    assert path.model.inflight == 0


def test_numbers_of_runs_may_wrap() -> None:
    pair = met()
    for engine, other in ((pair.a, pair.b), (pair.b, pair.a)):
        engine.sender.una = engine.sender.next = other.receiver.next = (1 << 32) - 20
        engine.sender.detector.last_number = (1 << 32) - 10
    data = random.Random(5).randbytes(100 * 1176)
    pair.a.send(data)
    pair.run(1.0)
    assert pair.b.receive(1 << 20) == data
    assert pair.a.drained
    assert pair.a.statistics.probes == 0


@pytest.mark.parametrize("lost", range(6))
def test_any_single_datagram_of_runs_may_be_lost_without_a_repetition(lost: int) -> None:
    pair = met()
    counts = {"a": 0, "b": 0}

    def keep(name: str, datagram: bytes) -> bool:
        counts[name] += 1
        return name == "a" or counts["b"] - 1 != lost

    pair.keep = keep
    # The last ones get copies in any case, since no later ACK could show their loss.
    pair.a.send(bytes(60 * 1176))
    pair.run(0.5)
    assert pair.a.drained
    assert counts["a"] <= 60 + 4
    assert pair.a.statistics.probes == 0


def test_a_segment_of_runs_has_the_layout_of_the_page() -> None:
    assert struct.calcsize("<II") == RUN.size == 8
    assert runs_body((7, 3), una=9).hex() == "efbeadde55000004000000000000000009000000080000000700000003000000"
