"""Throughput of the tunnels alone: frames from `send` in one process to `on_frames` in another, over loopback.

Run `python -m bench.tunnel_loopback [--seconds S] [--size BYTES] [--batch FRAMES]`; prints one line for each kind of tunnel,
with the CPU time of both processes and what was lost on the way.  No peers, keys or devices: the ceiling of everything above.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from easytier_host.tunnel import Listener, Tunnel, TunnelUrl, connect, tcp, udp
from easytier_host.tunnel.resolve import Endpoint, resolve
from easytier_host.tunnel.udp_socket import UdpSocket, UdpTunnel

QUIET_SECONDS: Final = 0.5
"""Without a frame for so long, the receiver takes the run as over."""


@dataclass
class Received:
    """What one run brought: frames, bytes (`size`), seconds from the first batch to the last, CPU seconds of the receiver."""

    frames: int = 0
    size: int = 0
    first: float = 0.0
    last: float = 0.0
    cpu: float = 0.0
    batches: int = 0

    def add(self, frames: list[bytes]) -> None:
        """Count a batch."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.batches += 1
        self.frames += len(frames)
        self.size += sum(map(len, frames))


def main() -> None:
    """Run all kinds of tunnels one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--size", type=int, default=1300, help="bytes of a frame")
    parser.add_argument("--batch", type=int, default=200, help="frames of one send")
    options = parser.parse_args()
    print(f"{'tunnel':<12} {'Gbit/s':>7} {'frames/s':>10} {'lost %':>7} {'per batch':>9} {'send CPU':>9} {'receive CPU':>11}")
    for name, scheme, offload in (("udp gso", "udp", True), ("udp plain", "udp", False), ("tcp", "tcp", True)):
        ours, theirs = multiprocessing.Pipe()
        receiver = multiprocessing.get_context("spawn").Process(target=receive, args=(theirs, scheme, offload))
        receiver.start()
        url = TunnelUrl.parse(ours.recv())
        sent, cpu, elapsed = anyio.run(send_for, url, options.seconds, options.size, options.batch, offload)
        result: Received = ours.recv()
        receiver.join()
        seconds = result.last - result.first
        lost = 100 - 100 * result.frames / sent
        print(
            f"{name:<12} {result.size * 8e-9 / seconds:7.2f} {result.frames / seconds:10.0f} {lost:7.2f} "
            f"{result.frames / result.batches:9.1f} {cpu / elapsed:9.2f} {result.cpu / seconds:11.2f}"
        )


async def send_for(url: TunnelUrl, seconds: float, size: int, batch: int, offload: bool) -> tuple[int, float, float]:
    """Send as fast as the tunnel takes it; the number of frames sent, the CPU seconds and the seconds it took."""
    frames = [bytes(size)] * batch
    sent = 0
    async with anyio.create_task_group() as tasks:
        tunnel = await connect(url, tasks)
        if isinstance(tunnel, UdpTunnel):
            tunnel._socket.gso &= offload
        start, start_cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds:
            sent += batch
            if tunnel.send(frames):
                await anyio.lowlevel.checkpoint()
            else:
                await tunnel.wait_writable()
        elapsed, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        await tunnel.wait_writable()
        sent -= tunnel.dropped_frames
        tunnel.close()
    return sent, cpu, elapsed


def receive(pipe: Connection, scheme: str, offload: bool) -> None:
    """The other process: listen, tell where, count, tell what came."""
    anyio.run(_receive, pipe, scheme, offload)


async def _receive(pipe: Connection, scheme: str, offload: bool) -> None:
    result = Received()
    start_cpu = 0.0

    def on_tunnel(tunnel: Tunnel) -> None:
        nonlocal start_cpu
        start_cpu = time.process_time()
        tunnel.on_frames = result.add

    async with anyio.create_task_group() as tasks:
        url = TunnelUrl.parse(f"{scheme}://127.0.0.1:0")
        (endpoint,) = await resolve(url, timeout=1)
        listener = open_listener(endpoint, tasks, on_tunnel, scheme, offload)
        pipe.send(listener.url)
        while not result.frames or time.perf_counter() - result.last < QUIET_SECONDS:  # noqa: ASYNC110
            await anyio.sleep(QUIET_SECONDS)
        result.cpu = time.process_time() - start_cpu
        tasks.cancel_scope.cancel()
    pipe.send(result)


def open_listener(
    endpoint: Endpoint, tasks: TaskGroup, on_tunnel: Callable[[Tunnel], None], scheme: str, offload: bool
) -> Listener:
    """A listener like `tunnel.listen` gives, with the choice of going without GSO and GRO."""
    if scheme == "tcp":
        return tcp.listen(endpoint, tasks, on_tunnel)
    return udp.UdpListener(UdpSocket(udp.bind(endpoint.family, endpoint.address), tasks, on_tunnel, offload=offload))


if __name__ == "__main__":
    main()
