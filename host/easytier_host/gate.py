"""Where plugins meet the packets: each TCP flow of the device passes here once, to be told of, judged, and perhaps handed over.

::

    device frame --claimed by a transport--------------------------------------> its handler
         |-- not a new flow, or not TCP ----------------------------------------> on, as it is
         '-- TCP SYN of a new flow: on_tcp_flow; one candidate and nobody asks --> on
                 else HELD: select_transport (bounded) -> Transport.open (bounded) -> the transport has claimed the flow
                                                             '-- cannot: the SYN goes on untouched, as plain TCP

A flow's decision is made once and kept.  What costs anything is done per flow; per super-packet there are two look-ups.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.services import FrameHandler, Transport
from easytier_hooks.types import (
    TCP,
    Candidate,
    Connecting,
    Direction,
    Failed,
    FlowEvent,
    FlowKey,
    PeerInfo,
    Selection,
    TcpFlow,
    TransportSelected,
)
from easytier_host.flows import ACK, SYN, Flow, FlowTable, encode_key, segment_key
from easytier_host.sockets import abort

logger = logging.getLogger("easytier.flows")

# Ours.
OPEN_TIMEOUT: Final = 10.0
"""Seconds that a transport may take to open a flow, whatever its own bound: the application's TCP SYN is held all the while."""
MAX_HELD: Final = 1024
"""Flows whose SYN is held at once; the next ones are not asked about and go by plain TCP."""


class FlowHooks(Protocol):
    """What the gate needs of the plugin manager."""

    @property
    def asks_for_transport(self) -> bool: ...

    def notify_flow(self, flow: TcpFlow, event: FlowEvent) -> None: ...

    def select_now(self, flow: TcpFlow, peer: PeerInfo | None, candidates: Sequence[Candidate]) -> Selection: ...

    async def select(self, flow: TcpFlow, peer: PeerInfo | None, candidates: Sequence[Candidate]) -> Selection: ...


class FlowGate:
    """Watches and judges the flows of one node.

    `forward` sends device frames into the overlay; `peer_for` says which peer has an address.
    """

    def __init__(
        self,
        table: FlowTable,
        hooks: FlowHooks,
        tasks: TaskGroup,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        *,
        forward: Callable[[list[bytes]], object],
        peer_for: Callable[[IPv4Address | IPv6Address], PeerInfo | None],
    ) -> None:
        self.table = table
        self.transports: dict[str, Transport] = {}
        self._hooks = hooks
        self._tasks = tasks
        self._clock = clock
        self._wall_clock = wall_clock
        self._forward = forward
        self._peer_for = peer_for
        self._claims: dict[bytes, FrameHandler] = {}
        self._deciding: dict[bytes, anyio.CancelScope] = {}
        """Of the flows whose SYN is held."""
        self._held = 0

    def admit(self, frames: list[bytes]) -> list[bytes]:
        """Sort device frames: returns those that go on into the overlay now."""
        passed: list[bytes] = []
        claimed: dict[bytes, list[bytes]] = {}
        now, wall_now = self._clock(), self._wall_clock()
        claims, look = self._claims, self.table.look
        for frame in frames:
            if claims:
                found = segment_key(frame)
                if found is not None and found[0] in claims:
                    batch = claimed.setdefault(found[0], [])
                    if not self._begins_anew(frame, *found):
                        batch.append(frame)
                        continue
                    del claimed[found[0]]
                    self._end_claim(found[0], batch, frame)
            flow = look(frame, 10, now, wall_now, "outbound")
            if flow is None:
                # A repeated TCP SYN of a flow that is still being judged; its first one is kept.
                if self._held and self._is_held(frame):
                    continue
                passed.append(frame)
            elif self._judge(flow, frame):
                passed.append(frame)
        self.publish()
        for raw_key, batch in claimed.items():
            handler = claims.get(raw_key)
            if handler is not None:
                self._call(handler, batch)
        return passed

    def watch_inbound(self, packets: Sequence[bytes]) -> None:
        """Watch packets that a peer sent to this node."""
        now, wall_now = self._clock(), self._wall_clock()
        look = self.table.look
        for packet in packets:
            flow = look(packet, 0, now, wall_now, "inbound")
            if flow is not None:
                flow.peer = self._peer_for(flow.key.source_ip)
                self._settle(flow, Selection(TCP, "came as plain TCP", "peer"))
        self.publish()

    def tick(self) -> None:
        """To be called about once a second."""
        self.table.tick(self._clock())
        self.publish()

    def publish(self) -> None:
        """Tell the plugins what the table has noted."""
        events = self.table.events
        if events:
            self.table.events = []
            for flow, event in events:
                logger.debug("flow %d, %s: %s", flow.id, flow.key, event)
                self._hooks.notify_flow(flow.snapshot(), event)

    def claim(self, key: FlowKey, handler: FrameHandler) -> Callable[[], None]:
        """See `HostServices.claim`."""
        raw_key = encode_key(key)
        if raw_key in self._claims:
            raise ValueError(f"{key} is claimed already")
        self._claims[raw_key] = handler

        def end() -> None:
            if self._claims.get(raw_key) is handler:
                del self._claims[raw_key]

        return end

    def open_flow(self, key: FlowKey, direction: Direction, peer: PeerInfo | None, selection: Selection) -> TcpFlow:
        """See `HostServices.open_flow`.  With a full table the flow goes unwatched: its id is 0, which no table holds."""
        flow = self.table.open(key, direction, peer, self._clock(), self._wall_clock())
        if flow is None:
            return TcpFlow(0, key, direction, peer, self._wall_clock(), selection.transport, selection.reason)
        self._settle(flow, selection, connecting=False)
        return flow.snapshot()

    async def carry(self, key: FlowKey, connection: socket.socket) -> None:
        """Carry a flow that entered at a port of this node, until it has ended; `connection` is its source, and closed then.

        Only transports other than plain TCP can: without a device nothing here makes TCP segments.
        """
        peer = self._peer_for(key.destination_ip)
        flow = self.table.open(key, "forwarded", peer, self._clock(), self._wall_clock())
        if flow is None:
            abort(connection)
            return
        snapshot = flow.snapshot()
        refusal: str | None = f"no peer has {key.destination_ip}"
        if peer is not None:
            candidates = self._candidates(snapshot)
            candidates[-1] = Candidate(TCP, available=False, reason="plain TCP from a port forward is not supported")
            selection = await self._hooks.select(snapshot, peer, candidates)
            self._settle(flow, selection)
            refusal = f"{candidates[0].reason}; {candidates[-1].reason}"
            if selection.transport != TCP:
                transport = self.transports[selection.transport]
                refusal = await self._attempt(flow, selection.transport, partial(transport.carry, flow.snapshot(), connection))
        if refusal is not None:
            logger.warning("flow %s cannot be carried: %s", key, refusal)
            self.report(flow.id, Failed(refusal))
            abort(connection)

    def report(self, flow_id: int, event: FlowEvent) -> None:
        """See `HostServices.flow_event`."""
        flow = self.table.get(flow_id)
        if flow is None or not self.table.report(flow, event, self._clock()):
            logger.debug("event %s of flow %d came after its end", type(event).__name__, flow_id)
        self.publish()

    def _begins_anew(self, frame: bytes, raw_key: bytes, tcp: int) -> bool:
        """Whether a claimed frame is the TCP SYN of a new flow, between the ends of one that its source has done with."""
        if frame[tcp + 13] & (SYN | ACK) != SYN:
            return False
        flow = self.table.find(raw_key)
        return flow is not None and flow.first_sequence != frame[tcp + 4 : tcp + 8]

    def _end_claim(self, raw_key: bytes, batch: list[bytes], syn: bytes) -> None:
        """The last that a handler gets: what came before `syn`, and that as the news of the flow's end, if it knew of none."""
        handler = self._claims.pop(raw_key)
        flow = self.table.find(raw_key)
        if flow is not None and flow.ended is None:
            batch.append(syn)
        if batch:
            self._call(handler, batch)

    def _is_held(self, frame: bytes) -> bool:
        found = segment_key(frame)
        flow = self.table.find(found[0]) if found is not None else None
        return flow is not None and flow.held

    def _judge(self, flow: Flow, frame: bytes) -> bool:
        """Decide on a new flow; False if its SYN is held back, or goes nowhere."""
        flow.peer = self._peer_for(flow.key.destination_ip)
        snapshot = flow.snapshot()
        if flow.peer is None:
            reason = f"no peer has {flow.key.destination_ip}"
            self._settle(flow, Selection(TCP, reason, "default"))
            self.table.report(flow, Failed(reason), self._clock())
            return True
        candidates = self._candidates(snapshot)
        nobody_asks = not self._hooks.asks_for_transport and not any(c.available for c in candidates[:-1])
        if nobody_asks or self._held >= MAX_HELD:
            reason = candidates[0].reason if len(candidates) > 1 else "no other transport"
            if not nobody_asks:
                reason = f"{MAX_HELD} flows are being decided on already"
            self._settle(flow, Selection(TCP, reason, "default"))
            return True
        flow.held = True
        self._held += 1
        superseded = self._deciding.get(flow.raw_key)
        if superseded is not None:
            superseded.cancel()
        scope = self._deciding[flow.raw_key] = anyio.CancelScope()
        self._tasks.start_soon(self._decide, flow, snapshot, candidates, frame, scope, name=f"flow {flow.id}")
        return False

    def _candidates(self, flow: TcpFlow) -> list[Candidate]:
        """The transports' own words on a flow, plain TCP last."""
        candidates = []
        for name, transport in self.transports.items():
            try:
                candidate: object = transport.candidate(flow, flow.peer)
                if not isinstance(candidate, Candidate) or candidate.transport != name:
                    raise TypeError(f"not a candidate of its own: {candidate!r:.100}")
                candidates.append(candidate)
            except Exception:
                logger.exception("transport %s failed to judge flow %s", name, flow.key)
                candidates.append(Candidate(name, available=False, reason=f"{name} failed, see the log"))
        return [*candidates, Candidate(TCP, available=True, reason="plain TCP is always there")]

    async def _decide(
        self, flow: Flow, snapshot: TcpFlow, candidates: list[Candidate], frame: bytes, scope: anyio.CancelScope
    ) -> None:
        taken = True
        try:
            # Cancelled when the application has given up and begins anew from the same port.
            with scope:
                taken = await self._is_taken(flow, snapshot, candidates, frame)
        finally:
            flow.held = False
            self._held -= 1
            if self._deciding.get(flow.raw_key) is scope:
                del self._deciding[flow.raw_key]
            self.publish()
        if not taken:
            self._forward([frame])

    async def _is_taken(self, flow: Flow, snapshot: TcpFlow, candidates: list[Candidate], frame: bytes) -> bool:
        """Ask and open; whether a transport other than plain TCP has the flow now."""
        selection = await self._hooks.select(snapshot, flow.peer, candidates)
        self._settle(flow, selection)
        if selection.transport == TCP:
            return False
        refusal = await self._open(flow, frame)
        if refusal is not None:
            self._settle(flow, Selection(TCP, f"{selection.transport}: {refusal}", "fallback"))
        return refusal is None

    async def _open(self, flow: Flow, frame: bytes) -> str | None:
        """Let the selected transport take the flow over; returns why it could not."""
        name = flow.transport or ""
        flow.reported_by_transport = True
        refusal = await self._attempt(flow, name, partial(self.transports[name].open, flow.snapshot(), frame), OPEN_TIMEOUT)
        if refusal is not None:
            flow.reported_by_transport = False
            # A claim left behind would swallow the flow that goes on as plain TCP.
            self._claims.pop(flow.raw_key, None)
        return refusal

    async def _attempt(
        self, flow: Flow, name: str, action: Callable[[], Awaitable[None]], limit: float = math.inf
    ) -> str | None:
        """Await what a transport does for a flow, at most `limit` seconds; returns why it failed, None if it did not."""
        try:
            with anyio.move_on_after(limit) as scope:
                await action()
        except TransportUnavailable as error:
            return error.reason
        except Exception:
            logger.exception("transport %s failed on flow %s", name, flow.key)
            return "failed, see the log"
        return f"did not open in {limit:g} s" if scope.cancelled_caught else None

    def _settle(self, flow: Flow, selection: Selection, *, connecting: bool = True) -> None:
        # What happened before is told with the flow as it was.
        self.publish()
        now = self._clock()
        self.table.report(flow, TransportSelected(selection.transport, selection.reason, selection.chosen_by), now)
        if connecting:
            self.table.report(flow, Connecting(), now)
        self.publish()

    def _call(self, handler: FrameHandler, frames: list[bytes]) -> None:
        try:
            handler(frames)
        except Exception:
            logger.exception("the handler of a claimed flow failed; %d frames are lost", len(frames))
