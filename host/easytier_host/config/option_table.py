"""Every option of `easytier-core`, written down once: its names, the key it sets, how its text becomes the value of that key.

The parser, the environment variables and `docs/configuration.md` are all made from this table.  Names follow stock 2.6.4 (wire
specification, configuration 11.3); `--list-plugins`, `--log-format`, `--metrics-listener` and `--secret-file` are
our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from easytier_host.config import kinds
from easytier_host.config.kinds import BOOLEAN
from easytier_host.config.schema import SETTINGS, Status
from easytier_host.config.secret import read_secret

NETWORK, NODE, TRAFFIC, SUBNETS, P2P, LOGS, PROGRAM, MISSING = (
    "network",
    "this node",
    "traffic",
    "subnets and ports",
    "connections between peers",
    "logs",
    "program",
    "known from stock, without effect in this version",
)


class Form(StrEnum):
    """How an option takes its value."""

    VALUE = "value"
    SWITCH = "switch"
    """`--x`, `--x true` or `--x false`."""
    LIST = "list"
    """May be repeated, and takes several values with commas between."""
    ACTION = "action"
    """Takes no value; has no environment variable."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of `easytier-core`.

    `to_toml` makes of its text what the file would hold (for `Form.LIST`: of one item; a list stands for several items); it
    raises ValueError for the user.  `key` is the setting it gives, empty for options about the program itself.
    """

    name: str
    text: str
    group: str
    form: Form = Form.VALUE
    short: str = ""
    key: str = ""
    to_toml: Callable[[str], Any] = str
    has_variable: bool = True
    status: Status = Status.USED
    metavar: str = "VALUE"

    @property
    def variable(self) -> str:
        """Its environment variable, or an empty string."""
        named = self.has_variable and self.form is not Form.ACTION
        return "ET_" + self.name.upper().replace("-", "_") if named else ""


def _invert(text: str) -> bool:
    return not kinds.switch_from_text(text)


def _flag(
    name: str,
    group: str,
    *,
    option: str = "",
    short: str = "",
    text: str = "",
    metavar: str = "VALUE",
    to_toml: Callable[[str], Any] | None = None,
) -> Option:
    """The option of one flag: named like it, its form and status taken from the setting."""
    key = f"flags.{name}"
    return _option(option or name.replace("_", "-"), key, group, short=short, text=text, metavar=metavar, to_toml=to_toml)


def _option(
    name: str,
    key: str,
    group: str,
    *,
    short: str = "",
    text: str = "",
    metavar: str = "VALUE",
    to_toml: Callable[[str], Any] | None = None,
    has_variable: bool = True,
) -> Option:
    """The option of a setting, its form and status taken from there."""
    setting = SETTINGS[key]
    form = Form.LIST if setting.many else Form.SWITCH if setting.kind is BOOLEAN else Form.VALUE
    shown_in = group if setting.status is Status.USED else MISSING
    convert = to_toml or setting.kind.from_text
    return Option(name, text or setting.text, shown_in, form, short, key, convert, has_variable, setting.status, metavar)


def _program(
    name: str,
    text: str,
    form: Form = Form.VALUE,
    *,
    short: str = "",
    has_variable: bool = True,
    status: Status = Status.USED,
    metavar: str = "VALUE",
) -> Option:
    group = PROGRAM if status is Status.USED else MISSING
    return Option(name, text, group, form, short, has_variable=has_variable, status=status, metavar=metavar)


def _peer_from_text(text: str) -> dict[str, str]:
    return {"uri": text}


OPTIONS: Final[Mapping[str, Option]] = {
    option.name: option
    for option in (
        _program(
            "config-file",
            "configuration file; - is standard input; several files: several networks in one process",
            Form.LIST,
            short="c",
            metavar="FILE",
        ),
        _program("config-dir", "every *.toml file of a directory", metavar="DIR"),
        _program("disable-env-parsing", "leave $NAME in files as it is", Form.SWITCH, has_variable=False),
        _program("check-config", "say whether the configuration is good, and end", Form.SWITCH, has_variable=False),
        _program("list-plugins", "show the plugins that are installed, and end", Form.ACTION),
        _program(
            "gen-autocomplete",
            "print a script that completes these options in a shell, bash, zsh or fish, and end",
            has_variable=False,
            metavar="SHELL",
        ),
        _program("log-format", "form of log lines: text or json", metavar="FORM"),
        _option("network-name", "network_identity.network_name", NETWORK, metavar="NAME"),
        _option("network-secret", "network_identity.network_secret", NETWORK, metavar="SECRET"),
        _option(
            "secret-file",
            "network_identity.network_secret",
            NETWORK,
            text="file that holds the password of the network and nothing else",
            metavar="FILE",
            to_toml=read_secret,
        ),
        _option("peers", "peer", NETWORK, short="p", text="peers to connect to", metavar="URL", to_toml=_peer_from_text),
        _option(
            "external-node", "peer", NETWORK, short="e", text="the same as --peers", metavar="URL", to_toml=_peer_from_text
        ),
        _option(
            "listeners",
            "listeners",
            NETWORK,
            short="l",
            text="where peers may come in: a URL, a port (tcp and udp), a protocol, or protocol:port; 11010 without a file",
            metavar="URL",
            to_toml=kinds.listeners_from_text,
        ),
        _option("mapped-listeners", "mapped_listeners", NETWORK, metavar="URL"),
        Option("no-listener", "listen nowhere, whatever the file says", NETWORK, Form.SWITCH),
        _option("ipv4", "ipv4", NODE, short="i", metavar="ADDRESS"),
        _option("ipv6", "ipv6", NODE, metavar="ADDRESS"),
        _option("hostname", "hostname", NODE, metavar="NAME"),
        _option("instance-name", "instance_name", NODE, short="m", metavar="NAME"),
        _option("drain-timeout", "drain_timeout", NODE, metavar="SECONDS"),
        _flag("no_tun", NODE),
        _flag("dev_name", NODE, metavar="NAME"),
        _flag("mtu", NODE, metavar="BYTES"),
        _flag(
            "enable_encryption",
            TRAFFIC,
            option="disable-encryption",
            short="u",
            text="seal nothing; must be alike in the whole network",
            to_toml=_invert,
        ),
        _flag(
            "encryption_algorithm",
            TRAFFIC,
            text="how packets are sealed, aes-gcm, aes-256-gcm, chacha20 or xor; must be alike in the whole network",
            metavar="NAME",
        ),
        _flag(
            "data_compress_algo",
            TRAFFIC,
            option="compression",
            text="compression of packets that this node sends: none (1) or zstd (2)",
            metavar="NAME",
        ),
        _flag("latency_first", TRAFFIC),
        _flag("use_smoltcp", TRAFFIC),
        _flag("enable_kcp_proxy", TRAFFIC),
        _flag("disable_kcp_input", TRAFFIC),
        _flag("disable_relay_kcp", TRAFFIC),
        _flag("disable_relay_data", TRAFFIC),
        _option(
            "proxy-networks",
            "proxy_network",
            SUBNETS,
            short="n",
            text="subnets to offer to the others: CIDR, or CIDR->CIDR under which they see it",
            metavar="CIDR",
            to_toml=kinds.proxy_network_from_text,
        ),
        _option("manual-routes", "routes", SUBNETS, metavar="CIDR"),
        _option("exit-nodes", "exit_nodes", SUBNETS, metavar="ADDRESS"),
        _flag("enable_exit_node", SUBNETS),
        _flag("proxy_forward_by_system", SUBNETS),
        _flag("default_protocol", P2P),
        _flag("enable_ipv6", P2P, option="disable-ipv6", text="no IPv6 in the underlay", to_toml=_invert),
        _flag("disable_p2p", P2P),
        _flag("need_p2p", P2P, text="ask peers to connect directly, those with --lazy-p2p too"),
        _option(
            "console-log-level",
            "console_logger.level",
            LOGS,
            text="log on standard error: off, error, warn, info, debug or trace",
            metavar="LEVEL",
        ),
        _option(
            "file-log-level",
            "file_logger.level",
            LOGS,
            text="log in a file: off, error, warn, info, debug or trace",
            metavar="LEVEL",
        ),
        _option("file-log-dir", "file_logger.dir", LOGS, text="directory of the log file", metavar="DIR"),
        _option("file-log-size", "file_logger.size", LOGS, text="size at which the next file is begun", metavar="MB"),
        _option("file-log-count", "file_logger.count", LOGS, metavar="NUMBER"),
        _option("dhcp", "dhcp", NODE, short="d"),
        _option("rpc-portal", "rpc_portal", NODE, short="r", metavar="PORT|IP:PORT"),
        _option("rpc-portal-whitelist", "rpc_portal_whitelist", NODE, metavar="CIDR"),
        _option("metrics-listener", "metrics_listener", NODE, metavar="PORT|IP:PORT"),
        _option(
            "socks5",
            "socks5_proxy",
            SUBNETS,
            text="SOCKS5 server into the overlay, without password: a port of 127.0.0.1, or socks5://IP:PORT",
            metavar="PORT|URL",
            to_toml=kinds.socks5_from_text,
        ),
        _option(
            "port-forward",
            "port_forward",
            SUBNETS,
            text="ports of this machine that lead into the overlay, as tcp://127.0.0.1:8080/10.144.0.2:80; tcp or udp",
            metavar="PROTO://IP:PORT/IP:PORT",
            to_toml=kinds.port_forward_from_text,
        ),
        _option("vpn-portal", "vpn_portal_config", SUBNETS, to_toml=kinds.vpn_portal_from_text),
        _option("tcp-whitelist", "tcp_whitelist", SUBNETS, metavar="PORT", has_variable=False),
        _option("udp-whitelist", "udp_whitelist", SUBNETS, metavar="PORT", has_variable=False),
        _option("stun-servers", "stun_servers", P2P),
        _option("stun-servers-v6", "stun_servers_v6", P2P),
        _option("ipv6-public-addr-provider", "ipv6_public_addr_provider", NODE),
        _option("ipv6-public-addr-auto", "ipv6_public_addr_auto", NODE),
        _option("ipv6-public-addr-prefix", "ipv6_public_addr_prefix", NODE),
        _option("credential-file", "credential_file", NODE),
        _program("secure-mode", "Noise handshakes", Form.SWITCH, status=Status.IGNORED),
        _program("local-private-key", "key of secure mode", status=Status.IGNORED),
        _program("local-public-key", "key of secure mode", status=Status.IGNORED),
        _program("credential", "credential of secure mode", status=Status.IGNORED),
        _program("config-server", "managed by a server", short="w", status=Status.IGNORED),
        _program("machine-id", "name for the managing server", status=Status.IGNORED),
        _program("daemon", "go to the background", Form.SWITCH, has_variable=False, status=Status.IGNORED),
        *(
            _flag(name, MISSING)
            for name in (
                *("multi_thread", "multi_thread_count", "bind_device"),
                *("private_mode", "relay_network_whitelist", "relay_all_peer_rpc"),
                *("disable_udp_hole_punching", "disable_tcp_hole_punching", "disable_sym_hole_punching", "disable_upnp"),
                *("p2p_only", "lazy_p2p"),
                *("enable_quic_proxy", "disable_quic_input", "disable_relay_quic", "enable_relay_foreign_network_kcp"),
                *("enable_relay_foreign_network_quic", "accept_dns", "tld_dns_zone", "foreign_relay_bps_limit"),
                *("instance_recv_bps_limit", "enable_udp_broadcast_relay"),
            )
        ),
    )
}
"""By long name."""
