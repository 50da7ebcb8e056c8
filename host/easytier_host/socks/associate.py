"""UDP ASSOCIATE: a port of this machine to which one client sends datagrams for anybody, and gets the answers.

It lives as long as the connection over which it was asked for.  Only the address of that client counts, and of its ports the
first one that sends.  IPv4 destinations alone, given by address: what names a host, or is a fragment, is dropped.  Answers are
taken from hosts that the client has sent to, the last 64 of them, from any port.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from typing import Final

import anyio

from easytier_hooks.services import Endpoint
from easytier_hooks.streams import SocketStream
from easytier_hooks.types import IPAddress
from easytier_host.datagrams import DatagramPort, OpenPort, read_datagrams
from easytier_host.sockets import send_or_drop, to_endpoint
from easytier_host.socks import wire
from easytier_host.socks.ways import Ways, may_leave
from easytier_host.socks.wire import Reply

# Ours.
MAX_DESTINATIONS: Final = 64


class Association:
    """One association of the client at the address `client`, bound to an address of ours; raises OSError."""

    def __init__(self, ways: Ways, local: IPAddress, client: IPAddress) -> None:
        self._ways = ways
        self._client_ip = client
        self._client: Endpoint | None = None
        self._ports: dict[OpenPort, DatagramPort] = {}
        self._destinations: dict[IPAddress, None] = {}
        """In the order in which they were last sent to."""
        self._socket = socket.socket(socket.AF_INET if local.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind((str(local), 0))
        except OSError:
            self._socket.close()
            raise

    async def run(self, control: SocketStream) -> None:
        """Say where datagrams are taken, and carry them until the client ends `control`.  Raises as `control.send`."""
        try:
            await control.send(wire.encode_reply(Reply.SUCCEEDED, to_endpoint(self._socket.getsockname())))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._carry)
                await _until_ended(control)
                tasks.cancel_scope.cancel()
        finally:
            for port in self._ports.values():
                port.close()
            self._socket.close()

    async def _carry(self) -> None:
        while True:
            await anyio.wait_readable(self._socket)
            for source, packet in read_datagrams(self._socket):
                if source[0] == self._client_ip and self._client in (None, source):
                    self._client = source
                    self._send(packet)

    def _send(self, packet: bytes) -> None:
        parsed = wire.parse_datagram(packet)
        if parsed is None:
            return
        (ip, port), data = parsed
        if not isinstance(ip, IPv4Address) or not port:
            return
        in_overlay = self._ways.in_overlay(ip)
        if not in_overlay and not may_leave(self._client_ip, ip):
            return
        self._destinations.pop(ip, None)
        self._destinations[ip] = None
        if len(self._destinations) > MAX_DESTINATIONS:
            del self._destinations[next(iter(self._destinations))]
        way = self._ways.overlay_port if in_overlay else self._ways.direct_port
        if way not in self._ports:
            try:
                self._ports[way] = way(self._answer)
            except OSError:
                return
        self._ports[way].send(data, (ip, port))

    def _answer(self, source: Endpoint, data: bytes) -> None:
        if self._client is not None and source[0] in self._destinations:
            send_or_drop(self._socket, wire.encode_datagram(source, data), self._client)


async def _until_ended(control: SocketStream) -> None:
    try:
        while True:
            await control.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return
