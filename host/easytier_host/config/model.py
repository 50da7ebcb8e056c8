"""The finished configuration of one node, as the rest of the host sees it.

Plain frozen data: whoever has a `Config` need not ask where a value came from.  The defaults are stock's (wire specification,
configuration 11.1 and 11.2), written down here only.  `Config(network_name=..., ...)` is also how tests and embedding programs
describe a node.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from types import MappingProxyType
from typing import Final, TypeAlias
from uuid import UUID, uuid4

HOSTNAME_LENGTH: Final = 32
"""Characters; longer host names are cut, as by stock."""

UNLIMITED: Final = 2**64 - 1

DEFAULT_NETWORK: Final = "default"
"""Of whoever names none."""

DEFAULT_PLUGINS: Final = ("kcp", "kernel")
"""Plugins that are loaded without being named in `[plugins]`: stock accepts KCP, and ends TCP by the kernel, by default."""

PluginSetting: TypeAlias = bool | Mapping[str, object]
"""One entry of `[plugins]`: on, off, or on with these options."""


def machine_hostname() -> str:
    """The machine's name, cut as `Config.hostname` is."""
    return platform.node()[:HOSTNAME_LENGTH]


@dataclass(frozen=True, slots=True)
class ProxyNetwork:
    """A subnet that this node offers to the others, under `mapped_cidr` if that is set; both have the same prefix length."""

    cidr: IPv4Network
    mapped_cidr: IPv4Network | None = None


@dataclass(frozen=True, slots=True)
class PortForward:
    """Connections to `bind_addr` (ip:port) are carried to `dst_addr` (ip:port) in the overlay; `proto` is `tcp` or `udp`."""

    bind_addr: str
    dst_addr: str
    proto: str


PortRange: TypeAlias = tuple[int, int]
"""The first and the last port."""


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What some peers may reach through this node, or may not: TCP connections and UDP datagrams that fit in all that is given.

    `destination` is where they really go, behind a mapping; for this node itself its address in the overlay.
    """

    allows: bool
    proto: str = ""
    """`tcp` or `udp`; empty: both."""
    peer: str = ""
    """Host name of the peer."""
    source: IPv4Network | IPv6Network | None = None
    destination: IPv4Network | IPv6Network | None = None
    ports: tuple[PortRange, ...] = ()


@dataclass(frozen=True, slots=True)
class FileLog:
    """The log file; off unless `level` is set."""

    level: str = ""
    dir: str = "."
    file: str = "easytier.log"
    size: int = 100
    """Megabytes at which a new file is begun."""
    count: int = 10
    """Old files that are kept."""


@dataclass(frozen=True, slots=True)
class Flags:
    """The `[flags]` table; names and defaults are stock's."""

    default_protocol: str = "tcp"
    dev_name: str = ""
    enable_encryption: bool = True
    enable_ipv6: bool = True
    mtu: int = 1380
    """Bytes, before the 20 that encryption takes off it."""
    latency_first: bool = False
    enable_exit_node: bool = False
    no_tun: bool = False
    use_smoltcp: bool = False
    relay_network_whitelist: str = "*"
    disable_p2p: bool = False
    relay_all_peer_rpc: bool = False
    disable_udp_hole_punching: bool = False
    ipv6_listener: str = ""
    multi_thread: bool = True
    data_compress_algo: int = 1
    """1: none, 2: zstd."""
    bind_device: bool = True
    enable_kcp_proxy: bool = False
    disable_kcp_input: bool = False
    disable_relay_kcp: bool = False
    proxy_forward_by_system: bool = False
    accept_dns: bool = False
    private_mode: bool = False
    enable_quic_proxy: bool = False
    disable_quic_input: bool = False
    foreign_relay_bps_limit: int = UNLIMITED
    multi_thread_count: int = 2
    enable_relay_foreign_network_kcp: bool = False
    encryption_algorithm: str = "aes-gcm"
    disable_sym_hole_punching: bool = False
    tld_dns_zone: str = ""
    p2p_only: bool = False
    quic_listen_port: int = 0
    disable_tcp_hole_punching: bool = False
    disable_relay_quic: bool = False
    enable_relay_foreign_network_quic: bool = False
    lazy_p2p: bool = False
    need_p2p: bool = False
    instance_recv_bps_limit: int = UNLIMITED
    disable_upnp: bool = False
    disable_relay_data: bool = False
    enable_udp_broadcast_relay: bool = False


def default_plugins(flags: Flags) -> tuple[str, ...]:
    """Plugins that are loaded without being named in `[plugins]`: what stock does by default, and what the flags ask for."""
    return (*DEFAULT_PLUGINS, "smoltcp") if flags.use_smoltcp or flags.no_tun else DEFAULT_PLUGINS


@dataclass(frozen=True, slots=True)
class Config:
    """Everything one node is told.  URLs carry their port; secrets stay out of `repr`."""

    instance_name: str = "default"
    instance_id: UUID = field(default_factory=uuid4)
    hostname: str = field(default_factory=machine_hostname)
    network_name: str = DEFAULT_NETWORK
    network_secret: str = field(default="", repr=False)
    ipv4: IPv4Interface | None = None
    ipv6: IPv6Interface | None = None
    dhcp: bool = False
    listeners: tuple[str, ...] = ()
    mapped_listeners: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    proxy_networks: tuple[ProxyNetwork, ...] = ()
    exit_nodes: tuple[IPv4Address | IPv6Address, ...] = ()
    routes: tuple[IPv4Network, ...] | None = None
    """Manual routes instead of the automatic ones; None: automatic."""
    rpc_portal: str = ""
    rpc_portal_whitelist: tuple[str, ...] = ()
    metrics_listener: str = ""
    socks5: str = ""
    port_forwards: tuple[PortForward, ...] = ()
    tcp_whitelist: tuple[PortRange, ...] = ()
    udp_whitelist: tuple[PortRange, ...] = ()
    access: tuple[AccessRule, ...] = ()
    drain_timeout: int = 3
    """Seconds for which a node that was told to stop waits for the flows that it carries."""
    console_log_level: str = "info"
    file_log: FileLog = FileLog()
    flags: Flags = Flags()
    plugins: Mapping[str, PluginSetting] = field(default_factory=lambda: MappingProxyType({}), repr=False)
