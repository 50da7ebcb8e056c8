"""The byte pump between two streams: each direction on its own, so that half-closes stay half-closes.

A direction that ends is passed on as an end; an error in either direction ends both.  Back-pressure is that of the streams:
one chunk of at most 64 KiB is in the pump for each direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import anyio
from anyio.abc import ByteStream

CHUNK: Final = 65_536
"""Bytes a read may bring: large enough that the loop's cost per chunk does not show."""

Side = Literal["source", "destination"]


@dataclass(slots=True)
class Tally:
    """What passed, in bytes."""

    from_source: int = 0
    from_destination: int = 0


class RelayError(Exception):
    """A stream broke before both directions had ended; `side` is the stream that broke."""

    def __init__(self, side: Side, cause: BaseException) -> None:
        if isinstance(cause, ConnectionResetError):
            super().__init__(f"reset by the {side}")
        else:
            super().__init__(f"the {side} side broke: {str(cause) or type(cause).__name__}")
        self.side: Side = side


async def relay(source: ByteStream, destination: ByteStream, tally: Tally, on_half_close: Callable[[Side], None]) -> None:
    """Pump until both directions have ended; raises `RelayError` if one of the streams breaks.  Closes neither."""

    async def pump(side: Side, reader: ByteStream, writer: ByteStream) -> None:
        other: Side = "destination" if side == "source" else "source"
        while True:
            try:
                chunk = await reader.receive(CHUNK)
            except anyio.EndOfStream:
                break
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise RelayError(side, error.__cause__ or error) from None
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
        raise _first(errors) from None


def _first(group: BaseExceptionGroup[RelayError]) -> RelayError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RelayError)
    return error
