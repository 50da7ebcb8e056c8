"""The contracts between a host and the transports and TCP stacks that plugins bring along.

`HostServices` is implemented by the host, `Transport` and `TcpStack` by plugins. All of it is used on the host's event loop
thread alone. Bytes are exchanged in batches. A *device frame* is what a TUN device with IFF_VNET_HDR gives: a 10-byte
virtio-net header (little endian), then an IP packet of up to 64 KiB whose checksum may be partial. A *packet* is an IP packet
alone with its checksums complete.
"""

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol, TypeAlias, runtime_checkable

from anyio.abc import TaskGroup

from easytier_hooks.types import Candidate, Direction, FlowEvent, FlowKey, IPAddress, PeerCapabilities, PeerInfo, TcpFlow

PacketHandler: TypeAlias = Callable[[int, list[bytes]], None]
"""Called with the peer id of the sender and the payloads, opened, in the order of arrival. Must not block."""

FrameHandler: TypeAlias = Callable[[list[bytes]], None]
"""Called with device frames in the order they were read. Must not block."""


class HostServices(Protocol):
    """What a transport or stack may ask of the node. Each plugin gets its own, with its own `options` and `logger`."""

    @property
    def peer_id(self) -> int:
        """Our own peer id."""
        ...

    @property
    def addresses(self) -> Sequence[IPAddress]:
        """Our own virtual addresses; empty while the node has none."""
        ...

    @property
    def interfaces(self) -> Sequence[IPv4Interface | IPv6Interface]:
        """The same with their prefixes."""
        ...

    @property
    def options(self) -> Mapping[str, object]:
        """The plugin's table of the configuration, empty if it has none."""
        ...

    @property
    def requested(self) -> bool:
        """Whether the configuration names the plugin; False if it was loaded by default."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """The node's `[flags]`, by their names in the configuration, with defaults filled in."""
        ...

    @property
    def logger(self) -> logging.Logger:
        """A logger whose lines carry the plugin's name."""
        ...

    @property
    def task_group(self) -> TaskGroup:
        """Every task of the plugin lives here; it is cancelled when the node stops."""
        ...

    def is_own_address(self, ip: IPAddress) -> bool:
        """Whether `ip` is one of ours: virtual, or of any interface of this machine."""
        ...

    def dial_target(self, ip: IPAddress, port: int) -> tuple[IPAddress, int]:
        """Where a connection that a peer wants to `ip` and `port` has to be dialled on this machine's side.

        Our own address stands for itself, or for 127.0.0.1 on a node without a device; an address of a network that we offer
        for the real one behind it. Raises DialRefused for everything else, and for the node's own listeners.
        """
        ...

    def peer_for(self, ip: IPAddress) -> PeerInfo | None:
        """The peer that has the virtual address `ip`, else the one that offers the longest network around it."""
        ...

    def capabilities_of(self, peer_id: int) -> PeerCapabilities | None:
        """None while nothing is known of the peer."""
        ...

    def next_hop_of(self, peer_id: int) -> PeerInfo | None:
        """The neighbour that gets our packets for the peer: itself if it is one. None if it cannot be reached."""
        ...

    def send(self, peer_id: int, packet_type: int, payloads: Sequence[bytes]) -> bool:
        """Seal a batch and send it towards a peer. Does not block.

        False means congested: nothing of the batch was sent, wait for `wait_writable` or drop. A batch for a peer that cannot
        be reached is dropped and counted, and True. Raises ValueError for a packet type that is not open to plugins.
        """
        ...

    async def wait_writable(self, peer_id: int) -> None:
        """Return when a batch for the peer has a chance again, or when the peer has gone. Takes at most 1 s."""
        ...

    def handle(self, packet_type: int, handler: PacketHandler) -> None:
        """Give packets of this type that are addressed to us to `handler`.

        Raises ValueError if the type has a handler already or is not open to plugins. A handler that raises is logged and the
        batch is lost.
        """
        ...

    def write_device(self, frames: Sequence[bytes]) -> None:
        """Write device frames to the TUN at once. What a full device does not take is dropped and counted."""
        ...

    def write_packets(self, packets: Sequence[bytes]) -> None:
        """The same for packets, without virtio-net header."""
        ...

    def claim(self, key: FlowKey, handler: FrameHandler) -> Callable[[], None]:
        """Give every later device frame with exactly this source and destination to `handler` instead of the overlay.

        The claim ends when a TCP SYN begins another connection between the same ends.  Unless the flow's end was reported
        before, the handler gets that SYN as its last frame.
        Returns a function that ends the claim; calling it twice does no harm. Raises ValueError if the key is claimed already.
        """
        ...

    def open_flow(self, key: FlowKey, direction: Direction, peer: PeerInfo | None, transport: str, reason: str) -> TcpFlow:
        """Announce a flow that the host has not seen itself, as one that arrives over a transport. Sends Seen and
        TransportSelected to the plugins; the caller owes the rest up to Closed or Failed.
        """
        ...

    def flow_event(self, flow: TcpFlow, event: FlowEvent) -> None:
        """Report what happened to a flow that the transport carries. An event after Closed or Failed is ignored and logged."""
        ...


@runtime_checkable
class Transport(Protocol):
    """A way to carry TCP flows to a peer."""

    @property
    def name(self) -> str:
        """Lower-case letters, digits and hyphens, at most 32, not "tcp": as shown to users and used in `Selection`."""
        ...

    def candidate(self, flow: TcpFlow, peer: PeerInfo | None) -> Candidate:
        """Whether the flow could be carried, and why not. Asked once for each new flow: quick, without I/O."""
        ...

    async def open(self, flow: TcpFlow, syn: bytes) -> None:
        """Take over the flow whose TCP SYN was held back; `syn` is that device frame.

        From its return the transport has claimed the key, answers the application, and reports events up to Closed or Failed.
        Raises TransportUnavailable, with every claim ended, while the application has seen nothing yet: the host then releases
        the SYN untouched and the flow goes on as plain TCP. Any other exception is logged and treated alike. The host cancels
        a call that takes too long.
        """
        ...

    async def carry(self, flow: TcpFlow, connection: socket.socket) -> None:
        """Carry a flow whose source is a connected, non-blocking stream socket, as from a port forward; returns when it has
        ended.

        The transport owns the socket, and reports Connected and what follows up to Closed or Failed. Raises
        TransportUnavailable, with the socket untouched and open, if it cannot reach the peer. The host cancels the call to end
        the flow.
        """
        ...


@runtime_checkable
class TcpStack(Protocol):
    """A way to end TCP connections of the device on this machine. Provisional: more methods will follow."""

    @property
    def name(self) -> str:
        """As for a transport."""
        ...

    @property
    def description(self) -> str:
        """One line for a listing."""
        ...

    def available(self) -> str:
        """The reason why the stack cannot run here, "" if it can."""
        ...
