"""What a fault does to flows, as applications see it: one flow with a pulse, and a new flow four times a second.

Not a test: `Watch` runs an echo server in one namespace and the clients in another, as child processes of this file, which say
in JSON lines what happens and when, by the clock of the machine (`time.monotonic`, alike for all processes).

    serve ADDRESS PORT    echoes
    watch ADDRESS PORT    {"at": seconds, "flow": "live" or "new", "what": "beat" or how it ended}
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.netns.topology import LoggedProcess, Namespace, wait_for

BEAT = "beat"
BEAT_SECONDS = 0.1
NEW_FLOW_SECONDS = 0.25
PATIENCE = 2.0
"""Of a new flow, in seconds, for its connection and for its answer."""
_ports = itertools.count(23_000)


class Watch:
    """Running clients.  Made by `watch`."""

    def __init__(self, client: LoggedProcess) -> None:
        self._client = client

    def events(self, flow: str, what: str = "") -> list[dict[str, Any]]:
        """What was said of the `live` flow or of `new` ones, oldest first; with `what` only that."""
        lines = (json.loads(line) for line in self._client.log().splitlines() if line.startswith("{") and line.endswith("}"))
        return [event for event in lines if event["flow"] == flow and what in ("", event["what"])]

    def live_end(self) -> str | None:
        """How the live flow ended; None while it goes on."""
        ends = [event["what"] for event in self.events("live") if event["what"] != BEAT]
        return ends[0] if ends else None

    def wait_new_flow(self, since: float, timeout: float) -> float:
        """Wait for a new flow that works and began after `since`; returns how long after it had its answer."""
        works = wait_for(
            lambda: [event["at"] for event in self.events("new", BEAT) if event["began"] > since], "a new flow works", timeout
        )
        return float(works[0]) - since

    def wait_beat(self, since: float, timeout: float) -> float:
        """Wait for the live flow's next beat after `since`, which is what is returned; AssertionError once it has ended."""

        def beat() -> list[float]:
            end = self.live_end()
            if end is not None:
                raise RuntimeError(f"the live flow has ended: {end}")
            return [event["at"] for event in self.events("live", BEAT) if event["at"] > since]

        return wait_for(beat, "the live flow goes on", timeout)[0] - since

    def wait_live_end(self, timeout: float) -> str:
        """Wait until the live flow has ended; returns how."""
        return wait_for(self.live_end, "end of the live flow", timeout)


@contextmanager
def echo_server(namespace: Namespace, bind: str = "0.0.0.0") -> Iterator[int]:
    """An echo server; its port."""
    port = next(_ports)
    server = namespace.spawn(sys.executable, __file__, "serve", bind, str(port), label="echo")
    try:
        wait_for(lambda: namespace.listens_on(port), "the echo server listens")
        yield port
    finally:
        server.close()


@contextmanager
def watch(client: Namespace, address: str, port: int) -> Iterator[Watch]:
    """Clients of an echo server at `address`, once both kinds of flow have had an answer."""
    process = client.spawn(sys.executable, __file__, "watch", address, str(port), label="watch")
    watched = Watch(process)
    try:
        watched.wait_new_flow(0.0, 15.0)
        watched.wait_beat(0.0, 15.0)
        yield watched
    finally:
        process.close()


def _serve(address: str, port: int) -> None:
    def echo(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                connection.sendall(data)

    with socket.create_server((address, port), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=echo, args=(connection,), daemon=True).start()


def _say(**event: object) -> None:
    # In one piece, since many threads speak.
    sys.stdout.write(json.dumps({"at": time.monotonic(), **event}) + "\n")
    sys.stdout.flush()


def _beat_for_ever(address: str, port: int) -> None:
    def say(what: str) -> None:
        _say(flow="live", what=what)

    while True:
        with contextlib.suppress(OSError), socket.create_connection((address, port), PATIENCE) as stream:
            break
        time.sleep(BEAT_SECONDS)
    try:
        with socket.create_connection((address, port), 5) as stream:
            stream.settimeout(120)
            while True:
                stream.sendall(b"beat")
                if not stream.recv(64):
                    say("ended by FIN")
                    return
                say(BEAT)
                time.sleep(BEAT_SECONDS)
    except OSError as error:
        say(type(error).__name__)


def _try_for_ever(address: str, port: int) -> None:
    def attempt() -> None:
        began = time.monotonic()
        try:
            with socket.create_connection((address, port), PATIENCE) as stream:
                stream.settimeout(PATIENCE)
                stream.sendall(b"new")
                what = BEAT if stream.recv(64) else "ended by FIN"
        except OSError as error:
            what = type(error).__name__
        _say(flow="new", began=began, what=what)

    while True:
        threading.Thread(target=attempt, daemon=True).start()
        time.sleep(NEW_FLOW_SECONDS)


def _watch(address: str, port: int) -> None:
    threading.Thread(target=_beat_for_ever, args=(address, port), daemon=True).start()
    _try_for_ever(address, port)


if __name__ == "__main__":
    {"serve": _serve, "watch": _watch}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
