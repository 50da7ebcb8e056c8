"""SYNs that wait for a decision."""

from collections.abc import Callable
from typing import Any

import pytest

from easytier_kcp_plugin._native import AddressInUseError, LimitError, Stack
from tests.unit.native.segments import (
    ACK,
    CLIENT,
    CLIENT6,
    RST,
    SERVER,
    SERVER6,
    SYN,
    VNET_HEADER,
    Tcp,
    is_intact,
    parse,
    pseudo_sum,
)
from tests.unit.native.wire import Pair

FIRST = Tcp(CLIENT, SERVER, SYN, sequence=1000)


def stack(**settings: Any) -> Stack:
    return Stack(**{"mtu": 1380, "seed": 1, **settings})


def pending(stack: Stack, packet: bytes = FIRST.pack(), now: float = 0.0) -> int:
    [event] = stack.step([packet], now)[1]
    assert event[0] == "incoming"
    return event[1]


def test_a_malformed_syn_is_dropped_and_replaces_nothing() -> None:
    malformed = Tcp(CLIENT, SERVER, SYN, sequence=5, options=bytes([2, 3, 5, 1])).pack()
    target = stack()
    assert target.step([malformed], 0.0) == ([], [], None, None)
    held = pending(target)
    target.step([malformed], 0.0)
    assert target.counters()["malformed"] == 1
    assert target.decline(held) == FIRST.pack()


def test_nothing_is_answered_before_the_decision() -> None:
    pair = Pair()
    pair.right.accepting = False
    pair.left.stack.connect(CLIENT, SERVER)
    pair.rest(2.5)
    assert pair.right.sent == []
    # A repeated SYN is the same one.
    assert len(pair.left.sent) == 2
    assert pair.right.kinds() == ["incoming"]
    pair.right.stack.accept(pair.right.events[0][1], pair.now)
    pair.rest(1)
    assert pair.left.kinds() == pair.right.kinds()[1:] == ["established"]


def test_a_repeated_syn_replaces_the_first() -> None:
    target = stack()
    held = pending(target)
    again = Tcp(CLIENT, SERVER, SYN, sequence=2000)
    assert target.step([again.pack()], 1.0) == ([], [], None, 30.0)
    target.accept(held, 1.0)
    [answer] = target.step([], 1.0)[0]
    assert parse(answer).flags == SYN | ACK
    assert parse(answer).acknowledgement == 2001


def test_a_rejected_syn_is_reset() -> None:
    pair = Pair()
    pair.right.accepting = False
    connection = pair.left.stack.connect(CLIENT, SERVER)
    pair.settle()
    pair.right.stack.reject(pair.right.events[0][1], pair.now)
    pair.settle()
    assert pair.left.events == [("closed", connection, "refused")]
    [reset] = pair.right.sent
    assert is_intact(reset)
    assert parse(reset).flags == RST | ACK


@pytest.mark.parametrize("source", [CLIENT, CLIENT6], ids=["v4", "v6"])
def test_a_declined_syn_comes_back_finished(source: tuple[bytes, int]) -> None:
    destination = SERVER if source is CLIENT else SERVER6
    packet = Tcp(source, destination, SYN, options=bytes([2, 4, 5, 100])).pack()
    start = 20 if source is CLIENT else 40
    unfinished = packet[: start + 16] + pseudo_sum(packet).to_bytes(2, "big") + packet[start + 18 :]
    assert not is_intact(unfinished)
    target = stack(vnet_header=True)
    held = pending(target, VNET_HEADER.pack(1, 0, 0, 0, start, 16) + unfinished)
    assert target.decline(held) == packet
    assert target.step([], 0.0) == ([], [], None, None)


def test_a_declined_syn_may_come_again() -> None:
    target = stack()
    first = pending(target)
    assert target.decline(first) == FIRST.pack()
    assert pending(target) != first


def test_a_reset_withdraws() -> None:
    target = stack()
    held = pending(target)
    reset = Tcp(CLIENT, SERVER, RST, sequence=1001).pack()
    assert target.step([reset], 0.1) == ([], [("withdrawn", held)], None, None)


def test_a_pending_syn_expires() -> None:
    target = stack(pending_ttl=5.0)
    held = pending(target, now=1.0)
    assert target.step([], 5.9) == ([], [], None, 6.0)
    assert target.step([], 6.0) == ([], [("withdrawn", held)], None, None)
    assert target.counters()["pending"] == 0


@pytest.mark.parametrize("decision", ["accept", "reject", "decline"])
def test_what_is_gone_cannot_be_decided(decision: str) -> None:
    target = stack()
    held = pending(target)
    decisions: dict[str, Callable[[], object]] = {
        "accept": lambda: target.accept(held, 0.0),
        "reject": lambda: target.reject(held, 0.0),
        "decline": lambda: target.decline(held),
    }
    decisions[decision]()
    for again in decisions.values():
        with pytest.raises(KeyError):
            again()


def test_a_flood_costs_no_more_than_its_cap() -> None:
    target = stack(max_pending=10)
    flood = [Tcp((CLIENT[0], port), SERVER, SYN).pack() for port in range(1, 31)]
    _, events, unclaimed, _ = target.step(flood, 0.0)
    assert len(events) == 10
    assert unclaimed == list(range(10, 30))
    assert target.counters()["pending_full"] == 20
    target.decline(events[0][1])
    assert pending(target, flood[-1])


def test_a_syn_that_the_caller_held_is_answered_at_once() -> None:
    target = stack()
    connection = target.accept_syn(FIRST.pack(), 0.0)
    [answer], [], _, _ = target.step([], 0.0)
    assert parse(answer).acknowledgement == 1001
    reply = Tcp(CLIENT, SERVER, ACK, 1001, parse(answer).sequence + 1)
    assert target.step([reply.pack()], 0.0)[1] == [("established", connection)]
    with pytest.raises(AddressInUseError):
        target.accept_syn(FIRST.pack(), 0.0)


def test_accept_syn_takes_device_frames_where_packets_are_frames() -> None:
    target = stack(vnet_header=True)
    frame = VNET_HEADER.pack(1, 0, 0, 0, 20, 16) + Tcp(CLIENT, SERVER, SYN).pack()
    connection = target.accept_syn(frame, 0.0)
    assert target.info(connection)["state"] == "SYN-RECEIVED"
    with pytest.raises(ValueError, match="no TCP segment"):
        target.accept_syn(FIRST.pack(), 0.0)


def test_accept_syn_settles_a_pending_one() -> None:
    target = stack()
    held = pending(target)
    target.accept_syn(FIRST.pack(), 0.0)
    assert target.step([], 0.0)[1] == [("withdrawn", held)]
    with pytest.raises(KeyError):
        target.decline(held)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "no TCP segment"),
        (FIRST.pack()[:39], "no TCP segment"),
        (Tcp(CLIENT, (b"\xff\xff\xff\xff", 80), SYN).pack(), "no TCP segment"),
        (Tcp(CLIENT, SERVER, ACK).pack(), "not the SYN"),
        (Tcp(CLIENT, SERVER, SYN | ACK).pack(), "not the SYN"),
        (Tcp(CLIENT, SERVER, SYN | RST).pack(), "not the SYN"),
        (Tcp(CLIENT, SERVER, SYN, payload=bytes(1500)).pack(), "not the SYN"),
        (FIRST.pack()[:-1] + b"\1", "wrong checksum"),
        (Tcp(CLIENT, SERVER, SYN, options=bytes([2, 3, 5, 1])).pack(), "no well-formed SYN"),
    ],
)
def test_accept_syn_refuses_what_begins_no_connection(packet: bytes, reason: str) -> None:
    target = stack()
    with pytest.raises(ValueError, match=reason):
        target.accept_syn(packet, 0.0)
    assert target.step([], 0.0) == ([], [], None, None)
    assert target.counters()["connections"] == 0


def test_a_full_stack_leaves_the_syn_pending() -> None:
    target = stack(max_connections=1)
    first = target.accept_syn(Tcp((CLIENT[0], 1), SERVER, SYN).pack(), 0.0)
    held = pending(target)
    with pytest.raises(LimitError):
        target.accept(held, 0.0)
    with pytest.raises(LimitError):
        target.accept_syn(FIRST.pack(), 0.0)
    with pytest.raises(LimitError):
        target.connect(SERVER, (CLIENT[0], 2))
    target.abort(first)
    target.step([], 0.0)
    target.accept(held, 0.0)
    assert target.counters()["limited"] == 3


def test_a_connection_in_time_wait_makes_room() -> None:
    pair = Pair(right={"max_connections": 1, "time_wait": 10.0})
    left, right = pair.connect()
    pair.right.stack.finish(right)
    pair.settle()
    pair.left.stack.finish(left)
    pair.settle()
    assert pair.right.stack.counters()["time_wait"] == 1
    pair.connect((CLIENT[0], 41_000))
    assert pair.right.stack.counters()["time_wait"] == 0
    assert pair.right.stack.counters()["connections"] == 1
