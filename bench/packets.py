"""What the host does for every packet, in Python and in Rust, in microseconds a packet.

Not a test: it judges nothing.  Neither root nor a network is needed:

    python -m bench.packets

Each figure is the fastest of several turns over one batch, as large as a super-packet of TCP makes it.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from functools import partial
from timeit import repeat

from easytier_host.batch import IN_PYTHON, Batch, choose_batch
from easytier_host.crypto import make_cipher
from easytier_host.nic.offload import split
from easytier_host.packet import PEER_HEAD, PacketType
from easytier_host.tunnel.udp_wire import batch_frames, data_layout
from tests.unit.host.nic.packets import OWN, Segment

ALGORITHMS = ("aes-gcm", "aes-256-gcm", "chacha20")
SEGMENT_BYTES = 1310
SUPER_PACKET_BYTES = 60_000
TURNS, REPEATS = 300, 7


def microseconds(action: Callable[[], object], packets: int) -> float:
    """For one packet of the `packets` that `action` deals with."""
    return min(repeat(action, number=TURNS, repeat=REPEATS)) / TURNS / packets * 1e6


def figures(batch: Batch) -> dict[str, float]:
    """By what is done."""
    frame = Segment(secrets.token_bytes(SUPER_PACKET_BYTES)).device_frame(SEGMENT_BYTES)
    packets = split(frame, 1400)
    count = len(packets)
    found = {
        "super-packet to packets": microseconds(lambda: batch.split(frame, 1400), count),
        "packets to super-packet": microseconds(lambda: batch.coalesce(packets, OWN), count),
    }
    head = PEER_HEAD.pack(1, 2, PacketType.DATA, 1, 1, 0)
    for algorithm in ALGORITHMS:
        cipher = make_cipher(algorithm, "s3cret", secrets.token_bytes, batch.aead)
        sealed = cipher.seal_frames(head, packets)
        found[f"seal, {algorithm}"] = microseconds(partial(cipher.seal_frames, head, packets), count)
        found[f"open, {algorithm}"] = microseconds(partial(cipher.open_frames, sealed), count)
    return found


def tunnel_figures() -> dict[str, float]:
    """What the UDP tunnel adds, which is Python in any case."""
    frames = [secrets.token_bytes(SEGMENT_BYTES + 84)] * 45
    sent = next(batch_frames(1, frames))
    layout = data_layout(sent.segment)
    return {
        "frames to datagrams": microseconds(lambda: list(batch_frames(1, frames)), len(frames)),
        "datagrams to frames": microseconds(lambda: [frame for *_, frame in layout.iter_unpack(sent.payload)], sent.frames),
    }


def main() -> int:
    native = choose_batch()
    if native is IN_PYTHON:
        sys.stderr.write("bench.packets: the native module is not built\n")
        return 1
    in_python, in_rust = figures(IN_PYTHON), figures(native)
    print("| us a packet | Python | Rust |\n| --- | --- | --- |")
    for name, python in in_python.items():
        print(f"| {name} | {python:.2f} | {in_rust[name]:.2f} |")
    for name, python in tunnel_figures().items():
        print(f"| {name} | {python:.2f} | - |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
