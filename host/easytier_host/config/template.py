"""A configuration file with every key that this node acts on, commented out: `easytier-cli config template` prints it.

Made from the schema, as docs/configuration.md is; a test uncomments every line and loads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from easytier_host.config.schema import SETTINGS, Setting, Status

_HEAD: Final = """\
# A node of an EasyTier network:  easytier-core -c FILE
# What is commented out has its default, or is an example where there is none.
# easytier-core -c FILE --check-config  says what is wrong with it.
"""

_EXAMPLES: Final = {
    "instance_id": '"6b1b1e0a-5f0c-4b52-9f5c-4f5f0f7a1c55"',
    "hostname": '"gateway"',
    "network_identity.network_secret": '"${SECRET}"',
    "ipv4": '"10.144.0.1/24"',
    "ipv6": '"fd00:144::1/64"',
    "listeners": '["udp://0.0.0.0:11010", "tcp://0.0.0.0:11010"]',
    "mapped_listeners": '["udp://203.0.113.7:11010"]',
    "exit_nodes": '["10.144.0.9"]',
    "routes": '["10.1.0.0/16"]',
    "rpc_portal": '"127.0.0.1:15888"',
    "rpc_portal_whitelist": '["127.0.0.0/8", "::1/128"]',
    "metrics_listener": '"127.0.0.1:9188"',
    "socks5_proxy": '"socks5://127.0.0.1:1080"',
    "file_logger.level": '"info"',
    "flags.dev_name": '"tun0"',
}
"""Of keys whose default says nothing."""
_TABLES: Final = {
    "peer": ('uri = "udp://203.0.113.5:11010"',),
    "proxy_network": ('cidr = "10.1.2.0/24"', 'mapped_cidr = "10.9.2.0/24"'),
    "access": ('action = "deny"', 'proto = "tcp"', 'destination = "10.1.2.0/24"', 'ports = ["22", "8000-8100"]'),
    "port_forward": ('proto = "tcp"', 'bind_addr = "127.0.0.1:8080"', 'dst_addr = "10.144.0.2:80"'),
}
"""Keys that are arrays of tables; TOML wants them after all others."""
_PLUGINS: Final = """\
[plugins]
# Plugins by name: true, false, or a table of their options; easytier-core --list-plugins shows what is installed.
# kcp = true carries TCP by KCP where the peer takes it (as enable_kcp_proxy does), auto only where the path loses packets.
#auto = true
"""


def template() -> str:
    """The file's text."""
    used = [setting for setting in SETTINGS.values() if setting.status is Status.USED]
    top = [setting for setting in used if "." not in setting.key and setting.key not in _TABLES]
    inner = [setting for setting in used if "." in setting.key]
    blocks = ["\n".join(_lines(top))]
    for table, settings in groupby(inner, key=lambda setting: setting.key.partition(".")[0]):
        blocks.append("\n".join((f"[{table}]", *_lines(settings))))
    for key, lines in _TABLES.items():
        blocks.append("\n".join((f"# {SETTINGS[key].text}", f"#[[{key}]]", *(f"#{line}" for line in lines))))
    return "\n\n".join((_HEAD.rstrip("\n"), *blocks, _PLUGINS))


def _lines(settings: Iterable[Setting]) -> Iterator[str]:
    for setting in settings:
        yield f"# {setting.text}"
        yield f"#{setting.key.rpartition('.')[2]} = {_EXAMPLES.get(setting.key) or _value(setting)}"


def _value(setting: Setting) -> str:
    # JSON writes booleans, integers and strings as TOML does.
    return json.dumps([] if setting.many else "" if setting.default is None else setting.default, ensure_ascii=False)
