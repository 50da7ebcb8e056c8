"""A `Config` as the text of a file, from which `load_text` makes the same `Config`, but for secrets: the portal tells it.

Made from the schema, so no setting can be forgotten.  The network's secret and the options of plugins, which may be secrets as
well, are left out; a comment stands in their places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Final

from easytier_host.config.model import Config, PluginSetting
from easytier_host.config.schema import SETTINGS

ALWAYS: Final = frozenset({"instance_name", "instance_id", "hostname", "listeners", "network_identity.network_name"})
"""Keys that are told though they have their defaults, some of which differ from start to start."""
_SECRET: Final = "network_identity.network_secret"
_TABLES: Final[dict[str, Callable[[Any], dict[str, Any]]]] = {
    "peer": lambda url: {"uri": url},
    "proxy_network": lambda network: {"cidr": network.cidr, "mapped_cidr": network.mapped_cidr},
    "port_forward": lambda forward: {"proto": forward.proto, "bind_addr": forward.bind_addr, "dst_addr": forward.dst_addr},
    "access": lambda rule: {
        "action": "allow" if rule.allows else "deny",
        "proto": rule.proto or None,
        "peer": rule.peer or None,
        "source": rule.source,
        "destination": rule.destination,
        "ports": list(rule.ports) or None,
    },
}
"""Keys that are arrays of tables -> the table of one value; None is left out."""


def as_toml(config: Config) -> str:
    """The file, without what has its default."""
    default = Config()
    values: dict[str, Any] = {}
    for setting in SETTINGS.values():
        if setting.target and setting.key != _SECRET:
            read = attrgetter(setting.target)
            value = read(config)
            if setting.key in ALWAYS or value != read(default):
                values[setting.key] = list(value) if setting.many else value
    # TOML wants what belongs to no table before all tables.
    blocks = [list(_lines({key: value for key, value in values.items() if "." not in key and key not in _TABLES}))]
    for table in dict.fromkeys(key.partition(".")[0] for key in values if "." in key):
        inner = {key.removeprefix(f"{table}."): value for key, value in values.items() if key.startswith(f"{table}.")}
        blocks.append([f"[{table}]", *_lines(inner)])
        if _SECRET.startswith(f"{table}.") and config.network_secret:
            blocks[-1].append("# network_secret is not told")
    blocks += [[f"[[{key}]]", *_lines(_TABLES[key](each))] for key in _TABLES for each in values.get(key, ())]
    if config.plugins:
        blocks.append(["[plugins]", *_plugins(config.plugins)])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    return (f"{key} = {_written(value)}" for key, value in values.items() if value is not None)


def _plugins(table: Mapping[str, PluginSetting]) -> Iterator[str]:
    for name, setting in table.items():
        key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else _quoted(name)
        untold = "  # its options are not told" if isinstance(setting, Mapping) and setting else ""
        yield f"{key} = {_written(setting is not False)}{untold}"


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, tuple):
        first, last = value
        return _quoted(str(first) if first == last else f"{first}-{last}")
    # JSON writes booleans and integers as TOML does.
    return json.dumps(value) if isinstance(value, int) else _quoted(str(value))


def _quoted(text: str) -> str:
    # Lone surrogates, which the system's host name may hold, cannot be encoded.  A dollar sign would be taken for a variable.
    known = json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False)
    return known.replace("\x7f", "\\u007f").replace("$", "\\u0024")
