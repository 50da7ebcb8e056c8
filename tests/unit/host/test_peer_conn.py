"""Pings and death of a connection, by a clock that the tests move."""

from __future__ import annotations

import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.packet import PacketType, PeerHeader
from easytier_host.peer_conn import MAX_PONGS_PER_SECOND, PeerConn
from tests.unit.host.helpers import ME, PEER, FakeClock, make_conn, split_frame

TICK = 0.5
WEEK = 7 * 86_400.0


def sequence(ping: bytes) -> int:
    (number,) = struct.unpack("<I", split_frame(ping)[1])
    return int(number)


def pong(ping: bytes) -> bytes:
    return ping[:8] + bytes([PacketType.PONG]) + ping[9:]


def receive(conn: PeerConn, frame: bytes, now: float) -> None:
    """As the data path does with a Pong."""
    conn.take_pong(frame, now)
    conn.received_frames += 1


def run_until_dead(conn: PeerConn, clock: FakeClock, limit: float) -> tuple[float | None, int]:
    """Tick without any answer; (seconds until it counts as dead, pings sent)."""
    began, pings = clock.now, 0
    while clock.now - began < limit:
        pings += conn.tick(clock.now) is not None
        if conn.is_dead(clock.now):
            return clock.now - began, pings
        clock.advance(TICK)
    return None, pings


def test_the_first_tick_sends_a_ping_as_stock_does() -> None:
    conn = make_conn(PEER)
    ping = conn.tick(1000.0)
    assert ping is not None
    header, payload = split_frame(ping)
    assert header == PeerHeader(ME, PEER, PacketType.PING, 0, 1, 4)
    assert payload == bytes(4)


def test_an_answered_connection_is_pinged_every_two_seconds() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    sent_at = []
    for _ in range(40):
        ping = conn.tick(clock.now)
        if ping is not None:
            sent_at.append(clock.now)
            receive(conn, pong(ping), clock.now + 0.03)
        clock.advance(TICK)
    assert [later - earlier for earlier, later in pairwise(sent_at)] == [2.0] * (len(sent_at) - 1)
    assert len(sent_at) == 10


def test_a_vanished_neighbour_is_dead_within_eight_seconds() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    ping = conn.tick(clock.now)
    assert ping is not None
    receive(conn, pong(ping), clock.now + 0.01)
    for _ in range(3):
        clock.advance(TICK)
        assert conn.tick(clock.now) is None
    clock.advance(TICK)
    seconds, pings = run_until_dead(conn, clock, 60)
    assert seconds is not None
    assert 5.0 <= seconds <= 7.5
    assert pings >= 8


def test_a_neighbour_that_never_answers_dies_too() -> None:
    seconds, _ = run_until_dead(make_conn(PEER), FakeClock(), 60)
    assert seconds is not None
    assert 7.0 <= seconds <= 8.0


def test_any_frame_keeps_a_neighbour_alive_that_answers_no_pings() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    for _ in range(200):
        conn.tick(clock.now)
        conn.received_frames += 1
        assert not conn.is_dead(clock.advance(TICK))
    assert conn.loss == 1.0


@pytest.mark.parametrize("seed", [1, 2])
def test_an_idle_line_with_ten_percent_loss_lives_for_a_week(seed: int) -> None:
    chance = random.Random(seed)
    conn, clock = make_conn(PEER), FakeClock()
    end, alive = clock.now + WEEK / 2, True
    while clock.now < end and alive:
        ping = conn.tick(clock.now)
        if ping is not None and chance.random() < 0.9 * 0.9:
            receive(conn, pong(ping), clock.now + 0.05)
        # Once all is answered, the ticks before the next ping find nothing to do.
        quiet = ping is None and not conn._pending
        clock.advance(max(TICK, conn._next_ping_at - clock.now) if quiet else TICK)
        alive = not conn.is_dead(clock.now)
    assert alive
    assert 0.1 < conn.loss < 0.35


def test_latency_is_the_mean_of_the_last_fifteen_round_trips() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    assert conn.latency is None
    for number in range(20):
        ping = conn.tick(clock.now)
        assert ping is not None
        receive(conn, pong(ping), clock.now + (9.0 if number < 5 else 0.010 * (number - 4)))
        for _ in range(4):
            clock.advance(TICK)
            if _ < 3:
                conn.tick(clock.now)
    assert conn.latency == pytest.approx(0.080)


def test_loss_is_the_share_of_the_last_hundred_pings() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    assert conn.loss == 0.0
    for number in range(150):
        ping = None
        while ping is None:
            ping = conn.tick(clock.advance(TICK))
        if number >= 50 and number % 4:
            receive(conn, pong(ping), clock.now + 0.01)
        else:
            # Something else keeps it alive.
            conn.received_frames += 1
    while conn._pending:
        conn.tick(clock.advance(TICK))
    assert conn.loss == pytest.approx(0.25, abs=0.02)


def test_a_pong_counts_once_and_only_for_a_ping_of_ours() -> None:
    conn = make_conn(PEER)
    ping = conn.tick(1000.0)
    assert ping is not None
    foreign = ping[:16] + struct.pack("<I", 77)
    for frame in (foreign, pong(ping)[:19], pong(ping), pong(ping)):
        conn.take_pong(frame, 1000.1)
    assert conn.latency == pytest.approx(0.1)
    assert conn.tunnel.round_trip == conn.latency
    assert conn._outcomes.count(True) == 1


def test_a_pong_that_comes_too_late_is_a_loss() -> None:
    conn = make_conn(PEER)
    ping = conn.tick(1000.0)
    assert ping is not None
    conn.tick(1002.0)
    conn.take_pong(pong(ping), 1002.1)
    assert conn.latency is None
    assert conn.loss == 1.0


def test_sequence_numbers_grow_and_wrap() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    conn._sequence = 0xFFFF_FFFF
    numbers: list[int] = []
    while len(numbers) < 3:
        ping = conn.tick(clock.advance(TICK))
        if ping is not None:
            numbers.append(sequence(ping))
            receive(conn, pong(ping), clock.now)
    assert numbers == [0xFFFF_FFFF, 0, 1]


def test_outstanding_pings_stay_few() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    for _ in range(1000):
        conn.tick(clock.advance(TICK))
        assert len(conn._pending) <= 6


@given(st.binary(min_size=16, max_size=200))
def test_a_pong_is_never_shorter_than_its_ping(body: bytes) -> None:
    ping = body[:8] + bytes([PacketType.PING]) + body[9:]
    answer = make_conn(PEER).answer_ping(ping)
    # A Pong with fewer than four bytes of payload ends a stock daemon (control plane 12.3).
    if len(ping) < 20:
        assert answer is None
    else:
        assert answer == pong(ping)
        assert len(answer) == len(ping)


def test_a_flood_of_pings_gets_a_hundred_answers_a_second() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    ping = make_conn(ME).tick(1000.0)
    assert ping is not None
    answers = 0
    for _ in range(20):
        clock.advance(TICK)
        conn.tick(clock.now)
        answers += sum(conn.answer_ping(ping) is not None for _ in range(1000))
    assert answers == pytest.approx(10 * MAX_PONGS_PER_SECOND, abs=MAX_PONGS_PER_SECOND)


def test_a_connection_is_silent_from_the_second_ping_without_any_frame() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    while conn.tick(clock.now) is None or clock.now < 1002:
        assert not conn.is_silent
        clock.advance(TICK)
    assert conn.is_silent
    conn.received_frames += 1
    conn.tick(clock.advance(TICK))
    assert not conn.is_silent


def test_the_answer_to_a_handshake_is_repeated_within_the_allowance_of_pongs() -> None:
    tunnel = make_conn(PEER).tunnel
    conn = PeerConn(tunnel, ME, PEER, is_foreign_relay=False, is_initiator=False, now=1000.0, answer=b"hello")
    assert [conn.repeat_answer() for _ in range(MAX_PONGS_PER_SECOND + 5)] == [b"hello"] * MAX_PONGS_PER_SECOND + [None] * 5
    conn.tick(1001.0)
    assert conn.repeat_answer() == b"hello"
    assert make_conn(PEER).repeat_answer() is None


def test_a_neighbour_in_doubt_is_asked_at_once_and_dead_after_a_second_without_answer() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    receive(conn, pong(conn.tick(clock.now) or b""), clock.now)
    assert conn.doubt(clock.now) is not None
    assert conn.is_silent
    # Whatever repeats the reason changes nothing: no further ping, no further second.
    assert conn.doubt(clock.advance(0.9)) is None
    assert not conn.is_dead(clock.now)
    assert conn.is_dead(clock.advance(0.2))


def test_the_answer_to_a_later_ping_ends_the_doubt_and_nothing_else_does() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    before = conn.tick(clock.now) or b""
    clock.advance(0.1)
    asked = conn.doubt(clock.now) or b""
    # Sent before the neighbour went, perhaps, and late on its way.
    receive(conn, pong(before), clock.advance(0.1))
    assert conn.is_silent
    receive(conn, pong(asked), clock.advance(0.1))
    conn.tick(clock.now)
    assert not conn.is_silent
    assert not conn.is_dead(clock.advance(1.0))


def test_frames_that_go_on_coming_end_a_doubt_without_a_pong() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    conn.doubt(clock.now)
    for _ in range(2):
        conn.received_frames += 1
        conn.tick(clock.advance(TICK))
    assert not conn.is_dead(clock.now)
    assert not conn.is_silent


def test_a_flood_of_forged_goodbyes_costs_a_ping_in_five_seconds() -> None:
    conn, clock, pings = make_conn(PEER), FakeClock(), 0
    for _ in range(1000):
        ping = conn.doubt(clock.advance(0.01))
        if ping is not None:
            pings += 1
            receive(conn, pong(ping), clock.advance(0.001))
        assert not conn.is_dead(clock.now)
    assert pings == 2


def test_a_far_neighbour_in_doubt_has_four_round_trips() -> None:
    conn, clock = make_conn(PEER), FakeClock()
    conn.take_pong(pong(conn.tick(clock.now) or b""), clock.advance(0.6))
    conn.doubt(clock.now)
    assert not conn.is_dead(clock.advance(2.3))
    assert conn.is_dead(clock.advance(0.2))
