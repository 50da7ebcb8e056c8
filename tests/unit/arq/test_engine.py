"""One conversation: bytes, windows, what a peer says and what a hostile one may say."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easytier_kcp_plugin.kcp.arq.detection import KEEP_MAX
from easytier_kcp_plugin.kcp.arq.engine import MTU
from easytier_kcp_plugin.kcp.arq.receiver import MAX_DATAGRAM
from easytier_kcp_plugin.kcp.arq.sender import SEND_BUFFER
from easytier_kcp_plugin.kcp.segment import Command, Segment, parse_segments
from easytier_kcp_plugin.kcp.segment_size import STOCK_MSS as MSS
from tests.unit.arq.parts import CONV, DELAY, Pair, alone, head, new_path, open_on, payload_of, sent_by


@pytest.mark.parametrize("conv", [0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_bytes_go_both_ways_under_any_conv(conv: int) -> None:
    pair = Pair(conv=conv)
    data = random.Random(1).randbytes(100_000)
    assert pair.a.send(data) == len(data)
    assert pair.b.send(b"back") == 4
    pair.run(0.5)
    assert (pair.b.receive(1 << 20), pair.a.receive(1 << 20)) == (data, b"back")
    assert pair.a.drained
    assert max(len(datagram) for datagram in pair.sent["a"]) <= MTU


def test_statistics_tell_the_window_and_what_is_in_flight() -> None:
    pair = Pair()
    pair.a.send(bytes(200 * MSS))
    pair.pump()
    before = pair.a.statistics
    assert 0 < before.segments_in_flight == before.segments_new <= before.window == before.peer_window
    pair.run(2.0, lambda: pair.a.drained)
    assert pair.a.statistics.segments_in_flight == 0


def test_small_writes_of_one_turn_share_a_segment_and_none_is_empty() -> None:
    pair = Pair()
    for _ in range(MSS):
        pair.a.send(b"xy")
    pair.a.send(b"")
    pair.run(0.2)
    pushes = [segment for segment in pair.segments("a") if segment.cmd == Command.PUSH]
    assert {segment.length for segment in pushes} == {MSS}
    assert {segment.sn for segment in pushes} == {0, 1}
    assert {segment.frg for segment in pushes} == {0}


def test_every_transmission_has_a_number_of_its_own() -> None:
    pair = Pair()
    drop = random.Random(3)
    pair.keep = lambda name, datagram: name == "b" or drop.random() > 0.1
    pair.a.send(bytes(200_000))
    pair.run(2.0, lambda: pair.a.drained)
    numbers = [segment.ts for segment in pair.segments("a") if segment.cmd == Command.PUSH]
    assert pair.a.drained
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 200_000 / MSS


def test_the_send_buffer_is_bounded() -> None:
    _, engine = alone()
    assert engine.send(bytes(10_000_000)) == SEND_BUFFER
    assert (engine.room, engine.send(b"x")) == (0, 0)
    assert engine.statistics.waiting_bytes == SEND_BUFFER


def test_a_peer_of_which_nothing_is_known_gets_its_first_window_only() -> None:
    path, engine = alone()
    engine.send(bytes(SEND_BUFFER))
    for step in range(400):
        path.pump(step / 1000)
    assert engine.statistics.segments_new <= 128


def test_what_an_idle_engine_asks_for() -> None:
    pair = Pair()
    pair.run(0.1)
    assert pair.wake == {"a": None, "b": None}
    pair.a.send(b"hello")
    pair.run(1.0)
    assert pair.wake == {"a": None, "b": None}
    sent = len(pair.sent["a"]) + len(pair.sent["b"])
    pair.run(3.0)
    assert len(pair.sent["a"]) + len(pair.sent["b"]) == sent


def test_acknowledgements_leave_with_the_pump_that_follows() -> None:
    path, engine = alone()
    pushes = b"".join(head(Command.PUSH, sn=sn, ts=sn + 1, length=10).encode(bytes(10)) for sn in range(20))
    engine.input(pushes, 1.0)
    segments = sent_by(path, 1.0)
    assert [(segment.cmd, segment.sn, segment.ts) for segment in segments] == [(Command.ACK, sn, sn + 1) for sn in range(20)]
    assert {segment.una for segment in segments} == {20}


def test_acks_above_a_gap_are_repeated_until_it_closes() -> None:
    path, engine = alone()
    engine.input(head(Command.PUSH, sn=1, ts=2, length=1).encode(b"x"), 1.0)
    sent_by(path, 1.0)
    engine.input(head(Command.PUSH, sn=2, ts=3, length=1).encode(b"x"), 1.1)
    assert [segment.sn for segment in sent_by(path, 1.1)] == [2, 1]
    engine.input(head(Command.PUSH, sn=0, ts=4, length=1).encode(b"x"), 1.2)
    assert [segment.sn for segment in sent_by(path, 1.2)] == [0]


def test_a_window_that_nobody_reads_shuts_and_opens_again() -> None:
    pair = Pair(window=128)
    data = random.Random(2).randbytes(250_000)
    pair.a.send(data)
    pair.run(1.0)
    assert pair.a.statistics.peer_window == 0
    assert pair.a.statistics.waiting_bytes > 0
    assert not pair.a.in_flight
    received = bytearray()
    while len(received) < len(data):
        received += pair.b.receive(30_000)
        pair.step()
        assert pair.now < 60
    assert received == data


def test_a_shut_window_is_asked_for_at_growing_intervals() -> None:
    path, engine = alone()
    path.sample_rtt(0.05)
    engine.input(head(Command.WINS, wnd=0).encode(), 0.0)
    engine.send(b"x")
    asked = [step / 100 for step in range(700) if any(s.cmd == Command.WASK for s in sent_by(path, step / 100))]
    waits = [round(later - earlier, 1) for earlier, later in itertools.pairwise(asked)]
    assert waits[:3] == [0.2, 0.3, 0.5]
    assert max(waits) == 2.0
    engine.input(head(Command.WINS, wnd=10).encode(), 8.0)
    assert [(s.cmd, s.length) for s in sent_by(path, 8.0)] == [(Command.PUSH, 1)]


def test_a_window_that_opens_is_told_three_times() -> None:
    path, engine = alone(window=128)
    for sn in range(128):
        engine.input(head(Command.PUSH, sn=sn, ts=sn + 1, length=1).encode(b"x"), 1.0)
    assert sent_by(path, 1.0)[-1].wnd == 0
    assert engine.receive(1 << 20) == b"x" * 128
    told = [(step, s.cmd, s.wnd, s.una) for step in range(200) for s in sent_by(path, 1.0 + step / 1000)]
    assert told == [(0, Command.WINS, 128, 128), (20, Command.WINS, 128, 128), (60, Command.WINS, 128, 128)]


def test_wask_is_answered() -> None:
    path, engine = alone()
    engine.input(head(Command.WASK).encode(), 1.0)
    assert [segment.cmd for segment in sent_by(path, 1.0)] == [Command.WINS]


def test_whether_the_peer_has_passed_everything_on() -> None:
    path, engine = alone()
    assert engine.emptied_at == 0.0
    engine.send(bytes(3 * MSS))
    assert engine.emptied_at is None
    sent_by(path, 1.0)
    engine.input(head(Command.ACK, sn=0, ts=1, una=1).encode(), 1.1)
    engine.input(head(Command.ACK, sn=2, ts=3, una=3, wnd=1022).encode(), 1.2)
    assert engine.drained
    assert engine.emptied_at is None
    # A late segment with a large window, from before everything came, proves nothing.
    engine.input(head(Command.WINS, una=1).encode(), 1.3)
    assert engine.emptied_at is None
    engine.input(head(Command.WINS, una=3).encode(), 1.4)
    assert engine.emptied_at == 1.4


def test_closing_takes_what_was_in_flight_off_the_account() -> None:
    path = new_path()
    first, second = open_on(path, CONV), open_on(path, CONV + 1)
    first.send(bytes(50_000))
    second.send(bytes(10 * MSS))
    path.pump(0.0)
    assert path.model.inflight > 0
    first.close()
    second.close()
    assert (path.model.inflight, path.model.active_flows) == (0, 0)
    assert path.pump(0.1) == ([], None)
    assert (first.room, first.send(b"x"), first.receive(10), first.readable) == (0, 0, b"", False)


# Hostile input.


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"x" * 23,
        head(Command.PUSH, length=0).encode(),
        head(Command.PUSH, length=1, frg=1).encode(b"x"),
        head(Command.PUSH, length=2).encode(b"x"),
        head(Command.ACK, una=1).encode(),
        head(Command.ACK, una=0x7FFF_FFFF).encode(),
        head(80).encode(),
        head(Command.WINS, conv=CONV + 1).encode(),
        head(Command.PUSH, length=MAX_DATAGRAM).encode(bytes(MAX_DATAGRAM)),
    ],
)
def test_what_is_broken_is_counted_and_changes_nothing(datagram: bytes) -> None:
    path, engine = alone()
    engine.input(datagram, 1.0)
    assert (engine.statistics.datagrams_rejected, engine.statistics.datagrams_received) == (1, 0)
    assert not engine.heard
    assert path.pump(1.0) == ([], None)


def test_acks_of_what_was_never_sent_are_ignored() -> None:
    path, engine = alone()
    engine.send(bytes(20 * MSS))
    sent_by(path, 0.0)
    inflight = path.model.inflight
    # Unknown numbers, and a known number under another segment's name.
    for number, sn in ((0, 0), (1000, 0), (0xFFFF_FFFF, 3), (1, 5)):
        engine.input(head(Command.ACK, ts=number, sn=sn).encode(), 0.05)
    assert path.model.inflight == inflight
    assert path.rtt is None
    engine.input(head(Command.ACK, ts=1, sn=0, una=1).encode(), 0.05)
    assert path.model.inflight < inflight
    assert path.rtt == pytest.approx(0.05)


def test_the_same_ack_twice_counts_once() -> None:
    path, engine = alone()
    engine.send(bytes(20 * MSS))
    sent_by(path, 0.0)
    ack = head(Command.ACK, ts=3, sn=2).encode()
    engine.input(ack, 0.05)
    inflight, delivered = path.model.inflight, path.model.delivered
    engine.input(ack + ack, 0.06)
    assert (path.model.inflight, path.model.delivered) == (inflight, delivered)


def test_segments_beyond_the_window_are_not_kept() -> None:
    path, engine = alone(window=128)
    for sn in range(1, 5000):
        engine.input(head(Command.PUSH, sn=sn, ts=sn, length=1).encode(b"x"), 1.0)
    assert {segment.sn for segment in sent_by(path, 1.0)} == set(range(1, 128))
    # A peer that ignores our window fills one more of it, and no more.
    for sn in range(1000):
        engine.input(head(Command.PUSH, sn=sn, ts=sn, length=1).encode(b"x"), 2.0)
    assert len(engine.receive(1 << 20)) <= 256


def test_a_flood_of_duplicates_is_answered_within_bounds() -> None:
    path, engine = alone()
    push = head(Command.PUSH, sn=5, ts=1, length=1).encode(b"x")
    for _ in range(20_000):
        engine.input(push, 1.0)
    assert len(sent_by(path, 1.0)) <= 4096 + 96
    assert engine.statistics.duplicates_received == 19_999


def test_what_a_sender_remembers_is_bounded() -> None:
    """A peer that acknowledges each segment by una alone, ten thousand times over."""
    path, engine = alone()
    now, una = 0.0, 0
    for _ in range(2500):
        engine.send(bytes(8 * MSS))
        now += 0.001
        sent_by(path, now)
        una = engine.statistics.segments_new
        engine.input(head(Command.WINS, una=una).encode(), now)
    assert una > 10_000
    assert engine.sender.detector.held <= KEEP_MAX + 1024


def test_counters_beyond_32_bits() -> None:
    pair = Pair()
    for engine, other in ((pair.a, pair.b), (pair.b, pair.a)):
        engine.sender.una = engine.sender.next = other.receiver.next = (1 << 32) - 20
        engine.sender.detector.last_number = (1 << 32) - 10
    data = random.Random(5).randbytes(100 * MSS)
    pair.a.send(data)
    pair.run(1.0)
    assert pair.b.receive(1 << 20) == data
    assert pair.a.drained
    assert pair.a.statistics.probes == 0


segment_values = st.fixed_dictionaries(
    {
        "cmd": st.sampled_from([80, 81, 82, 83, 84, 85]),
        "frg": st.sampled_from([0, 0, 0, 1]),
        "wnd": st.integers(0, 0xFFFF),
        "ts": st.one_of(st.integers(0, 60), st.integers(0, 0xFFFF_FFFF)),
        "sn": st.one_of(st.integers(0, 60), st.integers(0, 0xFFFF_FFFF)),
        "una": st.one_of(st.integers(0, 60), st.integers(0, 0xFFFF_FFFF)),
        "length": st.integers(0, 40),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(segment_values, max_size=4), st.floats(0, 0.5), st.integers(0, 9000)), max_size=40))
def test_any_segments_at_any_time(script: list[tuple[list[dict[str, int]], float, int]]) -> None:
    path, engine = alone()
    now = 0.0
    for segments, wait, written in script:
        now += wait
        engine.send(bytes(written))
        engine.input(b"".join(head(**values).encode(bytes(values["length"])) for values in segments), now)
        engine.receive(1 + written)
        batches, wake = path.pump(now)
        assert wake is None or wake > now
        assert all(len(datagram) <= MTU for _, datagrams in batches for datagram in datagrams)
        assert path.model.inflight >= 0
    engine.close()
    assert path.model.inflight == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=20))
def test_any_bytes(datagrams: list[bytes]) -> None:
    path, engine = alone()
    for number, datagram in enumerate(datagrams):
        engine.input(CONV.to_bytes(4, "little") + datagram, number / 100)
        path.pump(number / 100)
    assert engine.statistics.datagrams_received + engine.statistics.datagrams_rejected == len(datagrams)


# Losses.


@pytest.mark.parametrize("lost", range(14))
def test_any_single_datagram_of_a_short_flow_may_be_lost(lost: int) -> None:
    pair = Pair()
    pair.paths["a"].sample_rtt(2 * DELAY)
    counts = {"a": 0}

    def keep(name: str, datagram: bytes) -> bool:
        if name == "a":
            counts["a"] += 1
        return name != "a" or counts["a"] - 1 != lost

    pair.keep = keep
    began = pair.now
    data = random.Random(6).randbytes(10 * MSS)
    pair.a.send(data)
    received = bytearray()
    while len(received) < len(data):
        pair.step()
        received += pair.b.receive(1 << 20)
        assert pair.now - began <= 6 * DELAY + 0.02, "three round trips"
    assert received == data


@pytest.mark.parametrize("lost", range(6))
def test_any_single_datagram_of_acknowledgements_may_be_lost(lost: int) -> None:
    pair = Pair()
    counts = {"b": 0}

    def keep(name: str, datagram: bytes) -> bool:
        if name == "b":
            counts["b"] += 1
        return name != "b" or counts["b"] - 1 != lost

    pair.keep = keep
    pair.a.send(random.Random(6).randbytes(40 * MSS))
    pair.run(0.5, lambda: pair.a.drained)
    assert pair.a.drained
    assert pair.a.statistics.segments_new == 40


def test_a_lost_segment_is_repeated_once_three_later_ones_have_arrived() -> None:
    path, engine = alone()
    engine.send(bytes(10 * MSS))
    first = [segment.sn for segment in sent_by(path, 0.0) if segment.cmd == Command.PUSH]
    assert first == list(range(10))
    engine.input(b"".join(head(Command.ACK, ts=sn + 1, sn=sn, una=0).encode() for sn in (1, 2)), 0.05)
    assert 0 not in [segment.sn for segment in sent_by(path, 0.05)]
    engine.input(head(Command.ACK, ts=4, sn=3, una=0).encode(), 0.051)
    assert 0 in [segment.sn for segment in sent_by(path, 0.051)]


def test_a_loss_that_was_none_is_noticed() -> None:
    path, engine = alone()
    engine.send(bytes(12 * MSS))
    sent_by(path, 0.0)
    sent_by(path, 0.001)
    engine.input(b"".join(head(Command.ACK, ts=sn + 1, sn=sn).encode() for sn in range(1, 8)), 0.05)
    engine.input(head(Command.ACK, ts=1, sn=0, una=8).encode(), 0.052)
    assert engine.statistics.spurious_losses == 1


def test_payload_is_sliced_as_written() -> None:
    path, engine = alone()
    engine.send(b"abc")
    ((_, (datagram,)),) = path.pump(0.0)[0]
    assert payload_of(datagram) == b"abc"
    assert parse_segments(datagram, CONV)[0][0].length == 3


lone_pushes = st.builds(
    lambda sn, ts, wnd, una, fragment, size, extra: (
        Segment(CONV, Command.PUSH, fragment, wnd, ts, sn & 0xFFFF_FFFF, una, size).encode(bytes([sn & 0xFF]) * size) + extra
    ),
    sn=st.integers(-3, 40),
    ts=st.integers(0, 100),
    wnd=st.sampled_from([128, 128, 128, 1024, 0]),
    una=st.sampled_from([0, 0, 0, 0, 1, 0xFFFF_FFFF]),
    fragment=st.sampled_from([0, 0, 0, 0, 1]),
    size=st.sampled_from([0, 1, 5, 1176, 1382, 2100]),
    extra=st.sampled_from([b"", b"", b"", b"x", bytes(24), head(Command.WASK).encode()]),
)


@given(batches=st.lists(st.lists(lone_pushes | st.binary(max_size=60), max_size=30), max_size=5), met=st.booleans())
def test_a_batch_is_taken_in_as_its_datagrams_one_by_one_would_be(batches: list[list[bytes]], met: bool) -> None:
    def fed(each_alone: bool) -> tuple[object, ...]:
        path = new_path()
        engine = open_on(path, window=32)
        if met:
            engine.meet(path.offer)
        answers, got = [], []
        for number, batch in enumerate(batches):
            if each_alone:
                for datagram in batch:
                    engine.input(datagram, 1.0 + number)
            else:
                engine.input_all(batch, 1.0 + number)
            answers += [datagrams for _, datagrams in path.pump(1.0 + number)[0]]
            got.append(engine.receive(3000))
        return answers, got, engine.statistics, engine.heard, engine.got_payload, engine.emptied_at

    assert fed(each_alone=True) == fed(each_alone=False)


def test_a_bulk_flow_of_our_kind_goes_by_the_quick_way() -> None:
    path = new_path()
    engine = open_on(path)
    engine.meet(path.offer)
    pushes = [Segment(CONV, Command.PUSH, 0, 128, sn, sn, 0, 3).encode(b"abc") for sn in (0, 1, 3, 4, 2, 5)]
    engine.input(pushes[0], 1.0)
    head_bytes = pushes[0][:8]
    assert engine.receiver.push_lone(pushes, 1, head_bytes, 0) == 5
    assert engine.receive(100) == b"abc" * 6
