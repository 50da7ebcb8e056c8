"""UDP ports of our own address in the overlay that end in this process, on a node without a device.

Datagrams leave as IPv4 packets that are made here, in fragments where they are large; answers are recognised among the packets
that peers send to our address, before anybody else looks at them.  IPv4 alone.

Bounds: 4096 ports; fragments as in `subnet.fragments`, one share for each source address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Final

from easytier_hooks.services import Endpoint
from easytier_host import ipv4
from easytier_host.datagrams import Receive
from easytier_host.ipv4 import UdpDatagram
from easytier_host.metrics import Metrics
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.plain_tcp import EphemeralPorts
from easytier_host.subnet.fragments import Reassembler, cut

# Ours.
MAX_PORTS: Final = 4096
_NO_VNET: Final = bytes(VNET_HEADER_SIZE)


class OverlayUdp:
    """The ports of one node.  `send` takes device frames for the overlay; `mtu` is that of the overlay, in bytes."""

    def __init__(
        self,
        own_address: IPv4Address | None,
        send: Callable[[Sequence[bytes]], object],
        metrics: Metrics,
        clock: Callable[[], float],
        ports: EphemeralPorts,
        *,
        mtu: int,
    ) -> None:
        self._own = own_address.packed if own_address is not None else b""
        self._send = send
        self._metrics = metrics
        self._clock = clock
        self._free_ports = ports
        self._fragment_size = mtu - ipv4.HEADER_SIZE
        self._identification = 0
        self._receivers: dict[int, Receive] = {}
        self._fragments = Reassembler(metrics)

    def open(self, receive: Receive) -> OverlayPort:
        """A port whose answers go to `receive`; raises OSError if there is none, or the node has no IPv4 address."""
        if not self._own:
            raise OSError("this node has no IPv4 address in the overlay")
        if len(self._receivers) >= MAX_PORTS:
            raise OSError(f"{MAX_PORTS} UDP ports are in use already")
        port = self._free_ports.next()
        while port in self._receivers:
            port = self._free_ports.next()
        self._receivers[port] = receive
        return OverlayPort(self, port)

    def take(self, packet: bytes) -> bytes | None:
        """Take one packet of a peer if it is for a port that is open.

        None if it was taken, or is a fragment that waits for others; else the packet, whole if it came in fragments.
        """
        if not self._receivers or len(packet) < ipv4.HEADER_SIZE or packet[0] >> 4 != 4:
            return packet
        if packet[9] != ipv4.UDP or packet[16:20] != self._own:
            return packet
        if ipv4.is_fragment(packet):
            whole = self._fragments.add(packet, int.from_bytes(packet[12:16], "big"), self._clock())
            if whole is None:
                return None
            packet = whole
        destination = (packet[0] & 15) * 4 + 2
        receive = self._receivers.get(int.from_bytes(packet[destination : destination + 2], "big"))
        if receive is None:
            return packet
        datagram = ipv4.parse_udp(packet)
        if datagram is None:
            self._metrics.dropped_subnet += 1
        else:
            receive((IPv4Address(packet[12:16]), datagram.source_port), datagram.data)
        return None

    def expire(self) -> None:
        """Give up fragments that have waited too long; to be called every few seconds."""
        self._fragments.expire(self._clock())

    def send(self, source_port: int, data: bytes, destination: Endpoint) -> None:
        """Send one datagram from a port; IPv6 destinations and data that fit no datagram are dropped and counted."""
        ip, port = destination
        self._identification = (self._identification + 1) & 0xFFFF
        try:
            if not isinstance(ip, IPv4Address):
                raise ValueError(f"{ip} is not IPv4")
            packet = ipv4.build_udp(self._own, ip.packed, UdpDatagram(source_port, port, data), self._identification)
        except ValueError:
            self._metrics.dropped_device += 1
            return
        self._send([_NO_VNET + fragment for fragment in cut(packet, self._fragment_size)])

    def close(self, port: int) -> None:
        """Give a port back; idempotent."""
        self._receivers.pop(port, None)


class OverlayPort:
    """`DatagramPort` in the overlay; `port` is its number."""

    def __init__(self, udp: OverlayUdp, port: int) -> None:
        self._udp = udp
        self.port = port
        self._is_open = True

    def send(self, data: bytes, destination: Endpoint) -> None:
        """See `DatagramPort`."""
        if self._is_open:
            self._udp.send(self.port, data, destination)

    def close(self) -> None:
        """See `DatagramPort`."""
        if self._is_open:
            self._is_open = False
            self._udp.close(self.port)
