"""The user-space stack at work on a link: claims, refusals, used ports, limits, the stop, and what a failure costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import anyio
import pytest
from anyio import BrokenResourceError
from hypothesis import given
from hypothesis import strategies as st

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.streams import TcpConnection
from easytier_host.tcp_reset import reset_for
from tests.unit.host.helpers import ACK, SYN, device_frame, tcp_segment
from tests.unit.host.tunnel.helpers import until
from tests.unit.kcp_plugin.stack_links import MemoryLink, broken_by_reset, everything, flow_key, joined

native = pytest.importorskip("easytier_kcp_plugin._native", reason="the native module was not built")

# Behind the check: they need the native module.
from easytier_kcp_plugin.stack import driver, smoltcp  # noqa: E402
from easytier_kcp_plugin.stack.driver import LinkDriver  # noqa: E402
from easytier_kcp_plugin.stack.rewrite import syn_sequence  # noqa: E402
from easytier_kcp_plugin.stack.smoltcp import SmoltcpStack  # noqa: E402

pytestmark = pytest.mark.anyio

FIRST_SYN = device_frame(tcp_segment(ports=(40_000, 80)))


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
