"""Streams and the driver, on a real event loop, over a wire in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
from anyio.lowlevel import checkpoint

from easytier_kcp_plugin.kcp import ikcp, stream
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.header import PacketType
from easytier_kcp_plugin.kcp.limits import Limits
from easytier_kcp_plugin.kcp.stream import EndpointDriver, Handler, KcpAttribute, KcpConnectError, KcpStream
from tests.unit.kcp.network import ACCEPTOR, OPENER, request

pytestmark = pytest.mark.anyio
DELAY = 0.002
DATA = request()
assert DATA.dst is not None
DST = DATA.dst


@dataclass
class Wire:
    """Both drivers; what one sends reaches the other after 2 ms, unless the wire is cut or congested."""

    opener: EndpointDriver = field(init=False)
    acceptor: EndpointDriver = field(init=False)
    cut: bool = False
    congested: bool = False
    refused_batches: int = 0

    def sender(self, me: int) -> Callable[[int, int, Sequence[bytes]], bool]:
        def send(peer_id: int, packet_type: int, payloads: Sequence[bytes]) -> bool:
            assert {me, peer_id} == {OPENER, ACCEPTOR}
            assert payloads
            if self.congested:
                self.refused_batches += 1
                return False
            if not self.cut:
                driver = self.opener if peer_id == OPENER else self.acceptor
                asyncio.get_running_loop().call_later(DELAY, driver.packets, me, packet_type, list(payloads))
            return True

        return send

    async def open(self, timeout: float = 5.0) -> KcpStream:
        return await self.opener.connect(ACCEPTOR, DATA.src, DST, timeout=timeout)


@asynccontextmanager
async def wired(serve: Handler | None, *, limits: Limits | None = None, max_served: int = 100) -> AsyncIterator[Wire]:
    """Two running drivers.  The body may take 20 s."""
    wire = Wire()
    wire.opener = EndpointDriver(Endpoint(OPENER, ikcp.paths(), first_conv=1, limits=limits), wire.sender(OPENER))
    acceptor = Endpoint(ACCEPTOR, ikcp.paths(), first_conv=1, limits=limits)
    wire.acceptor = EndpointDriver(acceptor, wire.sender(ACCEPTOR), serve, max_served=max_served)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wire.opener.run)
            tasks.start_soon(wire.acceptor.run)
            yield wire
            tasks.cancel_scope.cancel()


async def echo(kcp: KcpStream) -> None:
    async for chunk in kcp:
        await kcp.send(chunk)
    await kcp.send_eof()


async def read_all(kcp: KcpStream) -> bytes:
    return b"".join([chunk async for chunk in kcp])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with the event loop's turns as the only clock; the test's own time limit bounds it."""
    while not condition():
        await checkpoint()


async def test_bytes_go_round_and_end() -> None:
    data = bytes(range(256)) * 8192
    async with wired(echo) as wire:
        kcp = await wire.open()
        received = b""

        async def collect() -> None:
            nonlocal received
            received = await read_all(kcp)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect)
            await kcp.send(data)
            await kcp.send_eof()
        assert received == data
        await until(lambda: kcp.session.reason is not None)
        assert kcp.session.reason is CloseReason.FINISHED
        with pytest.raises(EndOfStream):
            await kcp.receive()


async def test_attributes_tell_whom_the_stream_leads_to() -> None:
    async with wired(echo) as wire:
        kcp = await wire.open()
        assert kcp.extra(KcpAttribute.peer_id) == ACCEPTOR
        assert kcp.extra(KcpAttribute.conn_data).dst == DST
        assert kcp.extra(KcpAttribute.session).peer_offer is not None


async def test_a_slow_reader_holds_the_writer_back() -> None:
    taken = anyio.Event()
    go_on = anyio.Event()
    lengths = []

    async def slow(kcp: KcpStream) -> None:
        await go_on.wait()
        lengths.append(len(await read_all(kcp)))
        taken.set()

    async with wired(slow) as wire:
        kcp = await wire.open()
        sent = 0

        async def write_all() -> None:
            nonlocal sent
            for _ in range(100):
                await kcp.send(bytes(100_000))
                sent += 100_000
            await kcp.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_all)
            await until(lambda: kcp.session.statistics is not None and kcp.session.statistics.peer_window == 0)
            assert sent < 3_000_000
            go_on.set()
        await taken.wait()
        assert lengths == [10_000_000]


async def test_half_close_keeps_the_other_direction() -> None:
    async def answer_after_eof(kcp: KcpStream) -> None:
        asked = await read_all(kcp)
        await kcp.send(b"you said " + asked)

    async with wired(answer_after_eof) as wire:
        kcp = await wire.open()
        await kcp.send(b"hello")
        await kcp.send_eof()
        assert await read_all(kcp) == b"you said hello"
        with pytest.raises(ClosedResourceError):
            await kcp.send(b"more")


async def test_a_reset_breaks_both_ends() -> None:
    served: list[KcpStream] = []
    seen: list[BaseException] = []

    async def wait_for_it(kcp: KcpStream) -> None:
        served.append(kcp)
        try:
            await kcp.receive()
        except BrokenResourceError as error:
            seen.append(error)

    async with wired(wait_for_it) as wire:
        kcp = await wire.open()
        await until(lambda: bool(served))
        kcp.reset()
        with pytest.raises(ClosedResourceError):
            await kcp.receive()
        await until(lambda: bool(seen))
        assert "reset by the peer" in str(seen[0])


async def test_a_handler_that_raises_resets_its_stream_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(kcp: KcpStream) -> None:
        if await kcp.receive() == b"bad":
            raise RuntimeError("no good")
        await kcp.send(b"fine")

    async with wired(fail) as wire:
        good, bad = await wire.open(), await wire.open()
        with caplog.at_level(logging.ERROR):
            await bad.send(b"bad")
            with pytest.raises(BrokenResourceError, match="reset by the peer"):
                await bad.receive()
        assert "its handler failed" in caplog.text
        await good.send(b"good")
        assert await read_all(good) == b"fine"


async def test_who_gives_a_stream_up_ends_the_dial_for_it_and_no_handler_that_has_begun_to_serve() -> None:
    ended: list[str] = []

    async def dial(_kcp: KcpStream) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("dial")

    async def serve(kcp: KcpStream) -> None:
        kcp.confirm()
        with pytest.raises(BrokenResourceError):
            await kcp.receive()
        await checkpoint()
        ended.append("server")

    for handler in (dial, serve):
        async with wired(handler) as wire:
            kcp = await wire.open()
            await until(lambda: wire.acceptor._serving == 1)
            kcp.reset()
            await until(lambda: wire.acceptor._serving == 0)
    assert ended == ["dial", "server"]


async def test_a_stream_is_closed_when_its_handler_returns() -> None:
    async def say_one_thing(kcp: KcpStream) -> None:
        await kcp.send(b"bye")

    async with wired(say_one_thing) as wire:
        assert await read_all(await wire.open()) == b"bye"


@pytest.mark.parametrize("serve", [None, echo])
async def test_streams_beyond_the_limit_and_without_handler_are_reset(serve: Handler | None) -> None:
    async with wired(serve, max_served=0) as wire:
        kcp = await wire.open()
        with pytest.raises(BrokenResourceError):
            await kcp.receive()
        assert wire.acceptor.streams_refused == 1


async def test_nobody_there() -> None:
    async with wired(echo) as wire:
        wire.cut = True
        with pytest.raises(KcpConnectError, match="did not answer") as caught:
            await wire.open(timeout=0.05)
        assert caught.value.reason is CloseReason.NO_ANSWER


async def test_refused_and_too_many() -> None:
    async with wired(echo, limits=Limits(sessions=1)) as wire:
        first = await wire.open()
        with pytest.raises(KcpConnectError, match="too many") as caught:
            await wire.open()
        assert caught.value.reason is None
        first.reset()
        wire.acceptor.endpoint.limits = Limits(sessions=0)
        with pytest.raises(KcpConnectError, match="refused") as caught:
            await wire.open()
        assert caught.value.reason is CloseReason.REFUSED


async def test_a_connect_that_is_cancelled_leaves_nothing() -> None:
    async with wired(echo) as wire:
        wire.cut = True
        with anyio.move_on_after(0.02):
            await wire.open()
        assert wire.opener.endpoint.sessions == []


async def test_calls_that_wait_end_when_the_stream_is_closed() -> None:
    async with wired(echo) as wire:
        kcp = await wire.open()
        async with anyio.create_task_group() as tasks:

            async def wait_for_bytes() -> None:
                with pytest.raises(ClosedResourceError):
                    await kcp.receive()

            tasks.start_soon(wait_for_bytes)
            await checkpoint()
            await checkpoint()
            await kcp.aclose()
        with pytest.raises(ClosedResourceError):
            await kcp.send(b"x")


async def test_one_reader_and_one_writer_at_a_time() -> None:
    async def never_read(kcp: KcpStream) -> None:
        await anyio.sleep_forever()

    async with wired(never_read) as wire:
        kcp = await wire.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kcp.receive)
            tasks.start_soon(kcp.send, bytes(10_000_000))
            await until(lambda: kcp._readable is not None and kcp._writable is not None)
            with pytest.raises(BusyResourceError):
                await kcp.receive()
            with pytest.raises(BusyResourceError):
                await kcp.send(b"x")
            tasks.cancel_scope.cancel()


async def test_congestion_holds_packets_back_and_loses_none() -> None:
    async with wired(echo) as wire:
        kcp = await wire.open()
        wire.congested = True
        await kcp.send(b"wait for me")
        await until(lambda: wire.refused_batches >= 3)
        wire.congested = False
        assert await kcp.receive() == b"wait for me"
        assert wire.opener.packets_dropped == wire.acceptor.packets_dropped == 0


async def test_what_is_held_for_a_congested_peer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_HELD", 10)
    async with wired(echo) as wire:
        await wire.open()
        wire.congested = True
        for conv in range(60):
            payload = conv.to_bytes(4, "little") + OPENER.to_bytes(4, "little") + ACCEPTOR.to_bytes(4, "little") + b"\x08\0"
            wire.acceptor.packets(OPENER, PacketType.KCP_SRC, [payload])
            await checkpoint()
            await checkpoint()
        await until(lambda: wire.acceptor.packets_dropped >= 40)
        assert sum(len(batch) for _, batch in wire.acceptor._held[OPENER]) <= 11


async def test_a_driver_that_stops_ends_all_streams_of_both_ends() -> None:
    served: list[KcpStream] = []
    failures: list[str] = []

    async def wait_for_it(kcp: KcpStream) -> None:
        served.append(kcp)
        try:
            await kcp.receive()
        except BrokenResourceError as error:
            failures.append(str(error))

    async with wired(wait_for_it) as wire:
        opened: list[Awaitable[bytes]] = []
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            second = EndpointDriver(Endpoint(OPENER, ikcp.paths(), first_conv=900), wire.sender(OPENER))
            wire.opener = second

            async def run() -> None:
                with scope:
                    await second.run()

            tasks.start_soon(run)
            kcp = await wire.open()
            opened.append(kcp.receive())
            await until(lambda: bool(served))
            # What is said first is lost.
            wire.cut = True
            scope.cancel()
            with pytest.raises(BrokenResourceError):
                await opened.pop()
            wire.cut = False
        await until(lambda: bool(failures))
        assert "reset by the peer" in failures[0]
        with pytest.raises(KcpConnectError, match="stopped"):
            await second.connect(ACCEPTOR, DATA.src, DST)


async def test_an_idle_driver_sleeps() -> None:
    """Nothing is polled while nothing happens: the next deadline is the PING in 10 s."""
    async with wired(echo) as wire:
        kcp = await wire.open()
        await kcp.send(b"x")
        await kcp.receive()
        polls = 0
        real_poll = wire.opener.endpoint.poll

        def counting_poll(*args: float) -> object:
            nonlocal polls
            polls += 1
            return real_poll(*args)  # type: ignore[arg-type]

        wire.opener.endpoint.poll = counting_poll  # type: ignore[assignment, method-assign]
        # Repeated handshakes and probes may take a moment to end, longer on a busy machine.
        for _ in range(20):
            polls = 0
            await anyio.sleep(0.3)
            if polls == 0:
                return
        pytest.fail("the driver never comes to rest")
