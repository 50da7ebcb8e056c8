"""The user-space stack: TCP connections end and begin inside this process, in the Rust crate smoltcp.

Unlike the kernel stack it needs no listener and no address: it answers for whatever address a flow was sent to, so it carries
flows of hosts behind this node, and works on a node without a device.  No packet of such a flow passes the host's own TCP or
its firewall's input rules.

Each link gets a native stack of its own when its first flow comes, with a task that drives it (`driver`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.services import HostServices, Link
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import FlowKey

if TYPE_CHECKING:
    from easytier_kcp_plugin.stack.driver import LinkDriver

# Ours.
MAX_CONNECTIONS: Final = 16_384
"""On each link."""
DEVICE_BUFFER: Final = 256 * 1024
"""Bytes each way: towards this host and its own networks the round trip is short."""
OVERLAY_RECEIVE_BUFFER: Final = 1024 * 1024
OVERLAY_SEND_BUFFER: Final = 512 * 1024
"""Bytes. A window of 1 MiB is 80 Mbit/s at 100 ms; sent into a full queue, much more would only be lost there."""
KEEPALIVE: Final = 60.0
SILENCE: Final = 180.0
"""Seconds after which a connection whose other end is asked every `KEEPALIVE`, or owes us an acknowledgement, has broken."""
LARGEST_FRAME: Final = 65_535
"""Bytes of a super-packet."""

MISSING: Final = (
    "the user-space TCP stack is not in this installation: install Rust (cargo 1.91 or newer), then easytier-kcp-plugin again "
    "with `pip install --no-cache-dir --force-reinstall`"
)


class SmoltcpStack:
    """`easytier_hooks.TcpStack` by smoltcp.  Its tasks live in the host's task group."""

    name = "smoltcp"
    description = "TCP in user space: also for hosts behind this node, and without a device"
    carries_subnets = True

    def __init__(self, host: HostServices, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._clock = clock
        self._drivers: dict[Link, LinkDriver] = {}
        try:
            import easytier_kcp_plugin._native  # noqa: F401
        except ImportError as error:
            host.logger.debug("no native module: %s", error)
            self._obstacle = MISSING
        else:
            self._obstacle = ""

    def available(self) -> str:
        """See `TcpStack.available`."""
        return self._obstacle

    async def terminate(self, link: Link, key: FlowKey, syn: bytes) -> TcpConnection:
        """See `TcpStack.terminate`."""
        return await self._driver_of(link).accept(key, syn)

    async def connect(self, link: Link, key: FlowKey) -> TcpConnection:
        """See `TcpStack.connect`."""
        return await self._driver_of(link).connect(key)

    def _driver_of(self, link: Link) -> LinkDriver:
        """The driver of a link, made if it has none; raises TransportUnavailable if that cannot be."""
        if self._obstacle:
            raise TransportUnavailable(self._obstacle)
        driver = self._drivers.get(link)
        if driver is None:
            driver = self._drivers[link] = self._make_driver(link)
            self._host.task_group.start_soon(self._run, link, driver, name="smoltcp")
        return driver

    def _make_driver(self, link: Link) -> LinkDriver:
        from easytier_kcp_plugin._native import Stack
        from easytier_kcp_plugin.stack.driver import TIME_WAIT, LinkDriver

        is_device = link is self._host.device
        try:
            native = Stack(
                mtu=link.mtu,
                seed=secrets.randbits(64),
                vnet_header=True,
                tso_max=LARGEST_FRAME,
                receive_buffer=DEVICE_BUFFER if is_device else OVERLAY_RECEIVE_BUFFER,
                send_buffer=DEVICE_BUFFER if is_device else OVERLAY_SEND_BUFFER,
                keepalive=KEEPALIVE,
                timeout=SILENCE,
                time_wait=TIME_WAIT,
                max_connections=MAX_CONNECTIONS,
                # Which SYN is answered is the host's decision: it holds them.
                max_pending=0,
            )
        except ValueError as error:
            raise TransportUnavailable(f"smoltcp cannot work on this link: {error}") from None
        return LinkDriver(link, native, logger=self._host.logger, clock=self._clock)

    async def _run(self, link: Link, driver: LinkDriver) -> None:
        try:
            await driver.run()
        finally:
            # After a failure the next flow gets a fresh one.
            del self._drivers[link]
