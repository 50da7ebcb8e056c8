"""Plain TCP for networks behind this node: the real target is dialled first, then a TCP stack ends the peer's connection on the
overlay, and a relay moves the bytes.

::

    peer --SYN--> HELD: dial --connected--> TcpStack.terminate --> relay, until both have ended
                         |--refused, unreachable, not for peers--> RST
                         '--no answer--------------> nothing: the SYN times out as it would without us

Segments of flows that nobody here has begun are left to the caller; on a node without a device, where nobody else could have,
they get RST.

Bounds: 1024 SYNs are held at once, 256 of one peer, which may send 500 a second after the first 4096; further ones are dropped
and counted, and repeated by their source.  The stack bounds the flows; what it does not take gets RST.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.errors import DialRefused, TransportUnavailable
from easytier_hooks.services import Endpoint, TcpStack
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import TCP, Connected, Connecting, Failed, IPAddress, TransportSelected
from easytier_host.flows import ACK, FIN, RST, SYN, Flow, decode_key, segment_key
from easytier_host.gate import FlowGate
from easytier_host.metrics import Metrics
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.relay import checked
from easytier_host.sockets import reason_of
from easytier_host.subnet.overlay import OverlayLink
from easytier_host.tcp_reset import reset_for

logger = logging.getLogger("easytier.subnet")

# Ours.
MAX_HELD: Final = 1024
MAX_HELD_PER_PEER: Final = 256
SYN_RATE: Final = 500.0
SYN_BURST: Final = 4096.0
"""Connections that one peer may begin in a second, and at once: each costs some 0.2 ms, whatever becomes of it."""
MAX_BUCKETS: Final = 1024

Dial: TypeAlias = Callable[[IPAddress, int, Endpoint], Awaitable[TcpConnection]]
"""`targets.Targets.dial`: (address, port, who asks)."""


class TcpProxy:
    """Connections of all peers, which `link` brings and `stack` ends.

    `dial` is for this node's address and the networks that it offers, `dial_as_exit` for what a peer wants of its exit node.
    `is_alone`: there is no device, and nobody but this proxy ends connections at the addresses in question.
    """

    def __init__(
        self,
        gate: FlowGate,
        stack: TcpStack,
        link: OverlayLink,
        tasks: TaskGroup,
        metrics: Metrics,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        *,
        dial: Dial,
        dial_as_exit: Dial,
        is_alone: bool,
    ) -> None:
        self._dials = {False: dial, True: dial_as_exit}
        self._gate = gate
        self._stack = stack
        self._link = link
        self._is_alone = is_alone
        self._tasks = tasks
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._held: dict[bytes, anyio.CancelScope] = {}
        """The flows whose SYN is held, and what ends the attempt."""
        self._held_by: Counter[int] = Counter()
        self._syns: dict[int, tuple[float, float]] = {}
        """Of a peer: how many it may send, and when that was so."""

    def take(self, packets: Sequence[bytes], exit_node: bool) -> list[bytes]:
        """Take whole TCP packets of peers in their order, `exit_node` being true of all or of none; returns what is not
        ours."""
        dial = self._dials[exit_node]
        others: list[bytes] = []
        for frame in self._link.take(packets):
            if not self._is_ours(frame, dial):
                others += self._link.apart(frame)
        self._gate.publish()
        return others

    def _is_ours(self, frame: bytes, dial: Dial) -> bool:
        """Deal with a segment that no stack has claimed; False if it begins nothing, and belongs to nothing begun here."""
        found = segment_key(frame)
        if found is None:
            return False
        raw_key, tcp = found
        flags = frame[tcp + 13] & (SYN | ACK | FIN | RST)
        if flags == SYN and not self._may_begin(decode_key(raw_key).source_ip):
            self._metrics.dropped_subnet += 1
            return True
        if flags == SYN:
            flow = self._gate.table.look(frame, VNET_HEADER_SIZE, self._clock(), self._wall_clock(), "inbound")
            if flow is not None:
                self._hold(flow, frame, dial)
            elif raw_key not in self._held:
                # Repeated after the attempt has failed, or the table of flows is full.
                self._metrics.dropped_subnet += 1
            return True
        if flags & RST and raw_key in self._held:
            self._held[raw_key].cancel()
            return True
        if self._is_alone and not flags & RST:
            self._link.write([reset_for(frame)])
            self._metrics.dropped_subnet += 1
            return True
        return False

    def _may_begin(self, source: IPAddress) -> bool:
        """Whether the peer that has this address, as far as it is known, may send another SYN."""
        peer, now = self._gate.peer_for(source), self._clock()
        owner = 0 if peer is None else peer.peer_id
        left, at = self._syns.pop(owner, (SYN_BURST, now))
        left = min(SYN_BURST, left + (now - at) * SYN_RATE)
        if len(self._syns) >= MAX_BUCKETS:
            del self._syns[next(iter(self._syns))]
        self._syns[owner] = max(0.0, left - 1), now
        return left >= 1

    def _hold(self, flow: Flow, syn: bytes, dial: Dial) -> None:
        flow.peer = self._gate.peer_for(flow.key.source_ip)
        self._gate.report(flow.id, TransportSelected(TCP, "came as plain TCP", "peer"))
        before = self._held.get(flow.raw_key)
        if before is not None:
            before.cancel()
        elif len(self._held) >= MAX_HELD or self._held_by[_owner(flow)] >= MAX_HELD_PER_PEER:
            self._metrics.dropped_subnet += 1
            self._gate.report(flow.id, Failed("too many connections are being opened already"))
            return
        flow.held = flow.reported_by_transport = True
        scope = self._held[flow.raw_key] = anyio.CancelScope()
        self._held_by[_owner(flow)] += 1
        self._tasks.start_soon(self._open, flow, syn, dial, scope, name=f"flow {flow.id}")

    async def _open(self, flow: Flow, syn: bytes, dial: Dial, scope: anyio.CancelScope) -> None:
        self._gate.report(flow.id, Connecting())
        try:
            # Cancelled when the source gives up, or begins anew from the same port.
            with scope:
                await self._connect(flow, syn, dial)
            if scope.cancelled_caught:
                self._gate.report(flow.id, Failed("given up by the source"))
        finally:
            flow.held = False
            self._held_by[_owner(flow)] -= 1
            if not self._held_by[_owner(flow)]:
                del self._held_by[_owner(flow)]
            if self._held.get(flow.raw_key) is scope:
                del self._held[flow.raw_key]

    async def _connect(self, flow: Flow, syn: bytes, dial: Dial) -> None:
        """Dial, then answer the source, and leave both to a relay."""
        report, key = partial(self._gate.report, flow.id), flow.key
        try:
            target = await dial(key.destination_ip, key.destination_port, (key.source_ip, key.source_port))
        except (OSError, DialRefused) as error:
            if not isinstance(error, TimeoutError):
                self._link.write([reset_for(syn)])
            report(Failed(f"{key.destination_ip}:{key.destination_port} cannot be reached: {reason_of(error)}"))
            return
        try:
            source = checked(await self._stack.terminate(self._link, key, syn))
        except BaseException as error:
            target.reset()
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, TransportUnavailable):
                logger.exception("stack %s failed on flow %s", self._stack.name, key)
            self._link.write([reset_for(syn)])
            report(Failed(error.reason if isinstance(error, TransportUnavailable) else "the TCP stack failed, see the log"))
            return
        report(Connected())
        self._tasks.start_soon(self._gate.relay, flow.id, source, target, name=f"flow {flow.id}")


def _owner(flow: Flow) -> int:
    """The peer that a flow counts for; the router lets none in under another's address."""
    return 0 if flow.peer is None else flow.peer.peer_id
