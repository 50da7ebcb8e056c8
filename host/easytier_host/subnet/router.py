"""The subnet router: takes from what peers send to this node the IPv4 packets that go further through its sockets.

It sorts and checks; the protocols are in `udp`, `icmp` and `tcp`.  Called by `datapath.Inbound` with the packets of a batch
that do not carry NO_PROXY.  Taken are UDP, echo requests, and TCP where a stack can end it.  They go to the networks offered,
to anywhere if the sender has chosen this node as its exit, and to the node itself if it has no device.  The rest is given back.

A sender may begin something from its virtual address and the networks that it offers; what comes from other addresses is
dropped and counted, with one warning for each sender.  What a host behind this node has begun, the kernel takes back to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Final

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.types import IPAddress
from easytier_host import ipv4
from easytier_host.config.model import Config
from easytier_host.datapath import Arrival, Outbound
from easytier_host.dial import real_address
from easytier_host.echo import ECHO_REQUEST
from easytier_host.flows import ACK, SYN
from easytier_host.lookup import Kind
from easytier_host.metrics import Metrics
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.owners import Owners
from easytier_host.packet import Flag, PacketType
from easytier_host.route_records import PeerRecord
from easytier_host.subnet.fragments import Reassembler
from easytier_host.subnet.icmp import IcmpProxy
from easytier_host.subnet.tcp import TcpProxy
from easytier_host.subnet.udp import UdpProxy

logger = logging.getLogger("easytier.subnet")

# Ours.
EXPIRE_TICK: Final = 5.0
"""Seconds."""
MAX_FORMER: Final = 64
"""Networks of configurations before; beyond, the first ones are forgotten with what is under way there."""
MAX_WARNED: Final = 4096
"""Senders of whom a warning was given; at this number the memory starts over."""

_NO_PROXY: Final = int(Flag.NO_PROXY)
_NOT_SEND_TO_TUN: Final = int(Flag.NOT_SEND_TO_TUN)
_EXIT_NODE: Final = int(Flag.EXIT_NODE)
_SOURCE: Final = slice(VNET_HEADER_SIZE + 12, VNET_HEADER_SIZE + 16)
"""Where a device frame has its IPv4 source."""
_PROTOCOLS: Final = frozenset({ipv4.ICMP, ipv4.TCP, ipv4.UDP})


def is_wanted(config: Config, *, has_device: bool) -> bool:
    """Whether a node has a use for a subnet router."""
    if has_device and config.flags.proxy_forward_by_system:
        return False
    return bool(config.proxy_networks) or config.flags.enable_exit_node or not has_device


class SubnetRouter:
    """The router of one node.

    `target(ip, port, exit_node)` says where a datagram really goes, as `dial.dial_target`; `owners` knows the peers;
    `identifier` is that of our pings, `mtu` that of the overlay, in bytes.
    """

    def __init__(
        self,
        config: Config,
        outbound: Outbound,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        has_device: bool,
        target: Callable[[IPAddress, int, bool], tuple[IPAddress, int]],
        owners: Owners,
        identifier: int,
        mtu: int,
    ) -> None:
        self.tcp: TcpProxy | None = None
        """None: TCP is given back, for the kernel to forward."""
        self._outbound = outbound
        self._metrics = metrics
        self._clock = clock
        self._owners = owners
        self._has_device = has_device
        self._own = config.ipv4.ip.packed if config.ipv4 is not None else b""
        self._offered: list[tuple[int, int]] = []
        """Masks and first addresses of the networks that are offered, or were: what is under way there goes on, and what begins
        is refused where it is dialled."""
        self._is_exit = config.flags.enable_exit_node
        self._pings_go_on = False
        self._warned: set[int] = set()
        self._fragments = Reassembler(metrics)
        self._udp = UdpProxy(metrics, clock, real_address=target, reply=self._reply, mtu=mtu)
        self._icmp = IcmpProxy(
            metrics,
            clock,
            real_address=lambda ip, exit_node: real_address(self._config, ip, exit_node),
            reply=self._reply,
            own_address=config.ipv4.ip if config.ipv4 is not None else None,
            identifier=identifier,
            mtu=mtu,
        )
        self._tasks: TaskGroup | None = None
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Offer the networks of another configuration from now on."""
        self._config = config
        networks = [network.mapped_cidr or network.cidr for network in config.proxy_networks]
        offered = [(int(cidr.netmask), int(cidr.network_address)) for cidr in networks]
        former = [each for each in self._offered if each not in offered]
        self._offered = [*former[-MAX_FORMER:], *offered]
        self._run_pings()

    def take(self, arrivals: Sequence[Arrival]) -> list[bytes]:
        """Sort a batch; returns the packets that are for the device, or for whoever stands in for it."""
        others: list[bytes] = []
        segments: dict[bool, list[bytes]] = {}
        withheld = 0
        for packet, peer_id, flags in arrivals:
            exit_node = bool(flags & _EXIT_NODE) and self._is_exit
            left = self._carry(packet, peer_id, exit_node, segments) if self._is_for_us(packet, exit_node) else packet
            if left is not None:
                if flags & _NOT_SEND_TO_TUN:
                    withheld += 1
                else:
                    others.append(left)
        if self.tcp is not None:
            for exit_node, batch in segments.items():
                others += self.tcp.take(batch, exit_node)
        self._metrics.dropped_unhandled += withheld
        self._metrics.delivered_packets += len(arrivals) - len(others) - withheld
        return others

    def watch(self, frames: Sequence[bytes]) -> None:
        """To be told of what the device brings: answers to hosts behind this node are the kernel's."""
        self._udp.watch([frame for frame in frames if frame[_SOURCE] != self._own])

    async def run(self) -> None:
        """Carry answers back, and forget what is over, for ever."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._udp.run, name="subnet UDP")
            self._run_pings()
            while True:
                await anyio.sleep(EXPIRE_TICK)
                self._fragments.expire(self._clock())

    def _run_pings(self) -> None:
        if self._tasks is not None and not self._pings_go_on and (self._offered or self._is_exit):
            self._pings_go_on = True
            self._tasks.start_soon(self._icmp.run, name="subnet ICMP")

    def _is_for_us(self, packet: bytes, exit_node: bool) -> bool:
        if len(packet) < ipv4.HEADER_SIZE or packet[0] >> 4 != 4 or packet[9] not in _PROTOCOLS:
            return False
        destination = packet[16:20]
        if destination == self._own:
            return not self._has_device
        value = int.from_bytes(destination, "big")
        return exit_node or any(value & mask == first for mask, first in self._offered)

    def _carry(self, packet: bytes, peer_id: int, exit_node: bool, segments: dict[bool, list[bytes]]) -> bytes | None:
        """Check one packet and give it to its protocol, TCP into `segments`; returns it, whole, if that has no use for it."""
        record = self._owners.record(peer_id)
        if record is None:
            self._metrics.dropped_subnet += 1
            return None
        if ipv4.is_fragment(packet):
            whole = self._fragments.add(packet, peer_id, self._clock())
            if whole is None:
                return None
            packet = whole
        protocol = packet[9]
        if (protocol == ipv4.TCP and self.tcp is None) or (protocol == ipv4.UDP and self._udp.is_answer(packet)):
            return packet
        if not self._owners.owns(record, packet[12:16]):
            if not _begins(packet):
                return packet
            self._metrics.dropped_subnet += 1
            self._warn(record, packet[12:16])
            return None
        if protocol == ipv4.TCP:
            segments.setdefault(exit_node, []).append(packet)
        elif protocol == ipv4.UDP:
            self._udp.take(packet, peer_id, exit_node)
        elif not self._icmp.take(packet, exit_node):
            return packet
        return None

    def _warn(self, record: PeerRecord, address: bytes) -> None:
        if record.peer_id in self._warned:
            return
        if len(self._warned) >= MAX_WARNED:
            self._warned.clear()
        self._warned.add(record.peer_id)
        logger.warning(
            "packets of peer %d (%s) from %s are dropped: that is neither its address nor in a network that it offers",
            record.peer_id,
            record.hostname,
            IPv4Address(address),
        )

    def _reply(self, address: bytes, packets: list[bytes]) -> None:
        """Send answers to whoever has an overlay address."""
        found = None if self._outbound.lookup is None else self._outbound.lookup.resolve(address)
        # Never to a broadcast address, nor to an exit node, which has no part in what came here.
        if found is None or found.kind is not Kind.PEER or found.exit_node:
            self._metrics.dropped_no_route += len(packets)
            return
        self._outbound.send(found.peers[0], PacketType.DATA, packets, _NO_PROXY)


def _begins(packet: bytes) -> bool:
    """Whether a packet begins something here, and is no part of what a host behind this node has begun."""
    start = (packet[0] & 15) * 4
    match packet[9]:
        case ipv4.TCP:
            return bool(packet[start + 13 : start + 14]) and packet[start + 13] & (SYN | ACK) == SYN
        case ipv4.ICMP:
            return packet[start : start + 1] == bytes((ECHO_REQUEST,))
        case _:
            return True
