"""Reads the configuration again and applies what can be applied while nodes run (SIGHUP; docs/reliability.md).

A file with a fault changes nothing.  Of each key that has changed it is said whether it was applied or waits for a restart.
What has begun goes on: rules and lists hold for new flows.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from easytier_host.config import Config, ConfigError, Loaded
from easytier_host.config.schema import SETTINGS

if TYPE_CHECKING:
    from easytier_host.instance import Node
    from easytier_host.log import Levels

logger = logging.getLogger("easytier.reload")

LIVE: Final = frozenset(
    {
        "peers",
        "tcp_whitelist",
        "udp_whitelist",
        "access",
        "port_forwards",
        "proxy_networks",
        "mapped_listeners",
        "exit_nodes",
        "routes",
        "drain_timeout",
    }
)
"""Fields of `Config` that a running node takes over."""
LEVELS: Final = frozenset({"console_log_level", "file_log.level"})
"""Those of the process, which the first configuration has."""
_KEYS: Final = {setting.target: setting.key for setting in SETTINGS.values() if setting.target}
"""Fields of `Config` -> what they are called in a file."""
_ANEW_EACH_TIME: Final = frozenset({"instance_id"})
"""Random unless it is given, so that a difference says nothing."""


async def reload(read: Callable[[], Loaded], nodes: Sequence[Node], levels: Levels) -> None:
    """Call `read`, and bring `nodes` and the log in line with what it gives; every outcome is a log line."""
    try:
        loaded = read()
    except ConfigError as error:
        for problem in error.problems:
            logger.error("%s", problem)
        logger.error("the configuration has faults, nothing is changed")
        return
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    if not nodes:
        logger.warning("the nodes are still starting; the configuration is read again at the next signal")
        return
    twins = _repeated(loaded.configs) | _repeated([node.config for node in nodes])
    for name in twins:
        logger.error('several instances are called "%s": nothing of theirs is applied', name)
    configs = {config.instance_name: config for config in loaded.configs if config.instance_name not in twins}
    running = {node.config.instance_name: node for node in nodes if node.config.instance_name not in twins}
    for name in configs.keys() ^ running.keys():
        logger.warning('instance "%s" %s a restart', name, "is new: needs" if name in configs else "stays until")
    first = nodes[0].config
    changed = False
    for name in running.keys() & configs.keys():
        changed |= await apply(running[name], configs[name])
    if first.instance_name in configs:
        changed |= _apply_levels(first, configs[first.instance_name], running[first.instance_name], levels)
    if not changed:
        logger.info("the configuration was read again: nothing has changed")


def _repeated(configs: Sequence[Config]) -> set[str]:
    """Names of which nobody can say which instance they mean."""
    return {name for name, count in Counter(config.instance_name for config in configs).items() if count > 1}


async def apply(node: Node, wanted: Config) -> bool:
    """Bring one node in line with `wanted`; whether anything differs, the levels of the log apart."""
    log = logging.LoggerAdapter(logger, {"instance": node.config.instance_name})
    names = [name for name in differences(node.config, wanted) if name not in LEVELS]
    live = {name: getattr(wanted, name) for name in names if name in LIVE}
    if "port_forwards" in live:
        live["port_forwards"], problems = await node.entrances.replace_forwards(wanted.port_forwards)
        for problem in problems:
            log.error("%s", problem)
    node.config = node.direct.config = node.topology.config = config = replace(node.config, **live)
    node.guard.configure(config)
    node.watch_packets()
    node.connectors.replace(config.peers)
    if "proxy_networks" in live:
        node.offer_networks()
    node.topology.changed()
    for name in names:
        if name in LIVE:
            log.info("%s: applied", _KEYS.get(name, name))
        else:
            log.warning("%s has changed, which needs a restart", _KEYS.get(name, name))
    return bool(names)


def differences(one: Any, other: Any, prefix: str = "") -> Iterator[str]:
    """Names of the fields in which two configurations differ, `flags.mtu` for those of tables."""
    for field in fields(one):
        name, before, after = prefix + field.name, getattr(one, field.name), getattr(other, field.name)
        if is_dataclass(before) and not isinstance(before, type):
            yield from differences(before, after, f"{name}.")
        elif before != after and name not in _ANEW_EACH_TIME:
            yield name


def _apply_levels(before: Config, wanted: Config, node: Node, levels: Levels) -> bool:
    names = [name for name in differences(before, wanted) if name in LEVELS]
    if not names:
        return False
    in_place = levels.set(wanted.console_log_level, wanted.file_log.level)
    file_log = replace(before.file_log, level=wanted.file_log.level if in_place else before.file_log.level)
    node.config = replace(node.config, console_log_level=wanted.console_log_level, file_log=file_log)
    for name in names:
        if name == "console_log_level" or in_place:
            logger.info("%s: applied", _KEYS[name])
        else:
            logger.warning("%s: there was no log file at the start, so that it needs a restart", _KEYS[name])
    return True
