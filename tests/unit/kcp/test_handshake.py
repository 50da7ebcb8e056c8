"""The state machine: every pair of state and packet, both roles, and what is repeated when."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest

from easytier_kcp_plugin.kcp.handshake import (
    FINISH,
    HALF_OPEN_LIFE,
    KINDS,
    LINGER_ANSWERS,
    LINGER_LIFE,
    Handshake,
    Input,
    State,
)
from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, PING, PONG, RST, SYN, SYN_ACK, Flag

RTT = 0.1

# How each state is reached, from a machine of either role.
REACH: dict[State, list[Callable[[Handshake], object]]] = {
    State.ESTABLISHED: [],
    State.LOCAL_CLOSED: [lambda h: h.finish(0.0)],
    State.PEER_CLOSED: [lambda h: h.receive(Input.FIN, 0.0)],
    State.LINGER: [lambda h: h.receive(Input.FIN, 0.0), lambda h: h.finish(0.0)],
    State.CLOSED: [lambda h: h.receive(Input.RST, 0.0)],
}

# (state, input) -> (state, answers) for everything that is not "same state, no answer" in both roles.
EXPECTED = {
    (State.ESTABLISHED, Input.FIN): (State.PEER_CLOSED, ()),
    (State.ESTABLISHED, Input.PING): (State.ESTABLISHED, (PONG,)),
    (State.LOCAL_CLOSED, Input.FIN): (State.LINGER, ()),
    (State.LOCAL_CLOSED, Input.PING): (State.LOCAL_CLOSED, (PONG,)),
    (State.PEER_CLOSED, Input.PING): (State.PEER_CLOSED, (PONG,)),
    (State.LINGER, Input.FIN): (State.LINGER, (FIN,)),
    (State.LINGER, Input.PING): (State.LINGER, (FIN,)),
    (State.CLOSED, Input.PING): (State.CLOSED, (RST,)),
}
OF_ONE_ROLE = {
    (True, State.SYN_SENT, Input.SYN_ACK): (State.ESTABLISHED, (ACK_DATA,)),
    (True, State.SYN_SENT, Input.PONG): (State.ESTABLISHED, (ACK_DATA,)),
    (True, State.SYN_SENT, Input.PING): (State.SYN_SENT, (PONG,)),
    (True, State.SYN_SENT, Input.FIN): (State.CLOSED, (RST,)),
    (True, State.ESTABLISHED, Input.SYN_ACK): (State.ESTABLISHED, (ACK_DATA,)),
    (False, State.SYN_RECEIVED, Input.SYN): (State.SYN_RECEIVED, (SYN_ACK,)),
    (False, State.SYN_RECEIVED, Input.ACK_DATA): (State.ESTABLISHED, ()),
    (False, State.SYN_RECEIVED, Input.PING): (State.SYN_RECEIVED, (PONG,)),
    (False, State.SYN_RECEIVED, Input.FIN): (State.CLOSED, (RST,)),
    (False, State.ESTABLISHED, Input.SYN): (State.ESTABLISHED, (SYN_ACK,)),
}


def machine(opener: bool, state: State) -> Handshake:
    handshake = Handshake(opener=opener, now=0.0, rtt=RTT)
    if state not in (State.SYN_SENT, State.SYN_RECEIVED):
        handshake.receive(Input.SYN_ACK if opener else Input.ACK_DATA, 0.0)
        for step in REACH[state]:
            step(handshake)
    assert handshake.state is state
    return handshake


def states(opener: bool) -> list[State]:
    other_end = State.SYN_RECEIVED if opener else State.SYN_SENT
    return [state for state in State if state is not other_end]


@pytest.mark.parametrize(
    ("opener", "state", "kind"),
    [(opener, state, kind) for opener in (True, False) for state, kind in product(states(opener), Input)],
)
def test_every_packet_in_every_state(opener: bool, state: State, kind: Input) -> None:
    if kind is Input.RST:
        expected: tuple[State, tuple[Flag, ...]] = (State.CLOSED, ())
    else:
        expected = OF_ONE_ROLE.get((opener, state, kind)) or EXPECTED.get((state, kind)) or (state, ())
    handshake = machine(opener, state)
    answer = handshake.receive(kind, 1.0)
    assert (handshake.state, answer) == expected


@pytest.mark.parametrize(("opener", "state"), [(opener, state) for opener in (True, False) for state in states(opener)])
def test_finish_works_in_two_states_and_changes_nothing_in_others(opener: bool, state: State) -> None:
    handshake = machine(opener, state)
    if state in FINISH:
        assert handshake.finish(1.0) == (FIN,)
        assert handshake.state is FINISH[state]
        return
    deadline = handshake.deadline
    with pytest.raises(ValueError, match=state.name):
        handshake.finish(1.0)
    assert (handshake.state, handshake.deadline) == (state, deadline)


@pytest.mark.parametrize(("opener", "state"), [(opener, state) for opener in (True, False) for state in states(opener)])
def test_abort_tells_a_peer_that_still_holds_the_conversation(opener: bool, state: State) -> None:
    handshake = machine(opener, state)
    expected = () if state in (State.LINGER, State.CLOSED) else (RST,)
    assert handshake.abort(1.0) == expected
    assert handshake.state is State.CLOSED


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (0x01, Input.SYN),
        (0x03, Input.SYN_ACK),
        (0x0A, Input.ACK_DATA),
        (0x8A, Input.ACK_DATA),
        (0x04, Input.FIN),
        (0x0E, Input.FIN),
        (0x10, Input.RST),
        (0x1F, Input.RST),
        (0x20, Input.PING),
        (0x2F, Input.PING),
        (0x60, Input.PONG),
        (0x00, Input.OTHER),
        (0x02, Input.OTHER),
        (0x08, Input.OTHER),
        (0x0B, Input.OTHER),
        (0x40, Input.OTHER),
    ],
)
def test_flags_are_classified_as_stock_does(flags: int, kind: Input) -> None:
    assert KINDS[flags] is kind


def schedule(handshake: Handshake, until: float) -> list[tuple[float, tuple[Flag, ...]]]:
    """Everything that the clock alone makes a machine send."""
    sent = []
    while handshake.deadline <= until:
        now = handshake.deadline
        packets = handshake.tick(now)
        if packets:
            sent.append((round(now, 3), packets))
        assert handshake.deadline > now
    return sent


def test_an_opener_repeats_its_syn_with_a_ping_by_the_rtt() -> None:
    handshake = Handshake(opener=True, now=0.0, rtt=RTT)
    assert handshake.start() == (SYN,)
    sent = schedule(handshake, 3.0)
    assert [packets for _, packets in sent] == [(SYN, PING)] * len(sent)
    assert [at for at, _ in sent] == pytest.approx([0.14, 0.35, 0.665, 1.1375, 1.84625, 2.84625], abs=0.001)
    assert handshake.pinged


def test_an_opener_that_knows_no_rtt_waits_as_long_as_a_stock_hedge() -> None:
    assert Handshake(opener=True, now=5.0, rtt=None).deadline == 5.2


def test_the_third_packet_goes_out_twice() -> None:
    handshake = machine(True, State.ESTABLISHED)
    assert schedule(handshake, 1000.0) == [(0.005, (ACK_DATA,))]


def test_an_acceptor_repeats_its_syn_ack_and_gives_up_after_ten_seconds() -> None:
    handshake = Handshake(opener=False, now=0.0, rtt=None)
    assert handshake.start() == (SYN_ACK,)
    sent = schedule(handshake, 100.0)
    assert sent[:-1] == [(at, (SYN_ACK, PING)) for at in (0.3, 0.9, 2.1, 4.1, 6.1, 8.1)]
    assert sent[-1] == (HALF_OPEN_LIFE, (RST,))
    assert (handshake.state, handshake.deadline) == (State.CLOSED, math.inf)


def test_two_pongs_to_two_repeats_prove_that_a_stock_opener_is_past_its_syn() -> None:
    handshake = Handshake(opener=False, now=0.0, rtt=None)
    states = []
    for repeat_at, pong_at in ((0.0, 0.1), (0.3, 0.4), (0.9, 1.0)):
        handshake.tick(repeat_at)
        handshake.receive(Input.PONG, pong_at)
        states.append(handshake.state)
    assert states == [State.SYN_RECEIVED, State.SYN_RECEIVED, State.ESTABLISHED]


def test_a_fin_is_repeated_until_the_peer_answers() -> None:
    handshake = machine(False, State.LOCAL_CLOSED)
    sent = schedule(handshake, 40.0)
    assert sent[0] == (0.15, (FIN,))
    assert [packets for _, packets in sent[1:]] == [(FIN, PING)] * (len(sent) - 1)
    assert [at for at, _ in sent[1:5]] == [0.45, 1.05, 2.25, 4.65]
    assert sent[-1][0] - sent[-2][0] == pytest.approx(10.0)
    handshake.receive(Input.FIN, 40.0)
    assert schedule(handshake, 41.0) == []


def test_the_last_fin_is_repeated_twice_and_forgotten_after_a_while() -> None:
    handshake = machine(False, State.LINGER)
    assert schedule(handshake, 1000.0) == [(0.15, (FIN,)), (0.45, (FIN,))]
    assert handshake.state is State.CLOSED
    assert handshake.since == LINGER_LIFE


def test_lingering_ends_do_not_answer_each_other_for_ever() -> None:
    handshake = machine(True, State.LINGER)
    assert handshake.receive(Input.FIN, 0.01) == ()
    answers = [handshake.receive(Input.FIN, 1.0 + step) for step in range(20)]
    assert answers.count((FIN,)) == LINGER_ANSWERS
