"""What peers miss when a node stops on a bad line.

python -m bench.last_words [--flows N] [--loss SHARE] [--signal INT|TERM] [--runs N]

Idle flows by KCP between two nodes, of which one stops; the applications at the other one wait until their connections end.
Says how many hear of it, and when, and when the other node knows that its neighbour has gone.  Those that are still open after
10 s hang until the other node gives their sessions up, 60 s after it has heard the last of them.  Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import replace
from typing import Any

from tests.interop.kcp_scenes import LONG_WAY, KcpPair, kcp_pair
from tests.netns.topology import LoggedProcess, wait_for

PORT = 24_000
PATIENCE = 10.0
"""Seconds that are waited for the last one."""


def serve(count: int) -> None:
    """Take so many connections, and say when each ends."""
    with socket.create_server(("0.0.0.0", PORT), backlog=1024) as listener:
        print("listening", flush=True)
        watch([listener.accept()[0] for _ in range(count)])


def hold(address: str, count: int) -> None:
    """Open so many connections, and say when each ends."""
    watch([socket.create_connection((address, PORT), 30) for _ in range(count)])


def watch(streams: list[socket.socket]) -> None:
    print("open", flush=True)
    by_descriptor = {stream.fileno(): stream for stream in streams}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    while by_descriptor:
        for descriptor, _ in poll.poll():
            poll.unregister(descriptor)
            by_descriptor.pop(descriptor)
            print(json.dumps(time.monotonic()), flush=True)


def ends(process: LoggedProcess) -> list[float]:
    """When connections have ended."""
    return [float(line) for line in process.log().splitlines() if line[:1].isdigit()]


def measure(pair: KcpPair, stopping: str, flows: int, loss: float, sent: signal.Signals) -> dict[str, Any]:
    """Stop one node; what the other side of its flows sees."""
    source, destination = pair.source, pair.destination
    pair.link.change(loss=0.0)
    server = destination.namespace.spawn(sys.executable, __file__, "serve", str(flows), label="serve")
    wait_for(lambda: "listening" in server.log(), "the server listens")
    client = source.namespace.spawn(sys.executable, __file__, "hold", destination.address, str(flows), label="hold")
    wait_for(lambda: "open" in server.log() and "open" in client.log(), "all flows are open", 60)
    time.sleep(1)
    pair.link.change(loss=loss)
    node, other, witness = (destination, source, client) if stopping == "destination" else (source, destination, server)
    logged = len(other.log())
    began = time.monotonic()
    os.kill(node.process.pid, sent)
    node.process.popen.wait(20)
    stopped = time.monotonic() - began
    gone = None
    while (gone is None or len(ends(witness)) < flows) and time.monotonic() - began < PATIENCE:
        if gone is None and "left:" in other.log()[logged:]:
            gone = time.monotonic() - began
        time.sleep(0.05)
    times = sorted(at - began for at in ends(witness))
    for process in (server, client):
        process.close()
    return {
        "stopped after": round(stopped, 2),
        "hang": flows - len(times),
        "median": round(times[len(times) // 2], 3) if times else None,
        "last": round(times[-1], 3) if times else None,
        "neighbour gone after": None if gone is None else round(gone, 2),
    }


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        return serve(int(sys.argv[2]))
    if sys.argv[1:2] == ["hold"]:
        return hold(sys.argv[2], int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=100)
    parser.add_argument("--loss", type=float, default=0.1)
    parser.add_argument("--signal", default="INT", choices=["INT", "TERM"])
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    for run in range(chosen.runs):
        for stopping in ("destination", "source"):
            link = replace(LONG_WAY, loss=0.0, seed=run + 1)
            with kcp_pair("ours", "ours", link=link, quiet=True, our_arguments=("--drain-timeout", "1")) as pair:
                outcome = measure(pair, stopping, chosen.flows, chosen.loss, signal.Signals[f"SIG{chosen.signal}"])
            print(json.dumps({"stops": stopping, "flows": chosen.flows, "loss": chosen.loss, **outcome}), flush=True)
    return None


if __name__ == "__main__":
    main()
