"""`SegmentSize` alone, with a host that says what the test wants."""

from __future__ import annotations

from dataclasses import dataclass, field

from easytier_kcp_plugin.kcp.segment_size import (
    HEAD,
    LARGEST_MSS,
    RECHECK,
    REMEMBERED,
    RETRY_MIN,
    STOCK_MSS,
    SegmentSize,
    State,
)

PEER = 7
WHOLE = 1420
"""The payload of a packet of 1500 bytes, over IPv4 and sealed."""
LARGE = 1382


@dataclass
class Host:
    """A host, and the clock."""

    payload: int = WHOLE
    now: float = 100.0
    allowed: list[float] = field(default_factory=list)

    def largest_payload(self, peer_id: int) -> int:
        assert peer_id == PEER
        return self.payload

    def is_stream(self, _peer_id: int) -> bool:
        return False

    def allow_fragments(self, peer_id: int) -> None:
        assert peer_id == PEER
        self.allowed.append(self.now)

    def poll(self, size: SegmentSize, *, can_ask: bool = True) -> list[bytes]:
        """Wait until the deadline, then do what is due."""
        self.now = max(self.now, size.deadline)
        return size.poll(self, PEER, can_ask=can_ask, rtt=0.05, now=self.now)


def large() -> tuple[Host, SegmentSize]:
    """A path that is known to carry large segments."""
    host, size = Host(), SegmentSize()
    size.want(host.now)
    (ping,) = host.poll(size)
    size.answered(ping, host.now)
    assert size.mss == LARGE
    return host, size


def doubted() -> tuple[Host, SegmentSize]:
    """One on which a large segment has been waiting for a while."""
    host, size = large()
    size.waits(host.now, 0.05, host.now + 1.5)
    host.now += 1.5
    return host, size


def test_a_ping_is_as_long_as_a_full_segment_and_does_not_repeat_itself() -> None:
    host, size = Host(), SegmentSize()
    size.want(host.now)
    (ping,) = host.poll(size)
    assert len(ping) == WHOLE - 14
    assert len({ping[index : index + 4] for index in range(4, len(ping) - 4)}) > 1300
    assert size.mss == STOCK_MSS


def test_nothing_is_asked_before_a_flow_wants_it() -> None:
    assert SegmentSize().deadline == float("inf")


def test_another_body_proves_nothing() -> None:
    host, size = Host(), SegmentSize()
    size.want(host.now)
    (ping,) = host.poll(size)
    for body in (ping[:-1], ping[1:], b"?", b"", HEAD, bytes(len(ping))):
        size.answered(body, host.now)
    assert size.mss == STOCK_MSS


def test_after_three_pings_without_answer_it_is_tried_again_later_and_less_and_less_often() -> None:
    host, size = Host(), SegmentSize()
    waits: list[int] = []
    for _ in range(3):
        size.want(host.now)
        began = host.now
        assert [len(host.poll(size)) for _ in range(4)] == [1, 1, 1, 0]
        assert size.state is State.SMALL
        assert host.now - began < 1.0
        assert host.allowed == []
        failed_at = host.now
        while size.state is State.SMALL:
            host.now += 1.0
            size.want(host.now)
        waits.append(round(host.now - failed_at))
        size.deadline = host.now
    assert waits == [RETRY_MIN, 2 * RETRY_MIN, 4 * RETRY_MIN]


def test_a_late_answer_counts_as_long_as_it_is_tried() -> None:
    host, size = Host(), SegmentSize()
    size.want(host.now)
    (ping,) = host.poll(size)
    host.poll(size)
    size.answered(ping, host.now)
    assert size.mss == LARGE


def test_a_host_with_no_room_for_more_is_not_argued_with() -> None:
    for payload in (0, STOCK_MSS + 38, 40):
        host, size = Host(payload), SegmentSize()
        size.want(host.now)
        assert host.poll(size) == []
        assert (size.mss, size.state) == (STOCK_MSS, State.SMALL)


def test_no_host_makes_frames_that_stock_refuses() -> None:
    host, size = Host(60_000), SegmentSize()
    size.want(host.now)
    (ping,) = host.poll(size)
    size.answered(ping, host.now)
    assert size.mss == LARGEST_MSS


def test_what_nobody_has_used_for_a_minute_is_forgotten() -> None:
    host, size = large()
    began = host.now
    while size.state is State.LARGE:
        assert host.poll(size) == []
    assert size.mss == STOCK_MSS
    assert REMEMBERED <= host.now - began < REMEMBERED + RECHECK
    size.want(host.now)
    assert len(host.poll(size)) == 1


def test_a_path_in_use_is_asked_again_and_keeps_its_size_meanwhile() -> None:
    host, size = large()
    size.delivered(host.now + 10.0)
    small, ping = host.poll(size)
    assert size.mss == LARGE
    size.answered(ping, host.now)
    assert (size.mss, size.state) == (LARGE, State.LARGE)
    assert small == HEAD


def test_what_has_been_used_and_cannot_be_asked_for_is_forgotten_as_well() -> None:
    host, size = large()
    size.delivered(host.now + 1.0)
    while size.state is State.LARGE:
        assert host.poll(size, can_ask=False) == []
    assert (size.mss, size.state, size.deadline) == (STOCK_MSS, State.SMALL, float("inf"))


def test_without_a_conversation_nothing_is_tried_until_a_flow_wants_it_again() -> None:
    for host, size in ((Host(), SegmentSize()), doubted()):
        size.want(host.now)
        assert host.poll(size, can_ask=False) == []
        assert size.deadline == float("inf")
        size.want(host.now)
        assert len(host.poll(size)) == 1


def test_another_size_of_the_host_begins_anew() -> None:
    host, size = large()
    host.payload = 1400
    (ping,) = host.poll(size)
    assert size.mss == STOCK_MSS
    size.answered(ping, host.now)
    assert size.mss == 1362


def test_segments_that_wait_for_long_raise_a_doubt_and_new_ones_are_small() -> None:
    _, size = doubted()
    assert (size.mss, size.state) == (STOCK_MSS, State.DOUBTED)


def test_while_others_arrive_one_that_waits_raises_none() -> None:
    host, size = large()
    size.delivered(host.now + 1.2)
    size.waits(host.now, 0.05, host.now + 1.5)
    assert size.state is State.LARGE


def test_a_doubt_ends_with_an_answer() -> None:
    host, size = doubted()
    _, ping = host.poll(size)
    size.answered(ping, host.now)
    assert (size.mss, host.allowed) == (LARGE, [])


def test_small_answers_alone_are_a_black_hole() -> None:
    host, size = doubted()
    for _ in range(3):
        small, _ = host.poll(size)
        size.answered(small, host.now)
    assert host.poll(size) == []
    assert (size.mss, size.state, host.allowed) == (STOCK_MSS, State.SMALL, [host.now])


def test_a_line_that_is_down_is_no_black_hole_and_is_asked_once_a_second() -> None:
    host, size = doubted()
    began = host.now
    for _ in range(20):
        assert len(host.poll(size)) == 2
    assert size.state is State.DOUBTED
    assert host.now - began > 17.0
    size.answered(host.poll(size)[1], host.now)
    assert size.mss == LARGE


def test_a_segment_that_waits_after_the_verdict_gets_another_minute() -> None:
    host, size = doubted()
    for _ in range(3):
        size.answered(host.poll(size)[0], host.now)
    host.poll(size)
    sent_at = host.now - 5.0
    size.waits(sent_at, 0.05, host.now + 60.0)
    host.now += 60.0
    host.poll(size)
    size.waits(sent_at, 0.05, host.now + 0.1)
    assert size.deadline == float("inf")
    assert len(host.allowed) == 2
