"""What of this machine other nodes may reach through us, and what address that really is.  Sans-IO.

Only the node's own address and the networks that it offers; anything with `exit_node`, for a node that is one.  Never what is
loopback, link-local, multicast or reserved, never back into the overlay, and never the node's own listeners, through which a
tunnel could be led into itself.  All of that is asked of the address behind a mapping.  The same for TCP and UDP, whose
listeners are not told apart.  What a user restricts further is in `access`.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final

from easytier_hooks.errors import DialRefused
from easytier_host.config.model import Config

IPAddress = IPv4Address | IPv6Address

LOOPBACK: Final = IPv4Address("127.0.0.1")
_THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")
"""RFC 1122, section 3.2.1.3: never a destination."""


def dial_target(
    config: Config,
    listener_ports: Collection[int],
    ip: IPAddress,
    port: int,
    *,
    interface_addresses: Collection[IPAddress] = (),
    exit_node: bool = False,
) -> tuple[IPAddress, int]:
    """The address to dial for a connection, or to send a datagram to, that a peer wants to go to `ip` and `port`.

    `interface_addresses` are those of this machine, where the listeners are just as at its virtual one; `exit_node` says that
    the peer has chosen us as its exit.  Raises `DialRefused`.
    """
    if not 0 < port < 65_536:
        raise DialRefused(f"{port} is no port")
    real = real_address(config, ip, exit_node)
    if port in listener_ports and is_here(config, ip, real, interface_addresses):
        raise DialRefused(f"port {port} is a listener of this node")
    return real, port


def is_here(config: Config, ip: IPAddress, real: IPAddress, interface_addresses: Collection[IPAddress]) -> bool:
    """Whether `ip`, behind which `real` stands, is this machine."""
    return ip in _own(config) or real in _own(config) or real in interface_addresses


def real_address(config: Config, ip: IPAddress, exit_node: bool = False) -> IPAddress:
    """What stands behind an address that a peer wants to reach, whatever the port; raises `DialRefused`."""
    if ip in _own(config):
        return LOOPBACK if config.flags.no_tun and ip.version == 4 else ip
    for network in config.proxy_networks:
        offered = network.mapped_cidr or network.cidr
        if isinstance(ip, IPv4Address) and ip in offered:
            real = IPv4Address(int(network.cidr.network_address) | int(ip) & int(network.cidr.hostmask))
            return _permitted(config, real)
    if not (exit_node and config.flags.enable_exit_node):
        raise DialRefused(f"{ip} is neither an address of this node nor in a network that it offers")
    return _permitted(config, ip)


def _own(config: Config) -> list[IPAddress]:
    return [interface.ip for interface in (config.ipv4, config.ipv6) if interface is not None]


def _permitted(config: Config, ip: IPAddress) -> IPAddress:
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved or ip in _THIS_NETWORK:
        raise DialRefused(f"{ip} is not for other nodes")
    # A peer would be met under our address instead of the sender's.
    if any(ip in interface.network for interface in (config.ipv4, config.ipv6) if interface is not None):
        raise DialRefused(f"{ip} is not outside of the overlay")
    return ip
