"""`Node`: one running network instance, wired from all the other modules.  The only module that imports everything.

::

    config -> Node -> plugins (easytier_hooks)      device (nic/)  <-> gate <-> datapath <-> tunnel/  <-> neighbours
                   -> listeners, connectors ----------------> admission -> peers       rpc/ <-> route_sync, peer_center, direct

Several nodes may run in one process: nothing here is global.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from easytier_hooks.errors import HooksError
from easytier_hooks.manager import PluginManager
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import IPAddress, PeerCapabilities, PeerInfo
from easytier_host.admission import Admission
from easytier_host.batch import choose_batch
from easytier_host.claims import Claims
from easytier_host.compress import Compressor
from easytier_host.config.model import Config, default_plugins
from easytier_host.connector import Connectors
from easytier_host.crypto import make_cipher, network_digest
from easytier_host.datapath import Inbound, Outbound
from easytier_host.dial import dial_target
from easytier_host.direct import DirectConnector
from easytier_host.embedding import Listeners, OverlayListener, connect
from easytier_host.entrances import Entrances
from easytier_host.events import EventBoard, NodeEvent
from easytier_host.flows import FlowTable
from easytier_host.forward import Forward, ForwardError
from easytier_host.forward_udp import UdpForward
from easytier_host.gate import FlowGate, plain_alone
from easytier_host.guard import Guard
from easytier_host.handshake import Identity
from easytier_host.lifecycle import end_flows, part
from easytier_host.links import DeviceLink
from easytier_host.listening import open_listeners
from easytier_host.metrics import Metrics
from easytier_host.next_hop import NextHops
from easytier_host.nic.base import Nic, NicError
from easytier_host.owners import Owners
from easytier_host.passage import Passage
from easytier_host.pb import common_pb2
from easytier_host.peer_center import PeerCenter
from easytier_host.peer_conn import PeerConn
from easytier_host.peers import PeerMap
from easytier_host.plugin_services import PluginServices
from easytier_host.plugin_tasks import open_groups
from easytier_host.route import LinkState
from easytier_host.route_records import OwnRecord, PeerRecord
from easytier_host.route_sync import RouteSync
from easytier_host.rpc.peer import PeerRpc
from easytier_host.stacks import StackError, choose
from easytier_host.subnet.overlay import OverlayLink
from easytier_host.targets import Targets
from easytier_host.topology import Topology, capabilities_of, offered_networks, own_record, peer_info
from easytier_host.tunnel.base import Listener, Tunnel, TunnelError
from easytier_host.tunnel.url import TunnelUrl
from easytier_host.turns import pace_of_loop
from easytier_host.underlay_watch import UnderlayWatch

logger = logging.getLogger("easytier.node")

# Wire: stock decides.
ENCRYPTION_MTU_COST: Final = 20
"""What stock takes off the device's MTU when it encrypts; the tail is in fact 28 bytes (data plane 1.1)."""


class NodeError(Exception):
    """The node could not start, or cannot go on; the message says what failed and what to do."""


class Node:
    """One node of one network.  Use it as an async context manager; leaving it stops everything it started.

    `nic` replaces the TUN device, for tests and embedding; without it and with `no_tun` the node has none.  `plugins` replaces
    what the configuration loads.  Entering raises `NodeError`.
    """

    def __init__(
        self,
        config: Config,
        *,
        nic: Nic | None = None,
        plugins: PluginManager | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        # The upper half keeps a leaf from becoming the peer center, which is the smallest id (control plane 8.1).
        self.peer_id = 0x8000_0000 + secrets.randbelow(0x7FFF_FFFF)
        self.metrics = Metrics()
        self.nic = nic
        self.plugins = plugins
        self.portal_port: int | None = None
        """Port of the portal that answers for this node, which its owner sets."""
        self.failure: str | None = None
        """Why the node stopped by itself; None while it runs or when it was told to stop."""
        self.tasks: TaskGroup
        self.plugin_tasks: TaskGroup
        self.outbound: Outbound
        self.inbound: Inbound
        self.gate: FlowGate
        self.owners: Owners
        self.guard: Guard
        self.targets: Targets
        self.overlay: OverlayLink
        self.passage: Passage
        self.entrances: Entrances
        self.topology: Topology
        self.direct: DirectConnector
        self.connectors: Connectors
        self._clock = clock
        self._wall_clock = wall_clock
        self._events = EventBoard()
        self._peers = PeerMap(self._on_joined, self._on_left, self.metrics)
        self._listeners: list[Listener] = []
        self._program = Listeners(self.addresses)
        self._stack = AsyncExitStack()
        self._started = False
        self._closed = anyio.Event()
        self._log = logging.LoggerAdapter(logger, {"instance": config.instance_name})

    # What a program may ask

    @property
    def listeners(self) -> list[str]:
        """URLs with the ports on which the node really listens."""
        return [listener.url for listener in self._listeners]

    def listener_ports(self) -> frozenset[int]:
        """The ports of those, of the portal, and of the doors into the overlay: peers are led to none of them through it."""
        ports = {TunnelUrl.parse(url).port for url in self.listeners} | self.entrances.listening_ports()
        return frozenset(ports if self.portal_port is None else ports | {self.portal_port})

    def peers(self) -> list[PeerConn]:
        """The connections to neighbours."""
        return list(self._peers)

    def routes(self) -> list[PeerRecord]:
        """The records of all peers that can be reached."""
        return self.topology.reachable_records()

    def hops_to(self, peer_id: int) -> int | None:
        """Length of the path to a peer, 1 for a neighbour; None if there is none."""
        return self.topology.hops_to(peer_id)

    def paths(self) -> NextHops:
        """The ways to all peers, by fewest hops and by least latency."""
        return self.topology.next_hops

    @property
    def own_record(self) -> OwnRecord:
        """What this node tells the network about itself."""
        return self._state.own

    def events(self) -> AsyncIterator[NodeEvent]:
        """What happens from now on: peers and routes that come and go.  A reader that is slow misses events and is told how
        many."""
        return self._events.subscribe()

    def peer_for(self, ip: IPv4Address | IPv6Address) -> PeerInfo | None:
        """The peer that has a virtual address, or offers the longest network around it."""
        return self.topology.peer_for(ip)

    def name_of(self, peer_id: int) -> str:
        """A peer as users know it: its host name, else its number."""
        record = self.topology.record(peer_id)
        return record.hostname if record is not None and record.hostname else f"peer {peer_id}"

    @property
    def addresses(self) -> list[IPAddress]:
        """This node's virtual addresses."""
        return [interface.ip for interface in (self.config.ipv4, self.config.ipv6) if interface is not None]

    def has_address(self, ip: IPAddress) -> bool:
        """Whether `ip` is one of this node's virtual addresses."""
        return ip in self.addresses

    @property
    def forwards(self) -> list[Forward | UdpForward]:
        """The port forwards, in the order of the configuration."""
        return self.entrances.forwards

    @property
    def socks_address(self) -> tuple[str, int] | None:
        """Where the SOCKS5 server listens; None without one."""
        return None if self.entrances.socks is None else self.entrances.socks.address

    def dial_target(self, ip: IPAddress, port: int, exit_node: bool = False) -> tuple[IPAddress, int]:
        """What peers mean by `ip` and `port`, see `dial.dial_target`."""
        addresses = self.interface_addresses()
        return dial_target(self.config, self.listener_ports(), ip, port, interface_addresses=addresses, exit_node=exit_node)

    def capabilities_of(self, peer_id: int) -> PeerCapabilities | None:
        """What a peer announces that it can do; None if it is unknown."""
        record = self.topology.record(peer_id)
        return None if record is None else capabilities_of(record)

    def next_hop_of(self, peer_id: int) -> PeerInfo | None:
        """The neighbour that gets our frames for a peer."""
        conn = self.outbound.connection_to(peer_id)
        record = None if conn is None else self.topology.record(conn.peer_id)
        return None if record is None else peer_info(record)

    def interface_addresses(self) -> frozenset[IPv4Address | IPv6Address]:
        """Addresses of this machine's interfaces, at most a minute old."""
        return self.direct.interface_addresses

    async def ping(self, address: IPv4Address, *, timeout: float = 2.0, size: int = 56) -> float:
        """Send ICMP echo requests into the overlay until one is answered, and return its round trip in seconds.

        Works without a device only, where nobody else takes the reply.  Raises TimeoutError, or ValueError without an own IPv4
        address.
        """
        if self.config.ipv4 is None or self.nic is not None:
            raise ValueError("ping needs a node with an IPv4 address and without a device")
        return await self.passage.pings.ask(self.config.ipv4.ip, address, size, timeout)

    async def connect_tcp(self, address: str | IPAddress, port: int) -> TcpConnection:
        """Connect to a TCP port in the overlay, by whatever transport the flow gets; no device is needed (docs/embedding.md).

        Raises OSError with the reason: ConnectionRefusedError, TimeoutError after at most 20 s, or another one where nothing
        leads there; ValueError for what is no IP address or port.
        """
        ip = ip_address(address)
        return await connect(self.gate, self.plugin_tasks, self.entrances.source(ip), (ip, port))

    async def listen_tcp(self, port: int) -> OverlayListener:
        """Listen at a port of this node's addresses in the overlay, inside this process.

        On a node with a TUN device only what comes by KCP arrives: plain TCP is the kernel's there.  Raises ValueError for what
        is no port, OSError if it has a listener already.
        """
        await checkpoint()
        return self._program.open(port)

    def accept_tunnel(self, tunnel: Tunnel) -> None:
        """Take a tunnel that a program opened, as if somebody had come in through a listener: one end of `ring.pair`, say."""
        self._admission.accept(tunnel)

    async def join_tunnel(self, tunnel: Tunnel) -> PeerConn:
        """The same as the side that opened it; raises `HandshakeError` if the other end is no neighbour of ours."""
        return await self._admission.join(tunnel)

    async def drain(self, patience: float) -> None:
        """Refuse new flows, wait up to `patience` seconds for those that this node carries, end the rest, and `stop`.

        See docs/reliability.md.  Plain TCP flows are packets to this node, which it passes on until the end.
        """
        if not self._closed.is_set():
            await end_flows(self, patience)
            self.stop()

    def stop(self) -> None:
        """Make `wait_closed` return; the owner then leaves the context."""
        self._closed.set()

    async def wait_closed(self) -> None:
        """Return when `stop` was called or the node failed; raises `NodeError` for a failure."""
        await self._closed.wait()
        if self.failure is not None:
            raise NodeError(self.failure)

    def watch_packets(self) -> None:
        """Ask the guard of packets too, if it has something to say of them."""
        self.outbound.guard = self.inbound.guard = self.guard if self.guard.watches_packets else None

    def offer_networks(self) -> None:
        """Announce the networks of `config`, and carry what peers send there."""
        self._state.update_own(replace(self._state.own, proxy_cidrs=offered_networks(self.config)))
        self.passage.route_subnets()
        self._sync.announce()

    # Start and stop

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            if self.plugins is None:
                self.plugins = PluginManager(self.config.plugins, defaults=default_plugins(self.config.flags))
                self.plugins.load()
            # Outside the task group, so that plugins still hear how flows end when the node stops.
            await self._stack.enter_async_context(self.plugins.running())
            self.tasks = await self._stack.enter_async_context(anyio.create_task_group())
            self._stack.push_async_callback(self._shut)
            # Ended before all else, while peers and device can still be told how their flows end.
            self.plugin_tasks = await self._stack.enter_async_context(anyio.create_task_group())
            self._started = True
            await self._start(self.plugins)
        except BaseException as error:
            await self.__aexit__(None, None, None)
            if isinstance(error, HooksError | NicError | StackError | TunnelError | ForwardError):
                raise NodeError(str(error)) from error
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        self._program.close()
        if self._started:
            self.plugin_tasks.cancel_scope.cancel()
        await self._stack.__aexit__(exc_type, exc, traceback)
        self._events.close()

    async def _shut(self) -> None:
        """Close what reaches outside, and end all tasks but those of plugins, which have ended."""
        with anyio.CancelScope(shield=True):
            await part(self._peers)
        for conn in self._peers:
            conn.tunnel.close("this node stops")
        for listener in self._listeners:
            listener.close()
        if self.nic is not None:
            self.nic.close()
        self.tasks.cancel_scope.cancel()

    async def _start(self, plugins: PluginManager) -> None:
        config, flags = self.config, self.config.flags
        batch = choose_batch()
        cipher = (
            make_cipher(flags.encryption_algorithm, config.network_secret, secrets.token_bytes, batch.aead)
            if flags.enable_encryption
            else None
        )
        mtu = flags.mtu - (ENCRYPTION_MTU_COST if cipher is not None else 0)

        self.outbound = Outbound(
            self.peer_id,
            self._peers,
            self.metrics,
            cipher,
            Compressor() if flags.data_compress_algo == common_pb2.CompressionZstd else None,
            mtu=mtu,
            latency_first=flags.latency_first,
            split=batch.split,
        )
        self.gate = FlowGate(
            FlowTable(),
            plugins,
            self.plugin_tasks,
            self._clock,
            self._wall_clock,
            forward=self.outbound.send_device_frames,
            peer_for=self.peer_for,
            is_own=self.has_address,
        )
        self.passage = Passage(self, self._clock, self._wall_clock, mtu)
        self.overlay = OverlayLink(self.outbound, Claims(self.gate.table), self.metrics, mtu, batch)
        self.owners = Owners(config, self._record, self.peer_for)
        self.guard = Guard(
            config, self.owners, self._clock, interface_addresses=self.interface_addresses, refuse=self.passage.refuse
        )
        self.targets = Targets(self.gate, self.metrics, self.dial_target, self.owners, self.guard, self._program)
        self._rpc = PeerRpc(
            self.peer_id,
            config.network_name,
            self.outbound.send_rpc,
            self.metrics,
            partial(secrets.randbits, 62),
            clock=self._clock,
        )
        self.inbound = Inbound(
            self.peer_id,
            self._peers,
            self.metrics,
            cipher,
            self._clock,
            deliver=self.passage.deliver,
            rpc=self._rpc.receive,
            version_of=self._version_of,
            disable_relay_data=flags.disable_relay_data,
        )
        self.watch_packets()
        own = own_record(config, plugins.capabilities())
        self._state = state = LinkState(self.peer_id, own, partial(secrets.randbits, 64), self._clock())
        pace = pace_of_loop()
        self.topology = Topology(
            state,
            self._peers,
            self.outbound,
            self.inbound,
            plugins,
            self._events,
            config,
            latencies=lambda: self._center.latencies,
            on_computed=self.owners.forget,
            on_succeeded=lambda peer_id: self._peers.doubt_peer(peer_id, self._clock()),
            carried_to=self.gate.carried_to,
            pace=pace,
        )
        self.targets.wait_known = self.topology.wait_known
        self._center = PeerCenter(
            self.peer_id,
            self._rpc,
            self._clock,
            center=self.topology.center,
            own_latencies=self._peers.latencies_ms,
            on_change=self.topology.changed,
        )
        self._sync = RouteSync(state, self._rpc, self.tasks, self._clock, self._wall_clock, self.topology.changed, pace)
        identity = Identity(self.peer_id, config.network_name, network_digest(config.network_name, config.network_secret))
        self._admission = Admission(identity, self._peers, self.inbound.receive, self.tasks, self.metrics, self._clock)
        self.connectors = Connectors(self.tasks, self._admission, self._clock, random.random)
        self.direct = DirectConnector(config, self._rpc, self.tasks, self._admission, self.topology, self._peers, self._clock)

        by_kernel = self.nic is None and not flags.no_tun
        if by_kernel:
            # pyroute2 and pytun are of no use, and may be missing, where there is no device.
            from easytier_host.nic.lasting import open_lasting_tun

            addresses = [interface for interface in (config.ipv4, config.ipv6) if interface is not None]
            self.nic = lasting = await open_lasting_tun(flags.dev_name, mtu, addresses, coalesce=batch.coalesce)
            self.tasks.start_soon(lasting.keep, name="device watch")
        if self.nic is not None:
            self.gate.device = DeviceLink(self.nic, self.gate.claims)
        groups = await open_groups((info.name for info in plugins.describe() if info.hooks), self.plugin_tasks)
        services = partial(PluginServices, self, groups)
        self.gate.stack, self.gate.stack_obstacle = choose(plugins.tcp_stacks(services), use_smoltcp=flags.use_smoltcp)
        self.gate.transports.update(plugins.transports(services))
        self.gate.transport_obstacle = plain_alone(plugins.describe())
        if flags.enable_kcp_proxy and "kcp" not in self.gate.transports:
            self._log.warning("enable_kcp_proxy is set, but no plugin offers KCP: flows stay plain TCP")
        # Before the first peer can come in, whose packets it sorts.
        self.entrances = Entrances(self, self._clock, by_kernel=by_kernel, mtu=mtu, random_number=secrets.randbits(16))
        await open_listeners(config.listeners, self._listeners, self.tasks, self._admission.accept, ipv6=flags.enable_ipv6)
        self.direct.listeners = self.listeners
        if self.nic is None and self.gate.stack is None and (self.addresses or config.proxy_networks):
            self._log.warning("plain TCP cannot end or begin here, only KCP can: %s", self.gate.stack_obstacle)

        start = self.tasks.start_soon
        self.passage.route_subnets()
        start(self.entrances.run, name="entrances")
        start(self._rpc.run, pace, name="rpc")
        start(self.topology.run, self.nic, name="topology")
        start(self._peers.run, self._clock, name="peer ticker")
        start(self.gate.run, name="flow ticker")
        start(self._sync.run, name="expiry")
        start(self._center.run, name="peer center")
        start(self.direct.run, name="direct connector")
        start(UnderlayWatch(self.peers, self._admission.doubt, self.connectors.hurry).run, name="underlay watch")
        if self.nic is not None:
            start(self._carry, self.nic, name="device")
        self.connectors.replace(config.peers)
        self._log.info(
            "peer id %d, network %s, address %s, device %s, listening on %s",
            self.peer_id,
            config.network_name,
            config.ipv4 or "none",
            self.nic.name if self.nic is not None else "none",
            ", ".join(self.listeners) or "nothing",
        )
        begins = "kcp" in self.gate.transports and (flags.enable_kcp_proxy or config.plugins.get("kcp", False) is not False)
        self._log.info(
            "TCP from here goes by %s; KCP of peers is %s; TCP stack: %s",
            "KCP where it can" if begins else "plain TCP",
            "accepted" if self.own_record.feature_flag.kcp_input else "refused",
            self.gate.stack.name if self.gate.stack is not None else f"none, {self.gate.stack_obstacle}",
        )

    # What runs

    async def _carry(self, nic: Nic) -> None:
        try:
            await self.passage.carry(nic)
        except NicError as error:
            self._fail(str(error))

    def _record(self, peer_id: int) -> PeerRecord | None:
        return self.topology.record(peer_id)

    def _version_of(self, peer_id: int) -> str | None:
        record = self.topology.record(peer_id)
        return None if record is None else record.easytier_version

    def _on_joined(self, conn: PeerConn) -> None:
        url, role = conn.tunnel.info.remote_url, " as a public relay" if conn.is_foreign_relay else ""
        self._log.info("peer %d joined by %s%s", conn.peer_id, url, role)
        self._sync.add_neighbour(conn.peer_id)
        self.topology.changed()
        self._events.publish(NodeEvent("peer_joined", conn.peer_id, url))

    def _on_left(self, peer_id: int, reason: str) -> None:
        self._log.info("peer %d left: %s", peer_id, reason)
        self._sync.remove_neighbour(peer_id)
        self.topology.changed()
        self._events.publish(NodeEvent("peer_left", peer_id, reason))

    def _fail(self, reason: str) -> None:
        if self._closed.is_set():
            # What stops is closed piece by piece, and the device is one of the first.
            return
        self._log.error("the node cannot go on: %s", reason)
        self.failure = reason
        self._closed.set()
