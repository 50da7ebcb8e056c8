"""The ways into the overlay for programs of this machine that do not go through a TUN device: port forwards, SOCKS5, and
`Node.connect_tcp`; and what those need that begins here, plain TCP and UDP.

Wires them for one node; nothing is decided here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.services import Endpoint
from easytier_hooks.types import IPAddress
from easytier_host import ipv4
from easytier_host.config.model import PortForward
from easytier_host.datagrams import DatagramPort, KernelPort, Receive
from easytier_host.forward import Forward, ForwardError, parse_endpoint
from easytier_host.forward_udp import UdpForward
from easytier_host.overlay_udp import OverlayUdp
from easytier_host.plain_tcp import EphemeralPorts, OutgoingLink, PlainTcp
from easytier_host.socks.server import SocksServer
from easytier_host.socks.ways import Ways

if TYPE_CHECKING:
    from easytier_host.instance import Node

logger = logging.getLogger("easytier.forward")

SOCKS_SCHEME: Final = "socks5://"

# Ours.
EXPIRE_TICK: Final = 5.0
"""Seconds between looks for fragments without an end."""

FOREIGN_DEVICE: Final = "the device of this node is not the kernel's"


class Entrances:
    """Those of one node.

    `by_kernel` says whether the node has a device of the kernel, through which sockets of the kernel reach the overlay; `mtu`
    is the overlay's, in bytes; `random_number` is below 65536.  Raises `ForwardError` for what cannot listen.
    """

    def __init__(self, node: Node, clock: Callable[[], float], *, by_kernel: bool, mtu: int, random_number: int) -> None:
        self._node = node
        self._clock = clock
        self._by_kernel = by_kernel
        self._tasks = node.plugin_tasks
        self.ports = EphemeralPorts(random_number)
        self.udp = OverlayUdp(
            node.config.ipv4.ip if node.config.ipv4 is not None else None,
            node.outbound.send_device_frames,
            node.metrics,
            clock,
            self.ports,
            mtu=mtu,
        )
        node.gate.plain = self._plain_tcp()
        self.socks: SocksServer | None = None
        self._opened: dict[PortForward, _OpenForward] = {}
        """In the order of the rules."""
        self._doors: TaskGroup
        try:
            for rule in node.config.port_forwards:
                self._opened[rule] = self._open(rule)
            if node.config.socks5:
                self.socks = self._open_socks(node.config.socks5)
        except ForwardError:
            for opened in self._opened.values():
                opened.forward.close()
            raise

    async def run(self) -> None:
        """Serve for ever."""
        async with anyio.create_task_group() as doors:
            self._doors = doors
            for opened in self._opened.values():
                doors.start_soon(opened.run, name=f"port forward {opened.forward.address}")
            if self.socks is not None:
                doors.start_soon(self.socks.run, name="SOCKS5")
            while True:
                await anyio.sleep(EXPIRE_TICK)
                self.udp.expire()

    @property
    def forwards(self) -> list[Forward | UdpForward]:
        """Those that are open, in the order of their rules."""
        return [opened.forward for opened in self._opened.values()]

    async def replace_forwards(self, rules: Sequence[PortForward]) -> tuple[tuple[PortForward, ...], list[str]]:
        """Have these port forwards instead, while `run` runs; TCP connections that came through one that goes, go on.

        Returns those that are open then, and why the others are not.
        """
        for rule in self._opened.keys() - set(rules):
            opened = self._opened.pop(rule)
            opened.scope.cancel()
            await opened.closed.wait()
        before, self._opened, problems = self._opened, {}, []
        for rule in rules:
            try:
                self._opened[rule] = before.get(rule) or self._open(rule)
            except ForwardError as error:
                problems.append(str(error))
                continue
            if rule not in before:
                self._doors.start_soon(self._opened[rule].run, name=f"port forward {rule.bind_addr}")
        return tuple(self._opened), problems

    def listening_ports(self) -> set[int]:
        """Of the forwards and the SOCKS5 server."""
        ports = {forward.address[1] for forward in self.forwards}
        return ports if self.socks is None else ports | {self.socks.address[1]}

    def source(self, ip: IPAddress) -> Endpoint:
        """An address of ours, and a port, for a connection to `ip`."""
        own = next((address for address in self._node.addresses if address.version == ip.version), None)
        return own or type(ip)(0), self.ports.next()

    def take(self, packets: Sequence[bytes]) -> list[bytes]:
        """Take from packets of peers, on a node without a device, the answers to what began here; returns the others."""
        others, segments = [], []
        for packet in packets:
            if _is_tcp(packet):
                segments.append(packet)
            elif (left := self.udp.take(packet)) is not None:
                others.append(left)
        if segments:
            for frame in self._node.overlay.take(segments):
                others += self._node.overlay.apart(frame)
        return others

    def _plain_tcp(self) -> PlainTcp:
        node, own = self._node, self._node.addresses
        if self._by_kernel:
            return PlainTcp(own, node.targets.dial, None, None, self.ports)
        if node.nic is not None:
            return PlainTcp(own, node.targets.dial, None, None, self.ports, obstacle=FOREIGN_DEVICE)
        stack, link = node.gate.stack, OutgoingLink(node.overlay, node.outbound.send_device_frames)
        return PlainTcp(
            own, node.targets.dial, stack, link, self.ports, obstacle=node.gate.stack_obstacle if stack is None else ""
        )

    def _open(self, rule: PortForward) -> _OpenForward:
        opened = _OpenForward(self._forward(rule))
        logger.info("%s port %s:%d leads to %s", rule.proto, *opened.forward.address, rule.dst_addr)
        return opened

    def _forward(self, rule: PortForward) -> Forward | UdpForward:
        if rule.proto == "tcp":
            return Forward(rule, self._node.gate, self._tasks)
        version = parse_endpoint(rule.dst_addr)[0].version
        if version == 6 and not self._by_kernel:
            raise ForwardError(f"port_forward {rule.bind_addr}: UDP over IPv6 needs a TUN device")
        return UdpForward(rule, partial(self._overlay_port, version=version), self._clock)

    def _open_socks(self, url: str) -> SocksServer:
        host, port = parse_endpoint(url.removeprefix(SOCKS_SCHEME))
        ways = Ways(self._node.gate, self._in_overlay, self._overlay_port, partial(KernelPort, tasks=self._tasks))
        try:
            server = SocksServer(str(host), port, ways, self._tasks)
        except OSError as error:
            raise ForwardError(f"socks5_proxy {url}: cannot listen there: {error.strerror}") from None
        if not host.is_loopback:
            logger.warning("SOCKS5 on %s:%d asks for no password: whoever reaches that port can use it", *server.address)
        return server

    def _in_overlay(self, ip: IPAddress) -> bool:
        config = self._node.config
        networks = [interface.network for interface in (config.ipv4, config.ipv6) if interface is not None]
        return any(ip in network for network in networks) or self._node.peer_for(ip) is not None

    def _overlay_port(self, receive: Receive, version: int = 4) -> DatagramPort:
        if self._by_kernel:
            return KernelPort(receive, self._tasks, version)
        if self._node.nic is not None:
            raise OSError(FOREIGN_DEVICE)
        return self.udp.open(receive)


class _OpenForward:
    """A forward, and how it is closed while it runs."""

    def __init__(self, forward: Forward | UdpForward) -> None:
        self.forward = forward
        self.scope = anyio.CancelScope()
        self.closed = anyio.Event()
        """The port is free again."""

    async def run(self) -> None:
        try:
            with self.scope:
                await self.forward.run()
        finally:
            self.closed.set()


def _is_tcp(packet: bytes) -> bool:
    if len(packet) < ipv4.HEADER_SIZE:
        return False
    return packet[9 if packet[0] >> 4 == 4 else 6] == ipv4.TCP
