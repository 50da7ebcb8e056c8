"""Plain TCP connections that this node begins itself: for port forwards, SOCKS5 and programs, where no other transport can.

::

    destination is this node       -> as peers reach it: `targets`
    node with a TUN device         -> a socket of the kernel; its packets take the device, as those of any application
    node without one               -> a user-space TCP stack; its segments travel on the overlay from our virtual address

Called by `gate`, which has judged the flow.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from easytier_hooks import streams
from easytier_hooks.errors import DialRefused, TransportUnavailable
from easytier_hooks.services import FrameHandler, Link, TcpStack
from easytier_hooks.streams import TcpConnection
from easytier_hooks.types import FlowKey, IPAddress, endpoint
from easytier_host.relay import checked

logger = logging.getLogger("easytier.forward")

# Wire: the dynamic ports (RFC 6335, section 6).
FIRST_PORT: Final = 49_152
LAST_PORT: Final = 65_535

# Ours.
CONNECT_TIMEOUT: Final = 10.0
"""Seconds, as for those that we dial for peers."""
PORT_ATTEMPTS: Final = 64
"""Ports tried for one connection; more in a row are in use only if nearly all are."""


class EphemeralPorts:
    """Dynamic ports in turn, so that one is used again as late as possible.  `first` is any number, better a random one."""

    def __init__(self, first: int) -> None:
        self._next = first % (LAST_PORT - FIRST_PORT + 1)

    def next(self) -> int:
        """The next port, in use or not."""
        port = FIRST_PORT + self._next
        self._next = (self._next + 1) % (LAST_PORT - FIRST_PORT + 1)
        return port


class PlainTcp:
    """Begins connections for one node.

    `own` are its virtual addresses and `dial_own` leads to them; `stack` begins connections on `link`, None where the kernel
    does so through the device; `obstacle` says why neither can, "" if one does.
    """

    def __init__(
        self,
        own: Sequence[IPAddress],
        dial_own: Callable[[IPAddress, int], Awaitable[TcpConnection]],
        stack: TcpStack | None,
        link: Link | None,
        ports: EphemeralPorts,
        *,
        obstacle: str = "",
    ) -> None:
        self._own = tuple(own)
        self._dial_own = dial_own
        self._stack = stack
        self._link = link
        self._ports = ports
        self.obstacle = obstacle
        """Why no plain TCP connection to other nodes can begin here; "" if one can."""

    async def connect(self, key: FlowKey) -> TcpConnection:
        """Connect to the destination of a flow; its source is used as it is, if it is ours and free.

        Raises OSError: ConnectionRefusedError, TimeoutError after 10 s, or another one with the reason.
        """
        ip, port = key.destination_ip, key.destination_port
        if ip in self._own:
            return await self._connect_here(ip, port)
        if self.obstacle:
            raise OSError(self.obstacle)
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                if self._stack is None or self._link is None:
                    return await streams.connect(ip, port)
                return checked(await self._stack.connect(self._link, self._free_key(self._link, key)))
        except TransportUnavailable as error:
            raise OSError(error.reason) from None
        except OSError as error:
            raise _with_words(error, ip, port) from None
        except Exception:
            logger.exception("the TCP stack failed on flow %s", key)
            raise OSError("the TCP stack failed, see the log") from None

    async def _connect_here(self, ip: IPAddress, port: int) -> TcpConnection:
        try:
            return await self._dial_own(ip, port)
        except DialRefused as error:
            raise ConnectionRefusedError(str(error)) from None

    def _free_key(self, link: Link, flow: FlowKey) -> FlowKey:
        """The key of a flow with a source of ours under which nothing is open to that destination; raises OSError."""
        ip, port = flow.destination_ip, flow.destination_port
        source = next((address for address in self._own if address.version == ip.version), None)
        if source is None:
            raise OSError(f"this node has no IPv{ip.version} address in the overlay")
        key = flow
        for _ in range(PORT_ATTEMPTS):
            if key.source_ip == source and _is_free(link, key):
                return key
            key = FlowKey(source, self._ports.next(), ip, port)
        raise OSError(f"no free port for a connection to {endpoint(ip, port)}")


class OutgoingLink:
    """The overlay for connections that begin here: as `overlay`, but what is written goes by `send`, for peers to proxy."""

    def __init__(self, overlay: Link, send: Callable[[Sequence[bytes]], object]) -> None:
        self._overlay = overlay
        self._send = send

    @property
    def mtu(self) -> int:
        return self._overlay.mtu

    def claim(self, key: FlowKey, handler: FrameHandler) -> Callable[[], None]:
        return self._overlay.claim(key, handler)

    def write(self, frames: Sequence[bytes]) -> None:
        self._send(frames)


def _with_words(error: OSError, ip: IPAddress, port: int) -> OSError:
    """What is told of an error: the same kind of it, and where it happened."""
    match error:
        case ConnectionRefusedError():
            return ConnectionRefusedError(f"{endpoint(ip, port)} refused")
        case TimeoutError():
            return TimeoutError(f"no answer from {endpoint(ip, port)} in {CONNECT_TIMEOUT:g} s")
        case _:
            return error


def _is_free(link: Link, key: FlowKey) -> bool:
    """Whether nobody has a connection with this key: who has one has claimed its answers."""
    try:
        link.claim(FlowKey(key.destination_ip, key.destination_port, key.source_ip, key.source_port), _ignore)()
    except ValueError:
        return False
    return True


def _ignore(_: list[bytes]) -> None:
    pass
