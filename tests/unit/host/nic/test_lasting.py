"""A device that is deleted under the node, and comes back."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Network

import anyio
import pytest

from easytier_host.nic import lasting
from easytier_host.nic.base import DeviceGone, NicError
from easytier_host.nic.lasting import LastingNic
from easytier_host.nic.memory import MemoryNic
from tests.unit.host.tunnel.helpers import running, until

pytestmark = pytest.mark.anyio

PACKET = b"\x45" + bytes(19)
ROUTE = IPv4Network("10.1.0.0/16")


class Device(MemoryNic):
    """`close` from outside is `ip link del`."""

    routes: Collection[IPv4Network | IPv6Network] = ()

    async def replace_routes(self, cidrs: Collection[IPv4Network | IPv6Network]) -> None:
        await anyio.lowlevel.checkpoint()
        self.routes = cidrs


class Maker:
    """Makes the successors, after as many failures as `failures` says."""

    def __init__(self) -> None:
        self.made: list[Device] = []
        self.failures: list[str] = []

    async def __call__(self) -> Device:
        await anyio.lowlevel.checkpoint()
        if self.failures:
            raise NicError(self.failures.pop(0))
        self.made.append(Device("et0"))
        return self.made[-1]


@asynccontextmanager
async def read(nic: LastingNic, got: list[bytes]) -> AsyncIterator[None]:
    """As the node reads it."""

    async def loop() -> None:
        while True:
            await nic.wait_readable()
            got.extend(nic.read_batch())

    async with running() as tasks:
        tasks.start_soon(loop)
        yield


async def test_packets_and_routes_go_by_the_successor(caplog: pytest.LogCaptureFixture) -> None:
    first, maker, got = Device("et0"), Maker(), list[bytes]()
    nic = LastingNic(first, maker)
    await nic.replace_routes([ROUTE])
    first.write_frames([b"not IP"])
    with caplog.at_level(logging.INFO):
        async with read(nic, got):
            first.inject_packets([PACKET])
            await until(lambda: got)
            first.close()
            await until(lambda: maker.made and maker.made[0].routes)
            assert set(maker.made[0].routes) == {ROUTE}
            maker.made[0].inject_packets([PACKET])
            await until(lambda: len(got) == 2)
            nic.write_frames([bytes(10) + PACKET])
            assert maker.made[0].take_packets() == [PACKET]
            assert nic.dropped_packets == 1
    assert "is closed; making it anew" in caplog.text
    assert "et0 is back, with its addresses and 1 routes" in caplog.text


async def test_it_tries_until_it_can_and_says_each_reason_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lasting, "FIRST_PAUSE", 0.001)
    first, maker = Device("et0"), Maker()
    maker.failures = ["et0 is taken", "et0 is taken", "no permission"]
    async with read(LastingNic(first, maker), []):
        first.close()
        await until(lambda: maker.made)
    assert caplog.text.count("et0 is taken; trying again") == 1
    assert caplog.text.count("no permission; trying again") == 1


async def test_what_is_written_while_there_is_none_is_dropped_and_counted() -> None:
    first, maker = Device("et0"), Maker()
    nic = LastingNic(first, maker)
    first.close()
    nic.write_frames([bytes(10) + PACKET])
    assert nic.read_batch() == []
    assert nic.dropped_packets == 1
    # Afterwards the reader comes by the loss that it was told of by an empty batch.
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(nic.wait_readable)
            await until(lambda: maker.made)
            maker.made[0].inject_packets([PACKET])
    assert nic.dropped_packets == 1


async def test_a_device_that_the_node_closes_stays_closed() -> None:
    maker = Maker()
    nic = LastingNic(Device("et0"), maker)
    nic.close()
    with pytest.raises(NicError):
        await nic.wait_readable()
    assert maker.made == []


class Disputed(Device):
    """A device from which something is missing whenever it is looked at; news of it is its name."""

    def __init__(self) -> None:
        super().__init__("et0")
        self.mended_at: list[float] = []

    def is_touched(self, news: bytes) -> bool:
        return news == b"et0"

    async def mend(self) -> bool:
        await anyio.lowlevel.checkpoint()
        self.mended_at.append(anyio.current_time())
        return True


async def test_news_of_the_device_has_it_mended_and_a_quarrel_becomes_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "SETTLE", 0.001)
    monkeypatch.setattr(lasting, "REST", 0.02)
    kernel, news = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    news.setblocking(False)
    monkeypatch.setattr(lasting, "open_news", lambda _groups: news)
    device = Disputed()
    nic = LastingNic(device, Maker())
    await nic.replace_routes([ROUTE])
    device.routes = ()
    with kernel:
        async with running() as tasks:
            tasks.start_soon(nic.keep)
            kernel.send(b"another")
            for count in range(1, 5):
                kernel.send(b"et0")
                await until(lambda count=count: len(device.mended_at) == count)  # type: ignore[misc]
    pauses = [later - earlier for earlier, later in itertools.pairwise(device.mended_at)]
    assert pauses[2] > 0.08 > 0.02 <= pauses[0], "0.02, 0.04, 0.08 s and the rest"
    assert set(device.routes) == {ROUTE}, "what the device could not take while it was down is tried again"


async def test_what_cannot_be_put_back_is_said_once_and_a_device_that_is_gone_is_its_reader_s(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refusing(Device):
        error: NicError = NicError("no rights")

        async def mend(self) -> bool:
            await anyio.lowlevel.checkpoint()
            raise self.error

    device = Refusing("et0")
    nic = LastingNic(device, Maker())
    for _ in range(2):
        assert not await nic._mend()
    assert caplog.text.count("no rights") == 1
    device.error = DeviceGone("et0 is gone")
    assert not await nic._mend()
    assert "gone" not in caplog.text


async def test_a_system_without_news_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "open_news", lambda _groups: None)
    with anyio.fail_after(1):
        await LastingNic(Device("et0"), Maker()).keep()
