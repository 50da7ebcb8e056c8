"""A link with a rate, a delay and losses between two network namespaces, for kernels without netem.

A child process holds one TUN device in each namespace and carries IP packets between them; nothing else knows that it is
there, so any program can run over it.  It is not a model of Ethernet (there is no ARP) nor of a shared medium.  Used by the
benchmarks and by the tests in `tests/netns` and `tests/interop` through `LossyLink`, and by people as `python -m bench.link`
(`link_command.py`).  The child is this file, run with one argument, a JSON object.

Each direction is a `Pipe`, in this order:

    arrives -> lost? (`loss`, `burst`) -> queue of `queue_bytes`, drop tail -> leaves at `rate_bits` -> `delay` + jitter
    (+ `late_by`, with probability `late`) -> delivered

Losses come before the bottleneck, so they take no share of the rate.  With `burst` they come in runs (the chain of two states
by Gilbert, in whose bad state everything is lost).  A seed fixes which packets of a direction are lost (by their order), not
when they arrive.

`bench/README.md` says how accurate it is and what it costs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import heapq
import itertools
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Fixed by Linux (if_tun.h, sched.h).
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
CLONE_NEWNET = 0x40000000

# Chosen here.
DEVICE_NAME = "link0"
MTU = 1500
FULL_BYTES = 750
"""A packet from this size on is counted as a full one, as those of a bulk flow are and its acknowledgements are not."""
DEVICE_QUEUE_PACKETS = 5000
"""Between the kernel and this program: large, so that a late wake-up loses nothing and only the pipe's own queue drops."""
BATCH_PACKETS = 128
"""Read from one device before the other one and the timers get their turn."""
PAUSE_DELAYS = 0.01
PAUSE_SECONDS = 0.000_5
"""After each pass the program rests for this share of the delay, at most this long: packets then travel in small batches, which
halves the processor time of a busy link and adds at most two per cent to its round-trip time."""
READY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """The properties of both directions.

    `rate_bits` per second of IP packets, 0 for no limit; `delay` and `jitter` in seconds, one way, the jitter uniform
    between 0 and its value and never changing the order; `loss` from 0.0 to 1.0, the share of all packets; `burst` how many
    packets in a row a loss takes on average, 0 for losses that do not depend on each other; `queue_bytes` waiting for the rate
    limit, without effect when there is none; `late` the share of packets that are held back for `late_by` seconds more, so that
    those behind them overtake.
    """

    rate_bits: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    queue_bytes: int = 625_000
    seed: int = 1
    burst: float = 0.0
    late: float = 0.0
    late_by: float = 0.0

    def __post_init__(self) -> None:
        sizes = (self.rate_bits, self.delay, self.jitter, self.queue_bytes, self.late_by)
        shares = (self.loss, self.late)
        if min(sizes) < 0 or not all(0.0 <= share <= 1.0 for share in shares) or not (self.burst == 0 or self.burst >= 1):
            raise ValueError(f"impossible link: {self}")

    @property
    def loss_after_arrival(self) -> float:
        """With what probability a packet is lost whose predecessor was not."""
        return min(1.0, self.loss / (self.burst * (1 - self.loss))) if self.burst and self.loss < 1 else self.loss

    @property
    def loss_after_loss(self) -> float:
        """With what probability a packet is lost whose predecessor was."""
        return 1 - 1 / self.burst if self.burst and self.loss < 1 else self.loss


class Pipe:
    """One direction, without clock and devices: `offer` packets, collect the `due` ones."""

    def __init__(self, options: LinkOptions, seed: int) -> None:
        self.options = options
        self.delivered = 0
        self.delivered_bytes = 0
        self.lost = 0
        self.overflowed = 0
        self.full = 0
        self.full_bytes = 0
        self._losing = False
        self._random = random.Random(seed)
        self._free_at = 0.0
        self._last_delivery = 0.0
        self._number = itertools.count()
        self._waiting: list[tuple[float, int, bytes]] = []

    def offer(self, packet: bytes, now: float) -> None:
        """Take a packet that arrived at `now` (seconds, monotonic); it is lost, dropped, or due later."""
        options = self.options
        if len(packet) >= FULL_BYTES:
            self.full += 1
            self.full_bytes += len(packet)
        if options.loss:
            chance = options.loss_after_loss if self._losing else options.loss_after_arrival
            self._losing = self._random.random() < chance
            if self._losing:
                self.lost += 1
                return
        leaves = now
        if options.rate_bits:
            start = max(now, self._free_at)
            if (start - now) * options.rate_bits / 8 + len(packet) > options.queue_bytes:
                self.overflowed += 1
                return
            leaves = self._free_at = start + len(packet) * 8 / options.rate_bits
        delivery = leaves + options.delay
        if options.jitter:
            delivery += self._random.random() * options.jitter
        self._last_delivery = delivery = max(delivery, self._last_delivery)
        if options.late and self._random.random() < options.late:
            delivery += options.late_by
        heapq.heappush(self._waiting, (delivery, next(self._number), packet))

    def due(self, now: float) -> list[bytes]:
        """The packets whose time has come, in order."""
        waiting = self._waiting
        packets = []
        while waiting and waiting[0][0] <= now:
            packets.append(heapq.heappop(waiting)[2])
        self.delivered += len(packets)
        self.delivered_bytes += sum(map(len, packets))
        return packets

    def next_due(self) -> float | None:
        """When the next packet is due; None when the pipe is empty."""
        return self._waiting[0][0] if self._waiting else None

    def statistics(self) -> dict[str, int]:
        return {
            "delivered": self.delivered,
            "delivered_bytes": self.delivered_bytes,
            "lost": self.lost,
            "overflowed": self.overflowed,
            "full": self.full,
            "full_bytes": self.full_bytes,
            "waiting": len(self._waiting),
        }


class LossyLink:
    """Joins two namespaces by a device `link0` in each; a context manager.

    `addresses` are those of the two ends with prefix length, IPv4 or IPv6.  Raises RuntimeError when the devices cannot be
    made.
    """

    def __init__(
        self, left: str, right: str, options: LinkOptions, addresses: tuple[str, str] = ("10.99.0.1/24", "10.99.0.2/24")
    ) -> None:
        self.options = options
        self._setup = {"namespaces": [left, right], "addresses": addresses, "options": asdict(options)}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        argv = [sys.executable, __file__, json.dumps(self._setup)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self._answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    @property
    def pid(self) -> int:
        assert self._process is not None, "the link is not open"
        return self._process.pid

    def change(self, **changes: float) -> list[dict[str, int]]:
        """Change options from now on; return the statistics so far.

        `loss=1.0` cuts the link; packets on their way still arrive.
        """
        self.options = replace(self.options, **changes)  # type: ignore[arg-type]
        assert self._process is not None, "the link is not open"
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(self.options)) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def statistics(self) -> list[dict[str, int]]:
        """Counters of the pipes left to right and right to left, in packets and bytes; `full` ones as they arrived."""
        return self.change()

    def _answer(self) -> list[dict[str, int]]:
        assert self._process is not None, "the link is not open"
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], READY_SECONDS)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise RuntimeError(f"the link between {self._setup['namespaces']} does not answer; its process says why")
        answer: list[dict[str, int]] = json.loads(line)
        return answer

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(READY_SECONDS)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def carry(devices: Sequence[int], pipes: Sequence[Pipe], commands: int) -> None:
    """Carry packets until `commands`, a pipe with one set of options a line, is closed.

    `pipes[i]` takes what is read from `devices[i]` and feeds the other device.
    """
    clock = time.monotonic
    watched = [*devices, commands]
    while True:
        next_times = [when for pipe in pipes if (when := pipe.next_due()) is not None]
        timeout = max(0.0, min(next_times) - clock()) if next_times else None
        readable, _, _ = select.select(watched, [], [], timeout)
        if commands in readable:
            line = os.read(commands, 65_536)
            if not line:
                return
            for pipe in pipes:
                pipe.options = LinkOptions(**json.loads(line))
            _say([pipe.statistics() for pipe in pipes])
        for device, pipe in zip(devices, pipes, strict=True):
            if device in readable:
                _read_batch(device, pipe, clock())
        now = clock()
        for device, pipe in zip(reversed(devices), pipes, strict=True):
            for packet in pipe.due(now):
                # A device that is down or full loses the packet, as a cable would.
                with contextlib.suppress(OSError):
                    os.write(device, packet)
        pause = min(PAUSE_SECONDS, pipes[0].options.delay * PAUSE_DELAYS)
        if pause:
            time.sleep(pause)


def open_tun(namespace: str, address: str) -> int:
    """Make `link0` in a named namespace with this address and bring it up; the calling thread stays in that namespace.

    Returns the device, non-blocking.  Raises OSError when the namespace is missing or rights are.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open("rb") as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE_NAME.encode(), IFF_TUN | IFF_NO_PI))
    for command in (
        f"ip link set {DEVICE_NAME} mtu {MTU} txqueuelen {DEVICE_QUEUE_PACKETS} addrgenmode none",
        f"ip addr add {address} dev {DEVICE_NAME}" + (" nodad" if ":" in address else ""),
        f"ip link set {DEVICE_NAME} up",
    ):
        subprocess.run(command.split(), check=True)
    return device


def _read_batch(device: int, pipe: Pipe, now: float) -> None:
    for _ in range(BATCH_PACKETS):
        try:
            packet = os.read(device, MTU)
        except BlockingIOError:
            return
        pipe.offer(packet, now)


def _say(message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].startswith("{"):
        # The child is run as a file, and finds no package; nor does it need one.
        from bench.link_command import main as command

        sys.exit(command(sys.argv[1:]))
    setup = json.loads(sys.argv[1])
    options = LinkOptions(**setup["options"])
    devices = [open_tun(*end) for end in zip(setup["namespaces"], setup["addresses"], strict=True)]
    pipes = [Pipe(options, options.seed * 2 + side) for side in range(2)]
    # Packets are plain bytes in flat containers: nothing to collect, and a collection would show as delay.
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _say([pipe.statistics() for pipe in pipes])
    carry(devices, pipes, sys.stdin.fileno())


if __name__ == "__main__":
    main()
