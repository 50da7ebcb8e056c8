"""Every key of a configuration file, written down once: what it holds, its default, whether this node acts on it.

The file reader, the options (`option_table`) and `docs/configuration.md` are all made from these tables.  Names follow stock
2.6.4 (wire specification, configuration 11.1 and 11.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from easytier_host.config import kinds
from easytier_host.config.kinds import BOOLEAN, STRING, Kind
from easytier_host.config.model import HOSTNAME_LENGTH, UNLIMITED, AccessRule, FileLog, Flags, PortForward, ProxyNetwork
from easytier_host.portal import address


class Status(StrEnum):
    """Whether the node acts on a setting."""

    USED = "yes"
    MOOT = "accepted"
    """Taken without a word: what it asks for holds anyway, or concerns what this node never does."""
    IGNORED = "no"
    """Taken with a warning, if it is set to anything but its default."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file: `key` with its table, as in `flags.mtu`; `many` if it holds any number of values of `kind`.

    `target` is the field of `Config` that it fills; empty if the node has no use for it.  `whole_process` settings given as
    options hold for every file.
    """

    key: str
    kind: Kind
    text: str
    status: Status = Status.USED
    many: bool = False
    target: str = ""
    default: Any = None
    whole_process: bool = False


_ENDPOINTS = {"proto": kinds.choice(("tcp", "udp")), "bind_addr": kinds.SOCKET_ADDRESS, "dst_addr": kinds.SOCKET_ADDRESS}


def _proxy_network(cidr: Any, mapped_cidr: Any = None, allow: object = None) -> ProxyNetwork:
    if mapped_cidr is not None and mapped_cidr.prefixlen != cidr.prefixlen:
        raise ValueError(f"{cidr} and {mapped_cidr} differ in their prefix length")
    return ProxyNetwork(cidr, mapped_cidr)


def _access_rule(action: str, **conditions: Any) -> AccessRule:
    families = {conditions[name].version for name in ("source", "destination") if name in conditions}
    if len(families) > 1:
        raise ValueError(f"{conditions['source']} and {conditions['destination']} are of two families")
    return AccessRule(action == "allow", **conditions)


_PEER = kinds.table(
    "peer", required=["uri"], build=lambda uri, peer_public_key="": uri, uri=kinds.TUNNEL_URL, peer_public_key=STRING
)
_PROXY_NETWORK = kinds.table(
    "proxy_network",
    required=["cidr"],
    build=_proxy_network,
    cidr=kinds.IPV4_NETWORK,
    mapped_cidr=kinds.IPV4_NETWORK,
    allow=kinds.ARRAY,
)
_PORT_FORWARD = kinds.table("port_forward", required=list(_ENDPOINTS), build=PortForward, **_ENDPOINTS)
_ACCESS = kinds.table(
    "access",
    required=["action"],
    build=_access_rule,
    action=kinds.choice(("allow", "deny")),
    proto=kinds.choice(("tcp", "udp")),
    peer=STRING,
    source=kinds.IP_NETWORK,
    destination=kinds.IP_NETWORK,
    ports=kinds.PORT_LIST,
)

_PORTAL: Final = Kind('port, ip:port or "off"', address.check)

_U32: Final = 2**32 - 1
_USED, _MOOT, _IGNORED = Status.USED, Status.MOOT, Status.IGNORED

_FLAGS: Final[tuple[tuple[str, Kind, Status, str], ...]] = (
    (
        "default_protocol",
        kinds.choice(("tcp", "udp"), ("wg", "ws", "wss", "quic", "faketcp")),
        _MOOT,
        "for a peer that offers several; this node prefers udp",
    ),
    ("dev_name", kinds.DEVICE_NAME, _USED, "name of the TUN device; empty: chosen by the system"),
    ("enable_encryption", BOOLEAN, _USED, "seal all packets; must be alike in the whole network"),
    ("enable_ipv6", BOOLEAN, _USED, "IPv6 in the underlay: listeners on 0.0.0.0 listen on [::] too"),
    ("mtu", kinds.integer(kinds.MIN_MTU, kinds.MAX_MTU), _USED, "bytes of the largest packet; encryption takes 20 off"),
    ("latency_first", BOOLEAN, _USED, "shortest path by latency instead of by number of hops"),
    ("enable_exit_node", BOOLEAN, _USED, "carry the traffic of others to the internet"),
    ("no_tun", BOOLEAN, _USED, "no TUN device; needs no root"),
    ("use_smoltcp", BOOLEAN, _USED, "end TCP connections in user space, those of hosts behind this node too"),
    ("relay_network_whitelist", STRING, _MOOT, "other networks to serve; this node serves its own only"),
    ("disable_p2p", BOOLEAN, _USED, "connect to nobody but the configured peers"),
    ("relay_all_peer_rpc", BOOLEAN, _IGNORED, "relay calls for networks outside the whitelist"),
    ("disable_udp_hole_punching", BOOLEAN, _MOOT, "this node punches no holes"),
    ("ipv6_listener", STRING, _IGNORED, "stock 2.2.0 to 2.2.2 only"),
    ("multi_thread", BOOLEAN, _MOOT, "this node has one event loop"),
    ("data_compress_algo", kinds.COMPRESSION, _USED, "compression of packets that this node sends"),
    ("bind_device", BOOLEAN, _MOOT, "this node binds to no device"),
    ("enable_kcp_proxy", BOOLEAN, _USED, "carry TCP over KCP where the peer takes it; needs a plugin that offers KCP"),
    ("disable_kcp_input", BOOLEAN, _USED, "take no KCP from others"),
    ("disable_relay_kcp", BOOLEAN, _USED, "relay no KCP packets"),
    ("proxy_forward_by_system", BOOLEAN, _USED, "leave traffic for offered subnets to the kernel"),
    ("accept_dns", BOOLEAN, _IGNORED, "answer names of the overlay"),
    ("private_mode", BOOLEAN, _MOOT, "serve no other network; this node never does"),
    ("enable_quic_proxy", BOOLEAN, _IGNORED, "carry TCP over QUIC"),
    ("disable_quic_input", BOOLEAN, _MOOT, "this node takes no QUIC"),
    ("foreign_relay_bps_limit", kinds.integer(0, UNLIMITED), _MOOT, "rate for other networks; this node relays for none"),
    ("multi_thread_count", kinds.integer(0, _U32), _MOOT, "this node has one event loop"),
    ("enable_relay_foreign_network_kcp", BOOLEAN, _MOOT, "without effect in stock too"),
    (
        "encryption_algorithm",
        kinds.choice(("aes-gcm", "aes-256-gcm", "chacha20", "xor")),
        _USED,
        "how packets are sealed; must be alike in the whole network",
    ),
    ("disable_sym_hole_punching", BOOLEAN, _MOOT, "this node punches no holes"),
    ("tld_dns_zone", STRING, _IGNORED, "zone of the overlay's names"),
    ("p2p_only", BOOLEAN, _IGNORED, "never send through a relay"),
    ("quic_listen_port", kinds.integer(0, _U32), _IGNORED, "deprecated in stock"),
    ("disable_tcp_hole_punching", BOOLEAN, _MOOT, "this node punches no holes"),
    ("disable_relay_quic", BOOLEAN, _IGNORED, "relay no QUIC packets"),
    ("enable_relay_foreign_network_quic", BOOLEAN, _MOOT, "this node relays for its own network only"),
    ("lazy_p2p", BOOLEAN, _IGNORED, "connect to a peer only once there is traffic for it"),
    ("need_p2p", BOOLEAN, _USED, "ask peers to connect directly, those with lazy_p2p too"),
    ("instance_recv_bps_limit", kinds.integer(0, UNLIMITED), _IGNORED, "rate limit for everything received"),
    ("disable_upnp", BOOLEAN, _MOOT, "this node opens no ports on routers"),
    ("disable_relay_data", BOOLEAN, _USED, "relay no packets of others"),
    ("enable_udp_broadcast_relay", BOOLEAN, _IGNORED, "carry broadcasts"),
)

SETTINGS: Final[Mapping[str, Setting]] = {
    setting.key: setting
    for setting in (
        Setting("instance_name", STRING, "name of this network within the process", target="instance_name", default="default"),
        Setting("instance_id", kinds.UUID_TEXT, "random if not given", target="instance_id"),
        Setting("hostname", STRING, f"shown to the others; cut to {HOSTNAME_LENGTH} characters", target="hostname"),
        Setting("network_identity.network_name", STRING, "name of the network", target="network_name", default="default"),
        Setting("network_identity.network_secret", STRING, "password of the network", target="network_secret", default=""),
        Setting("ipv4", kinds.IPV4_INTERFACE, "address in the overlay; without prefix: /24", target="ipv4"),
        Setting("ipv6", kinds.IPV6_INTERFACE, "IPv6 address in the overlay", target="ipv6"),
        Setting("dhcp", BOOLEAN, "pick a free IPv4 address", _IGNORED, target="dhcp", default=False),
        Setting(
            "listeners",
            kinds.TUNNEL_URL,
            "where peers may come in; a file without it listens nowhere",
            many=True,
            target="listeners",
        ),
        Setting(
            "mapped_listeners",
            kinds.TUNNEL_URL,
            "public addresses of the listeners, such as a router's",
            many=True,
            target="mapped_listeners",
        ),
        Setting("peer", _PEER, "`uri` of a peer to connect to; `peer_public_key` has no effect", many=True, target="peers"),
        Setting(
            "proxy_network",
            _PROXY_NETWORK,
            "subnet to offer: `cidr`, `mapped_cidr`; `allow` has no effect",
            many=True,
            target="proxy_networks",
        ),
        Setting(
            "exit_nodes",
            kinds.IP_ADDRESS,
            "nodes that carry this one's traffic to the internet",
            many=True,
            target="exit_nodes",
        ),
        Setting(
            "routes",
            kinds.IPV4_NETWORK,
            "networks to route into the overlay, instead of those that peers offer",
            many=True,
            target="routes",
        ),
        Setting(
            "socks5_proxy",
            kinds.SOCKS5_URL,
            "SOCKS5 server into the overlay, without password",
            target="socks5",
            default="",
        ),
        Setting(
            "port_forward",
            _PORT_FORWARD,
            "ports of this machine that lead into the overlay: `proto` (tcp or udp), `bind_addr`, `dst_addr`",
            _USED,
            many=True,
            target="port_forwards",
        ),
        Setting(
            "tcp_whitelist",
            kinds.PORTS,
            "TCP ports of this node that peers may reach, as 80 or 8000-8100; empty: all; 0: none",
            many=True,
            target="tcp_whitelist",
        ),
        Setting(
            "udp_whitelist",
            kinds.PORTS,
            "UDP ports of this node that peers may reach, likewise",
            many=True,
            target="udp_whitelist",
        ),
        Setting(
            "access",
            _ACCESS,
            "our own: what peers may reach, the first rule that fits decides: `action` (allow or deny), `proto`, `peer`, "
            "`source`, `destination`, `ports`",
            many=True,
            target="access",
        ),
        Setting(
            "drain_timeout",
            kinds.integer(0, 3600),
            "our own: seconds for which a node that gets SIGTERM waits for the flows that it carries",
            target="drain_timeout",
            default=3,
        ),
        Setting(
            "rpc_portal",
            _PORTAL,
            "where easytier-cli may ask: a port of 127.0.0.1, ip:port, or off; empty: the first free port from 15888",
            target="rpc_portal",
            default="",
            whole_process=True,
        ),
        Setting(
            "rpc_portal_whitelist",
            kinds.IP_NETWORK_TEXT,
            "who may ask the portal; empty: this machine only",
            many=True,
            target="rpc_portal_whitelist",
            whole_process=True,
        ),
        Setting(
            "metrics_listener",
            _PORTAL,
            "our own: counters for Prometheus, at /metrics: a port of 127.0.0.1, ip:port, or off; empty: off",
            target="metrics_listener",
            default="",
            whole_process=True,
        ),
        Setting(
            "console_logger.level",
            kinds.LEVEL,
            "log on standard error",
            target="console_log_level",
            default="info",
            whole_process=True,
        ),
        Setting(
            "file_logger.level",
            kinds.LEVEL,
            "log file; off unless given",
            target="file_log.level",
            default="",
            whole_process=True,
        ),
        Setting("file_logger.dir", STRING, "its directory", target="file_log.dir", default=FileLog().dir, whole_process=True),
        Setting("file_logger.file", STRING, "its name", target="file_log.file", default=FileLog().file, whole_process=True),
        Setting(
            "file_logger.size",
            kinds.integer(1, 1_000_000),
            "megabytes a file",
            target="file_log.size",
            default=FileLog().size,
            whole_process=True,
        ),
        Setting(
            "file_logger.count",
            kinds.integer(1, 10_000),
            "old log files that are kept",
            target="file_log.count",
            default=FileLog().count,
            whole_process=True,
        ),
        Setting("netns", STRING, "network namespace of the TUN device", _IGNORED),
        Setting("ipv6_public_addr_provider", BOOLEAN, "share a public IPv6 prefix", _IGNORED, default=False),
        Setting("ipv6_public_addr_auto", BOOLEAN, "take an address from a provider", _IGNORED, default=False),
        Setting("ipv6_public_addr_prefix", STRING, "the prefix to share", _IGNORED),
        Setting("vpn_portal_config", kinds.TABLE, "WireGuard clients", _IGNORED),
        Setting("secure_mode", kinds.TABLE, "Noise handshakes", _IGNORED),
        Setting("credential_file", STRING, "credentials of secure mode", _IGNORED),
        Setting("stun_servers", STRING, "this node asks no STUN server", _MOOT, many=True),
        Setting("stun_servers_v6", STRING, "this node asks no STUN server", _MOOT, many=True),
        Setting("acl", kinds.TABLE, "access rules; they are not enforced", _IGNORED),
        Setting("source", kinds.TABLE, "kept by managed instances of stock", _MOOT),
        *(
            Setting(f"flags.{name}", kind, text, status, target=f"flags.{name}", default=getattr(Flags(), name))
            for name, kind, status, text in _FLAGS
        ),
    )
}
"""By key.  `[plugins]` is not among them: its keys are names of plugins, checked by whoever loads them."""
