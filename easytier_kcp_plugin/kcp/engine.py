"""The face of an ARQ engine: `Engine` for one conversation, `Path` for all conversations with one peer.  No implementation.

`session.py` and `endpoint.py` know engines by these alone.  Datagrams (bodies of ACK|DATA packets) and bytes go in; bytes come
out; what leaves for the network is decided by the path, for all its conversations at once, so that it can share out and pace
what one peer gets. All of it is sans-IO: `now` is seconds of a monotonic clock that never steps back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from easytier_kcp_plugin.kcp.conn_data import Offer
from easytier_kcp_plugin.kcp.segment_size import SegmentSize


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counters of one conversation, for monitors.  What an engine cannot know is None."""

    datagrams_sent: int
    datagrams_received: int
    datagrams_rejected: int
    """Broken ones."""
    segments_new: int
    """PUSH segments, without repetitions."""
    segments_repeated: int | None
    segments_in_flight: int
    """Sent and not acknowledged."""
    peer_window: int
    """Segments."""
    window: int
    """Segments that may be in flight: the lesser of the peer's window and our own."""
    waiting_bytes: int
    """Written and not acknowledged; may be an upper bound."""
    rtt: float | None = None
    """Seconds, smoothed; this and the next four are of the path, which other conversations share."""
    lowest_rtt: float | None = None
    rate: float | None = None
    """Bytes a second that the path carries, headers included."""
    path_inflight_bytes: int | None = None
    loss: float | None = None
    """Share of transmissions."""
    repairs: int | None = None
    """Of segments that were taken for lost, or that held the peer's window up."""
    copies: int | None = None
    """Sent beforehand, beside a repair or after the last segment."""
    probes: int | None = None
    """Timeouts."""
    spurious_losses: int | None = None
    duplicates_received: int | None = None


class Engine(Protocol):
    """The reliable byte streams, both directions, of one conversation.  No method but `send` takes memory of an unbounded
    size."""

    def input(self, datagram: bytes, now: float) -> None:
        """Take a body in.  Never raises: what is broken is counted and skipped."""
        ...

    def input_all(self, datagrams: Sequence[bytes], now: float) -> None:
        """`input` for each of a batch."""
        ...

    def send(self, data: bytes | memoryview) -> int:
        """Take bytes to send; returns how many were taken, 0 if the buffer is full."""
        ...

    def receive(self, limit: int) -> bytes:
        """Up to `limit` bytes (at least 1) that arrived in order; b"" if there are none.  This is what opens the receive
        window again."""
        ...

    def meet(self, offer: Offer) -> None:
        """The peer is of our kind and says this of itself.  Without this call the rules for stock hold."""
        ...

    def ask(self, now: float, *, again: bool = False) -> None:
        """Ask the peer for a segment (WASK) at the next pump and then at growing intervals, until one comes.

        While it is being asked, this has no effect; with `again` it begins anew.
        """
        ...

    def close(self) -> bytes:
        """Drop all buffers and leave the path.  Only `statistics` and `release` may be called later.

        Returns what came in order and was not received; it counts as memory of the engine until `release`.
        """
        ...

    def release(self) -> None:
        """After `close`: what it has returned is gone as well.  Twice is as once."""
        ...

    @property
    def readable(self) -> bool:
        """Whether `receive` would return something."""
        ...

    @property
    def room(self) -> int:
        """Bytes that `send` would take."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """Bytes taken and not acknowledged, at most."""
        ...

    @property
    def drained(self) -> bool:
        """Whether all that was taken has been acknowledged."""
        ...

    @property
    def heard(self) -> bool:
        """Whether any valid segment of the peer has come: the proof that an engine is there."""
        ...

    @property
    def got_payload(self) -> bool:
        """Whether any byte of the peer has come, in order or not."""
        ...

    @property
    def emptied_at(self) -> float | None:
        """Since when it is known that the peer got everything and has passed it on: its window is stock's, or the largest seen.

        None if it is not so.  With nothing ever sent, the time of the engine's start.
        """
        ...

    @property
    def in_flight(self) -> bool:
        """Whether segments have been sent and are not acknowledged."""
        ...

    @property
    def progress_at(self) -> float:
        """When the peer last acknowledged something new, or when, after nothing was in flight, something was sent."""
        ...

    @property
    def alive_at(self) -> float:
        """The same, or when the peer last said that its window is shut: its reader may sleep for as long as it likes."""
        ...

    @property
    def statistics(self) -> EngineStatistics:
        """As of now."""
        ...


class Path(Protocol):
    """What the conversations with one peer share.  It may outlive them: what it learnt serves the next one."""

    @property
    def offer(self) -> Offer:
        """What to tell a peer of our kind about engines on this path."""
        ...

    @property
    def size(self) -> SegmentSize | None:
        """How large its segments may be; None if they never change."""
        ...

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; None before the first sample."""
        ...

    def sample_rtt(self, seconds: float) -> None:
        """Tell of a round trip that was measured outside of engines, such as SYN to SYN|ACK."""
        ...

    def open(self, conv: int, receive_window: int, now: float, *, largest: int = 0, stream: bool = False) -> Engine:
        """A new engine on this path.  Its `receive_window`, in segments, may grow to `largest` if a stock peer needs more;
        `stream`: the path is at present a tunnel that repeats what it loses."""
        ...

    def pump(self, now: float) -> tuple[list[tuple[Engine, list[bytes]]], float | None]:
        """What may leave now, by conversation, and when to ask again; None means after the next call to one of its engines."""
        ...


PathFactory: TypeAlias = Callable[[], Path]
