"""The user-space stack against itself over a line in memory: bytes, ends, back-pressure, refusals, used ports, failures."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, cast

import anyio
import pytest
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
from hypothesis import given
from hypothesis import strategies as st

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.streams import TcpConnection
from easytier_host.tcp_reset import reset_for
from tests.unit.host.helpers import ACK, SYN, device_frame, tcp_segment
from tests.unit.host.tunnel.helpers import until
from tests.unit.kcp_plugin.stack_links import MemoryLink, flow_key, joined

native = pytest.importorskip("easytier_kcp_plugin._native", reason="the native module was not built")

# Behind the check: they need the native module.
from easytier_kcp_plugin.stack import driver, smoltcp  # noqa: E402
from easytier_kcp_plugin.stack.driver import LinkDriver  # noqa: E402
from easytier_kcp_plugin.stack.rewrite import syn_sequence  # noqa: E402
from easytier_kcp_plugin.stack.smoltcp import SmoltcpStack  # noqa: E402

pytestmark = pytest.mark.anyio

MEGABYTE = random.Random(1).randbytes(1_000_000)
FIRST_SYN = device_frame(tcp_segment(ports=(40_000, 80)))


async def everything(connection: TcpConnection) -> bytes:
    """What comes up to the end of the other direction."""
    data = bytearray()
    while True:
        try:
            data += await connection.receive()
        except EndOfStream:
            return bytes(data)


async def finished(connection: TcpConnection, data: bytes) -> None:
    await connection.send(data)
    await connection.send_eof()


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
async def test_bytes_pass_both_ways_and_each_direction_ends_by_itself(ipv6: bool) -> None:
    async with joined() as ends:
        near, far = await ends.open(ipv6=ipv6)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finished, near, MEGABYTE)
            assert await everything(far) == MEGABYTE
        with pytest.raises(EndOfStream):
            await far.receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finished, far, MEGABYTE[::-1])
            assert await everything(near) == MEGABYTE[::-1]
        await near.aclose()
        await far.aclose()


async def test_super_packets_carry_bulk() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finished, near, MEGABYTE)
            assert await everything(far) == MEGABYTE
        assert ends.near_link.written < len(MEGABYTE) / 10_000


async def test_what_is_lost_is_repeated() -> None:
    packets = count()
    async with joined() as ends:
        near, far = await ends.open()
        # The loss of a super-packet would be that of a whole window.
        ends.near_link.splits = True
        ends.near_link.lost = ends.far_link.lost = lambda _: next(packets) % 40 == 20
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finished, near, MEGABYTE[:150_000])
            assert await everything(far) == MEGABYTE[:150_000]
        assert next(packets) > 100


async def test_a_reader_that_stops_makes_the_sender_wait() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        sent = 0

        async def push() -> None:
            nonlocal sent
            for _ in range(10):
                await near.send(MEGABYTE)
                sent += len(MEGABYTE)
            await near.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push)
            await until(lambda: ends.near_link.written > 10)
            before = -1
            while before != ends.near_link.written:
                before = ends.near_link.written
                await anyio.sleep(0.05)
            buffers = smoltcp.OVERLAY_RECEIVE_BUFFER + smoltcp.OVERLAY_SEND_BUFFER
            assert sent <= buffers
            assert len(await everything(far)) == 10 * len(MEGABYTE)


async def test_in_a_crowd_buffers_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "FULL_SIZED", 1)
    async with joined() as ends:
        await ends.open(1)
        near, far = await ends.open(2)
        with anyio.move_on_after(0.2) as full:
            await near.send(MEGABYTE)
        assert full.cancelled_caught
        for end, what in ((near, "queued"), (far, "received")):
            held = cast("Any", end)._driver.native.info(cast("Any", end).number)[what]
            assert driver.SMALL_BUFFER / 2 < held <= driver.SMALL_BUFFER


async def test_a_close_still_delivers_what_was_sent() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        await near.send(MEGABYTE[:400_000])
        await near.aclose()
        with pytest.raises(ClosedResourceError):
            await near.send(b"more")
        assert await everything(far) == MEGABYTE[:400_000]


async def test_bytes_that_nobody_will_read_are_answered_with_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TIME_WAIT", 0.1)
    async with joined() as ends:
        near, far = await ends.open()
        await far.aclose()
        assert await everything(near) == b""
        await near.send(b"unwanted")
        await until(lambda: ends.near_link.claims == 0)
        with pytest.raises(BrokenResourceError):
            await near.send(b"more")

        near, far = await ends.open(40_001)
        await near.send(b"unwanted")
        await until(lambda: cast("Any", far)._has_unread())
        await far.aclose()
        await broken_by_reset(near)


async def broken_by_reset(connection: TcpConnection) -> None:
    with pytest.raises(BrokenResourceError) as caught, anyio.fail_after(5):
        await connection.receive()
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(BrokenResourceError):
        await connection.send(b"into the void")
    with pytest.raises(BrokenResourceError):
        await connection.send_eof()


async def test_a_reset_ends_both_directions_for_both_ends() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broken_by_reset, far)
            await near.send(b"")
            near.reset()
            for call in (near.receive(), near.send(b"x"), near.send_eof()):
                with pytest.raises(ClosedResourceError):
                    await call
        # Afterwards nothing has an effect.
        near.reset()
        await near.aclose()
        far.reset()


async def test_a_reset_is_felt_by_a_sender_that_has_not_read_everything() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        await far.send(b"last words")
        await until(lambda: cast("Any", near)._has_unread())
        far.reset()
        with pytest.raises(BrokenResourceError) as caught, anyio.fail_after(5):
            await send_for_ever(near)
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert await near.receive() == b"last words"
        await broken_by_reset(near)


async def send_for_ever(connection: TcpConnection) -> None:
    while True:
        await connection.send(b"x")


async def test_claims_end_a_while_after_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TIME_WAIT", 0.2)
    async with joined() as ends:
        near, far = await ends.open()
        await near.aclose()
        assert await everything(far) == b""
        await far.aclose()
        await anyio.sleep(0.05)
        assert (ends.near_link.claims, ends.far_link.claims) == (1, 1)
        await until(lambda: ends.near_link.claims + ends.far_link.claims == 0)
        assert ends.far_link.unclaimed == []


async def test_the_same_ends_may_meet_again_at_once() -> None:
    async with joined() as ends:
        for number in range(3):
            near, far = await ends.open()
            await near.send(bytes([number]))
            assert await far.receive() == bytes([number])
            await near.aclose()
            await far.aclose()
            await until(partial(has_ended, near))
            # The host ends a claim of the past when a new SYN comes.
            for claimed in cast("Any", ends.far)._drivers.values():
                for connection in list(claimed._claimed.values()):
                    connection.unclaim()


def has_ended(connection: TcpConnection) -> bool:
    return cast("Any", connection)._reason is not None


async def test_a_connection_that_its_source_has_forgotten_makes_way() -> None:
    async with joined() as ends:
        _, far = await ends.open()
        handler = ends.far_link._handlers[flow_key()]
        driven = next(iter(cast("Any", ends.far)._drivers.values()))
        # Its own SYN, repeated, is none of the kind.
        first = device_frame(tcp_segment(ports=(40_000, 80), sequence=int.from_bytes(cast("Any", far).first_sequence, "big")))
        handler([first])
        await anyio.sleep(0.05)
        assert len(driven) == 1
        handler([device_frame(tcp_segment(ports=(40_000, 80), sequence=12345))])
        assert ends.far_link.claims == 0
        with pytest.raises(BrokenResourceError):
            await far.receive()
        await until(lambda: len(driven) == 0)


async def test_a_refusal_is_an_error_of_connect() -> None:
    async with joined() as ends, anyio.create_task_group() as tasks:

        async def refuse() -> None:
            ends.far_link.write([reset_for(await ends.syn())])

        tasks.start_soon(refuse)
        with pytest.raises(ConnectionRefusedError), anyio.fail_after(5):
            await ends.near.connect(ends.near_link, flow_key())
        assert ends.near_link.claims == 0


async def test_an_attempt_may_be_given_up() -> None:
    async with joined() as ends:
        with anyio.move_on_after(0.1) as scope:
            await ends.near.connect(ends.near_link, flow_key())
        assert scope.cancelled_caught
        assert ends.near_link.claims == 0


async def test_a_key_in_use_is_an_error() -> None:
    async with joined() as ends:
        near, _ = await ends.open()
        with pytest.raises(OSError, match="claimed"):
            await ends.near.connect(ends.near_link, flow_key())
        await near.send(b"not disturbed")


async def test_a_source_that_does_not_complete_its_handshake_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "HANDSHAKE_TIMEOUT", 0.2)
    async with joined() as ends:
        with pytest.raises(TransportUnavailable, match="did not complete the handshake"):
            await ends.far.terminate(ends.far_link, flow_key(), FIRST_SYN)
        assert ends.far_link.claims == 0


@pytest.mark.parametrize(
    "frame", [b"", bytes(60), device_frame(tcp_segment(ports=(40_000, 80), flags=0x12))], ids=["empty", "zeros", "SYN ACK"]
)
async def test_what_is_no_syn_is_refused(frame: bytes) -> None:
    async with joined() as ends:
        with pytest.raises(TransportUnavailable):
            await ends.far.terminate(ends.far_link, flow_key(), frame)
        assert ends.far_link.claims == 0


async def test_a_full_stack_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoltcp, "MAX_CONNECTIONS", 2)
    async with joined() as ends:
        for port in (1, 2):
            await ends.open(port)
        with pytest.raises(OSError, match="no room"):
            await ends.near.connect(ends.near_link, flow_key(3))
        with pytest.raises(TransportUnavailable, match="no room"):
            await ends.far.terminate(ends.far_link, flow_key(3), device_frame(tcp_segment(ports=(3, 80))))
        assert (ends.near_link.claims, ends.far_link.claims) == (2, 2)


async def test_a_link_that_is_too_narrow_cannot_be_used() -> None:
    async with joined() as ends:
        with pytest.raises(TransportUnavailable, match="mtu"):
            await ends.far.terminate(MemoryLink(mtu=500), flow_key(), FIRST_SYN)


async def test_one_call_at_a_time_in_each_direction() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(near.receive)
            await until(lambda: cast("Any", near)._readable is not None)
            with pytest.raises(BusyResourceError):
                await near.receive()
            await far.send(b"at last")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(near.send, bytes(10_000_000))
            await until(lambda: cast("Any", near)._writable is not None)
            with pytest.raises(BusyResourceError):
                await near.send(b"x")
            tasks.cancel_scope.cancel()


async def test_a_stop_resets_the_connections() -> None:
    async with joined() as ends:
        near, far = await ends.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broken, near)
            tasks.start_soon(broken_by_reset, far)
            await until(lambda: cast("Any", far)._readable is not None)
            ends.near_host.task_group.stop()
        assert ends.near_link.claims == 0


async def broken(connection: TcpConnection) -> None:
    with pytest.raises(BrokenResourceError):
        await connection.receive()


async def test_a_flood_of_frames_does_not_pile_up() -> None:
    async with joined() as ends:
        await ends.open()
        handler = ends.far_link._handlers[flow_key()]
        driven = next(iter(cast("Any", ends.far)._drivers.values()))
        for _ in range(100):
            handler([FIRST_SYN[:30] + bytes(30)] * 100)
            assert len(driven._inbox) < driver.MAX_INBOX


class Counting:
    """A native stack that counts its steps, and fails when it is told to."""

    def __init__(self, stack: Any) -> None:
        self._stack = stack
        self.steps = 0
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        if self.broken:
            return self._fail
        if name == "step":
            self.steps += 1
        return getattr(self._stack, name)

    def _fail(self, *_: object) -> None:
        raise native.StackError("it broke")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[SmoltcpStack], Counting]:
    """What drives the only link of a stack."""
    made = SmoltcpStack._make_driver

    def make(stack: SmoltcpStack, link: Any) -> LinkDriver:
        driven = made(stack, link)
        driven.native = cast("Any", Counting(driven.native))
        return driven

    monkeypatch.setattr(SmoltcpStack, "_make_driver", make)
    return lambda stack: next(iter(cast("Any", stack)._drivers.values())).native


async def test_idle_connections_cost_nothing(counted: Callable[[SmoltcpStack], Counting]) -> None:
    async with joined() as ends:
        for port in range(1, 21):
            await ends.open(port)
        await anyio.sleep(0.1)
        before = counted(ends.near).steps
        await anyio.sleep(0.5)
        assert counted(ends.near).steps - before <= 2


async def test_a_stack_that_fails_loses_its_connections_and_no_more(
    counted: Callable[[SmoltcpStack], Counting], caplog: pytest.LogCaptureFixture
) -> None:
    async with joined() as ends:
        near, _ = await ends.open()
        counted(ends.near).broken = True
        with pytest.raises(BrokenResourceError):
            await near.send(b"x")
        with pytest.raises(BrokenResourceError):
            await near.receive()
        await until(lambda: ends.near_link.claims == 0)
        assert "its 1 connections are lost" in caplog.text
        near, far = await ends.open(40_001)
        await near.send(b"a new one")
        assert await far.receive() == b"a new one"


@given(st.binary(max_size=120))
def test_any_bytes_may_be_asked_for_the_syn_in_them(frame: bytes) -> None:
    sequence = syn_sequence(frame)
    assert sequence is None or len(sequence) == 4


@pytest.mark.parametrize(("source", "destination"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")], ids=["IPv4", "IPv6"])
def test_only_the_first_segment_of_a_connection_has_the_sequence_number_of_a_syn(source: str, destination: str) -> None:
    def frame(flags: int, options: int = 0) -> bytes:
        return device_frame(tcp_segment(source, destination, flags=flags, sequence=0x01020304, options=options))

    assert syn_sequence(frame(SYN)) == bytes([1, 2, 3, 4])
    assert syn_sequence(frame(SYN | ACK)) is None
    assert syn_sequence(frame(ACK)) is None
    if "." in source:
        assert syn_sequence(frame(SYN, options=3)) == bytes([1, 2, 3, 4])
