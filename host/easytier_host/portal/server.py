"""The portal's door: listens, lets in whom the whitelist holds, and answers one frame after the other.

A connection that breaks the framing, stays silent for a minute or does not take its answer is closed, alone.  Caps: 32
connections, the next ones are closed at once; unfinished requests as in `rpc/framing.Reassembler`; one answer under way for
each connection, whose next request is not read before that is sent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.stapled import MultiListener

from easytier_host.pb import common_pb2
from easytier_host.portal.address import PortalAddress
from easytier_host.portal.services import PortalServices, Session
from easytier_host.rpc import portal_wire
from easytier_host.rpc.framing import FramingError, Reassembler
from easytier_host.tunnel import tcp_framing

if TYPE_CHECKING:
    from easytier_host.instance import Node

logger = logging.getLogger("easytier.portal")

# Wire: stock decides.
IDLE_TIMEOUT: Final = 60.0
"""Seconds without a request after which a connection is closed."""
DEFAULT_WHITELIST: Final = ("127.0.0.0/8", "::1/128")

# Ours.
MAX_CONNECTIONS: Final = 32
SEND_TIMEOUT: Final = 5.0
"""Seconds that a caller has to take an answer."""
ACCEPT_PAUSE: Final = 1.0
"""Seconds before accepting again, where the system refused it: no file descriptor left, say."""
READ_SIZE: Final = 16_384


class PortalError(Exception):
    """The portal cannot listen; the message says where and why."""


class Portal:
    """The portal of a process.  `nodes` is a list that its owner keeps current; `open` it, then `run` it.

    `whitelist` holds networks in text form; empty means this machine only.
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
        self._wanted = address
        self._whitelist = [ip_network(text, strict=False) for text in whitelist or DEFAULT_WHITELIST]
        self._services = PortalServices(nodes)
        self._clock = clock
        self._idle_timeout = idle_timeout
        self._listener: MultiListener[SocketStream] | None = None
        self._connections = 0
        self.refused = 0
        """Connections closed at once: not on the whitelist, or too many."""
        self.port = 0

    @property
    def address(self) -> str:
        """Where it listens, once open."""
        host = self._wanted.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def open(self) -> None:
        """Listen on the first of the ports that is free; raises `PortalError` if none is."""
        failure: OSError | None = None
        for port in self._wanted.ports:
            try:
                listener = await anyio.create_tcp_listener(local_host=self._wanted.host, local_port=port)
            except OSError as error:
                failure = failure or error
                continue
            self._listener = listener
            self.port = int(listener.extra(SocketAttribute.local_port))
            logger.info("listening on %s for easytier-cli", self.address)
            return
        ports = f"{self._wanted.ports[0]} to {self._wanted.ports[-1]}" if len(self._wanted.ports) > 1 else self._wanted.ports[0]
        reason = "no port" if failure is None else failure.strerror or str(failure)
        raise PortalError(f"rpc_portal: cannot listen on {self._wanted.host} port {ports}: {reason}")

    async def run(self) -> None:
        """Serve for ever; to be cancelled."""
        if self._listener is None:
            raise RuntimeError("open() comes first")
        async with self._listener, anyio.create_task_group() as connections:
            while True:
                try:
                    await self._listener.serve(self._serve, connections)
                except* OSError as group:
                    logger.warning("the portal cannot accept a connection: %s", group.exceptions[0])
                    await anyio.sleep(ACCEPT_PAUSE)

    async def _serve(self, stream: SocketStream) -> None:
        async with stream:
            if self._connections >= MAX_CONNECTIONS or not self._lets_in(stream):
                self.refused += 1
                return
            self._connections += 1
            try:
                await self._converse(stream)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, TimeoutError):
                pass
            except (FramingError, tcp_framing.FramingError) as error:
                logger.debug("closed a portal connection: %s", error)
            except Exception:
                logger.exception("a portal connection failed")
            finally:
                self._connections -= 1

    def _lets_in(self, stream: SocketStream) -> bool:
        try:
            caller = ip_address(str(stream.extra(SocketAttribute.remote_address)[0]).partition("%")[0])
        except (ValueError, anyio.TypedAttributeLookupError, OSError):
            return False
        if isinstance(caller, IPv6Address) and caller.ipv4_mapped is not None:
            caller = caller.ipv4_mapped
        return any(caller in network for network in self._whitelist)

    async def _converse(self, stream: SocketStream) -> None:
        parser, reassembler, session = tcp_framing.FrameParser(), Reassembler(), Session()
        while True:
            with anyio.fail_after(self._idle_timeout):
                data = await stream.receive(READ_SIZE)
            for frame in parser.feed(data):
                complete = reassembler.add(portal_wire.decode_frame(frame, is_request=True), self._clock())
                if complete is not None:
                    answer = self._answer(session, *complete)
                    with anyio.fail_after(SEND_TIMEOUT):
                        await stream.send(answer)

    def _answer(self, session: Session, request: common_pb2.RpcPacket, content: bytes) -> bytes:
        began = self._clock()
        response = self._services.answer(session, request.descriptor, content)
        response.runtime_us = max(0, int((self._clock() - began) * 1e6))
        packet = common_pb2.RpcPacket(
            transaction_id=request.transaction_id, descriptor=request.descriptor, trace_id=request.trace_id
        )
        return portal_wire.encode_call(packet, response.SerializeToString())
