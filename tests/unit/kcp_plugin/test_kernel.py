"""The kernel's stack behind a firewall that drops what comes from the device: who waits, for how long, and what is said."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Interface, ip_address

import anyio
import pytest
from anyio.abc import TaskGroup

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.types import FlowKey
from easytier_kcp_plugin.stack import kernel
from tests.unit.host.helpers import ACK, SYN, device_frame, tcp_segment
from tests.unit.kcp_plugin.stack_links import Host, MemoryLink, key_of

pytestmark = pytest.mark.anyio

OWN = IPv4Interface("127.0.0.1/8")


class Scene:
    """A stack whose device takes what is written to it; nobody but a test answers."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.now = 100.0
        self.device = MemoryLink()
        self.device.lost = self._take
        self.answers = False
        """Whether the kernel says yes to a SYN; the application then says no more."""
        self.tried = 0
        host = Host(tasks)
        host.device = self.device  # type: ignore[assignment]
        host.interfaces = [OWN]  # type: ignore[attr-defined]
        self.stack = kernel.KernelStack(host, lambda: self.now)  # type: ignore[arg-type]
        self.stack.open()

    async def attempt(self, port: int) -> str:
        """A flow that never becomes a connection; returns the reason."""
        key = FlowKey(ip_address("10.144.0.1"), port, ip_address("10.144.0.2"), 80)
        with pytest.raises(TransportUnavailable) as caught, anyio.fail_after(5):
            await self.stack.terminate(MemoryLink(), key, device_frame(tcp_segment(ports=(port, 80))))
        return caught.value.reason

    def _take(self, frame: bytes) -> bool:
        self.tried += 1
        if self.answers:
            key = key_of(frame)
            ends = (str(key.destination_ip), str(key.source_ip))
            answer = tcp_segment(*ends, ports=(key.destination_port, key.source_port), flags=SYN | ACK)
            self.device.give([device_frame(answer)])
        return True


@asynccontextmanager
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(kernel, "ACCEPT_TIMEOUT", 0.02)
    async with anyio.create_task_group() as tasks:
        here = Scene(tasks)
        tasks.start_soon(here.stack.run)
        yield here
        tasks.cancel_scope.cancel()


async def test_one_flow_finds_the_firewall_out_for_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with scene(monkeypatch) as here:
        assert here.stack.available() == ""
        assert await here.attempt(1) == "the kernel's TCP did not answer within 0.02 s"
        here.now += 7
        # What `proxy why` and the next flows read.
        assert here.stack.available() == await here.attempt(2) == "the kernel's TCP did not answer 7 s ago"
        assert here.tried == 1
        here.now += kernel.RETRY
        assert here.stack.available() == ""
        reasons = {}
        async with anyio.create_task_group() as flows:
            for port in (3, 4, 5):

                async def attempt(port: int = port) -> None:
                    reasons[port] = await here.attempt(port)

                flows.start_soon(attempt)
        assert sorted(reasons.values()) == ["the kernel's TCP did not answer 0 s ago"] * 2 + [
            "the kernel's TCP did not answer within 0.02 s"
        ]
        assert here.tried == 2
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "easytier-cli doctor" in caplog.text


async def test_a_firewall_that_opens_is_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with scene(monkeypatch) as here:
        await here.attempt(1)
        here.now += kernel.RETRY
        here.answers = True
        await here.attempt(2)
        assert here.stack.available() == ""
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_an_application_that_gives_up_is_no_firewall(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(monkeypatch) as here:
        here.answers = True
        assert await here.attempt(1) == "the application did not complete its connection"
        assert here.stack.available() == ""
        assert caplog.records == []


async def test_a_syn_that_is_lost_beside_answered_ones_is_no_firewall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener's queue may be full for a moment."""
    async with scene(monkeypatch) as here, anyio.create_task_group() as flows:
        flows.start_soon(here.attempt, 1)
        await anyio.wait_all_tasks_blocked()
        here.answers = True
        await here.attempt(2)
    assert here.tried == 2
    assert here.stack.available() == ""
