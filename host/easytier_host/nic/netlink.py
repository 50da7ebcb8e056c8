"""Addresses, MTU and routes of one network device, set over rtnetlink.

Every call blocks for a few milliseconds and must run in a worker thread: pyroute2's plain interface runs an event loop of its
own, which cannot be nested in ours.  Nothing is removed on exit: the kernel takes addresses and routes away with the device.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any, Final

from easytier_host.nic.base import NicError

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

# Fixed by Linux (include/uapi/linux/rtnetlink.h, if_link.h).
_SCOPE_UNIVERSE: Final = 0
_SCOPE_LINK: Final = 253
_ADDR_GEN_MODE_NONE: Final = 1

logger = logging.getLogger("easytier.nic")


def configure(name: str, *, mtu: int, queue_length: int, addresses: Sequence[Interface]) -> int:
    """Give device `name` its MTU (bytes), queue length (packets) and addresses, bring it up; return its index.

    The device gets no link-local IPv6 address: the overlay has no use for one, and with it come router solicitations and
    multicast reports that the data path would have to throw away.  NicError if something is refused.
    """
    with _open() as route:
        try:
            index = socket.if_nametoindex(name)
        except OSError as error:
            raise NicError(f"network device {name} is gone: {error}") from error
        no_link_local = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]}
        code = _call(route.link, "set", index=index, IFLA_AF_SPEC=no_link_local)
        if code:
            # A kernel without IPv6 has nothing to switch off.
            logger.debug("%s: IPv6 link-local address left to the kernel: %s", name, _reason(code))
        code = _call(route.link, "set", index=index, mtu=mtu, txqlen=queue_length, state="up")
        if code:
            raise NicError(f"cannot bring up {name} with MTU {mtu}: {_reason(code)}")
        for address in addresses:
            prefix = {"address": str(address.ip), "prefixlen": address.network.prefixlen, "family": _family(address)}
            code = _call(route.addr, "add", index=index, **prefix)
            if code:
                hint = " (is IPv6 disabled on this host?)" if address.version == 6 else ""
                raise NicError(f"cannot give {address} to {name}: {_reason(code)}{hint}")
        return index


class Routes:
    """The routes that lead into one device: those this object has added, kept in step with the set that is wanted."""

    def __init__(self, name: str, index: int) -> None:
        self._name = name
        self._index = index
        self._installed: set[Network] = set()
        self._refused: set[Network] = set()

    @property
    def installed(self) -> frozenset[Network]:
        """The routes that are in place."""
        return frozenset(self._installed)

    def replace(self, wanted: frozenset[Network]) -> None:
        """Add what is missing, remove what is not wanted any more.

        A network that the host already reaches in another way, or that the kernel refuses, is logged once and tried again
        with each call.  NicError if the device is gone, or netlink does not work.
        """
        if wanted == self._installed:
            return
        with _open() as route:
            for network in sorted(self._installed - wanted, key=str):
                code = self._change(route, "del", network)
                if code and code != errno.ESRCH:
                    logger.warning("%s: route to %s not removed: %s", self._name, network, _reason(code))
                self._installed.discard(network)
            self._refused &= wanted
            for network in sorted(wanted - self._installed, key=str):
                code = self._change(route, "add", network)
                if not code:
                    self._installed.add(network)
                    self._refused.discard(network)
                elif network not in self._refused:
                    self._refused.add(network)
                    reason = "the host has a route of its own to it" if code == errno.EEXIST else _reason(code)
                    logger.warning("%s: no route to %s through the overlay: %s", self._name, network, reason)

    def _change(self, route: Any, command: str, network: Network) -> int:
        scope = _SCOPE_LINK if network.version == 4 else _SCOPE_UNIVERSE
        family = _family(network)
        code = _call(route.route, command, dst=str(network), oif=self._index, family=family, scope=scope)
        if code in (errno.ENODEV, errno.ENXIO):
            raise NicError(f"network device {self._name} is gone")
        return code


def _open() -> Any:
    try:
        # Imported late: it is large, and a node without a device does not need it.
        import pyroute2

        return pyroute2.IPRoute()
    except ImportError as error:
        raise NicError("the network device needs the package pyroute2; install it, or use --no-tun") from error
    except OSError as error:
        raise NicError(f"no access to the kernel's routing tables: {error}; use --no-tun") from error


def _call(function: Any, *arguments: object, **settings: object) -> int:
    """0, or the errno that the kernel answered with; NicError for a failure of another kind."""
    try:
        function(*arguments, **settings)
    except Exception as error:
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        if not isinstance(code, int):
            raise NicError(f"netlink: {error!r}") from error
        return abs(code)
    return 0


def _family(network: Interface | Network) -> int:
    return socket.AF_INET if network.version == 4 else socket.AF_INET6


def _reason(code: int) -> str:
    if code in (errno.EPERM, errno.EACCES):
        return f"{os.strerror(code)}; root or CAP_NET_ADMIN is needed"
    return os.strerror(code)
