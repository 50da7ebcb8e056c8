"""One flow between two streams, from connected to ended: the pump, its counters, its end on both sides, and the words for it.

Each direction is pumped on its own, so that half-closes stay half-closes.  A clean end of both directions closes both streams;
whatever breaks one resets the other, so that an application never takes a broken transfer for a finished one.  Streams come
from plugins: one that raises what it may not ends its own flow alone.  Back-pressure is that of the streams: one chunk of at
most 64 KiB is in the pump for each direction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import anyio

from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import Closed, Counters, Failed, FlowEvent, HalfClosed, Measures

logger = logging.getLogger("easytier.flows")

# Ours.
CHUNK: Final = 65_536
"""Bytes a read may bring: large enough that the loop's cost per chunk does not show."""
COUNTERS_INTERVAL: Final = 1.0
CLOSE_TIMEOUT: Final = 70.0
"""Seconds for the last bytes of a flow to be acknowledged; a KCP session itself gives up after 60."""

Side: TypeAlias = Literal["source", "destination"]
Report: TypeAlias = Callable[[FlowEvent], object]


@dataclass(slots=True)
class Tally:
    """What passed, in bytes."""

    from_source: int = 0
    from_destination: int = 0
    moved: anyio.Event = field(default_factory=anyio.Event)
    """Set when bytes pass, so that nobody has to look at a flow that is silent."""


class RelayError(Exception):
    """A stream broke before both directions had ended; `side` is the stream that broke."""

    def __init__(self, side: Side, cause: BaseException) -> None:
        # Who writes to what has been reset reads EPIPE.
        self.is_reset = isinstance(cause, ConnectionResetError | BrokenPipeError)
        super().__init__(f"reset by the {side}" if self.is_reset else f"the {side} broke off{_words(cause)}")
        self.side: Side = side


async def carry(source: TcpConnection, destination: TcpConnection, report: Report) -> None:
    """Pump until the flow has ended, `report` what happens up to Closed or Failed, and leave both streams closed."""
    tally = Tally()
    reported = (0, 0)

    def count() -> None:
        nonlocal reported
        if reported != (tally.from_source, tally.from_destination):
            reported = (tally.from_source, tally.from_destination)
            try:
                measures = destination.measure() or source.measure() or Measures()
            except Exception:
                logger.exception("a connection failed to measure itself")
                measures = Measures()
            report(Counters(*reported, measures.rtt, measures.retransmitted, measures.window, measures.in_flight))

    async def count_for_ever() -> None:
        while True:
            await tally.moved.wait()
            tally.moved = anyio.Event()
            await anyio.sleep(COUNTERS_INTERVAL)
            count()

    end: Closed | Failed = Failed("this node stops")
    ended = False
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count_for_ever)
            await relay(source, destination, tally, lambda side: report(HalfClosed(side)))
            tasks.cancel_scope.cancel()
        with anyio.fail_after(CLOSE_TIMEOUT):
            await destination.aclose()
            await source.aclose()
        end, ended = Closed("FIN both ways"), True
    except* RelayError as errors:
        error = _only(errors)
        broken = source if isinstance(error, RelayError) and error.side == "source" else destination
        if isinstance(error, RelayError) and error.is_reset and (tally.from_source or tally.from_destination):
            # An application that has had what it wanted may end so; iperf3 does.
            end = Closed(str(error))
        else:
            end = Failed(_reason_of(broken) or str(error))
    except* (anyio.BrokenResourceError, anyio.ClosedResourceError, TimeoutError, OSError) as errors:
        error = _only(errors)
        timed_out = isinstance(error, TimeoutError) and not str(error)
        end = Failed(f"its ends did not close{f' within {CLOSE_TIMEOUT:g} s' if timed_out else _words(error)}")
    except* Exception:
        logger.exception("a connection failed in a way that it may not")
        end = Failed("one of its connections failed, see the log")
    finally:
        if not ended:
            for stream in (source, destination):
                await _drop(stream)
        count()
        report(end)


def checked(connection: object) -> TcpConnection:
    """What a plugin gave for a connection; raises TypeError if it is none."""
    if not isinstance(connection, TcpConnection):
        raise TypeError(f"not a TcpConnection: {connection!r:.100}")
    return connection


async def relay(
    source: TcpConnection, destination: TcpConnection, tally: Tally, on_half_close: Callable[[Side], object]
) -> None:
    """Pump until both directions have ended; raises `RelayError` if one of the streams breaks.  Closes neither."""

    async def pump(side: Side, reader: TcpConnection, writer: TcpConnection) -> None:
        other: Side = "destination" if side == "source" else "source"
        while True:
            try:
                chunk = await reader.receive(CHUNK)
            except anyio.EndOfStream:
                break
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise RelayError(side, error.__cause__ or error) from None
            tally.moved.set()
            if side == "source":
                tally.from_source += len(chunk)
            else:
                tally.from_destination += len(chunk)
            try:
                await writer.send(chunk)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise RelayError(other, error.__cause__ or error) from None
        on_half_close(side)
        try:
            await writer.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise RelayError(other, error) from None

    try:
        async with anyio.create_task_group() as directions:
            directions.start_soon(pump, "source", source, destination)
            directions.start_soon(pump, "destination", destination, source)
    except* RelayError as errors:
        raise _only(errors) from None


def _reason_of(stream: TcpConnection) -> str | None:
    try:
        return stream.end_reason
    except Exception:
        logger.exception("a connection failed to say why it broke")
        return None


async def _drop(stream: TcpConnection) -> None:
    try:
        stream.reset()
        with anyio.move_on_after(1, shield=True):
            await stream.aclose()
    except Exception:
        logger.exception("a connection failed to end")


def _words(error: BaseException) -> str:
    """What an error says to users, as a clause; a class of ours or anyio's says nothing."""
    words = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return f": {words}" if words else ""


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
