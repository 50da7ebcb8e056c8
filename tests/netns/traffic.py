"""Traffic between namespaces: iperf3 runs with their figures, and hostile bytes at a rate.  Used by tests and benchmarks."""

from __future__ import annotations

import itertools
import json
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.netns.topology import LoggedProcess, Namespace, wait_for

_ports = itertools.count(15_201)


@dataclass(frozen=True)
class Throughput:
    """What arrived: `mbits` per second at the receiver; `lost_share` of the datagrams (udp only, else 0.0)."""

    mbits: float
    lost_share: float = 0.0
    retransmits: int = 0


def iperf_tcp(
    source: Namespace, destination: Namespace, address: str, *, seconds: float = 1.0, congestion_control: str | None = None
) -> Throughput:
    """One TCP stream from `source` to `address` in `destination`; raises AssertionError when iperf3 does not finish."""
    extra = ["-C", congestion_control] if congestion_control else []
    end = _iperf(source, destination, address, seconds, extra)
    return Throughput(end["sum_received"]["bits_per_second"] / 1e6, retransmits=int(end["sum_sent"].get("retransmits", 0)))


def iperf_udp(
    source: Namespace, destination: Namespace, address: str, *, mbits: float = 20.0, seconds: float = 1.0
) -> Throughput:
    """Datagrams at `mbits` per second; the loss is what iperf3's server counted."""
    end = _iperf(source, destination, address, seconds, ["-u", "-b", f"{mbits:g}M"])
    total = end["sum"]
    return Throughput(total["bits_per_second"] / 1e6 * (1 - total["lost_percent"] / 100), total["lost_percent"] / 100)


_RECEIVER = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
stream, _ = listener.accept()
digest = hashlib.sha256()
while chunk := stream.recv(65536):
    digest.update(chunk)
stream.sendall(digest.digest())
"""
_SENDER = """
import hashlib, os, socket, sys
payload = os.urandom(int(sys.argv[3])) if sys.argv[4] == "random" else bytes(int(sys.argv[3]))
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
stream.settimeout(20)
stream.sendall(payload)
stream.shutdown(socket.SHUT_WR)
answer = b""
while chunk := stream.recv(64):
    answer += chunk
if answer != hashlib.sha256(payload).digest():
    sys.exit("what arrived is not what was sent")
"""


def transfer(
    source: Namespace, destination: Namespace, address: str, *, size_bytes: int = 2_000_000, content: str = "random"
) -> None:
    """Send `random` bytes or `zeros` over TCP and compare digests; raises AssertionError when they differ or 30 s are over."""
    port = next(_ports)
    server = destination.spawn(sys.executable, "-c", _RECEIVER, address, str(port), label="receiver")
    try:
        wait_for(lambda: destination.listens_on(port), "receiver listens")
        source.run(sys.executable, "-c", _SENDER, address, str(port), str(size_bytes), content)
    finally:
        server.close()


def _iperf(
    source: Namespace, destination: Namespace, address: str, seconds: float, extra: list[str]
) -> dict[str, dict[str, float]]:
    port = next(_ports)
    server = destination.spawn("iperf3", "-s", "-1", "-p", str(port), label="iperf3-server")
    try:
        wait_for(lambda: destination.listens_on(port), "iperf3 server listens")
        argv = ["iperf3", "-J", "-c", address, "-p", str(port), "-t", f"{seconds:g}", "--connect-timeout", "5000", *extra]
        result = source.run(*argv, check=False, timeout=seconds + 20)
        assert result.returncode == 0, f"iperf3 to {address}: {result.stdout}{result.stderr}\nserver: {server.log_tail()}"
        end: dict[str, dict[str, float]] = json.loads(result.stdout)["end"]
        return end
    finally:
        server.close()


@contextmanager
def udp_flood(
    source: Namespace, address: str, port: int, *, per_second: int, seconds: float, kind: str = "noise"
) -> Iterator[LoggedProcess]:
    """Send hostile datagrams from `source` while the body runs, and wait for their end; `kind` is a key of `GARBAGE`."""
    argv = [sys.executable, str(Path(__file__)), address, str(port), str(per_second), str(seconds), kind]
    process = source.spawn(*argv, label="flood")
    yield process
    wait_for(lambda: not process.running, "end of the flood", seconds + 10)
    assert process.popen.returncode == 0, process.log_tail()


def send_tcp_garbage(source: Namespace, address: str, port: int, payload: bytes) -> str:
    """Connect, send the bytes, wait at most 1 s for the answer's end; return `closed`, `open` or `refused`."""
    code = (
        "import socket,sys\n"
        "try: s=socket.create_connection((sys.argv[1],int(sys.argv[2])),3)\n"
        "except OSError: print('refused'); sys.exit()\n"
        "s.settimeout(1)\n"
        "try:\n"
        "  s.sendall(bytes.fromhex(sys.argv[3]))\n"
        "  while s.recv(4096): pass\n"
        "  print('closed')\n"
        "except TimeoutError: print('open')\n"
        "except OSError: print('closed')\n"
    )
    return source.run(sys.executable, "-c", code, address, str(port), payload.hex()).stdout.strip()


def _tunnel_header(conn_id: int, kind: int, payload: bytes) -> bytes:
    return conn_id.to_bytes(4, "little") + bytes([kind, 0]) + len(payload).to_bytes(2, "little") + payload


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(0, 1400))


def _truncated(rng: random.Random) -> bytes:
    whole = _tunnel_header(rng.getrandbits(32), rng.randrange(8), rng.randbytes(rng.randrange(64)))
    return whole[: rng.randrange(len(whole))]


def _typed(rng: random.Random) -> bytes:
    return _tunnel_header(rng.getrandbits(32), rng.randrange(8), rng.randbytes(rng.randrange(400)))


def _syn(rng: random.Random) -> bytes:
    return _tunnel_header(rng.getrandbits(32), 1, rng.randbytes(8))


GARBAGE: dict[str, Callable[[random.Random], bytes]] = {"noise": _noise, "truncated": _truncated, "typed": _typed, "syn": _syn}
"""Datagrams for a UDP listener: random bytes; cut tunnel headers; whole headers with random type and body; well-formed SYNs."""


def flood(address: str, port: int, per_second: int, seconds: float, kind: str, rng: random.Random) -> int:
    """Send `per_second` hostile datagrams for `seconds`, from sixteen sockets in turn; return how many."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(16)]
    datagrams = [GARBAGE[kind](rng) for _ in range(4096)]
    start = time.monotonic()
    sent = 0
    while (elapsed := time.monotonic() - start) < seconds:
        while sent < elapsed * per_second:
            sockets[sent % len(sockets)].sendto(datagrams[sent % len(datagrams)], (address, port))
            sent += 1
        time.sleep(0.002)
    for each in sockets:
        each.close()
    return sent


if __name__ == "__main__":
    flood(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5], random.Random(1))
