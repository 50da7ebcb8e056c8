"""What may listen where a node's portal is looked for: a stock core as it was captured, or anything else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.unit.cli import replay


def known(version: str) -> dict[replay.Method, bytes]:
    """All that the captured core answered."""
    found: dict[replay.Method, bytes] = {}
    for conversation in replay.conversations(version):
        found |= replay.answers(conversation)
    return found


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A program that does something with each connection; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)
            assert not thread.is_alive()
