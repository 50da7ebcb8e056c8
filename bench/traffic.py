"""Bulk TCP flows for a given time, every byte of which is checked where it arrives: both ends, as child processes.

Not a test and not for hands: `loads` runs the server in one namespace and the client in another.  iperf3 would do as well, but
for the check, and for several flows with figures of each.  Both ends read the same clock, since they are on one machine.

    serve ADDRESS PORT                                  one line of JSON on standard output for each flow that has ended
    send ADDRESS PORT FLOWS STOP END [CONGESTION]       send until the clock says STOP; what has not arrived at END has failed

A flow is its END (8 bytes, a double) and then blocks, the same each time, whose first byte says whether another one follows.
The server answers the last block with one byte.  Nothing depends on a half-close, which a genuine core does not carry.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from threading import Thread
from typing import Any, Final

BLOCK_BYTES: Final = 65_536
TICKS: Final = 10
"""Counts of received bytes a second."""
_MORE, _LAST = b"\1", b"\0"
LATE: Final = "not within the time"
"""The fault of a flow of which no other is known."""
_CONTENT: Final = random.Random(1).randbytes(BLOCK_BYTES - 1)
_END: Final = struct.Struct("!d")


def serve(address: str, port: int) -> None:
    """Receive flows for ever."""
    with socket.create_server((address, port), backlog=128) as listening:
        while True:
            connection, _ = listening.accept()
            Thread(target=_report, args=(connection,), daemon=True).start()


def receive(connection: socket.socket) -> dict[str, Any]:
    """Take one flow to its end, and check it.

    Returns `complete`, whether all of it came; `fault`, why not; `arrived`, pairs of a tick of the clock and bytes.
    """
    arrived: Counter[int] = Counter()
    complete = False
    fault = ""
    with connection:
        try:
            _give_up(connection, time.monotonic() + 10)
            (end,) = _END.unpack(connection.recv(_END.size, socket.MSG_WAITALL))
            received = bytearray(block(more=True))
            while received.startswith(_MORE):
                _fill(received, connection, end, arrived)
                if not received.endswith(_CONTENT):
                    raise ValueError(f"wrong bytes in the last 64 KiB of {arrived.total()}")
            complete = True
            connection.sendall(b".")
        except BlockingIOError:
            fault = LATE
        except (OSError, ValueError, struct.error) as error:
            fault = repr(error)
    return {"complete": complete, "fault": fault, "arrived": sorted(arrived.items())}


def _report(connection: socket.socket) -> None:
    sys.stdout.write(json.dumps(receive(connection)) + "\n")
    sys.stdout.flush()


def _fill(received: bytearray, connection: socket.socket, end: float, arrived: Counter[int]) -> None:
    _give_up(connection, end)
    left = memoryview(received)
    while left:
        size_bytes = connection.recv_into(left)
        if not size_bytes:
            raise ConnectionError("ended within a block")
        arrived[int(time.monotonic() * TICKS)] += size_bytes
        left = left[size_bytes:]


def _give_up(connection: socket.socket, end: float) -> None:
    """Have calls that wait fail with BlockingIOError at about `end`.

    The kernel waits, not Python: a sender that polls for room before each call finds less of it, and a flow may starve.
    """
    left = max(0.001, end - time.monotonic())
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(left), int(left % 1 * 1e6)))


def send(address: str, port: int, flows: int, stop: float, end: float, congestion: str = "") -> None:
    """All flows at the same time; returns when each has been answered or `end` is over."""
    threads = [Thread(target=_send, args=(address, port, stop, end, congestion)) for _ in range(flows)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _send(address: str, port: int, stop: float, end: float, congestion: str) -> None:
    """What goes wrong shows in the server's report, or by its absence."""
    with contextlib.suppress(OSError), socket.socket() as connection:
        if congestion:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        _give_up(connection, end)
        connection.connect((address, port))
        connection.sendall(_END.pack(end))
        for each in _blocks(stop):
            connection.sendall(each)
        connection.recv(1)


def _blocks(stop: float) -> Iterator[bytes]:
    full = block(more=True)
    while time.monotonic() < stop:
        yield full
    yield block(more=False)


def block(*, more: bool) -> bytes:
    """What is sent again and again, or what ends it."""
    return (_MORE if more else _LAST) + _CONTENT


def main() -> None:
    what, address, port, *more = sys.argv[1:]
    if what == "serve":
        serve(address, int(port))
    flows, stop, end, *congestion = more
    send(address, int(port), int(flows), float(stop), float(end), *congestion)


if __name__ == "__main__":
    main()
