"""Where plugins meet the packets: each TCP flow of the device passes here once, to be told of, judged, and perhaps handed over.

::

    device frame --claimed by a TCP stack--------------------------------------> its handler
         |-- not a new flow, or not TCP ----------------------------------------> on, as it is
         '-- TCP SYN of a new flow: on_tcp_flow; one candidate and nobody asks --> on
                 else HELD: select_transport -> Transport.dial -> TcpStack.terminate -> relay      (all three bounded)
                                                   |                '-- cannot --> the SYN goes on untouched, as plain TCP
                                                   '-- the destination refuses, or is out of reach --> RST, ICMP error

    port forward, SOCKS5, program: dial: select_transport -> Transport.dial -> relay
                                                             '-- cannot --> plain TCP, begun by this node

A flow's decision is made once and kept.  What costs anything is done per flow; per super-packet there are two look-ups.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.errors import DestinationUnreachable, TransportUnavailable
from easytier_hooks.loading import PluginInfo, PluginState
from easytier_hooks.selection import default
from easytier_hooks.services import Link, TcpStack, Transport
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import (
    TCP,
    Candidate,
    Connected,
    Connecting,
    Direction,
    Failed,
    FlowEvent,
    FlowKey,
    IPAddress,
    PeerInfo,
    Selection,
    TcpFlow,
    TransportSelected,
)
from easytier_host.claims import Claims
from easytier_host.flows import Flow, FlowTable, segment_key
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.relay import carry, checked
from easytier_host.stacks import obstacle_of
from easytier_host.tcp_reset import reset_for, unreachable_for

logger = logging.getLogger("easytier.flows")

# Ours.
TICK: Final = 1.0
"""Seconds."""
OPEN_TIMEOUT: Final = 10.0
"""Seconds that a transport may take to open a flow, whatever its own bound: the application's TCP SYN is held all the while."""
OWN_DESTINATION: Final = "the destination is this node"
MAX_HELD: Final = 1024
"""Flows whose SYN is held at once; the next ones are not asked about and go by plain TCP."""


class FlowHooks(Protocol):
    """What the gate needs of the plugin manager."""

    @property
    def asks_for_transport(self) -> bool: ...

    def notify_flow(self, flow: TcpFlow, event: FlowEvent) -> None: ...

    async def select(self, flow: TcpFlow, peer: PeerInfo | None, candidates: Sequence[Candidate]) -> Selection: ...


class PlainDialler(Protocol):
    """What the gate needs to begin plain TCP connections; `plain_tcp.PlainTcp`."""

    @property
    def obstacle(self) -> str: ...

    async def connect(self, key: FlowKey) -> TcpConnection: ...


def plain_alone(plugins: Sequence[PluginInfo]) -> str:
    """Why there is no transport but plain TCP, in a user's words; `plugins` are all that are known."""
    off = [plugin.name for plugin in plugins if plugin.state is PluginState.DISABLED]
    if not off:
        return "no plugin offers another transport"
    return f"no other transport: the plugin {' and '.join(off)} is switched off"


class FlowGate:
    """Watches and judges the flows of one node.

    `forward` sends device frames into the overlay; `peer_for` says which peer has an address, `is_own` whether this node has
    it.
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
        is_own: Callable[[IPv4Address | IPv6Address], bool],
    ) -> None:
        self.table = table
        self.transports: dict[str, Transport] = {}
        self.observers: list[Callable[[Flow, FlowEvent], None]] = []
        """Told of each event as it is published; quick, and they do not raise."""
        self.claims = Claims(table)
        """Those of the device."""
        self.device: Link | None = None
        self.stack: TcpStack | None = None
        """What ends the connections of the device, and why nothing does if it is None."""
        self.stack_obstacle = "no TCP stack"
        self.transport_obstacle = plain_alone(())
        """What users read where plain TCP is all there is."""
        self.plain: PlainDialler | None = None
        self.peer_for = peer_for
        self._is_own = is_own
        self._hooks = hooks
        self._tasks = tasks
        self._clock = clock
        self._wall_clock = wall_clock
        self._forward = forward
        self._deciding: dict[bytes, anyio.CancelScope] = {}
        """Of the flows whose SYN is held."""
        self._held = 0
        self._relayed: dict[int, tuple[TcpConnection, TcpConnection]] = {}
        self._unwatched = itertools.count(1)
        self._idle = anyio.Event()
        self._refuses = ""
        """Why no flow may begin any more."""

    def admit(self, frames: list[bytes]) -> list[bytes]:
        """Sort device frames: returns those that go on into the overlay now."""
        passed: list[bytes] = []
        now, wall_now = self._clock(), self._wall_clock()
        look = self.table.look
        for frame in self.claims.take(frames):
            flow = look(frame, 10, now, wall_now, "outbound")
            if flow is None:
                # A repeated TCP SYN of a flow that is still being judged; its first one is kept.
                if self._held and self._is_held(frame):
                    continue
                passed.append(frame)
            elif self._judge(flow, frame):
                passed.append(frame)
        self.publish()
        return passed

    def watch_inbound(self, packets: Sequence[bytes], offset: int = 0) -> None:
        """Watch packets or super-packets that a peer sent to this node; each begins at `offset` of its item."""
        now, wall_now = self._clock(), self._wall_clock()
        look = self.table.look
        for packet in packets:
            flow = look(packet, offset, now, wall_now, "inbound")
            if flow is not None:
                flow.peer = self.peer_for(flow.key.source_ip)
                self._settle(flow, Selection(TCP, "came as plain TCP", "peer"))
        self.publish()

    def refuse(self, syn: bytes, peer: PeerInfo | None, reason: str) -> None:
        """Show that a peer's TCP SYN, a device frame, was refused before it reached anything; a repeated one is shown once."""
        flow = self.table.look(syn, VNET_HEADER_SIZE, self._clock(), self._wall_clock(), "inbound")
        if flow is not None:
            flow.peer = peer
            self._settle(flow, Selection(TCP, "came as plain TCP", "peer"))
            self.table.report(flow, Failed(reason), self._clock())
        self.publish()

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            await anyio.sleep(TICK)
            self.tick()

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
                for observe in self.observers:
                    observe(flow, event)

    def open_flow(self, key: FlowKey, direction: Direction, peer: PeerInfo | None, selection: Selection) -> TcpFlow:
        """Announce a flow that a transport brought here; the caller reports the rest, up to Closed or Failed.

        With a full table it goes unwatched: its id is 0, which no table holds.
        """
        flow = self.table.open(key, direction, peer, self._clock(), self._wall_clock())
        if flow is None:
            return TcpFlow(0, key, direction, peer, self._wall_clock(), selection.transport, selection.reason)
        self._settle(flow, selection, connecting=False)
        return flow.snapshot()

    async def dial(self, key: FlowKey) -> tuple[int, TcpConnection]:
        """Begin a flow that enters at this node: connect to its destination by the selected transport, else by plain TCP.

        Returns the flow's id and the connection, both for `relay`.  Raises OSError, whose text is also the reported end of the
        flow: ConnectionRefusedError, TimeoutError, or another one where nothing leads there.  Takes at most 20 s.
        """
        flow = self.table.open(key, "forwarded", self.peer_for(key.destination_ip), self._clock(), self._wall_clock())
        if flow is None:
            raise OSError("this node watches as many flows as it can")
        self.publish()
        try:
            if self._refuses:
                raise ConnectionRefusedError(self._refuses)
            connection = await self._reach(flow)
        except BaseException as error:
            self.report(flow.id, Failed(str(error) if isinstance(error, OSError) else "given up by the source"))
            raise
        self.report(flow.id, Connected())
        return flow.id, connection

    async def carry(self, key: FlowKey, connection: TcpConnection) -> None:
        """Carry a flow that entered at a port of this node, until it has ended; `connection` is its source, and closed then."""
        try:
            flow_id, destination = await self.dial(key)
        except OSError as error:
            logger.info("flow %s cannot be carried: %s", key, error)
            connection.reset()
            return
        await self.relay(flow_id, connection, destination)

    async def relay(self, flow_id: int, source: TcpConnection, destination: TcpConnection) -> None:
        """Let bytes pass between the ends of a flow until it has ended; `close` may end it."""
        # Flows beyond the table have no number.
        key = flow_id or -next(self._unwatched)
        self._relayed[key] = source, destination
        flow = self.table.get(flow_id)
        if flow is not None:
            flow.stack = " and ".join(dict.fromkeys(filter(None, (source.stack, destination.stack))))
        try:
            await carry(source, destination, partial(self.report, flow_id))
        finally:
            self._relayed.pop(key, None)
            if not self._relayed:
                self._idle.set()
                self._idle = anyio.Event()

    def close(self, flow_id: int, reason: str) -> bool:
        """Reset a flow at both ends; False if it has ended, or passes as plain TCP, which ends where its connections are."""
        ends = self._relayed.get(flow_id)
        if ends is None:
            return False
        self.report(flow_id, Failed(reason))
        for end in ends:
            end.reset()
        return True

    @property
    def carried(self) -> int:
        """Flows between whose ends bytes pass here."""
        return len(self._relayed)

    def carried_to(self) -> set[IPAddress]:
        """The destinations of those that came by the device."""
        flows = map(self.table.get, self._relayed)
        return {flow.key.destination_ip for flow in flows if flow is not None and flow.direction == "outbound"}

    def refuse_new(self, reason: str) -> None:
        """From now on no flow begins at this node: applications are answered with RST, callers of `dial` get an OSError."""
        self._refuses = reason

    async def wait_idle(self) -> None:
        """Return once no flow is carried."""
        while self._relayed:
            await self._idle.wait()

    def close_all(self, reason: str) -> int:
        """Reset all flows that are carried; returns how many."""
        return sum([self.close(flow_id, reason) for flow_id in list(self._relayed)])

    async def explain(self, key: FlowKey) -> tuple[TcpFlow, list[Candidate], Selection]:
        """What a new flow of this node would get now.  Plugins are asked as for any other; its id is 0, which no flow has."""
        peer = self.peer_for(key.destination_ip)
        # Without a device flows begin at a port of ours.
        flow = TcpFlow(0, key, "forwarded" if self.device is None else "outbound", peer, self._wall_clock())
        if self._is_own(key.destination_ip):
            return flow, [], Selection(TCP, OWN_DESTINATION, "default")
        if peer is None:
            return flow, [], Selection(TCP, f"no peer has {key.destination_ip}", "default")
        candidates = self._candidates(flow)
        return flow, candidates, await self._hooks.select(flow, peer, candidates)

    def report(self, flow_id: int, event: FlowEvent) -> None:
        """Report what happens to a flow that a transport carries; an event after its end is ignored."""
        flow = self.table.get(flow_id)
        if flow is None or not self.table.report(flow, event, self._clock()):
            logger.debug("event %s of flow %d came after its end", type(event).__name__, flow_id)
        self.publish()

    def _is_held(self, frame: bytes) -> bool:
        found = segment_key(frame)
        flow = self.table.find(found[0]) if found is not None else None
        return flow is not None and flow.held

    def _judge(self, flow: Flow, frame: bytes) -> bool:
        """Decide on a new flow; False if its SYN is held back, or goes nowhere."""
        flow.peer = self.peer_for(flow.key.destination_ip)
        if self._refuses:
            self._settle(flow, Selection(TCP, self._refuses, "default"))
            self.table.report(flow, Failed(self._refuses), self._clock())
            if self.device is not None:
                self.device.write([reset_for(frame)])
            return False
        snapshot = flow.snapshot()
        if flow.peer is None:
            reason = f"no peer has {flow.key.destination_ip}"
            self._settle(flow, Selection(TCP, reason, "default"))
            self.table.report(flow, Failed(reason), self._clock())
            return True
        candidates = self._candidates(snapshot)
        nobody_asks = not self._hooks.asks_for_transport and not any(c.available for c in candidates[:-1])
        if nobody_asks or self._held >= MAX_HELD:
            busy = Selection(TCP, f"{MAX_HELD} flows are being decided on already", "default")
            self._settle(flow, default(candidates) if nobody_asks else busy)
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
        obstacle = self._obstacle(flow)
        candidates = []
        for name, transport in self.transports.items():
            try:
                candidate: object = transport.candidate(flow, flow.peer)
                if not isinstance(candidate, Candidate) or candidate.transport != name:
                    raise TypeError(f"not a candidate of its own: {candidate!r:.100}")
                if candidate.available and obstacle:
                    candidate = Candidate(name, available=False, reason=obstacle)
                candidates.append(candidate)
            except Exception:
                logger.exception("transport %s failed to judge flow %s", name, flow.key)
                candidates.append(Candidate(name, available=False, reason=f"{name} failed, see the log"))
        obstacle = self._plain_obstacle if flow.direction == "forwarded" else ""
        reason = obstacle or ("plain TCP is always there" if candidates else self.transport_obstacle)
        return [*candidates, Candidate(TCP, available=not obstacle, reason=reason)]

    @property
    def _plain_obstacle(self) -> str:
        """Why no plain TCP connection can begin here; "" if one can."""
        return self.plain.obstacle if self.plain is not None else "this node begins no plain TCP"

    def _obstacle(self, flow: TcpFlow) -> str:
        """Why nothing here can end the flow's connection; "" if something can."""
        if flow.direction != "outbound":
            return ""
        if self.stack is None or self.device is None:
            return self.stack_obstacle
        if not self.stack.carries_subnets and not self._is_own(flow.key.source_ip):
            return "subnet-to-subnet needs --use-smoltcp"
        return obstacle_of(self.stack)

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
        flow.reported_by_transport = True
        try:
            with anyio.fail_after(OPEN_TIMEOUT):
                await self._open(flow, frame)
        except (TransportUnavailable, TimeoutError) as error:
            flow.reported_by_transport = False
            # A claim left behind would swallow the flow that goes on as plain TCP.
            self.claims.drop(flow.raw_key)
            self._settle(flow, Selection(TCP, f"{selection.transport}: {_why(error)}", "fallback"))
            return False
        except (ConnectionRefusedError, DestinationUnreachable) as error:
            self.report(flow.id, Failed(_why(error)))
            if self.device is not None:
                answer = reset_for if isinstance(error, ConnectionRefusedError) else unreachable_for
                self.device.write([answer(frame)])
        return True

    async def _open(self, flow: Flow, frame: bytes) -> None:
        """Connect to the destination, then answer the source, and leave both to a relay; raises as `_dial`."""
        stack, device = self.stack, self.device
        if stack is None or device is None:
            raise TransportUnavailable(self.stack_obstacle)
        destination = await self._dial(flow)
        try:
            source = checked(await stack.terminate(device, flow.key, frame))
        except BaseException as error:
            destination.reset()
            if isinstance(error, Exception) and not isinstance(error, TransportUnavailable | TimeoutError):
                logger.exception("stack %s failed on flow %s", stack.name, flow.key)
                raise TransportUnavailable(f"stack {stack.name} failed, see the log") from None
            raise
        self.report(flow.id, Connected())
        self._tasks.start_soon(self.relay, flow.id, source, destination, name=f"flow {flow.id}")

    async def _reach(self, flow: Flow) -> TcpConnection:
        """Select and dial for a flow that enters at this node; raises OSError."""
        ip, obstacle = flow.key.destination_ip, self._plain_obstacle
        if self._is_own(ip):
            selection = Selection(TCP, OWN_DESTINATION, "default")
        elif flow.peer is None:
            raise OSError(f"no peer has {ip}")
        else:
            snapshot = flow.snapshot()
            candidates = self._candidates(snapshot)
            selection = await self._hooks.select(snapshot, flow.peer, candidates)
            if selection.transport == TCP and obstacle:
                raise OSError("; ".join(candidate.reason for candidate in candidates))
        self._settle(flow, selection)
        if selection.transport != TCP:
            try:
                with anyio.fail_after(OPEN_TIMEOUT):
                    return await self._dial(flow)
            except ConnectionRefusedError as error:
                raise ConnectionRefusedError(_why(error)) from None
            except DestinationUnreachable as error:
                raise OSError(_why(error)) from None
            except (TransportUnavailable, TimeoutError) as error:
                selection = Selection(TCP, f"{selection.transport}: {_why(error)}", "fallback")
                if obstacle:
                    raise OSError(f"{selection.reason}; {obstacle}") from None
                self._settle(flow, selection)
        assert self.plain is not None
        return await self.plain.connect(flow.key)

    async def _dial(self, flow: Flow) -> TcpConnection:
        """Let the selected transport connect; raises what `Transport.dial` may, whatever it raises."""
        name = flow.transport or ""
        try:
            return checked(await self.transports[name].dial(flow.snapshot()))
        except (TransportUnavailable, ConnectionRefusedError, DestinationUnreachable):
            raise
        except Exception:
            logger.exception("transport %s failed on flow %s", name, flow.key)
            raise TransportUnavailable("failed, see the log") from None

    def _settle(self, flow: Flow, selection: Selection, *, connecting: bool = True) -> None:
        # What happened before is told with the flow as it was.
        self.publish()
        now = self._clock()
        self.table.report(flow, TransportSelected(selection.transport, selection.reason, selection.chosen_by), now)
        if connecting:
            self.table.report(flow, Connecting(), now)
        self.publish()


def _why(error: Exception) -> str:
    if isinstance(error, TransportUnavailable):
        return error.reason
    if isinstance(error, ConnectionRefusedError):
        return str(error) or "the destination refused"
    if isinstance(error, DestinationUnreachable):
        return str(error) or "the peer cannot reach the destination"
    return f"did not open in {OPEN_TIMEOUT:g} s"
