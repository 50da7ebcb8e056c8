"""The command `easytier-core`: reads the configuration and runs a node for each network until a signal (`signals`).

Exit status 0: ended as asked.  1: the configuration is wrong, or a node could not start; each fault is a line on standard
error.  2: wrong usage, values of options included.
Everything heavy is imported only once it is needed, so that `--help` and a wrong option answer at once.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from easytier_host.config import Config, ConfigError, Loaded, load
from easytier_host.config.completions import completions
from easytier_host.config.loader import STANDARD_INPUT
from easytier_host.config.model import DEFAULT_NETWORK, default_plugins
from easytier_host.config.options import PROGRAM_NAME, Options, make_parser, parse
from easytier_host.config.secret import hidden

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from easytier_hooks.errors import PluginConfigError, PluginLoadError
    from easytier_hooks.manager import PluginManager
    from easytier_host.config.clashes import Origin
    from easytier_host.instance import Node
    from easytier_host.log import Levels
    from easytier_host.portal.server import Portal
    from easytier_host.service_manager import ServiceManager

logger = logging.getLogger("easytier.main")

OK: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2

MAX_FILES: Final = 65_536
"""Descriptors: several for each of the flows that the tables hold."""
COLLECT_AFTER: Final = (2000, 10, 5)
"""Thresholds of the garbage collector: small enough that what flows leave behind in circles stays below some 10 MB."""


def main(argv: Sequence[str] | None = None, *, environ: Mapping[str, str] = os.environ) -> int:
    """Run the command; returns its exit status, or raises SystemExit for wrong usage, --help and --version."""
    if argv is None:
        _hide_secret()
    try:
        options = parse(sys.argv[1:] if argv is None else argv, environ)
        if options.complete_for:
            return _print(completions(make_parser(), options.complete_for))
        loaded = load(options, environ=environ)
        if options.list_plugins:
            return _list_plugins(loaded.configs, environ)
        if options.check_config:
            return _check(loaded, environ)
        return _run(loaded, options, environ)
    except ConfigError as error:
        _fail(*error.problems)
        # What was typed is wrong, and no file.
        return WRONG_USAGE if all(problem.startswith("--") for problem in error.problems) else FAILED


def _hide_secret() -> None:
    """Start again without the secret in the command line, if it is there."""
    without = hidden(sys.orig_argv, os.environ)
    if without is not None:
        os.execve(sys.executable, *without)


def _fail(*problems: str) -> int:
    for problem in problems:
        print(f"{PROGRAM_NAME}: {problem}", file=sys.stderr)
    return FAILED


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def _list_plugins(configs: Sequence[Config], environ: Mapping[str, str]) -> int:
    from easytier_hooks.errors import HooksError
    from easytier_hooks.loading import PluginState, listing
    from easytier_hooks.manager import PluginManager

    wanted = {name: setting for config in configs for name, setting in config.plugins.items()}
    defaults = {name: None for config in configs for name in default_plugins(config.flags)}
    manager = PluginManager(wanted, defaults=defaults, environ=environ)
    try:
        manager.load(strict=False)
    except HooksError as error:
        return _fail(str(error))
    plugins = manager.describe()
    _print(listing(plugins))
    return FAILED if any(plugin.state is PluginState.BROKEN for plugin in plugins) else OK


def _check(loaded: Loaded, environ: Mapping[str, str]) -> int:
    for warning in _warnings(loaded):
        print(f"{PROGRAM_NAME}: warning: {warning}", file=sys.stderr)
    _load_plugins(loaded, environ)
    print(
        "ok: " + ", ".join(f'instance "{config.instance_name}" in network "{config.network_name}"' for config in loaded.configs)
    )
    return OK


def _warnings(loaded: Loaded) -> Iterator[str]:
    yield from loaded.warnings
    for config, origin in zip(loaded.configs, loaded.origins, strict=True):
        # What an empty file means, and a command without options; stock does it without a word.
        if config.network_name == DEFAULT_NETWORK and not config.network_secret:
            place = f"{origin.source}: " if origin.source else ""
            yield f'{place}the network is "{config.network_name}" without a secret, as of anybody who names none: set both'


def _load_plugins(loaded: Loaded, environ: Mapping[str, str]) -> list[PluginManager]:
    """The plugins of each network; raises ConfigError with what is wrong, and with the places where they are asked for."""
    from easytier_hooks.errors import PluginConfigError, PluginLoadError
    from easytier_hooks.manager import PluginManager

    managers, problems = [], []
    for config, origin in zip(loaded.configs, loaded.origins, strict=True):
        manager = PluginManager(config.plugins, defaults=default_plugins(config.flags), environ=environ)
        try:
            manager.load()
        except (PluginConfigError, PluginLoadError) as error:
            place = _place_of_plugin(origin, config.plugins.get(error.plugin), error)
            problems.append(f"{place}: {error}" if place else str(error))
        managers.append(manager)
    if problems:
        raise ConfigError(problems)
    return managers


def _place_of_plugin(origin: Origin, setting: object, error: PluginConfigError | PluginLoadError) -> str:
    """The line of the option of which a plugin complains in its own words, else that of the plugin."""
    for name in setting if isinstance(setting, Mapping) else ():
        if re.search(rf"\b{re.escape(name)}\b", str(error)):
            return origin.place("plugins", error.plugin, name)
    return origin.place("plugins", error.plugin)


def _read_again(options: Options, environ: Mapping[str, str]) -> Loaded:
    if STANDARD_INPUT in options.config_files:
        raise ConfigError(["standard input cannot be read again: restart, or use a file"])
    return load(options, environ=environ)


def _run(loaded: Loaded, options: Options, environ: Mapping[str, str]) -> int:
    import anyio

    from easytier_hooks.errors import HooksError
    from easytier_hooks.loading import installed_packages
    from easytier_host.instance import NodeError
    from easytier_host.log import configured
    from easytier_host.portal.server import PortalError
    from easytier_host.service_manager import ServiceManager

    _allow_many_files()
    first = loaded.configs[0]
    status = OK
    with ExitStack() as stack:
        try:
            levels = stack.enter_context(
                configured(
                    first.console_log_level, first.file_log, log_format=options.log_format, packages=installed_packages()
                )
            )
        except OSError as fault:
            return _fail(f"log file in {first.file_log.dir}: {fault.strerror}")
        for warning in _warnings(loaded):
            logger.warning("%s", warning)
        try:
            read = partial(_read_again, options, environ)
            networks = list(zip(loaded.configs, _load_plugins(loaded, environ), strict=True))
            anyio.run(_run_nodes, networks, ServiceManager(environ), read, levels)
        except* (NodeError, HooksError, PortalError) as group:
            status = _fail(*map(str, _leaves(group)))
    return status


def _allow_many_files() -> None:
    """Each flow has a socket, and the usual limit of 1024 descriptors is one that a process may raise by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def shorten_collections() -> None:
    """Keep the garbage collector's pauses, tenths of a second with all that is loaded, from every flow.  What a packet or a
    segment leaves behind is in no circle, so it hardly ever has to look."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def _run_nodes(
    networks: Sequence[tuple[Config, PluginManager]], manager: ServiceManager, read: Callable[[], Loaded], levels: Levels
) -> None:
    """Run all nodes until they have closed or a signal comes; the first that fails ends the others."""
    import anyio

    from easytier_host.reload import reload
    from easytier_host.signals import obey

    running: list[Node] = []
    configs = [config for config, _ in networks]

    status = ", ".join(f"{config.instance_name} in network {config.network_name}" for config in configs)

    def note_start() -> None:
        if len(running) == len(configs):
            if portal is not None:
                logger.info("easytier-cli can ask at %s", portal.address)
            manager.ready(status)

    async def read_again() -> None:
        manager.reloading()
        try:
            await reload(read, running, levels)
        finally:
            manager.ready(status)

    async with anyio.create_task_group() as group:
        group.start_soon(manager.keep_alive, name="watchdog")
        await group.start(obey, running, group.cancel_scope, manager, read_again)
        portal = await _open_portal(configs[0], running, group)
        await _open_metrics(configs[0], running, group)
        async with anyio.create_task_group() as nodes:
            port = None if portal is None else portal.port
            for config, plugins in networks:
                run = partial(_run_node, config, plugins, running, port, note_start, named=len(networks) > 1)
                nodes.start_soon(run, name=f"instance {config.instance_name}")
        manager.stopping()
        group.cancel_scope.cancel()


async def _open_portal(config: Config, running: Sequence[Node], group: TaskGroup) -> Portal | None:
    """Start the portal of the process, as the first configuration has it; None without one.

    Raises `PortalError` if it cannot listen where it was told to; the default is no condition for the nodes to run.
    """
    from easytier_host.portal import address
    from easytier_host.portal.server import Portal, PortalError

    wanted = address.parse(config.rpc_portal)
    if wanted is None:
        return None
    portal = Portal(wanted, config.rpc_portal_whitelist, running)
    try:
        await portal.open()
    except PortalError as error:
        if wanted.required:
            raise
        logger.warning("easytier-cli cannot ask this process: %s", error)
        return None
    group.start_soon(portal.run, name="portal")
    return portal


async def _open_metrics(config: Config, running: Sequence[Node], group: TaskGroup) -> None:
    """Start the metrics listener of the process, if the first configuration asks for it; raises `PortalError`."""
    from easytier_host.portal import address

    wanted = address.parse_metrics(config.metrics_listener)
    if wanted is None:
        return
    # Who does without need not have its HTTP library.
    from easytier_host.portal.door import Door
    from easytier_host.portal.metrics_http import MAX_CONNECTIONS, MetricsListener

    door = Door(wanted, config.rpc_portal_whitelist, MAX_CONNECTIONS, setting="metrics_listener")
    await door.open()
    logger.info("metrics are at http://%s/metrics", door.address)
    group.start_soon(MetricsListener(door, running).run, name="metrics")


async def _run_node(
    config: Config,
    plugins: PluginManager,
    running: list[Node],
    portal_port: int | None,
    note_start: Callable[[], None],
    *,
    named: bool,
) -> None:
    """Run one node; `named`: there are others, so that its faults have to say whose they are."""
    from easytier_host.instance import Node, NodeError

    node = Node(config, plugins=plugins)
    node.portal_port = portal_port
    try:
        async with node:
            running.append(node)
            shorten_collections()
            note_start()
            try:
                await node.wait_closed()
            finally:
                running.remove(node)
    except* NodeError as group:
        prefix = f'instance "{config.instance_name}": ' if named else ""
        raise NodeError("; ".join(f"{prefix}{error}" for error in _leaves(group))) from group


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main())
