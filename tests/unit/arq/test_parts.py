"""The small parts: estimators, copies, dips, the window of a stock sender, the receiver's ACKs."""

from __future__ import annotations

import math

import pytest

from easytier_kcp_plugin.kcp.arq.dips import Dips, Surges
from easytier_kcp_plugin.kcp.arq.edge import SMALLEST_ADVANCE, WindowEdge
from easytier_kcp_plugin.kcp.arq.estimate import Loss, RecentMax, RoundTrips
from easytier_kcp_plugin.kcp.arq.memory import GrowingWindow, PathMemory, WindowMemory
from easytier_kcp_plugin.kcp.arq.rate import FIRST_WINDOW, Limit, Mode, RateModel
from easytier_kcp_plugin.kcp.arq.receiver import MAX_DAMPING, NUMBERED_AFTER, RUNS_PER_DATAGRAM, RUNS_RETOLD, Receiver
from easytier_kcp_plugin.kcp.arq.redundancy import TailBudget, repair_transmissions, tail_pays
from easytier_kcp_plugin.kcp.segment import SEGMENT, SEGMENT_SIZE
from tests.unit.arq.parts import CONV


def test_the_recent_maximum_forgets_but_never_all() -> None:
    recent = RecentMax()
    assert recent.value == 0.0
    for key, value in ((1, 5.0), (2, 9.0), (3, 4.0), (4, 6.0)):
        recent.add(key, value)
    assert recent.value == 9.0
    recent.forget_before(3)
    assert recent.value == 6.0
    recent.forget_before(100)
    assert recent.value == 6.0


def test_the_lowest_rtt_is_that_of_the_last_five_to_ten_seconds() -> None:
    rtt = RoundTrips()
    rtt.sample(0.050, 0.0)
    for tenth in range(1, 49):
        rtt.sample(0.060, tenth / 10)
    assert rtt.lowest == 0.050
    for tenth in range(49, 120):
        rtt.sample(0.060, tenth / 10)
    assert rtt.lowest == 0.060
    assert rtt.best == pytest.approx(0.060, abs=0.001)


def test_an_rtt_told_by_others_serves_until_there_is_a_sample() -> None:
    rtt = RoundTrips()
    rtt.tell(0.3)
    assert rtt.best == 0.3
    rtt.sample(0.1, 1.0)
    assert rtt.best == 0.1


def test_loss_while_slow_is_kept_apart() -> None:
    loss = Loss()
    loss.acked, loss.lost = 90, 10
    loss.end_round()
    assert loss.share == pytest.approx(0.1)
    loss.slow_acked, loss.slow_lost = 99, 1
    loss.end_slow()
    assert loss.floor == pytest.approx(0.01)
    loss.acked, loss.lost = 3, 3
    loss.end_round()
    assert loss.share == pytest.approx(0.1), "six are too few to say anything"


@pytest.mark.parametrize(
    ("loss", "window_bound", "critical", "times"),
    [(0.05, 0.0, False, 1), (0.001, 0.0, True, 1), (0.01, 0.0, True, 2), (0.2, 0.0, True, 3), (0.05, 0.5, True, 4)],
)
def test_how_often_a_repair_is_sent(loss: float, window_bound: float, critical: bool, times: int) -> None:
    assert repair_transmissions(loss, window_bound, critical) == times


def test_copies_of_last_segments_have_a_budget() -> None:
    budget = TailBudget()
    budget.refill(0.0, 100.0)
    assert sum(budget.take(1300) for _ in range(100)) == 15
    budget.refill(0.0, 100.5)
    assert sum(budget.take(1300) for _ in range(100)) == 8
    assert tail_pays(0.0, 100)
    assert not tail_pays(0.0001, 1000)
    assert tail_pays(0.01, 1000)


def test_a_dip_raises_the_base_only_when_it_was_long_enough_to_drain() -> None:
    dips = Dips()
    assert not dips.due(0.0, 0, 0.05)
    assert dips.due(1.1, 0, 0.05)
    dips.begin(1.1, 0.005, 0.0, 0.003, 0.05)
    assert 1.12 < dips.until < 1.4
    assert dips.observe(dips.until, 0.070, 0.05, 0.003, 0.05) is None
    assert dips.observe(dips.until + 0.06, 0.070, 0.05, 0.003, 0.05) == 0.070
    dips.begin(10.0, 0.2, 0.0, 0.003, 0.05)
    dips.observe(dips.until, 0.2, 0.05, 0.003, 0.05)
    assert dips.observe(dips.until + 0.06, 0.2, 0.05, 0.003, 0.05) is None, "200 ms do not drain in 300 ms"


def test_surges_come_rarely_unless_they_help() -> None:
    surges = Surges()
    begun = []
    for number in range(100):
        before = surges.until
        surges.consider(float(number), number, 1e6, 0.5)
        if surges.until != before:
            begun.append(number)
    assert begun == [0, 8, 24, 56]
    surges.consider(200.0, 200, 2e6, 0.5)
    surges.consider(203.0, 203, 2e6, 0.5)
    assert surges.until == 203.5


def test_a_model_that_knows_nothing_sends_its_first_window_over_a_quarter_of_the_rtt() -> None:
    model = RateModel()
    model.rtt.tell(0.1)
    assert model.mode is Mode.STARTUP
    assert model.window() / model.pacing_rate(0.0) == pytest.approx(0.025)


def test_the_edge_advances_no_faster_than_segments_arrive() -> None:
    edge = WindowEdge(1024)
    now, received = 1.0, 0
    edge.advance(0, 0.05, now)
    for _ in range(200):
        now += 0.002
        for _ in range(4):
            received += 1
            edge.arrive(int(now * 1000), now)
        edge.advance(received, 0.05, now)
    before, held = edge.edge, received
    assert edge.window(held) >= SMALLEST_ADVANCE
    for _ in range(10):
        now += 0.002
        edge.advance(held, 0.05, now)
    assert edge.edge - before <= 1.2 * 0.020 * 2000


def test_a_growing_delay_makes_the_window_smaller() -> None:
    edge = WindowEdge(1024)
    caps = []
    for waited, steps in ((0.0, range(1000)), (0.040, range(1000, 2000))):
        for step in steps:
            now = 1.0 + step / 1000
            edge.arrive(int((now - waited) * 1000), now)
            edge.advance(step + 1, 0.05, now)
        caps.append(edge.cap)
    assert caps[0] > 500
    assert caps[1] < caps[0] / 2


def receiver_of(window: int) -> Receiver:
    return Receiver(CONV, GrowingWindow(PathMemory(WindowMemory()), window))


def push_all(receiver: Receiver, pairs: list[tuple[int, int]], now: float = 1.0) -> None:
    for sn, ts in pairs:
        receiver.push(sn, ts, b"x", now)


def acks(receiver: Receiver, now: float) -> list[tuple[int, int]]:
    """(sn, ts) of what is acknowledged."""
    return [
        (sn, ts)
        for body in receiver.acknowledge(receiver.window(), now)
        for _conv, _cmd, _frg, _wnd, ts, sn, _una, _length in SEGMENT.iter_unpack(body)
    ]


def test_two_kinds_of_senders_are_told_apart() -> None:
    clock, numbers = receiver_of(1024), receiver_of(1024)
    assert clock.window() == 128
    push_all(clock, [(0, 77), (1, 77)])
    push_all(numbers, [(sn, sn + 1) for sn in range(NUMBERED_AFTER)])
    assert clock.edge is not None
    assert clock.window() == 128
    assert numbers.edge is None
    assert numbers.window() == 1024 - NUMBERED_AFTER


def test_a_duplicate_on_the_way_is_no_clock() -> None:
    receiver = receiver_of(1024)
    push_all(receiver, [(0, 5), (0, 5), (1, 6)])
    assert receiver.edge is None
    assert receiver.duplicates == 1


def test_damping_acks_end_each_datagram_for_a_clock_sender() -> None:
    receiver = receiver_of(1024)
    push_all(receiver, [(0, 100), (1, 100), (2, 100)], 1.0)
    assert acks(receiver, 1.0) == [(0, 100), (1, 100), (2, 100)]
    push_all(receiver, [(3, 140)], 1.04)
    assert acks(receiver, 1.04) == [(3, 140), (1, 100), (2, 100)]
    push_all(receiver, [(4, 150)], 1.05)
    assert acks(receiver, 1.05) == [(4, 150)]


def test_a_large_batch_fills_datagrams_of_fifty() -> None:
    receiver = receiver_of(1024)
    push_all(receiver, [(sn, sn + 1) for sn in range(120)])
    assert [len(body) // 24 for body in receiver.acknowledge(1024, 1.0)] == [50, 50, 20]
    assert receiver.acknowledge(1024, 1.0) == []


def test_what_is_kept_of_acknowledgements_is_bounded() -> None:
    clock, runs = receiver_of(1024), receiver_of(1024)
    runs.numbered = runs.tells_runs = True
    bodies: list[bytes] = []
    for pump in range(60):
        now = 1 + pump / 10_000
        push_all(clock, [(sn, 1000 + pump) for sn in range(50)] * 40, now)
        push_all(runs, [(0, 4000 * pump + number) for number in range(0, 4000, 2)], now)
        acks(clock, now)
        bodies = runs.acknowledge(runs.window(), now)
    assert len(clock._damping) <= MAX_DAMPING
    assert sum(len(earlier) for earlier in runs._runs_told) <= RUNS_RETOLD * RUNS_PER_DATAGRAM
    # What is fresh is told whole all the same, and what is told again is the newest.
    assert sum(len(body) - SEGMENT_SIZE for body in bodies) == (2000 + RUNS_RETOLD * RUNS_PER_DATAGRAM) * 8


def test_no_more_is_held_than_the_window_allows_in_order_or_not() -> None:
    receiver = receiver_of(4)
    push_all(receiver, [(sn, sn + 1) for sn in (1, 2, 3, 0)])
    assert (receiver.window(), receiver.next) == (0, 4)
    push_all(receiver, [(sn, sn + 1) for sn in range(4, 12)])
    assert receiver.read(2) == b"xx"
    assert (receiver.window(), receiver.next) == (2, 4)
    push_all(receiver, [(sn, sn + 1) for sn in (4, 6, 5)])
    assert (receiver.window(), receiver.next) == (0, 6)
    assert receiver.read(100) == b"xxxx"
    assert not receiver.readable


def test_a_window_edge_without_arrivals_is_its_cap() -> None:
    edge = WindowEdge(64, cap=64.0)
    edge.advance(0, 0.05, 1.0)
    assert edge.window(0) == 64
    assert not edge.moving(0)
    assert edge.queue_ms == 0.0
    assert math.isfinite(edge.edge)


def test_small_messages_one_by_one_do_not_fix_a_small_rate() -> None:
    # What they show is how seldom the application writes, not what the path carries: a later burst has to leave at once.
    model = RateModel()
    rtt, size, now = 0.05, 150, 0.0
    for _ in range(300):
        moment = model.moment(now)
        model.inflight += size
        model.limit(Limit.APPLICATION, now)
        now += rtt
        model.deliver(size, now)
        model.acknowledge(moment, rtt, 1, now)
        model.limit(Limit.APPLICATION, now)
    assert model.mode is Mode.STARTUP
    assert model.pacing_rate(now) >= FIRST_WINDOW / rtt * 0.99
    assert model.window() > 100 * size
