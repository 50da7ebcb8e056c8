"""The doorkeeper of one node: asks `access` about everything that peers begin, whatever way it comes.

::

    transport (KCP) --connection--> targets --.
                                               +--> Guard.refusal --> Access
    datapath.Inbound --Data packets--> admit --'
    datapath.Outbound --packets of ours--> note      what is asked for from here may be answered

Packets are looked at only on nodes whose configuration restricts something; there each TCP SYN and each UDP datagram is asked
about that does not answer one of ours, before the subnet router, the device or anything else sees it.  A refused TCP SYN is
answered with RST, and its flow is shown with the reason; datagrams are dropped.  Both are counted.  What is neither TCP nor UDP
passes.  What hides its ports, by IPv6 extension headers or as fragments no sender makes, does not.

A node that is stopping admits nothing that peers begin by TCP.

Bounds: 4096 UDP questions of ours are remembered, 120 s each; the first ones are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address
from typing import Final

from easytier_hooks.errors import DialRefused
from easytier_hooks.types import IPAddress
from easytier_host import ipv4
from easytier_host.access import TCP, UDP, Access, Question
from easytier_host.config.model import Config
from easytier_host.dial import is_here, real_address
from easytier_host.flows import ACK, SYN, reverse_key
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.owners import Claim, Owners

# Ours.
MAX_QUESTIONS: Final = 4096
ANSWER_TIME: Final = 120.0
"""Seconds, as long as the subnet router waits for answers."""

_PROTOCOLS: Final = {ipv4.TCP: TCP, ipv4.UDP: UDP}
_EXTENSION_HEADERS: Final = frozenset({0, 43, 44, 51, 60, 135, 139, 140})
"""Of IPv6 (IANA protocol numbers): a port may stand behind them."""
_TCP_FLAGS_END: Final = 14
_UDP_PORTS_END: Final = 4


class Guard:
    """`interface_addresses` are those of this machine; `refuse(packet, peer_id, reason)` answers a TCP SYN and shows its
    flow."""

    def __init__(
        self,
        config: Config,
        owners: Owners,
        clock: Callable[[], float],
        *,
        interface_addresses: Callable[[], Collection[IPAddress]],
        refuse: Callable[[bytes, int, str], None],
    ) -> None:
        self._config = config
        self._access = Access(config)
        self._owners = owners
        self._clock = clock
        self._interface_addresses = interface_addresses
        self._refuse = refuse
        self._closed = ""
        """Why nothing is admitted any more."""
        self._questions: dict[bytes, float] = {}
        """When we have asked; by addresses and ports as the answer will have them."""

    @property
    def watches_packets(self) -> bool:
        """Whether `admit` and `note` have anything to do on this node."""
        return self._limits(TCP) or self._limits(UDP)

    def configure(self, config: Config) -> None:
        """Go by another configuration from now on; what has begun goes on.  Ask `watches_packets` again."""
        self._config = config
        self._access = Access(config)

    def close(self, reason: str) -> None:
        """Refuse all TCP that peers begin, with this reason.  Ask `watches_packets` again."""
        self._closed = reason

    def _limits(self, proto: str) -> bool:
        return self._access.limits(proto) or bool(self._closed and proto == TCP)

    def refusal(self, proto: str, peer_id: int, source: IPAddress | None, ip: IPAddress, port: int) -> str:
        """Why `peer_id` may not reach what it calls `ip`; "" if it may.  What `dial` forbids is not asked here.

        `source` is the peer's own, or None.
        """
        if self._closed and proto == TCP:
            return self._closed
        if not self._access.limits(proto):
            return ""
        try:
            real = real_address(self._config, ip, exit_node=True)
        except DialRefused:
            # A broadcast, say, or a host that the kernel forwards to.
            real = ip
        here = is_here(self._config, ip, real, self._interface_addresses())
        record = self._owners.record(peer_id)
        # A node without a device stands for itself by its address in the overlay.
        destination = ip if real.is_loopback else real
        name = None if record is None else record.hostname
        return self._access.refusal(Question(proto, name, source, destination, port, here))

    def note(self, frames: Sequence[bytes]) -> None:
        """To be told of all device frames that leave for peers."""
        if not self._access.limits(UDP):
            return
        for frame in frames:
            key = _udp_key(frame, VNET_HEADER_SIZE)
            if key is None:
                continue
            key = reverse_key(key)
            self._questions.pop(key, None)
            if len(self._questions) >= MAX_QUESTIONS:
                del self._questions[next(iter(self._questions))]
            self._questions[key] = self._clock()

    def admit(self, packets: Sequence[bytes], peer_id: int) -> list[bytes]:
        """The IP packets of a peer without those that begin what it may not."""
        return [packet for packet in packets if self._is_admitted(packet, peer_id)]

    def _is_admitted(self, packet: bytes, peer_id: int) -> bool:
        is_ipv4 = packet[0] >> 4 == 4
        if len(packet) < (ipv4.HEADER_SIZE if is_ipv4 else 40):
            return False
        protocol = packet[9] if is_ipv4 else packet[6]
        if not is_ipv4 and protocol in _EXTENSION_HEADERS:
            return False
        proto = _PROTOCOLS.get(protocol)
        if proto is None or not self._limits(proto):
            return True
        start = (packet[0] & 15) * 4 if is_ipv4 else 40
        needed = _TCP_FLAGS_END if proto == TCP else _UDP_PORTS_END
        if is_ipv4:
            offset = (int.from_bytes(packet[6:8], "big") & ipv4.OFFSET_MASK) * 8
            if offset:
                # Of a first piece that was refused the others are of no use, but for one that would change its header.
                return offset >= needed
        if start < ipv4.HEADER_SIZE or len(packet) < start + needed:
            return False
        if proto == TCP and packet[start + 13] & (SYN | ACK) != SYN:
            return True
        addresses = packet[12:20] if is_ipv4 else packet[8:40]
        if proto == UDP and self._is_answer(addresses + packet[start : start + 4]):
            return True
        half = len(addresses) // 2
        ip, port = ip_address(addresses[half:]), int.from_bytes(packet[start + 2 : start + 4], "big")
        reason = self._refusal_of(proto, peer_id, ip_address(addresses[:half]), ip, port)
        # To a peer that is not known yet silence says the same, and its SYN comes again.
        if reason and proto == TCP and (self._closed or self._owners.record(peer_id) is not None):
            self._refuse(packet, peer_id, reason)
        return not reason

    def _refusal_of(self, proto: str, peer_id: int, source: IPAddress, ip: IPAddress, port: int) -> str:
        claim = self._owners.judge(peer_id, source)
        if claim is Claim.FORGED:
            return f"{source} is not an address of its sender"
        return self.refusal(proto, peer_id, source if claim is Claim.OWN else None, ip, port)

    def _is_answer(self, key: bytes) -> bool:
        asked = self._questions.get(key)
        return asked is not None and self._clock() - asked < ANSWER_TIME


def _udp_key(packet: bytes, offset: int) -> bytes | None:
    """Addresses and ports of a UDP packet that begins at `offset`, whole or the first piece of one; None for anything else."""
    if len(packet) < offset + ipv4.HEADER_SIZE:
        return None
    first = packet[offset]
    if first >> 4 == 4:
        start = offset + (first & 15) * 4
        if packet[offset + 9] != ipv4.UDP or packet[offset + 6] & 0x1F or packet[offset + 7] or len(packet) < start + 4:
            return None
        return packet[offset + 12 : offset + 20] + packet[start : start + 4]
    if first >> 4 == 6 and packet[offset + 6] == ipv4.UDP and len(packet) >= offset + 44:
        return packet[offset + 8 : offset + 44]
    return None
