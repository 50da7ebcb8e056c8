"""One flow between two streams, from connected to ended: the pump, its counters, its end on both sides, and the words for it.

Used by both sides of the proxy.  A clean end on both directions closes both streams; whatever breaks one resets the other, so
that an application never takes a broken transfer for a finished one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import ByteStream

from easytier_hooks.services import HostServices
from easytier_hooks.types import Closed, Counters, Failed, HalfClosed, TcpFlow
from easytier_kcp_plugin.kcp.stream import EndpointDriver, KcpStream
from easytier_kcp_plugin.proxy.relay import RelayError, Side, Tally, relay

COUNTERS_INTERVAL: Final = 1.0
CLOSE_TIMEOUT: Final = 70.0
"""Seconds for the last bytes of a flow to be acknowledged; the KCP session itself gives up after 60."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One of the two streams of a flow.  After `reset`, closing it tells the other end that this was no clean end."""

    stream: ByteStream
    reset: Callable[[], None]
    why_broken: Callable[[], str | None] = lambda: None
    """What the stream knows of its end, in a user's words."""


async def carry(
    host: HostServices,
    flow: TcpFlow,
    source: Leg,
    destination: Leg,
    measure: Callable[[], tuple[float | None, int | None]],
    *,
    early_end_is_refusal: bool,
) -> None:
    """Pump until the flow has ended, report it, and leave both streams closed.

    `measure` gives RTT (seconds) and repeated segments.  With `early_end_is_refusal` an end of the destination before any byte
    and before the source's own end counts as a refused connection: a stock node has no other word for it.
    """
    tally = Tally()
    reported = (0, 0)
    ends: set[Side] = set()
    refused = False

    def on_half_close(side: Side) -> None:
        nonlocal refused
        if early_end_is_refusal and side == "destination" and not ends and not tally.from_destination:
            refused = True
            raise RelayError("destination", ConnectionRefusedError())
        ends.add(side)
        host.flow_event(flow, HalfClosed(side))

    def count() -> None:
        nonlocal reported
        if reported != (tally.from_source, tally.from_destination):
            reported = (tally.from_source, tally.from_destination)
            host.flow_event(flow, Counters(*reported, *measure()))

    async def count_for_ever() -> None:
        while True:
            await anyio.sleep(COUNTERS_INTERVAL)
            count()

    end: Closed | Failed = Failed("this node stops")
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count_for_ever)
            await relay(source.stream, destination.stream, tally, on_half_close)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(CLOSE_TIMEOUT):
            await destination.stream.aclose()
            await source.stream.aclose()
        end = Closed("FIN both ways")
    except* RelayError as errors:
        error = _only(errors)
        leg = source if isinstance(error, RelayError) and error.side == "source" else destination
        end = Failed("the peer could not reach the destination" if refused else leg.why_broken() or str(error))
    except* (anyio.BrokenResourceError, anyio.ClosedResourceError, TimeoutError, OSError) as errors:
        end = Failed(f"did not close: {_only(errors)!r}")
    finally:
        if isinstance(end, Failed):
            for leg in (source, destination):
                leg.reset()
                with anyio.move_on_after(1, shield=True):
                    await leg.stream.aclose()
        count()
        host.flow_event(flow, end)


def kcp_leg(stream: KcpStream) -> Leg:
    """The leg that is a KCP stream."""
    return Leg(stream, stream.reset, lambda: stream.session.reason and f"KCP: {stream.session.reason}")


def measure(driver: EndpointDriver, stream: KcpStream) -> tuple[float | None, int | None]:
    """RTT to the peer in seconds, and segments of the stream sent more than once; None where unknown."""
    statistics = stream.session.statistics
    return driver.endpoint.rtt(stream.session.peer_id), None if statistics is None else statistics.segments_repeated


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
