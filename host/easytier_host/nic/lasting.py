"""A TUN device that comes back: somebody deletes it (`ip link del`, a network manager), and the node makes it anew; or takes
its routes and addresses away (`ip link set down`, `ip addr flush`), and the node puts them back.

Connections of the kernel survive that, since their packets are lost meanwhile as on any line; so do the flows of the node.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final

import anyio

from easytier_host.kernel_news import ADDRESSES, LINKS, ROUTES, open_news, read_news
from easytier_host.nic.base import DeviceGone, Nic, NicError
from easytier_host.nic.netlink import Interface, Network
from easytier_host.nic.tun import Coalesce, open_tun

logger = logging.getLogger("easytier.nic")

# Ours, in seconds.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Between attempts; each is some system calls."""
SETTLE: Final = 0.1
"""What somebody does to a device comes in pieces."""
REST: Final = 0.3
"""After a look at the news, and twice as long after each time that something had to be put back, up to LONGEST_PAUSE: somebody
else may have another opinion and put it back as well."""
PEACE: Final = 60.0
"""Without that the rest is short again."""


async def open_lasting_tun(name: str, mtu: int, addresses: Iterable[Interface], *, coalesce: Coalesce) -> LastingNic:
    """As `open_tun`; the device comes back under the name that it got first."""
    own = tuple(addresses)
    first = await open_tun(name, mtu, own, coalesce=coalesce)
    return LastingNic(first, partial(open_tun, first.name, mtu, own, coalesce=coalesce))


class LastingNic(Nic):
    """A device and, one after the other, its successors, which `reopen` makes.  Owns them.

    The reader notices that a device is gone, and waits until there is another; what is written meanwhile is dropped.  Routes
    are those that were asked for last.
    """

    def __init__(self, first: Nic, reopen: Callable[[], Awaitable[Nic]]) -> None:
        self.name = first.name
        self.mtu = first.mtu
        self._current = first
        self._reopen = reopen
        self._routes: Collection[Network] = ()
        self._loss: NicError | None = None
        """Why the current device is of no use."""
        self._closed = False
        self._told_failure = ""
        self._dropped_before = 0

    async def wait_readable(self) -> None:
        """See `Nic`; raises `NicError` after `close` only."""
        while True:
            try:
                if self._loss is not None:
                    raise self._loss
                await self._current.wait_readable()
            except NicError as error:
                if self._closed:
                    raise
                await self._restore(error)
            else:
                return

    def read_batch(self) -> list[bytes]:
        """See `Nic`; empty once the device is gone."""
        try:
            return self._current.read_batch()
        except NicError as error:
            self._loss = error
            return []

    def join(self, packets: Sequence[bytes]) -> list[bytes]:
        return self._current.join(packets)

    def write_frames(self, frames: Sequence[bytes]) -> None:
        self._current.write_frames(frames)

    async def replace_routes(self, cidrs: Collection[Network]) -> None:
        """See `Nic`."""
        self._routes = frozenset(cidrs)
        await self._current.replace_routes(self._routes)

    async def keep(self) -> None:
        """Put back what is taken from the device, as soon as the kernel says so; for ever, where the system says anything."""
        news = open_news(LINKS | ADDRESSES | ROUTES)
        if news is None:
            return
        rest, mended_at = REST, -math.inf
        with news:
            while True:
                await anyio.wait_readable(news)
                await anyio.sleep(SETTLE)
                datagrams, complete = read_news(news)
                if not complete or any(map(self._current.is_touched, datagrams)):
                    now = anyio.current_time()
                    if await self._mend():
                        rest = min(2 * rest, LONGEST_PAUSE) if now - mended_at < PEACE else REST
                        mended_at = now
                await anyio.sleep(rest if anyio.current_time() - mended_at < PEACE else REST)

    async def _mend(self) -> bool:
        try:
            mended = await self._current.mend()
            # With what could not be added while the device was down.
            await self._current.replace_routes(self._routes)
        except DeviceGone:
            # Its reader will make another.
            return False
        except NicError as error:
            if str(error) != self._told_failure:
                self._told_failure = str(error)
                logger.warning("what somebody has taken cannot be put back: %s", error)
            return False
        self._told_failure = ""
        return mended

    @property
    def dropped_packets(self) -> int:
        return self._dropped_before + self._current.dropped_packets

    def close(self) -> None:
        self._closed = True
        self._current.close()

    async def _restore(self, loss: NicError) -> None:
        logger.warning("%s; making it anew", loss)
        self._current.close()
        pause, told = FIRST_PAUSE, ""
        while True:
            await anyio.sleep(pause)
            try:
                successor = await self._reopen()
            except NicError as error:
                if str(error) != told:
                    told = str(error)
                    logger.warning("%s; trying again", error)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            break
        if self._closed:
            successor.close()
            return
        self._dropped_before += self._current.dropped_packets
        self._current, self._loss = successor, None
        try:
            await successor.replace_routes(self._routes)
        except NicError as error:
            logger.warning("%s", error)
        else:
            logger.info("network device %s is back, with its addresses and %d routes", self.name, len(self._routes))
