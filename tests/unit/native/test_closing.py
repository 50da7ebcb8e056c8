"""Every way in which a connection ends, and that the end is reported exactly once."""

from collections.abc import Callable

import pytest

from easytier_kcp_plugin._native import ClosedError, Stack
from tests.unit.native.segments import ACK, CLIENT, RST, SERVER, SYN, Tcp, parse
from tests.unit.native.wire import Pair

End = Callable[[Pair, int, int], None]


def finish_both(pair: Pair, left: int, right: int) -> None:
    pair.left.stack.finish(left)
    pair.right.stack.finish(right)


def finish_left_first(pair: Pair, left: int, right: int) -> None:
    pair.left.stack.finish(left)
    pair.rest(10)
    pair.right.stack.finish(right)


def finish_right_first(pair: Pair, left: int, right: int) -> None:
    pair.right.stack.finish(right)
    pair.rest(10)
    pair.left.stack.finish(left)


def abort_left(pair: Pair, left: int, right: int) -> None:
    pair.left.stack.abort(left)


def abort_both(pair: Pair, left: int, right: int) -> None:
    pair.left.stack.abort(left)
    pair.right.stack.abort(right)


def abort_after_finish(pair: Pair, left: int, right: int) -> None:
    pair.left.stack.finish(left)
    pair.rest(10)
    pair.left.stack.abort(left)


def abort_half_closed(pair: Pair, left: int, right: int) -> None:
    pair.left.stack.finish(left)
    pair.rest(10)
    pair.right.stack.abort(right)


@pytest.mark.parametrize("latency", [0.0, 0.02])
@pytest.mark.parametrize(
    ("end", "left_reason", "right_reason"),
    [
        (finish_both, "normal", "normal"),
        (finish_left_first, "normal", "normal"),
        (finish_right_first, "normal", "normal"),
        (abort_left, "aborted", "reset"),
        (abort_both, "aborted", "aborted"),
        (abort_after_finish, "aborted", "reset"),
        (abort_half_closed, "reset", "aborted"),
    ],
)
def test_the_end_is_reported_once_and_last(end: End, left_reason: str, right_reason: str, latency: float) -> None:
    pair = Pair(latency=latency)
    left, right = pair.connect()
    pair.left.send(left, b"x")
    pair.rest(1)
    end(pair, left, right)
    pair.rest()
    assert pair.left.closed() == [left_reason]
    assert pair.right.closed() == [right_reason]
    for side, connection in ((pair.left, left), (pair.right, right)):
        assert side.events[-1][:2] == ("closed", connection)
        assert side.stack.counters()["connections"] == 0
        assert side.deadline is None
        with pytest.raises(ClosedError):
            side.stack.receive(connection, 1)
        # Both may come late without harm.
        side.stack.finish(connection)
        side.stack.abort(connection)
    # Resets may cross.
    assert all(parse(packet).flags & RST for packet in pair.left.unclaimed + pair.right.unclaimed)


def test_nothing_can_be_sent_after_finish_or_abort() -> None:
    pair = Pair()
    left, right = pair.connect()
    pair.left.stack.finish(left)
    pair.right.stack.abort(right)
    for side, connection in ((pair.left, left), (pair.right, right)):
        with pytest.raises(ClosedError):
            side.stack.send(connection, b"more")


def test_what_was_queued_goes_before_the_fin() -> None:
    pair = Pair(latency=0.01)
    left, right = pair.connect()
    data = bytes(200_000)
    assert pair.left.stack.send(left, data) == len(data)
    pair.left.stack.finish(left)
    pair.run(lambda: ("end_of_stream", right) in pair.right.events)
    assert pair.right.received[right] == data


def test_a_reset_leaves_what_had_arrived() -> None:
    pair = Pair()
    left, right = pair.connect()
    pair.right.reading = False
    pair.left.send(left, b"last words")
    pair.settle()
    pair.left.stack.abort(left)
    pair.settle()
    assert pair.right.closed() == []
    assert pair.right.stack.info(right)["state"] == "CLOSED"
    with pytest.raises(ClosedError):
        pair.right.stack.send(right, b"x")
    assert pair.right.stack.receive(right, 100) == b"last words"
    pair.settle()
    assert pair.right.events[-1] == ("closed", right, "reset")
    assert "end_of_stream" not in pair.right.kinds()


def test_abort_does_not_wait_for_unread_bytes() -> None:
    pair = Pair()
    left, right = pair.connect()
    pair.right.reading = False
    pair.left.send(left, b"unread")
    pair.left.stack.finish(left)
    pair.right.stack.finish(right)
    pair.settle()
    pair.right.stack.abort(right)
    pair.rest()
    assert pair.right.closed() == ["aborted"]
    assert pair.right.stack.counters()["connections"] == 0


def test_abort_before_the_first_answer_refuses() -> None:
    pair = Pair()
    pair.right.accepting = False
    left = pair.left.stack.connect(CLIENT, SERVER)
    pair.settle()
    right = pair.right.stack.accept(pair.right.events[0][1], pair.now)
    pair.right.stack.abort(right)
    pair.rest()
    assert pair.right.closed() == ["aborted"]
    assert pair.left.events == [("closed", left, "refused")]


def test_abort_of_an_unanswered_connect() -> None:
    pair = Pair(lose=lambda packet: True)
    left = pair.left.stack.connect(CLIENT, SERVER)
    pair.rest(3)
    pair.left.stack.abort(left)
    pair.rest()
    assert pair.left.events == [("closed", left, "aborted")]


def test_a_reset_during_the_handshake_closes() -> None:
    target = Stack(mtu=1380, seed=1)
    connection = target.accept_syn(Tcp(CLIENT, SERVER, SYN, 5).pack(), 0.0)
    [answer] = target.step([], 0.0)[0]
    reset = Tcp(CLIENT, SERVER, RST | ACK, 6, parse(answer).sequence + 1)
    assert target.step([reset.pack()], 0.0)[1] == [("closed", connection, "reset")]
    # Nobody else's SYN may slip into the place.
    [event] = target.step([Tcp(CLIENT, SERVER, SYN, 77).pack()], 0.0)[1]
    assert event[0] == "incoming"


def test_a_reset_outside_of_the_window_does_nothing() -> None:
    pair = Pair()
    left, _ = pair.connect()
    blind = Tcp(SERVER, CLIENT, RST, sequence=parse(pair.right.sent[-1]).sequence + 10_000_000)
    pair.transmit(0, blind.pack())
    pair.settle()
    assert pair.left.kinds() == ["established"]
    assert pair.left.stack.info(left)["state"] == "ESTABLISHED"


@pytest.mark.parametrize("data", [b"", b"unanswered"])
def test_a_silent_peer_times_out(data: bytes) -> None:
    cut: list[bool] = []
    pair = Pair(lose=lambda packet: bool(cut), keepalive=10.0, timeout=60.0)
    left, _ = pair.connect()
    pair.rest(500)
    assert pair.left.kinds() == ["established"]
    cut.append(True)
    start = pair.now
    pair.left.send(left, data)
    pair.run(lambda: pair.left.closed() == pair.right.closed() == ["timeout"])
    assert 50 <= pair.now - start <= 75


def test_an_unanswered_connect_times_out() -> None:
    pair = Pair(lose=lambda packet: True, keepalive=10.0, timeout=30.0)
    connection = pair.left.stack.connect(CLIENT, SERVER)
    pair.rest()
    assert pair.left.events == [("closed", connection, "timeout")]
    # SYN after 0, 1, 3, 7 and 15 s; then RST.
    assert [parse(packet).flags for packet in pair.left.sent] == [SYN] * 5 + [RST | ACK]


@pytest.mark.parametrize("idle", [0.0, 1000.0])
def test_a_fin_without_answer_is_given_up(idle: float) -> None:
    cut: list[bool] = []
    pair = Pair(lose=lambda packet: bool(cut))
    left, right = pair.connect()
    pair.left.stack.finish(left)
    pair.settle()
    pair.now += idle
    cut.append(True)
    start = pair.now
    pair.right.stack.finish(right)
    pair.run(lambda: pair.right.closed() == ["timeout"])
    assert pair.now - start == pytest.approx(60)


@pytest.mark.parametrize("idle", [0.0, 1000.0])
def test_a_handshake_without_end_is_given_up(idle: float) -> None:
    target = Stack(mtu=1380, seed=1)
    target.step([], idle)
    connection = target.connect(SERVER, (CLIENT[0], 7))
    other = target.accept_syn(Tcp(CLIENT, SERVER, SYN).pack(), 2 * idle)
    now = 2 * idle
    events = []
    for _ in range(100):
        _, news, _, deadline = target.step([], now)
        events += news
        if deadline is None:
            break
        now = deadline
    assert now == 2 * idle + 60
    assert set(events) == {("closed", connection, "timeout"), ("closed", other, "timeout")}


def test_a_peer_that_never_finishes_its_half_is_given_up() -> None:
    cut: list[bool] = []
    pair = Pair(lose=lambda packet: bool(cut))
    left, _ = pair.connect()
    pair.left.stack.finish(left)
    pair.settle()
    cut.append(True)
    assert pair.left.stack.info(left)["state"] == "FIN-WAIT-2"
    start = pair.now
    pair.run(lambda: pair.left.closed() == ["timeout"])
    assert pair.now - start == pytest.approx(60)


def test_a_half_closed_connection_lives_as_long_as_its_peer_answers() -> None:
    pair = Pair(keepalive=10.0, timeout=60.0)
    left, right = pair.connect()
    pair.left.stack.finish(left)
    pair.rest(1000)
    assert pair.left.closed() == []
    pair.right.send(right, b"at last")
    pair.right.stack.finish(right)
    pair.rest(100)
    assert pair.left.received[left] == b"at last"
    assert pair.left.closed() == ["normal"]
