"""How the stack sends: sizes of segments, tails without delay, fast retransmission to a Linux receiver."""

from dataclasses import replace
from typing import Any

import pytest

from easytier_kcp_plugin._native import Stack
from tests.unit.native.segments import ACK, CLIENT, SERVER, SYN, Tcp, parse
from tests.unit.native.wire import Pair

MSS = 1340
SACK_PERMITTED = bytes([1, 1, 4, 2])


class Receiver:
    """The other end of one connection, by hand: `stack` has connected to it."""

    def __init__(self, **settings: Any) -> None:
        self.stack = Stack(**{"mtu": 1380, "seed": 1, "congestion": "none", **settings})
        self.connection = self.stack.connect(CLIENT, SERVER)
        self.now = 0.0
        [syn] = self.step()
        self.start = syn.sequence + 1
        self.answer(SYN | ACK, self.start, options=bytes([2, 4, 5, 0xB4]) + SACK_PERMITTED)

    def step(self, *packets: bytes) -> list[Tcp]:
        return [parse(packet) for packet in self.stack.step(list(packets), self.now)[0]]

    def answer(self, flags: int, acknowledgement: int, window: int = 60_000, options: bytes = b"") -> list[Tcp]:
        sequence = 9000 if flags & SYN else 9001
        return self.step(Tcp(SERVER, CLIENT, flags, sequence, acknowledgement, window, options=options).pack())


def test_bulk_data_leaves_in_full_segments() -> None:
    pair = Pair(latency=0.02, send_buffer=64 * 1024)
    left, right = pair.connect()
    pair.left.send(left, bytes(2_000_000))
    pair.deliver(pair.right, right, 2_000_000)
    sizes = [len(parse(packet).payload) for packet in pair.left.sent if parse(packet).payload]
    assert sum(sizes) == 2_000_000
    # At most each filling of the send buffer ends in a shorter one.
    assert len([size for size in sizes if size < MSS]) <= 2_000_000 // (16 * 1024) + 1


def test_the_tail_of_a_message_does_not_wait_for_an_acknowledgement() -> None:
    receiver = Receiver()
    receiver.stack.send(receiver.connection, bytes(3 * MSS + 100))
    assert [len(segment.payload) for segment in receiver.step()] == [MSS, MSS, MSS, 100]
    receiver.stack.send(receiver.connection, b"next")
    assert [segment.payload for segment in receiver.step()] == [b"next"]


def test_the_segment_size_is_the_smaller_one_of_both_ends() -> None:
    pair = Pair(mtu=1500, right={"mtu": 1000})
    left, right = pair.connect()
    for side, connection in ((pair.left, left), (pair.right, right)):
        side.send(connection, bytes(50_000))
    pair.rest(10)
    assert max(len(packet) for packet in pair.left.sent) == 1000
    assert max(len(packet) for packet in pair.right.sent) == 1000


def test_duplicate_acknowledgements_with_changing_windows_retransmit_fast() -> None:
    receiver = Receiver()
    receiver.stack.send(receiver.connection, bytes(20 * MSS))
    receiver.step()
    lost = receiver.start + MSS
    receiver.answer(ACK, lost, 60_000)
    repeated: list[Tcp] = []
    for received in range(1, 5):
        left, right = lost + MSS, lost + (1 + received) * MSS
        sack = bytes([1, 1, 5, 10]) + left.to_bytes(4, "big") + right.to_bytes(4, "big")
        receiver.now += 0.001
        repeated += receiver.answer(ACK, lost, 60_000 + 1000 * received, sack)
    assert [(segment.sequence, len(segment.payload)) for segment in repeated] == [(lost, MSS)]


def test_window_updates_count_though_they_repeat_the_number() -> None:
    receiver = Receiver()
    receiver.stack.send(receiver.connection, bytes(20 * MSS))
    receiver.step()
    stopped = receiver.answer(ACK, receiver.start + 20 * MSS, 0)
    assert stopped == []
    receiver.stack.send(receiver.connection, bytes(MSS))
    assert [len(segment.payload) for segment in receiver.answer(ACK, receiver.start + 20 * MSS, 60_000)] == [MSS]


def test_a_lone_segment_is_acknowledged_in_the_same_step() -> None:
    pair = Pair()
    left, _ = pair.connect()
    pair.left.stack.send(left, b"x")
    [packet] = pair.left.stack.step([], 2.0)[0]
    [answer] = pair.right.stack.step([packet], 2.0)[0]
    assert parse(answer).acknowledgement == parse(packet).sequence + 1


@pytest.mark.parametrize("offered", [0, 1, 48, 100])
def test_a_tiny_segment_size_stalls_nothing(offered: int) -> None:
    target = Stack(mtu=1380, seed=1)
    options = bytes([2, 4]) + offered.to_bytes(2, "big")
    connection = target.accept_syn(Tcp(CLIENT, SERVER, SYN, 100, options=options).pack(), 0.0)
    [answer] = target.step([], 0.0)[0]
    reply = Tcp(CLIENT, SERVER, ACK, 101, parse(answer).sequence + 1)
    target.step([reply.pack()], 0.0)
    target.send(connection, bytes(1000))
    total = 0
    for _ in range(100):
        output = target.step([], 0.0)[0]
        if not output:
            break
        segments = [parse(packet) for packet in output]
        assert all(segment.payload for segment in segments)
        total += sum(len(segment.payload) for segment in segments)
        target.step([replace(reply, acknowledgement=segments[-1].sequence + len(segments[-1].payload)).pack()], 0.0, 0)
    assert total == 1000
