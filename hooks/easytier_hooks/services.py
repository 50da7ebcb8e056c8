"""The contracts between a host and the transports and TCP stacks that plugins bring along.

`HostServices` is implemented by the host, `Transport` and `TcpStack` by plugins. All of it is used on the host's event loop
thread alone. Bytes are exchanged in batches. A *device frame* is what a TUN device with IFF_VNET_HDR gives: a 10-byte
virtio-net header (little endian), then an IP packet of up to 64 KiB whose checksum may be partial. A *packet* is an IP packet
alone with its checksums complete.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol, TypeAlias, runtime_checkable

from anyio.abc import TaskGroup

from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import Candidate, FlowKey, IPAddress, PeerCapabilities, PeerInfo, TcpFlow

PacketHandler: TypeAlias = Callable[[int, list[bytes]], None]
"""Called with the peer id of the sender and the payloads, opened, in the order of arrival. Must not block."""

Endpoint: TypeAlias = tuple[IPAddress, int]
"""Address and port."""

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
        """Every task of the plugin lives here; it is cancelled when the node stops. An exception of one is logged and ends
        all of them, but nothing else; what is started afterwards lives in a new group. Entering and leaving it is the node's
        business."""
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

    def is_stream(self, peer_id: int) -> bool:
        """Whether our packets for the peer reach it over one connection of TCP: in order, and all the later ones late where one
        is lost. False where relays are in between.
        """
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

    def largest_payload(self, peer_id: int) -> int:
        """Bytes of the largest payload to the peer that leaves this node as one underlay packet of at most 1500 bytes.

        Through a relay, one that the relay need not cut either if its links carry 1500. 0 if the peer cannot be reached, and
        while packets may be cut.

        The encryption and the headers of the node are counted, and the MTU that the system knows for the way to the neighbour.
        Nobody knows of the rest of the way: try it out. Costs some system calls.
        """
        ...

    def allow_fragments(self, peer_id: int) -> None:
        """Large payloads to the peer vanish: have the network cut them up for the next minute, where it can.

        Harmless if the peer cannot be reached. It holds for other peers on the same socket as well.
        """
        ...

    def handle(self, packet_type: int, handler: PacketHandler) -> None:
        """Give packets of this type that are addressed to us to `handler`.

        Raises ValueError if the type has a handler already or is not open to plugins. A handler that raises is logged and the
        batch is lost.
        """
        ...

    @property
    def device(self) -> "Link | None":
        """The side of our own TUN; None on a node without one."""
        ...

    async def serve(
        self, connection: TcpConnection, opener: int, transport: str, source: Endpoint | None, destination: Endpoint
    ) -> None:
        """Carry a connection that the peer `opener` has opened over `transport`, until its end.

        The host dials the destination if it is this node's own or in a network that it offers; else, and if it cannot be
        reached, the connection is reset.  It is closed when this returns.  `source` is None where the peer does not tell.
        """
        ...


@runtime_checkable
class Link(Protocol):
    """One side of the node on which TCP segments travel: the device, or the overlay.  Both use device frames."""

    @property
    def mtu(self) -> int:
        """Largest packet that leaves on this side, in bytes; super-packets written are cut to it."""
        ...

    def claim(self, key: FlowKey, handler: FrameHandler) -> Callable[[], None]:
        """Give every later device frame with exactly this source and destination to `handler` instead of sending it on.

        The claim ends when a TCP SYN begins another connection between the same ends. Unless the flow's end was reported
        before, the handler gets that SYN as its last frame.
        Returns a function that ends the claim; calling it twice does no harm. Raises ValueError if the key is claimed already.
        """
        ...

    def write(self, frames: Sequence[bytes]) -> None:
        """Send device frames to their destination on this side at once. What it does not take is dropped and counted."""
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

    async def dial(self, flow: TcpFlow) -> TcpConnection:
        """Connect to the flow's destination through its peer, while the application waits.

        Raises TransportUnavailable if the transport cannot: the flow goes on as plain TCP, or fails where that is not possible.
        Raises ConnectionRefusedError if the destination itself refused, DestinationUnreachable if the peer has no way to it:
        the node tells the application so, and tries nothing else. Any other exception is logged and treated as the first. The
        host cancels a call that takes too long, and owns the connection.
        """
        ...


@runtime_checkable
class TcpStack(Protocol):
    """A way to end TCP connections on this machine, and perhaps to begin them (docs/stacks.md)."""

    @property
    def name(self) -> str:
        """As for a transport."""
        ...

    @property
    def description(self) -> str:
        """One line for a listing."""
        ...

    @property
    def carries_subnets(self) -> bool:
        """Whether it can end flows of the device whose source is not this node but a host behind it."""
        ...

    def available(self) -> str:
        """The reason why the stack cannot end a connection here and now, "" if it can.

        Asked at the start, which chooses a stack, and of the chosen one for each new flow: quick, without I/O.
        """
        ...

    async def terminate(self, link: Link, key: FlowKey, syn: bytes) -> TcpConnection:
        """Complete the handshake of a flow that comes from `link` and whose TCP SYN was held, a device frame.

        From here on the flow's frames are claimed on `link`. Raises TransportUnavailable, with every claim ended, if the stack
        is full or the handshake does not end; the source has seen nothing, or will repeat its SYN.
        """
        ...

    async def connect(self, link: Link, key: FlowKey) -> TcpConnection:
        """Begin a connection on `link`; waits as long as TCP does, so bound it. Raises OSError (refused, timed out, key in
        use), or TransportUnavailable if this stack cannot.
        """
        ...
