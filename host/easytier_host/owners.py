"""Which addresses a peer may speak for: its virtual ones, and those of the networks that it offers.

Asked by the subnet router and `guard` for packets, by `targets` for the source that a transport claims.  What a peer says of
itself is all that this node knows: whoever has the network's secret may take any address that is free.  One that another peer
has (`lookup` says whose it is) is nobody else's, whatever networks are offered around it; nor is one of the overlay.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from ipaddress import ip_address
from typing import Final

from easytier_hooks.types import IPAddress, PeerInfo
from easytier_host.config.model import Config
from easytier_host.route_records import PeerRecord

# Ours.
MAX_PROVEN: Final = 4096
"""Senders remembered with an address that is theirs; at this number the memory starts over."""


class Claim(Enum):
    """What a source address that a peer gives is worth."""

    OWN = auto()
    FOREIGN = auto()
    """Nobody's in the overlay, or behind another peer by chance: private networks exist many times."""
    FORGED = auto()
    """It is another node's."""


class Owners:
    """`record` knows the peers; `peer_for` is the one to whom packets for an address go."""

    def __init__(
        self,
        config: Config,
        record: Callable[[int], PeerRecord | None],
        peer_for: Callable[[IPAddress], PeerInfo | None],
    ) -> None:
        self.record = record
        self._peer_for = peer_for
        interfaces = [interface for interface in (config.ipv4, config.ipv6) if interface is not None]
        self._overlay = [interface.network for interface in interfaces]
        self._own = [interface.ip for interface in interfaces]
        self._proven: dict[tuple[int, bytes], PeerRecord] = {}

    def owns(self, record: PeerRecord, address: bytes) -> bool:
        """Whether a peer may send from an address, given as it stands in packets."""
        if self._proven.get((record.peer_id, address)) is record:
            return True
        ip = ip_address(address)
        if not self._is_its_own(record, ip) and not self._is_behind(record, ip):
            return False
        if len(self._proven) >= MAX_PROVEN:
            self._proven.clear()
        self._proven[record.peer_id, address] = record
        return True

    def forget(self) -> None:
        """To be called when `record` or `peer_for` may answer differently."""
        self._proven.clear()

    def _is_its_own(self, record: PeerRecord, ip: IPAddress) -> bool:
        if ip in self._own or not any(each is not None and each.ip == ip for each in (record.ipv4, record.ipv6)):
            return False
        holder = self._peer_for(ip)
        return holder is None or holder.peer_id == record.peer_id

    def _is_behind(self, record: PeerRecord, ip: IPAddress) -> bool:
        if not any(ip in cidr for cidr in record.proxy_cidrs) or any(ip in network for network in self._overlay):
            return False
        holder = self._peer_for(ip)
        return holder is None or holder.peer_id == record.peer_id or ip not in (holder.ipv4, holder.ipv6)

    def judge(self, peer_id: int, ip: IPAddress) -> Claim:
        """What to make of the source that a peer gives for a connection.

        Stock nodes give addresses that are nobody's in good faith: of clients of their SOCKS5 servers and port forwards, and
        of hosts behind them whose network they do not offer (data plane 3.7 and 8).
        """
        record = self.record(peer_id)
        if record is not None and self.owns(record, ip.packed):
            return Claim.OWN
        if any(ip in network for network in self._overlay):
            return Claim.FORGED
        other = self._peer_for(ip)
        return Claim.FORGED if other is not None and ip in (other.ipv4, other.ipv6) else Claim.FOREIGN

    def stand_in(self, peer_id: int, family: int) -> IPAddress | None:
        """A peer's own address of a family, for a source that is not believed; None if it has none."""
        record = self.record(peer_id)
        interface = None if record is None else record.ipv4 if family == 4 else record.ipv6
        return None if interface is None else interface.ip
