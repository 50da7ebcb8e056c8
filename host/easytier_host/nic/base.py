"""What every network device is to the data path: IP packets in batches, with room for super-packets.

A *device frame* is a 10-byte `virtio_net_hdr` (little-endian, as Linux defines it) followed by one IP packet.  The packet may
be a super-packet of up to 64 KiB with an unfinished checksum; the header says so::

    offset size field
    0      1    flags        1 = NEEDS_CSUM: the checksum field holds the pseudo-header sum only
    1      1    gso_type     0 none, 1 TCPv4, 4 TCPv6, 5 UDP, 0x80 bit = ECN
    2      2    hdr_len      length of all headers
    4      2    gso_size     payload bytes of each segment
    6      2    csum_start   where the checksum begins
    8      2    csum_offset  where it is stored, from csum_start
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final

VNET_HEADER_SIZE: Final = 10


class NicError(Exception):
    """The device could not be made, addressed or routed; the message says what to do."""


class DeviceGone(NicError):
    """The device is not there any more, or was closed."""


class Nic(ABC):
    """A network device of the node.  Reads and writes are batches and never block."""

    name: str
    mtu: int

    @abstractmethod
    async def wait_readable(self) -> None:
        """Return when `read_batch` has something; raises `NicError` if the device is gone."""

    @abstractmethod
    def read_batch(self) -> list[bytes]:
        """All device frames that are ready, at most 64, empty if none; raises `NicError` if the device is gone."""

    @abstractmethod
    def join(self, packets: Sequence[bytes]) -> list[bytes]:
        """Device frames for whole IP packets with finished checksums; segments of one TCP flow may be joined to super-packets.

        The order within each flow is kept.
        """

    @abstractmethod
    def write_frames(self, frames: Sequence[bytes]) -> None:
        """Deliver device frames as they are.

        What the device does not take is dropped and counted in `dropped_packets`; anything that is not IP likewise.
        """

    async def replace_routes(self, cidrs: Collection[IPv4Network | IPv6Network]) -> None:  # noqa: B027 - right for most devices
        """Make exactly these networks lead into the device; raises `NicError`.  A device outside the kernel has no routes."""

    def is_touched(self, news: bytes) -> bool:
        """Whether news of the kernel (`kernel_news`) says that something may have been taken from this device."""
        return False

    async def mend(self) -> bool:
        """Put back what somebody else has taken from the device: addresses, routes, MTU; whether anything was missing.

        Nothing, while it is down; raises `NicError` if it is gone.  From a device outside the kernel nobody takes anything.
        """
        return False

    @property
    @abstractmethod
    def dropped_packets(self) -> int:
        """Packets that the device did not take, since it was opened."""

    @abstractmethod
    def close(self) -> None:
        """Remove the device, its addresses and its routes; idempotent."""
