"""What a plugin gets in its hand: `easytier_hooks.HostServices` over one node, with the plugin's own options and logger.

Nothing is decided here: each method asks the part of the node whose business it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from ipaddress import IPv4Interface, IPv6Interface
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.services import Endpoint, Link, PacketHandler
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import IPAddress, PeerCapabilities, PeerInfo, Selection
from easytier_host.packet import PEER_HEADER_SIZE, PacketType
from easytier_host.plugin_tasks import PluginTasks
from easytier_host.tunnel.base import RELAYED_FRAME_SIZE

if TYPE_CHECKING:
    from easytier_host.instance import Node

# Ours.
OPEN_TYPES: Final = frozenset({PacketType.KCP_SRC, PacketType.KCP_DST, PacketType.QUIC_SRC, PacketType.QUIC_DST})
"""Packet types that a plugin may send and take."""
WRITABLE_TIMEOUT: Final = 1.0
"""Seconds, the longest that `wait_writable` takes."""


class PluginServices:
    """The services of one node for one plugin."""

    def __init__(self, node: Node, tasks: Mapping[str, PluginTasks], plugin: str, options: Mapping[str, object]) -> None:
        self._node = node
        self._plugin = plugin
        self._options = options
        self._logger = logging.getLogger(f"easytier.plugin.{plugin}")
        self._tasks = tasks

    @property
    def peer_id(self) -> int:
        return self._node.peer_id

    @property
    def addresses(self) -> Sequence[IPAddress]:
        return [interface.ip for interface in self.interfaces]

    @property
    def interfaces(self) -> Sequence[IPv4Interface | IPv6Interface]:
        config = self._node.config
        return [interface for interface in (config.ipv4, config.ipv6) if interface is not None]

    @property
    def options(self) -> Mapping[str, object]:
        return self._options

    @property
    def requested(self) -> bool:
        return self._node.config.plugins.get(self._plugin, False) is not False

    @property
    def settings(self) -> Mapping[str, object]:
        return asdict(self._node.config.flags)

    @property
    def logger(self) -> logging.Logger:
        return self._logger

    @property
    def task_group(self) -> TaskGroup:
        return self._tasks[self._plugin].group

    def peer_for(self, ip: IPAddress) -> PeerInfo | None:
        return self._node.peer_for(ip)

    def capabilities_of(self, peer_id: int) -> PeerCapabilities | None:
        return self._node.capabilities_of(peer_id)

    def next_hop_of(self, peer_id: int) -> PeerInfo | None:
        return self._node.next_hop_of(peer_id)

    def is_stream(self, peer_id: int) -> bool:
        conn = self._node.outbound.connection_to(peer_id)
        return conn is not None and conn.peer_id == peer_id and conn.tunnel.info.scheme == "tcp"

    def send(self, peer_id: int, packet_type: int, payloads: Sequence[bytes]) -> bool:
        if packet_type not in OPEN_TYPES:
            raise ValueError(f"packet type {packet_type} is not open to plugins")
        outbound = self._node.outbound
        conn = outbound.connection_to(peer_id)
        if conn is not None and conn.tunnel.congested:
            return False
        outbound.send(peer_id, packet_type, payloads)
        return True

    async def wait_writable(self, peer_id: int) -> None:
        conn = self._node.outbound.connection_to(peer_id)
        if conn is not None:
            with anyio.move_on_after(WRITABLE_TIMEOUT):
                await conn.tunnel.wait_writable()

    def largest_payload(self, peer_id: int) -> int:
        outbound = self._node.outbound
        conn = outbound.connection_to(peer_id)
        if conn is None:
            return 0
        frame = conn.tunnel.whole_frame_size()
        if conn.peer_id != peer_id:
            frame = min(frame, RELAYED_FRAME_SIZE)
        return max(0, frame - PEER_HEADER_SIZE - outbound.sealing_overhead)

    def allow_fragments(self, peer_id: int) -> None:
        conn = self._node.outbound.connection_to(peer_id)
        if conn is not None:
            conn.tunnel.allow_fragments()

    def handle(self, packet_type: int, handler: PacketHandler) -> None:
        handlers = self._node.inbound.handlers
        if packet_type not in OPEN_TYPES:
            raise ValueError(f"packet type {packet_type} is not open to plugins")
        if packet_type in handlers:
            raise ValueError(f"packet type {packet_type} has a handler already")

        def guarded(from_peer: int, payloads: list[bytes]) -> None:
            try:
                handler(from_peer, payloads)
            except Exception:
                self._logger.exception("plugin %s: its handler of packet type %d failed", self._plugin, packet_type)

        handlers[packet_type] = guarded

    @property
    def device(self) -> Link | None:
        return self._node.gate.device

    async def serve(
        self, connection: TcpConnection, opener: int, transport: str, source: Endpoint | None, destination: Endpoint
    ) -> None:
        opened_by = Selection(transport, f"opened by {self._node.name_of(opener)}", "peer")
        await self._node.targets.serve(connection, opener, opened_by, source, destination)
