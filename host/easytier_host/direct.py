"""Direct connections between peers that so far talk through others: telling our listeners, and dialling theirs (control plane
6.6).

DirectConnectorRpc.GetIpList answers with listener URLs and interface addresses; a listener on an unspecified address stands
for the same port on each of those.  Hole punching is not done: a peer behind a NAT is dialled only if it has a reachable
listener.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from google.protobuf.message import Message

from easytier_host import tunnel as tunnels
from easytier_host.admission import Admission
from easytier_host.config.model import Config
from easytier_host.handshake import HandshakeError
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.peers import PeerMap
from easytier_host.route_records import PeerRecord
from easytier_host.rpc.peer import PeerRpc, RpcError, ServiceNotOfferedError
from easytier_host.topology import Topology
from easytier_host.tunnel.base import TunnelError
from easytier_host.tunnel.url import TunnelUrl

logger = logging.getLogger("easytier.direct")

IPAddress = IPv4Address | IPv6Address

SERVICE: Final = "DirectConnectorRpc"
GET_IP_LIST: Final = 1

# Ours, in seconds unless said.
CHECK_INTERVAL: Final = 5.0
FIRST_PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 600.0
NOT_OFFERED_PAUSE: Final = 3600.0
"""As stock: a peer that does not offer the service is not asked again for an hour."""
REFRESH_INTERVAL: Final = 60.0
MAX_CANDIDATES: Final = 16
"""Addresses tried of one peer's list, which may hold anything."""
ATTEMPT_TIMEOUT: Final = 3.0
MAX_UNDER_WAY: Final = 64
"""Peers that are asked and dialled at once: those that do not answer, or list what does not, hold up no others.  The next ones
wait their turn."""


class DirectConnector:
    """Both sides of the service for one node."""

    def __init__(
        self,
        config: Config,
        rpc: PeerRpc,
        tasks: TaskGroup,
        admission: Admission,
        topology: Topology,
        peers: PeerMap,
        clock: Callable[[], float],
    ) -> None:
        self.listeners: Sequence[str] = ()
        """URLs with the ports on which this node listens."""
        self.interface_addresses: frozenset[IPAddress] = frozenset()
        self.config = config
        self._rpc = rpc
        self._tasks = tasks
        self._admission = admission
        self._topology = topology
        self._peers = peers
        self._clock = clock
        self._next_try: dict[int, tuple[float, float]] = {}
        """Peer id -> (when to dial it next, the pause after that)."""
        self._under_way: set[int] = set()
        rpc.offer(SERVICE, {GET_IP_LIST: self._serve})

    async def run(self) -> None:
        """Refresh our own addresses, and dial peers that are only reached through others, for ever."""
        refreshed_at = float("-inf")
        while True:
            now = self._clock()
            if now - refreshed_at >= REFRESH_INTERVAL:
                refreshed_at = now
                await self._refresh_addresses()
            if not self.config.flags.disable_p2p:
                self._dial_due(now)
            await anyio.sleep(CHECK_INTERVAL)

    async def _refresh_addresses(self) -> None:
        """Read our own addresses; keep those of the last time if that fails, as it does while they change or without file
        descriptors."""
        try:
            self.interface_addresses = await anyio.to_thread.run_sync(read_interface_addresses)
        # pyroute2 raises its own errors, those of the system, and some more.
        except Exception as error:
            logger.debug("the addresses of this machine were not read: %r", error)

    def _dial_due(self, now: float) -> None:
        records = {record.peer_id: record for record in self._topology.reachable_records()}
        for peer_id in self._next_try.keys() - records.keys():
            del self._next_try[peer_id]
        neighbours = self._peers.neighbours()
        for peer_id, record in records.items():
            flag = record.feature_flag
            if peer_id in neighbours or flag.is_public_server or flag.disable_p2p:
                continue
            due, pause = self._next_try.get(peer_id, (now, FIRST_PAUSE))
            if now < due or peer_id in self._under_way:
                continue
            if len(self._under_way) >= MAX_UNDER_WAY:
                break
            self._next_try[peer_id] = now + pause, min(pause * 2, LONGEST_PAUSE)
            self._under_way.add(peer_id)
            self._tasks.start_soon(self._reach, record, now, name=f"direct connection to {peer_id}")

    async def _reach(self, record: PeerRecord, now: float) -> None:
        peer_id = record.peer_id
        try:
            answer = await self._rpc.call(
                peer_id, SERVICE, GET_IP_LIST, peer_rpc_pb2.GetIpListRequest(), peer_rpc_pb2.GetIpListResponse
            )
            await self._dial(record, candidates(answer, self._forbidden()))
        except ServiceNotOfferedError:
            self._next_try[peer_id] = now + NOT_OFFERED_PAUSE, LONGEST_PAUSE
        except RpcError as error:
            logger.debug("%s", error)
        finally:
            self._under_way.discard(peer_id)

    async def _dial(self, record: PeerRecord, urls: Iterable[TunnelUrl]) -> None:
        for url in urls:
            try:
                tunnel = await tunnels.connect(url, self._tasks, timeout=ATTEMPT_TIMEOUT)
                conn = await self._admission.join(tunnel)
            except (TunnelError, HandshakeError) as error:
                logger.debug("no direct connection to %s: %s", record.hostname, error)
                continue
            if conn.peer_id == record.peer_id:
                return
            # An address that means another node here than there.
            conn.tunnel.close(f"dialled for peer {record.peer_id}, reached another one")

    def _forbidden(self) -> list[IPv4Network | IPv6Network]:
        """Our own overlay: a tunnel through it would carry itself."""
        config = self.config
        return [interface.network for interface in (config.ipv4, config.ipv6) if interface is not None]

    def _serve(self, _from_peer: int, content: bytes) -> Message:
        peer_rpc_pb2.GetIpListRequest.FromString(content)
        response = peer_rpc_pb2.GetIpListResponse()
        forbidden = self._forbidden()
        for address in sorted(self.interface_addresses, key=str):
            if any(address in network for network in forbidden if network.version == address.version):
                continue
            if isinstance(address, IPv4Address):
                response.interface_ipv4s.add(addr=int(address))
            else:
                words = [int(address) >> shift & 0xFFFF_FFFF for shift in (96, 64, 32, 0)]
                response.interface_ipv6s.add(part1=words[0], part2=words[1], part3=words[2], part4=words[3])
        for url in (*self.listeners, *self.config.mapped_listeners):
            response.listeners.add(url=url)
        return response


def candidates(answer: peer_rpc_pb2.GetIpListResponse, forbidden: Iterable[IPv4Network | IPv6Network]) -> list[TunnelUrl]:
    """The URLs worth dialling, UDP first, at most 16.  What is no URL, loopback, multicast or in `forbidden` is left out."""
    networks = list(forbidden)
    ipv4s = [IPv4Address(item.addr) for item in (answer.public_ipv4, *answer.interface_ipv4s[:MAX_CANDIDATES]) if item.addr]
    ipv6s = [_ipv6(item) for item in (answer.public_ipv6, *answer.interface_ipv6s[:MAX_CANDIDATES])]
    urls: dict[TunnelUrl, None] = {}
    for item in answer.listeners[:MAX_CANDIDATES]:
        try:
            url = TunnelUrl.parse(item.url)
            host = ip_address(url.host)
        except (TunnelError, ValueError):
            continue
        hosts: list[IPAddress] = [host]
        if host.is_unspecified:
            hosts = list(ipv4s) if host.version == 4 else list(ipv6s)
        for address in hosts:
            unusable = address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local
            if not unusable and url.port and not any(address in net for net in networks if net.version == address.version):
                urls[TunnelUrl(url.scheme, str(address), url.port)] = None
    return sorted(urls, key=lambda url: url.scheme != "udp")[:MAX_CANDIDATES]


def read_interface_addresses() -> frozenset[IPAddress]:
    """Addresses of this machine's interfaces that others could dial: no loopback, no link-local.  Empty without pyroute2,
    whose errors may be any."""
    try:
        from pyroute2 import IPRoute
    except ImportError:
        return frozenset()
    with IPRoute() as netlink:
        texts = [message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in netlink.get_addr()]
    addresses = (ip_address(text) for text in texts if text)
    return frozenset(address for address in addresses if not (address.is_loopback or address.is_link_local))


def _ipv6(message: common_pb2.Ipv6Addr) -> IPv6Address:
    return IPv6Address(message.part1 << 96 | message.part2 << 64 | message.part3 << 32 | message.part4)
