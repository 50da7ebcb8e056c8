"""What the receiving end of a bulk flow says of what came."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from threading import Thread
from typing import Any

import pytest

from bench import traffic

MORE, LAST = traffic.block(more=True), traffic.block(more=False)


def received(pieces: Sequence[bytes], *, seconds: float = 5.0, close: bool = True) -> dict[str, Any]:
    """The report of a receiver that is sent the head of a flow and these pieces."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        ours.sendall(struct.pack("!d", time.monotonic() + seconds))
        for piece in pieces:
            ours.sendall(piece)
        if close:
            ours.shutdown(socket.SHUT_WR)

    with ours:
        sender = Thread(target=send)
        sender.start()
        report = traffic.receive(theirs)
        sender.join()
    return report


def test_all_that_was_sent_is_counted() -> None:
    report = received([MORE, MORE, LAST])
    assert (report["complete"], report["fault"]) == (True, "")
    assert sum(count for _, count in report["arrived"]) == 3 * traffic.BLOCK_BYTES


@pytest.mark.parametrize("position", [1, 40_000, traffic.BLOCK_BYTES - 1])
def test_a_wrong_byte_is_found(position: int) -> None:
    wrong = bytearray(LAST)
    wrong[position] ^= 1
    report = received([MORE, bytes(wrong)])
    assert not report["complete"]
    assert "wrong bytes" in report["fault"]


def test_a_flow_that_ends_early_is_not_complete() -> None:
    report = received([MORE, LAST[:100]])
    assert not report["complete"]
    assert "ended within a block" in report["fault"]


def test_a_flow_that_stands_still_is_given_up_and_what_came_counts() -> None:
    report = received([MORE], seconds=0.2, close=False)
    assert (report["complete"], report["fault"]) == (False, traffic.LATE)
    assert sum(count for _, count in report["arrived"]) == traffic.BLOCK_BYTES
