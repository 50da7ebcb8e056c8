"""UDP for networks behind this node: each source address and port of the overlay gets a socket of the kernel, and with it a
port of this machine.

Datagrams go to whatever permitted destination the source names; answers are taken from any port of a host that it has sent to,
and go back from the address under which it knows that host.  What answers a host behind this node, which has asked through the
kernel, is for the kernel (`is_answer`): the packet itself does not say that it is no question.

Bounds: 512 sources, 256 of one peer; then the one that has been silent longest gives way.  A source is forgotten after 120 s of
silence, and has 64 destinations, the first ones giving way.  4096 questions of hosts are remembered, the first ones giving way,
for 120 s.  A datagram that a socket or a tunnel does not take at once is
dropped, as UDP is.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Final

import anyio

from easytier_hooks.errors import DialRefused
from easytier_hooks.types import IPAddress
from easytier_host import ipv4
from easytier_host.flows import reverse_key
from easytier_host.ipv4 import UdpDatagram
from easytier_host.metrics import Metrics
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.subnet.fragments import cut

# Wire: stock decides (data plane 1.7).
FRAGMENT_SIZE: Final = 1280
"""Payload bytes of each fragment of an answer."""
TIMEOUT: Final = 120.0
"""Seconds of silence."""

# Ours.
MAX_SOURCES: Final = 512
"""Half of the descriptors that a process usually has."""
MAX_SOURCES_PER_PEER: Final = 256
MAX_DESTINATIONS: Final = 64
MAX_QUESTIONS: Final = 4096
TICK: Final = 5.0
"""Seconds between looks for the forgotten."""
SOCKETS_PER_TURN: Final = 64
DATAGRAMS_PER_SOCKET: Final = 32
"""Answers that are read before other tasks, and other sockets, get a turn."""
_LARGEST: Final = 65_535
_PORTS_END: Final = VNET_HEADER_SIZE + ipv4.HEADER_SIZE + 4


class UdpProxy:
    """The sources of all peers.

    `real_address(ip, port, exit_node)` says where a datagram really goes, or raises DialRefused; `reply(address, packets)`
    sends packets to an overlay address; `mtu` is that of the overlay, in bytes.
    """

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        real_address: Callable[[IPAddress, int, bool], tuple[IPAddress, int]],
        reply: Callable[[bytes, list[bytes]], None],
        mtu: int,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._real_address = real_address
        self._reply = reply
        self._fragment_size = min(FRAGMENT_SIZE, mtu - ipv4.HEADER_SIZE)
        self._identification = 0
        self._ready = select.epoll()
        self._sources: dict[bytes, _Source] = {}
        """By address and port; the one that was silent longest comes first."""
        self._by_descriptor: dict[int, _Source] = {}
        self._per_peer: Counter[int] = Counter()
        self._questions: dict[bytes, float] = {}
        """When hosts behind this node have asked; by addresses and ports as the answer will have them."""

    def __len__(self) -> int:
        return len(self._sources)

    def watch(self, frames: Sequence[bytes]) -> None:
        """Note what hosts behind this node ask: device frames on their way out, not of the node itself."""
        for frame in frames:
            # Later fragments have no ports.
            if len(frame) >= _PORTS_END and frame[10] == 0x45 and frame[19] == ipv4.UDP and not frame[16] & 0x1F | frame[17]:
                key = reverse_key(frame[22:_PORTS_END])
                self._questions.pop(key, None)
                if len(self._questions) >= MAX_QUESTIONS:
                    del self._questions[next(iter(self._questions))]
                self._questions[key] = self._clock()

    def is_answer(self, packet: bytes) -> bool:
        """Whether a whole UDP packet of a peer answers a host behind this node."""
        if not self._questions:
            return False
        start = (packet[0] & 15) * 4
        asked = self._questions.get(packet[12:20] + packet[start : start + 4])
        return asked is not None and self._clock() - asked < TIMEOUT

    def take(self, packet: bytes, peer_id: int, exit_node: bool) -> None:
        """Send on what a whole UDP packet of a peer holds; counted where it cannot be."""
        datagram = ipv4.parse_udp(packet)
        if datagram is None or datagram.source_port == 0:
            self._metrics.dropped_subnet += 1
            return
        key = packet[12:16] + datagram.source_port.to_bytes(2, "big")
        known = self._sources.get(key)
        target = None if known is None else known.targets.get((packet[16:20], datagram.destination_port))
        try:
            if target is None:
                ip = IPv4Address(packet[16:20])
                real, port = self._real_address(ip, datagram.destination_port, exit_node)
                target = str(real), port
            source = known or self._open(key, datagram.source_port, peer_id)
            self._touch(source)
            source.remember(packet[16:20], datagram.destination_port, target)
            source.socket.sendto(datagram.data, target)
        except (DialRefused, OSError):
            self._metrics.dropped_subnet += 1

    async def run(self) -> None:
        """Carry answers back for ever; closes all sockets at its end."""
        try:
            while True:
                with anyio.move_on_after(TICK):
                    await anyio.wait_readable(self._ready)
                self._carry_answers()
                self._expire()
        finally:
            for source in list(self._sources.values()):
                self._close(source)
            self._ready.close()

    def _carry_answers(self) -> None:
        for descriptor, _ in self._ready.poll(0, SOCKETS_PER_TURN):
            source = self._by_descriptor.get(descriptor)
            if source is None:
                continue
            packets: list[bytes] = []
            for _ in range(DATAGRAMS_PER_SOCKET):
                try:
                    data, (host, port) = source.socket.recvfrom(_LARGEST)
                except OSError:
                    # Empty; or the kernel tells of an error once and goes on.
                    break
                asked = source.names.get(host)
                if asked is None:
                    self._metrics.dropped_subnet += 1
                    continue
                self._identification = (self._identification + 1) & 0xFFFF
                answer = UdpDatagram(port, source.port, data)
                packets += cut(ipv4.build_udp(asked, source.address, answer, self._identification), self._fragment_size)
            if packets:
                self._touch(source)
                self._reply(source.address, packets)

    def _expire(self) -> None:
        now = self._clock()
        for source in list(self._sources.values()):
            if now - source.last_used < TIMEOUT:
                break
            self._close(source)

    def _touch(self, source: _Source) -> None:
        source.last_used = self._clock()
        self._sources[source.key] = self._sources.pop(source.key)

    def _open(self, key: bytes, port: int, peer_id: int) -> _Source:
        """Make room and a socket for a new source; raises OSError if the machine has none."""
        if self._per_peer[peer_id] >= MAX_SOURCES_PER_PEER:
            self._close(next(source for source in self._sources.values() if source.peer_id == peer_id))
        elif len(self._sources) >= MAX_SOURCES:
            self._close(next(iter(self._sources.values())))
        source = _Source(key, port, peer_id)
        try:
            self._ready.register(source.socket, select.EPOLLIN)
        except OSError:
            source.socket.close()
            raise
        self._sources[key] = self._by_descriptor[source.socket.fileno()] = source
        self._per_peer[peer_id] += 1
        return source

    def _close(self, source: _Source) -> None:
        del self._sources[source.key], self._by_descriptor[source.socket.fileno()]
        self._per_peer[source.peer_id] -= 1
        if not self._per_peer[source.peer_id]:
            del self._per_peer[source.peer_id]
        self._ready.unregister(source.socket)
        source.socket.close()


class _Source:
    """One address and port of the overlay, and the socket that stands for it."""

    def __init__(self, key: bytes, port: int, peer_id: int) -> None:
        self.key = key
        self.address = key[:4]
        self.port = port
        self.peer_id = peer_id
        self.last_used = 0.0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.targets: dict[tuple[bytes, int], tuple[str, int]] = {}
        """Where datagrams for an address and port really go."""
        self.names: dict[str, bytes] = {}
        """Real address -> the one by which the source knows it."""

    def remember(self, asked: bytes, port: int, target: tuple[str, int]) -> None:
        """Answers from `target` may come, and are from `asked` to the source."""
        self.targets[asked, port] = target
        self.names[target[0]] = asked
        if len(self.targets) > MAX_DESTINATIONS:
            del self.targets[next(iter(self.targets))]
        if len(self.names) > MAX_DESTINATIONS:
            del self.names[next(iter(self.names))]
