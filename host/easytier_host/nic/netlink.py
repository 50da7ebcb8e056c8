"""Addresses, MTU and routes of one network device, set over rtnetlink, and put back when somebody else has removed them.

Every call but `touches` blocks for a few milliseconds and must run in a worker thread: pyroute2's plain interface runs an event
loop of its own, which cannot be nested in ours.  Nothing is removed on exit: the kernel takes addresses and routes away with
the device.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Container, Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any, Final

from easytier_host.nic.base import DeviceGone, NicError

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

# Fixed by Linux (include/uapi/linux/rtnetlink.h, netlink.h, if_link.h, if.h).
_SCOPE_UNIVERSE: Final = 0
_SCOPE_LINK: Final = 253
_ADDR_GEN_MODE_NONE: Final = 1
_PROTO_KERNEL: Final = 2
_IPV6_PREFIX_METRIC: Final = 256
"""What the kernel's own routes to the prefixes of addresses have."""
_IFF_UP: Final = 1
_NEW_LINK: Final = 16
_DELETED_ADDRESS: Final = 21
_DELETED_ROUTE: Final = 25
_MESSAGE: Final = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port."""
_INDEX: Final = struct.Struct("=I")
_INDEX_OFFSET: Final = _MESSAGE.size + 4
"""In news of links (ifinfomsg) and of addresses (ifaddrmsg)."""
_ROUTE_SIZE: Final = 12
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTA_DST: Final = 1
_RTA_OIF: Final = 4

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
        _forbid_link_local(route, name, index)
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


def restore(name: str, index: int, *, mtu: int, addresses: Sequence[Interface], routes: Routes) -> list[str] | None:
    """Give a device what somebody has taken from it: its MTU, addresses, the routes to their prefixes, and `routes`.

    Returns what had to be put back, in words; None, and nothing is done, while the device is down.  Raises DeviceGone, or
    NicError if something is refused.
    """
    back = []
    with _open() as route:
        links: list[Any] = []
        code = _call(lambda: links.extend(route.link("get", index=index)))
        if code or not links:
            raise DeviceGone(f"network device {name} is gone")
        if not links[0]["flags"] & _IFF_UP:
            return None
        if links[0].get_attr("IFLA_MTU") != mtu:
            code = _call(route.link, "set", index=index, mtu=mtu)
            if code:
                raise NicError(f"cannot give {name} its MTU {mtu} back: {_reason(code)}")
            # Below 1280 bytes the kernel had forgotten all that was said of IPv6, and has begun anew.
            _forbid_link_local(route, name, index)
            _call(route.flush_addr, index=index, family=socket.AF_INET6, scope=_SCOPE_LINK)
            back.append(f"MTU {mtu}")
        for address in addresses:
            prefix = {"address": str(address.ip), "prefixlen": address.network.prefixlen, "family": _family(address)}
            code = _call(route.addr, "add", index=index, **prefix)
            if code not in (0, errno.EEXIST):
                raise NicError(f"cannot give {address} back to {name}: {_reason(code)}")
            if not code:
                back.append(str(address))
            if _add_prefix(route, index, address) == 0:
                back.append(f"the route to {address.network}")
        returned = routes.restore(route)
        if returned:
            back.append(f"routes to {', '.join(returned[:3])}{f' and {len(returned) - 3} more' if len(returned) > 3 else ''}")
    return back


def _forbid_link_local(route: Any, name: str, index: int) -> None:
    mode = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]}
    code = _call(route.link, "set", index=index, IFLA_AF_SPEC=mode)
    if code:
        # A kernel without IPv6 has nothing to switch off.
        logger.debug("%s: IPv6 link-local address left to the kernel: %s", name, _reason(code))


def _add_prefix(route: Any, index: int, address: Interface) -> int:
    """Lead the prefix of an address into the device, as the kernel does when it gets the address; the kernel's answer."""
    if address.network.prefixlen == address.max_prefixlen:
        return errno.EEXIST
    how = (
        {"scope": _SCOPE_LINK, "prefsrc": str(address.ip)}
        if address.version == 4
        else {"scope": _SCOPE_UNIVERSE, "priority": _IPV6_PREFIX_METRIC}
    )
    return _call(route.route, "add", dst=str(address.network), oif=index, family=_family(address), proto=_PROTO_KERNEL, **how)


def touches(news: bytes, index: int, networks: Container[Network]) -> bool:
    """Whether a datagram of netlink messages says that a device changed, lost an address, or lost a route to one of
    `networks`."""
    offset = 0
    while offset + _MESSAGE.size <= len(news):
        length, kind, *_ = _MESSAGE.unpack_from(news, offset)
        end = min(offset + length, len(news))
        if kind in (_NEW_LINK, _DELETED_ADDRESS):
            at = offset + _INDEX_OFFSET
            if news[at : min(at + _INDEX.size, end)] == _INDEX.pack(index):
                return True
        elif kind == _DELETED_ROUTE and _lost_network(news[offset + _MESSAGE.size : end], index) in networks:
            return True
        # A length below that of the header would never end.
        offset += max(_MESSAGE.size, length + 3 & ~3)
    return False


def _lost_network(message: bytes, index: int) -> Network | None:
    """The destination in an rtmsg with its attributes, if it is a route into a device."""
    if len(message) < _ROUTE_SIZE:
        return None
    family, prefix_length = message[0], message[1]
    destination, is_ours, offset = b"", False, _ROUTE_SIZE
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        value = message[offset + _ATTRIBUTE.size : offset + length]
        if kind == _RTA_DST:
            destination = value
        elif kind == _RTA_OIF:
            is_ours = value == _INDEX.pack(index)
        offset += max(_ATTRIBUTE.size, length + 3 & ~3)
    if not is_ours:
        return None
    try:
        if family == socket.AF_INET:
            return IPv4Network((destination or bytes(4), prefix_length))
        return IPv6Network((destination or bytes(16), prefix_length))
    except ValueError:
        return None


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

    def restore(self, route: Any) -> list[str]:
        """Add those again that somebody else has removed; returns which.  NicError if the device is gone."""
        return [str(network) for network in sorted(self._installed, key=str) if not self._change(route, "add", network)]

    def _change(self, route: Any, command: str, network: Network) -> int:
        scope = _SCOPE_LINK if network.version == 4 else _SCOPE_UNIVERSE
        family = _family(network)
        code = _call(route.route, command, dst=str(network), oif=self._index, family=family, scope=scope)
        if code in (errno.ENODEV, errno.ENXIO):
            raise DeviceGone(f"network device {self._name} is gone")
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
