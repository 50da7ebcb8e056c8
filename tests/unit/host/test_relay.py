"""How a flow ends whose streams break, in words for users: no name of a class, and no number of an error."""

from __future__ import annotations

import errno
import os

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError

from easytier_hooks.types import Closed, Counters, Failed, FlowEvent, HalfClosed, Measures
from easytier_host import relay

pytestmark = pytest.mark.anyio


class Stream:
    """Ends at once, but for what is said to break it."""

    stack = ""
    end_reason: str | None = None

    def __init__(
        self, reading: Exception | None = None, writing: Exception | None = None, closing: Exception | None = None
    ) -> None:
        self._reading, self._writing, self._closing = reading, writing, closing
        self.chunks = [b"x"]
        self.hangs = False

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if self.chunks:
            return self.chunks.pop()
        raise self._reading or anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self._writing is not None:
            raise self._writing

    async def send_eof(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.hangs:
            await anyio.sleep_forever()
        if self._closing is not None:
            raise self._closing

    def reset(self) -> None:
        self.hangs = False

    def measure(self) -> Measures | None:
        return None


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


async def end_of(source: Stream, destination: Stream) -> FlowEvent:
    said: list[FlowEvent] = []
    with anyio.fail_after(5):
        await relay.carry(source, destination, said.append)  # type: ignore[arg-type]
    *before, end = said
    assert all(isinstance(event, Counters | HalfClosed) for event in before)
    return end


UNREACHABLE = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))


@pytest.mark.parametrize(
    ("source", "destination", "end"),
    [
        (Stream(BrokenResourceError()), Stream(), Failed("the source broke off")),
        (Stream(), Stream(ClosedResourceError()), Failed("the destination broke off")),
        (Stream(), Stream(caused(BrokenResourceError(), UNREACHABLE)), Failed("the destination broke off: No route to host")),
        (
            Stream(),
            Stream(caused(BrokenResourceError(), TimeoutError("no answer"))),
            Failed("the destination broke off: no answer"),
        ),
        (Stream(caused(BrokenResourceError(), ConnectionResetError())), Stream(), Closed("reset by the source")),
        (Stream(), Stream(writing=caused(BrokenResourceError(), BrokenPipeError())), Closed("reset by the destination")),
        (Stream(), Stream(closing=UNREACHABLE), Failed("its ends did not close: No route to host")),
        (Stream(), Stream(closing=BrokenResourceError()), Failed("its ends did not close")),
        (Stream(), Stream(), Closed("FIN both ways")),
    ],
)
async def test_an_end_has_words(source: Stream, destination: Stream, end: FlowEvent) -> None:
    for stream in (source, destination):
        stream.chunks = [b"x"]
    assert await end_of(source, destination) == end


async def test_an_end_that_does_not_come_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CLOSE_TIMEOUT", 0.01)
    slow = Stream()
    slow.hangs = True
    assert await end_of(Stream(), slow) == Failed("its ends did not close within 0.01 s")
