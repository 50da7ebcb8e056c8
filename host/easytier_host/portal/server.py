"""The portal's door: listens, lets in whom the whitelist holds, and answers one frame after the other.

A connection that breaks the framing, stays silent for a minute or does not take its answer is closed, alone.  Caps: 32
connections, the next ones are reset at once; unfinished requests as in `rpc/framing.Reassembler`; four requests of each
connection under way, the next one is not read before one of them is answered; 100 frames a second in all, then connections
are read more slowly.  Answers may overtake one that waits for news.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import anyio

from easytier_hooks.services import Endpoint
from easytier_hooks.streams import SocketStream
from easytier_host.pb import common_pb2
from easytier_host.portal.address import PortalAddress
from easytier_host.portal.door import Door, PortalError
from easytier_host.portal.pace import Allowance
from easytier_host.portal.services import PortalServices
from easytier_host.portal.session import Session
from easytier_host.rpc import portal_wire
from easytier_host.rpc.framing import FramingError, Reassembler
from easytier_host.tunnel import tcp_framing

if TYPE_CHECKING:
    from easytier_host.instance import Node

__all__ = ["Portal", "PortalError"]

logger = logging.getLogger("easytier.portal")

# Wire: stock decides.
IDLE_TIMEOUT: Final = 60.0
"""Seconds without a request after which a connection is closed."""

# Ours.
MAX_CONNECTIONS: Final = 32
MAX_UNDER_WAY: Final = 4
"""Requests of a connection that are being answered at once."""
SEND_TIMEOUT: Final = 5.0
"""Seconds that a caller has to take an answer."""
READ_SIZE: Final = 16_384


class Portal:
    """The portal of a process.  `nodes` is a list that its owner keeps current; `open` it, then `run` it.

    `whitelist` as in `Door`.
    """

    def __init__(
        self,
        address: PortalAddress,
        whitelist: Sequence[str],
        nodes: Sequence[Node],
        *,
        clock: Callable[[], float] = time.monotonic,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        self._door = Door(address, whitelist, MAX_CONNECTIONS, setting="rpc_portal")
        self._services = PortalServices(nodes)
        self._clock = clock
        self._idle_timeout = idle_timeout
        self._allowance = Allowance(clock)

    @property
    def refused(self) -> int:
        """Connections closed at once: not on the whitelist, or too many."""
        return self._door.refused

    @property
    def port(self) -> int:
        """Its port, once open."""
        return self._door.port

    @property
    def address(self) -> str:
        """Where it listens, once open."""
        return self._door.address

    async def open(self) -> None:
        """Listen on the first of the ports that is free; raises `PortalError` if none is."""
        await self._door.open()

    async def run(self) -> None:
        """Serve for ever; to be cancelled."""
        await self._door.run(self._serve)

    async def _serve(self, stream: SocketStream, caller: Endpoint, here: Endpoint) -> None:
        try:
            await self._converse(stream, Session((caller, here)))
        except* (FramingError, tcp_framing.FramingError) as group:
            logger.debug("closed a portal connection: %s", group.exceptions[0])

    async def _converse(self, stream: SocketStream, session: Session) -> None:
        parser, reassembler = tcp_framing.FrameParser(), Reassembler()
        slots, door = anyio.Semaphore(MAX_UNDER_WAY), anyio.Lock()

        async def reply(request: common_pb2.RpcPacket, content: bytes) -> None:
            try:
                answer = await self._answer(session, request, content)
                async with door:
                    with anyio.fail_after(SEND_TIMEOUT):
                        await stream.send(answer)
            finally:
                slots.release()

        async with anyio.create_task_group() as replies:
            while True:
                with anyio.fail_after(self._idle_timeout):
                    data = await stream.receive(READ_SIZE)
                for frame in parser.feed(data):
                    packet = portal_wire.decode_frame(frame, is_request=True)
                    # A connection is one caller, whoever it says it is: so it has the caps of one.
                    packet.from_peer = portal_wire.PORTAL_PEER_ID
                    # A piece costs as much as a whole question, which it nearly always is.
                    await self._allowance.take()
                    complete = reassembler.add(packet, self._clock())
                    if complete is not None:
                        await slots.acquire()
                        replies.start_soon(reply, *complete)

    async def _answer(self, session: Session, request: common_pb2.RpcPacket, content: bytes) -> bytes:
        began = self._clock()
        response = await self._services.answer(session, request.descriptor, content)
        response.runtime_us = max(0, int((self._clock() - began) * 1e6))
        packet = common_pb2.RpcPacket(
            transaction_id=request.transaction_id, descriptor=request.descriptor, trace_id=request.trace_id
        )
        return portal_wire.encode_call(packet, response.SerializeToString())
