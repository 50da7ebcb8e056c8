"""The node's network device on Linux: a TUN device whose kernel side sends and takes super-packets of up to 64 KiB.

It is opened with a virtio header before each packet (IFF_VNET_HDR), so that one read or write moves some 45 packets of a TCP
flow.  It is not persistent: it goes with the process, and its addresses and routes go with it.  `open_tun` is called by the
instance, the rest by the data path.  Source of the ioctl numbers and flags: Linux, include/uapi/linux/if_tun.h.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread

from easytier_host.nic import netlink, offload
from easytier_host.nic.base import VNET_HEADER_SIZE, DeviceGone, Nic, NicError
from easytier_host.nic.netlink import Interface, Network
from easytier_host.nic.offload import PLAIN_VNET_HEADER, VNET_HEADER, split

# Fixed by Linux.
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000
_TUNSETOFFLOAD: Final = 0x400454D0
_OFFLOAD_CSUM_TSO4_TSO6: Final = 0x07
_OFFLOAD_TSO_ECN: Final = 0x08
_OFFLOAD_USO4_USO6: Final = 0x60

# Chosen by us.
_OFFLOADS: Final = (
    _OFFLOAD_CSUM_TSO4_TSO6 | _OFFLOAD_TSO_ECN | _OFFLOAD_USO4_USO6,
    _OFFLOAD_CSUM_TSO4_TSO6 | _OFFLOAD_TSO_ECN,
    _OFFLOAD_CSUM_TSO4_TSO6,
)
"""Best first; UDP segmentation needs Linux 6.2."""
_READ_SIZE: Final = VNET_HEADER_SIZE + 65_535 + 40
"""A packet of the largest size that an IPv6 header can state."""
_BATCH_FRAMES: Final = 64
_BATCH_BYTES: Final = 1 << 20
"""A batch ends here even if more is ready, so that the event loop gets its turn after about a millisecond of work."""
QUEUE_LENGTH: Final = 500
"""Packets or super-packets that wait in the kernel for the node; the kernel's own default for TUN devices."""

logger = logging.getLogger("easytier.nic")

Coalesce = Callable[[Sequence[bytes], Container[bytes]], list[bytes]]
"""`offload.coalesce`, or what does the same."""


async def open_tun(
    name: str,
    mtu: int,
    addresses: Iterable[Interface],
    *,
    queue_length: int = QUEUE_LENGTH,
    coalesce: Coalesce = offload.coalesce,
) -> TunNic:
    """Make a TUN device, give it its addresses and bring it up.

    `name` may be empty or hold `%d`, then the kernel numbers it.  `mtu` in bytes.  NicError, with what to do about it, if the
    name is taken or not valid, permission or a package is missing, or an address is refused; no device stays behind then.
    """
    own = tuple(addresses)
    device = _open_device(name)
    try:
        actual: str = device.name
        os.set_blocking(device.fileno(), False)
        _enable_offload(actual, device.fileno())
        settings = partial(netlink.configure, actual, mtu=mtu, queue_length=queue_length, addresses=own)
        index = await anyio.to_thread.run_sync(settings)
    except BaseException:
        device.close()
        raise
    return TunNic(device, actual, mtu, index, own, coalesce)


class TunNic(Nic):
    """An open TUN device.  One task reads, one writes; made by `open_tun`."""

    def __init__(
        self,
        device: Any,
        name: str,
        mtu: int,
        index: int,
        addresses: Iterable[Interface],
        coalesce: Coalesce = offload.coalesce,
    ) -> None:
        self.name = name
        self.mtu = mtu
        self._device = device
        self._fd: int = device.fileno()
        self._addresses = tuple(addresses)
        self._own = frozenset(address.packed for address in self._addresses)
        self._coalesce = coalesce
        self._index = index
        self._routes = netlink.Routes(name, index)
        self._is_down = False
        self._routes_lock = anyio.Lock()
        self._dropped = 0
        self._warned = False

    async def replace_routes(self, cidrs: Collection[Network]) -> None:
        """Make exactly `cidrs` lead into this device, besides the prefixes of its own addresses.

        A network that the host already routes elsewhere is left alone and logged.  NicError if the device is gone.
        """
        async with self._routes_lock:
            self._check_open()
            await anyio.to_thread.run_sync(self._routes.replace, frozenset(cidrs))

    def is_touched(self, news: bytes) -> bool:
        networks = self._routes.installed.union(address.network for address in self._addresses)
        return netlink.touches(news, self._index, networks)

    async def mend(self) -> bool:
        """See `Nic`; says what was missing."""
        async with self._routes_lock:
            self._check_open()
            settings = partial(netlink.restore, mtu=self.mtu, addresses=self._addresses, routes=self._routes)
            back = await anyio.to_thread.run_sync(settings, self.name, self._index)
        if back is None:
            if not self._is_down:
                logger.warning("somebody has taken %s down: no packet passes until it is up again", self.name)
        elif back:
            logger.warning("somebody had taken away from %s: %s; put back", self.name, ", ".join(back))
        elif self._is_down:
            logger.info("%s is up again", self.name)
        self._is_down = back is None
        return bool(back)

    async def wait_readable(self) -> None:
        self._check_open()
        try:
            await anyio.wait_readable(self._fd)
        except (anyio.ClosedResourceError, OSError) as error:
            raise NicError(f"network device {self.name} is closed") from error

    def read_batch(self) -> list[bytes]:
        self._check_open()
        frames: list[bytes] = []
        room = _BATCH_BYTES
        try:
            while room > 0 and len(frames) < _BATCH_FRAMES:
                frame = os.read(self._fd, _READ_SIZE)
                frames.append(frame)
                room -= len(frame)
        except BlockingIOError:
            pass
        except OSError as error:
            # Deleted by someone else: EBADFD.  What was read before it counts; the next call meets the error again.
            if not frames:
                raise NicError(f"network device {self.name} is gone: {error.strerror}") from error
        return frames

    def join(self, packets: Sequence[bytes]) -> list[bytes]:
        return self._coalesce(packets, self._own)

    def write_frames(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            try:
                os.write(self._fd, frame)
            except OSError as error:
                count = _packets_in(frame)
                if error.errno == errno.EINVAL and count > 1:
                    self._write_apart(frame, count)
                else:
                    self._dropped += count

    @property
    def dropped_packets(self) -> int:
        return self._dropped

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        with suppress(anyio.NoEventLoopError):
            anyio.notify_closing(fd)
        self._device.close()

    def _check_open(self) -> None:
        if self._fd < 0:
            raise DeviceGone(f"network device {self.name} is closed")

    def _write_apart(self, frame: bytes, count: int) -> None:
        """Deliver a super-packet in pieces: this kernel does not take one whose checksum is complete.  No more are joined."""
        if not self._warned:
            self._warned = True
            logger.warning("%s: the kernel does not take joined packets; writing them one by one", self.name)
        self._own = frozenset()
        try:
            packets = split(frame, self.mtu)
        except ValueError:
            self._dropped += count
            return
        self.write_frames([PLAIN_VNET_HEADER + packet for packet in packets])


def _packets_in(frame: bytes) -> int:
    """How many packets a device frame stands for; see `base` for the layout."""
    if len(frame) <= VNET_HEADER_SIZE:
        return 1
    _, gso_type, header_size, segment_size, _, _ = VNET_HEADER.unpack_from(frame)
    payload_size = len(frame) - VNET_HEADER_SIZE - header_size
    return max(1, -(-payload_size // segment_size)) if gso_type and segment_size else 1


def _open_device(name: str) -> Any:
    try:
        from pytun import TunTapDevice
    except (ImportError, SyntaxError) as error:
        # The package named pytun is a different one, for Python 2.
        raise NicError("the network device needs the package python-pytun; install it, or use --no-tun") from error
    try:
        # EXCL: never attach to a persistent device that belongs to someone else.
        return TunTapDevice(name=name, flags=_IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL)
    except OSError as error:
        raise NicError(_open_failure(name, error)) from error


def _open_failure(name: str, error: OSError) -> str:
    match error.errno:
        case errno.EACCES:
            return "/dev/net/tun may not be opened by this user: chmod 666 /dev/net/tun, run as root, or use --no-tun"
        case errno.EPERM:
            return "not allowed to make a network device: run as root or give CAP_NET_ADMIN, or use --no-tun"
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return "/dev/net/tun is missing: load the kernel module tun, pass the device into the container, or use --no-tun"
        case errno.EBUSY:
            return f"a network device named {name} exists already: choose another dev_name"
        case errno.EINVAL | None:
            return f"{name!r} is not a valid name for a network device: up to 15 letters, digits, '-' and '_'"
        case _:
            return f"cannot make network device {name}: {error}"


def _enable_offload(name: str, fd: int) -> None:
    for flags in _OFFLOADS:
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)
        except OSError:
            continue
        logger.debug("%s: segmentation and checksum offload %#x", name, flags)
        return
    logger.info("%s: the kernel offers no segmentation offload; large transfers cost more CPU", name)
