"""What of this machine other nodes may connect to through us, and what address that really is.  Sans-IO.

Only the node's own address and the networks that it offers; never what is loopback, link-local or multicast behind a mapping,
and never the node's own listeners, through which a tunnel could be led into itself.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from easytier_hooks.errors import DialRefused
from easytier_host.config.model import Config

IPAddress = IPv4Address | IPv6Address

LOOPBACK: Final = IPv4Address("127.0.0.1")


def dial_target(config: Config, listener_ports: Collection[int], ip: IPAddress, port: int) -> tuple[IPAddress, int]:
    """The address to dial for a connection that a peer wants to `ip` and `port`; raises `DialRefused`."""
    if not 0 < port < 65_536:
        raise DialRefused(f"{port} is no TCP port")
    own = [interface.ip for interface in (config.ipv4, config.ipv6) if interface is not None]
    if ip in own:
        if port in listener_ports:
            raise DialRefused(f"port {port} is a listener of this node")
        return (LOOPBACK if config.flags.no_tun and ip.version == 4 else ip), port
    for network in config.proxy_networks:
        offered = network.mapped_cidr or network.cidr
        if isinstance(ip, IPv4Address) and ip in offered:
            real = IPv4Address(int(network.cidr.network_address) | int(ip) & int(network.cidr.hostmask))
            if real.is_loopback or real.is_link_local or real.is_multicast or real.is_unspecified:
                raise DialRefused(f"{real} is not for other nodes")
            return real, port
    raise DialRefused(f"{ip} is neither an address of this node nor in a network that it offers")
