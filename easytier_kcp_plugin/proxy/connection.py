"""A KCP stream as the host's relay sees it: a TCP connection that knows why it ended, and how it fares."""

from __future__ import annotations

import anyio

from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import Measures
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.stream import EndpointDriver, KcpStream


class KcpConnection(TcpConnection):
    """One KCP stream; owns it.  `opened_here`: this node opened it, and the peer dials."""

    def __init__(self, driver: EndpointDriver, stream: KcpStream, *, opened_here: bool) -> None:
        self._driver = driver
        self._stream = stream
        # Stock ends the stream when it cannot reach the destination; a peer of our kind resets it.
        self._early_end_is_refusal = opened_here and stream.session.peer_offer is None
        self._refused = False

    def confirm(self) -> None:
        """See `TcpConnection`.  A peer of our kind waits for it."""
        self._stream.confirm()

    def refuse(self, error: OSError) -> None:
        """See `TcpConnection`.  A peer of our kind that waits tells a refusal from a destination out of our reach."""
        refused = isinstance(error, ConnectionRefusedError)
        self._stream.reset(CloseReason.ABORTED if refused else CloseReason.DESTINATION_UNREACHABLE)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """See `TcpConnection`.  A stock peer's end before any byte and before our own end is a ConnectionRefusedError."""
        try:
            data = await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            if not self._early_end_is_refusal:
                raise
            self._refused = True
            raise anyio.BrokenResourceError from ConnectionRefusedError()
        self._early_end_is_refusal = False
        return data

    async def send(self, item: bytes) -> None:
        """Return once the stream has taken all; raises BrokenResourceError or ClosedResourceError."""
        await self._stream.send(item)

    async def send_eof(self) -> None:
        """End our direction after what was sent."""
        self._early_end_is_refusal = False
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """End our direction after what was sent, and drop what still comes.

        If the peer has ended its own, return once it has all that was sent, or raise BrokenResourceError if it does not get it:
        a node that waits for its flows before it stops must not count this one as over before.
        """
        session = self._stream.session
        ends_here = session.reason is None and session.at_eof
        await self._stream.aclose()
        if ends_here:
            await self._stream.wait_over()

    def reset(self) -> None:
        """See `TcpConnection`."""
        self._stream.reset()

    @property
    def end_reason(self) -> str | None:
        """Why the session ended."""
        if self._refused:
            return str(CloseReason.DESTINATION_REFUSED)
        reason = self._stream.session.reason
        return None if reason is None else f"KCP: {reason}"

    def measure(self) -> Measures | None:
        """RTT to the peer, and the figures of the stream's engine."""
        session = self._stream.session
        rtt, statistics = self._driver.endpoint.rtt(session.peer_id), session.statistics
        if statistics is None:
            return None if rtt is None else Measures(rtt)
        return Measures(rtt, statistics.segments_repeated, statistics.window, statistics.segments_in_flight)
