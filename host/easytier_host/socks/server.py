"""The SOCKS5 server of a node: one listener, and what becomes of each connection.

::

    client -> handshake (10 s) -> CONNECT: name resolved here -> dial -> reply -> relay until both ways have ended
                                  UDP ASSOCIATE: `associate`, until the client's connection ends
                                  BIND: "command not supported"

`dial` goes by the gate where the destination belongs to the overlay: an address of a peer, a network that one offers, or our
own prefix.  Any other is dialled by the kernel, but the addresses that lead back into this machine or its links only for
clients that are on this machine.

Bounds: as in `acceptor`, 64 associations among them.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import Final

import anyio
from anyio.abc import TaskGroup

from easytier_hooks import streams
from easytier_hooks.services import Endpoint
from easytier_hooks.streams import SocketStream, TcpConnection
from easytier_hooks.types import Failed, IPAddress, endpoint
from easytier_host.acceptor import Acceptor
from easytier_host.forward import flow_key
from easytier_host.sockets import to_endpoint
from easytier_host.socks import wire
from easytier_host.socks.associate import Association
from easytier_host.socks.ways import Ways, may_leave
from easytier_host.socks.wire import Command, Handshake, Reply, Request, SocksError

logger = logging.getLogger("easytier.socks")

# Ours.
HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds until the request is there."""
RESOLVE_TIMEOUT: Final = 10.0
DIRECT_TIMEOUT: Final = 10.0
"""Seconds for a connection by the kernel, as for those of the overlay."""
LAST_WORD_TIMEOUT: Final = 2.0
"""Seconds that a client has to read why it is refused."""
MAX_ADDRESSES: Final = 3
"""Of a name that has several, tried one after the other."""
MAX_ASSOCIATIONS: Final = 64


class SocksServer:
    """One listener.  Made listening; raises OSError if the port cannot be had."""

    def __init__(self, host: str, port: int, ways: Ways, tasks: TaskGroup) -> None:
        self._ways = ways
        self._associations = 0
        self._tasks = tasks
        self._acceptor = Acceptor(host, port, self._serve)
        self.address = self._acceptor.address
        """Where it listens, with the real port."""

    async def run(self) -> None:
        """Accept for ever."""
        await self._acceptor.run(self._tasks)

    async def _serve(self, client: SocketStream, source: Endpoint, local: Endpoint) -> None:
        try:
            with anyio.fail_after(HANDSHAKE_TIMEOUT):
                request = await _shake_hands(client)
            match request.command:
                case Command.CONNECT:
                    await self._connect(client, source, request.host, request.port)
                case Command.UDP_ASSOCIATE:
                    await self._associate(client, source, local)
                case _:
                    raise SocksError(f"command {request.command}", wire.encode_reply(Reply.COMMAND_UNKNOWN))
        except SocksError as error:
            logger.debug("client %s: %s", endpoint(*source), error)
            if error.answer:
                await _end_with(client, error.answer)
        except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            logger.debug("client %s: %r", endpoint(*source), error)

    async def _connect(self, client: SocketStream, source: Endpoint, host: wire.Host, port: int) -> None:
        gate = self._ways.gate
        try:
            flow_id, destination = await self._dial(source, host, port)
        except OSError as error:
            raise SocksError(f"cannot reach {host} port {port}: {error}", wire.encode_reply(_reply_to(error))) from None
        try:
            await client.send(wire.encode_reply(Reply.SUCCEEDED))
        except BaseException:
            destination.reset()
            gate.report(flow_id, Failed("given up by the source"))
            raise
        await gate.relay(flow_id, client, destination)

    async def _dial(self, source: Endpoint, host: wire.Host, port: int) -> tuple[int, TcpConnection]:
        """The flow's number, 0 for one that is not of the overlay, and the connection; raises OSError."""
        problem = OSError(f"{host} has no address")
        for ip in await _resolve(host, port):
            try:
                if self._ways.in_overlay(ip):
                    return await self._ways.gate.dial(flow_key(source, (ip, port)))
                return 0, await _dial_directly(source[0], ip, port)
            except OSError as error:
                problem = error
        raise problem

    async def _associate(self, client: SocketStream, source: Endpoint, local: Endpoint) -> None:
        if self._associations >= MAX_ASSOCIATIONS:
            raise SocksError(f"{MAX_ASSOCIATIONS} associations exist already", wire.encode_reply(Reply.FAILED))
        self._associations += 1
        try:
            try:
                association = Association(self._ways, local[0], source[0])
            except OSError as error:
                raise SocksError(f"no port for datagrams: {error}", wire.encode_reply(Reply.FAILED)) from None
            await association.run(client)
        finally:
            self._associations -= 1


async def _shake_hands(client: SocketStream) -> Request:
    handshake = Handshake()
    while handshake.request is None:
        answer = handshake.receive(await client.receive(handshake.missing))
        if answer:
            await client.send(answer)
    return handshake.request


async def _end_with(client: SocketStream, answer: bytes) -> None:
    """Send a last word and wait a moment for the client to hang up, since a close with unread bytes would take it back."""
    with anyio.move_on_after(LAST_WORD_TIMEOUT):
        try:
            await client.send(answer)
            await client.send_eof()
            while True:
                await client.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass


async def _resolve(host: wire.Host, port: int) -> list[IPAddress]:
    """The addresses to be tried; raises OSError."""
    if not isinstance(host, str):
        return [host]
    try:
        with anyio.fail_after(RESOLVE_TIMEOUT):
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise TimeoutError(f"{host} was not resolved in {RESOLVE_TIMEOUT:g} s") from None
    except UnicodeError:
        raise OSError(f"{host} is not a name") from None
    return list(dict.fromkeys(to_endpoint(address)[0] for *_, address in found))[:MAX_ADDRESSES]


async def _dial_directly(client: IPAddress, ip: IPAddress, port: int) -> TcpConnection:
    if not may_leave(client, ip):
        raise PermissionError(f"{ip} is for clients of this machine alone")
    try:
        with anyio.fail_after(DIRECT_TIMEOUT):
            return await streams.connect(ip, port)
    except TimeoutError:
        raise TimeoutError(f"no answer from {ip} in {DIRECT_TIMEOUT:g} s") from None


def _reply_to(error: OSError) -> Reply:
    """What a client is told of a connection that could not be made."""
    match error:
        case ConnectionRefusedError():
            return Reply.REFUSED
        case TimeoutError():
            return Reply.TIMED_OUT
        case PermissionError():
            return Reply.NOT_ALLOWED
        case OSError(errno=errno.ENETUNREACH):
            return Reply.NETWORK_UNREACHABLE
        case _:
            return Reply.HOST_UNREACHABLE
