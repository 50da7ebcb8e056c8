"""The gate of a node that stops: no flow begins, those under way are waited for, the rest is reset with the reason."""

from __future__ import annotations

import anyio
import pytest

from easytier_hooks.types import Failed
from tests.unit.host.helpers import ACK, RST, device_frame, tcp_segment
from tests.unit.host.test_gate import KEY, SYN_FRAME, FakeTransport, world
from tests.unit.host.tunnel.helpers import until

pytestmark = pytest.mark.anyio

REASON = "this node is stopping"


async def test_an_application_that_begins_a_flow_is_refused_at_once() -> None:
    async with world() as w:
        w.offer(FakeTransport())
        w.gate.refuse_new(REASON)
        under_way = device_frame(tcp_segment(ports=(1, 2), flags=ACK))
        assert w.gate.admit([SYN_FRAME, under_way]) == [under_way]
        [answer] = w.nic.take_packets()
        assert answer[33] & RST
        assert w.events()[-1] == Failed(REASON)
        assert w.hooks.asked == []


async def test_who_asks_the_node_for_a_flow_is_told_why_there_is_none() -> None:
    async with world() as w:
        w.gate.refuse_new(REASON)
        with pytest.raises(ConnectionRefusedError, match=REASON):
            await w.gate.dial(KEY)
        assert w.events()[-1] == Failed(REASON)


async def test_the_wait_ends_with_the_last_flow_and_close_all_ends_them() -> None:
    async with world() as w:
        transport = w.offer(FakeTransport())
        w.release()
        w.gate.admit([SYN_FRAME, device_frame(tcp_segment(ports=(40_001, 22)))])
        await until(lambda: w.gate.carried == 2)
        idle = anyio.Event()

        async def wait() -> None:
            await w.gate.wait_idle()
            idle.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            assert w.gate.close(next(iter(w.gate.table)).id, "one of them")
            await until(lambda: w.gate.carried == 1)
            await anyio.wait_all_tasks_blocked()
            assert not idle.is_set()
            assert w.gate.close_all(REASON) == 1
            await idle.wait()
        assert w.gate.close_all(REASON) == 0
        assert w.events()[-1] == Failed(REASON)
        for destination in transport.far:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await destination.receive()
