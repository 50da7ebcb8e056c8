"""The way of IP packets through one node, between what knows nothing of each other.

::

    device --a batch--> gate (flows of transports stay here) --> datapath.Outbound --> tunnels
    tunnels --> datapath.Inbound --> ports of this node, subnet router --the rest--> gate looks on --> device
                                                                                   '--> without one: entrances, pings

Wires them for one node; what is decided is decided there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from easytier_host.datapath import Arrival
from easytier_host.nic.base import VNET_HEADER_SIZE, Nic
from easytier_host.pings import Pings
from easytier_host.subnet.router import SubnetRouter, is_wanted
from easytier_host.subnet.wiring import make_router
from easytier_host.tcp_reset import reset_for
from easytier_host.topology import peer_info
from easytier_host.tunnel.base import give_time

if TYPE_CHECKING:
    from easytier_host.instance import Node

# Ours.
READS_PER_TURN: Final = 8
"""Batches of the device that are carried before other tasks get a turn."""


class Passage:
    """That of one node; `mtu` is the overlay's, in bytes."""

    def __init__(self, node: Node, clock: Callable[[], float], wall_clock: Callable[[], float], mtu: int) -> None:
        self._node = node
        self._make_router = partial(make_router, node, clock, wall_clock, mtu)
        self._subnet: SubnetRouter | None = None
        self.pings = Pings(lambda packet: node.outbound.send_device_frames([bytes(VNET_HEADER_SIZE) + packet]), clock)

    def route_subnets(self) -> None:
        """Have a subnet router by the node's configuration, if there is a use for one; one that is there stays."""
        node = self._node
        if self._subnet is not None:
            self._subnet.configure(node.config)
        elif is_wanted(node.config, has_device=node.nic is not None):
            self._subnet = router = self._make_router()
            node.inbound.subnet = partial(self._sort, router)
            node.tasks.start_soon(router.run, name="subnet router")

    async def carry(self, nic: Nic) -> None:
        """The way out: device to tunnels, a batch at a time, for ever; raises `NicError`."""
        node = self._node
        while True:
            await nic.wait_readable()
            for _ in range(READS_PER_TURN):
                frames = nic.read_batch()
                if not frames:
                    break
                node.metrics.device_packets += len(frames)
                if self._subnet is not None:
                    self._subnet.watch(frames)
                tunnel = node.outbound.send_device_frames(node.gate.admit(frames))
                if tunnel is not None:
                    await give_time(tunnel)

    def deliver(self, packets: list[bytes]) -> None:
        """The way in: opened IP packets from peers."""
        node = self._node
        if node.nic is not None:
            node.metrics.delivered_packets += len(packets)
            # Joined first, so that flows are looked up once for each super-packet.
            frames = node.nic.join(packets)
            node.gate.watch_inbound(frames, VNET_HEADER_SIZE)
            node.nic.write_frames(frames)
            return
        node.gate.watch_inbound(packets)
        others = node.entrances.take(packets)
        node.metrics.delivered_packets += len(packets) - len(others)
        for packet in others:
            if self.pings.take(packet):
                node.metrics.delivered_packets += 1
            else:
                node.metrics.dropped_unhandled += 1

    def refuse(self, packet: bytes, peer_id: int, reason: str) -> None:
        """Answer a TCP SYN of a peer that is not for it, and show its flow."""
        node, frame = self._node, bytes(VNET_HEADER_SIZE) + packet
        node.metrics.refused_dials += 1
        record = node.topology.record(peer_id)
        node.gate.refuse(frame, None if record is None else peer_info(record), f"refused to peers: {reason}")
        with suppress(ValueError):
            # Fragments of a segment have no answer.
            node.overlay.write([reset_for(frame)])

    def _sort(self, router: SubnetRouter, arrivals: list[Arrival]) -> list[bytes]:
        """Packets of peers that may be for a proxy here: the ports from which this node asks come before those it offers."""
        node = self._node
        take = node.entrances.udp.take
        left = [(packet, peer_id, flags) for first, peer_id, flags in arrivals if (packet := take(first)) is not None]
        node.metrics.delivered_packets += len(arrivals) - len(left)
        return router.take(left)
