"""`MemoryNic`: bounded both ways, wakes who waits, ends cleanly."""

from __future__ import annotations

import anyio
import pytest

from easytier_host.nic import NicError
from easytier_host.nic.memory import BATCH_FRAMES, QUEUE_FRAMES, MemoryNic
from easytier_host.nic.offload import PLAIN_VNET_HEADER
from tests.unit.host.nic.packets import Segment

pytestmark = pytest.mark.anyio
PACKET = Segment(b"data").encode()


async def test_what_is_injected_is_read_in_batches() -> None:
    nic = MemoryNic()
    packets = [Segment(b"data", sequence=number).encode() for number in range(BATCH_FRAMES + 1)]
    nic.inject_packets(packets)
    assert nic.read_batch() == [PLAIN_VNET_HEADER + packet for packet in packets[:-1]]
    assert nic.read_batch() == [PLAIN_VNET_HEADER + packets[-1]]
    assert nic.read_batch() == []


async def test_what_is_written_can_be_taken() -> None:
    nic = MemoryNic()
    nic.write_frames(nic.join([PACKET, PACKET]))
    nic.write_frames([PLAIN_VNET_HEADER + PACKET])
    assert nic.take_packets() == [PACKET] * 3
    assert nic.take_frames() == []


async def test_waiting_ends_with_the_next_frame_and_with_close() -> None:
    nic = MemoryNic()
    seen: list[str] = []

    async def reader() -> None:
        await nic.wait_readable()
        seen.extend("read" for _ in nic.read_batch())
        with pytest.raises(NicError, match="closed"):
            await nic.wait_readable()

    async def taker() -> None:
        await nic.wait_written()
        seen.extend("taken" for _ in nic.take_packets())
        with pytest.raises(NicError, match="closed"):
            await nic.wait_written()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            tasks.start_soon(taker)
            await anyio.wait_all_tasks_blocked()
            nic.inject_packets([PACKET])
            nic.write_frames(nic.join([PACKET]))
            await anyio.wait_all_tasks_blocked()
            nic.close()
    assert sorted(seen) == ["read", "taken"]


async def test_a_full_queue_drops_its_oldest_frame_and_counts_it() -> None:
    nic = MemoryNic()
    packets = [Segment(b"data", sequence=number).encode() for number in range(QUEUE_FRAMES + 3)]
    nic.write_frames(nic.join(packets))
    assert nic.dropped_packets == 3
    assert nic.take_packets() == packets[3:]
    nic.inject_packets(packets)
    assert nic.dropped_packets == 6
    assert nic.read_batch()[0] == PLAIN_VNET_HEADER + packets[3]


@pytest.mark.parametrize("packet", [b"", b"\x00" * 40, b"\xff"])
async def test_what_is_not_ip_is_dropped_and_counted(packet: bytes) -> None:
    nic = MemoryNic()
    nic.write_frames(nic.join([packet, PACKET]))
    assert nic.take_packets() == [PACKET]
    assert nic.dropped_packets == 1


async def test_a_closed_device_drops_writes_and_refuses_reads() -> None:
    nic = MemoryNic()
    nic.inject_packets([PACKET])
    nic.close()
    nic.close()
    nic.write_frames(nic.join([PACKET]))
    assert nic.dropped_packets == 1
    with pytest.raises(NicError, match="closed"):
        nic.read_batch()
    with pytest.raises(NicError, match="closed"):
        nic.inject_packets([PACKET])


async def test_routes_need_no_kernel() -> None:
    await MemoryNic().replace_routes([])
