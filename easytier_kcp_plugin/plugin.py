"""The plugins of this package: their hook implementations, and nothing else.

`kcp` makes a node carry TCP flows by KCP, and accept those of others.  Loaded by default; then it accepts, as stock does.  Its
own proxy is on when the configuration names the plugin (`[plugins] kcp = true`) or says `enable_kcp_proxy`.  `kcp = false`
removes all of it.  `kernel`, loaded by default too, brings the TCP stack of the kernel; `smoltcp`, loaded for `use_smoltcp`
and on nodes without a device, the one in user space.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from easytier_hooks import Capability, HostServices, TcpStack, Transport, check_options, hookimpl
from easytier_kcp_plugin.kcp import arq, ikcp
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.header import PacketType
from easytier_kcp_plugin.kcp.stream import EndpointDriver
from easytier_kcp_plugin.proxy.destination import KcpDestination
from easytier_kcp_plugin.proxy.rules import Rules
from easytier_kcp_plugin.proxy.source import KcpTransport
from easytier_kcp_plugin.proxy.successors import end_orphans
from easytier_kcp_plugin.stack.kernel import KernelStack
from easytier_kcp_plugin.stack.smoltcp import SmoltcpStack

ENGINES = {"kcp": ikcp.paths, "arq": arq.paths}
"""Values of the option `engine` (docs/arq.md says what the second one is)."""


class KcpPlugin:
    """One node's instance of the plugin.  Its only option is `engine`, "arq" if it is not given."""

    def __init__(self, options: Mapping[str, object]) -> None:
        check_options(options, "engine")
        engine = options.get("engine", "arq")
        if not isinstance(engine, str) or engine not in ENGINES:
            raise ValueError(f"engine: {engine!r} is none of {', '.join(map(repr, ENGINES))}")
        self._engine = engine

    @hookimpl
    def advertise_capabilities(self) -> Iterable[Capability]:
        """KCP_INPUT, if there is an engine to serve it with."""
        try:
            ENGINES[self._engine]()
        except ikcp.EngineUnavailable:
            return []
        return [Capability.KCP_INPUT]

    @hookimpl
    def register_transports(self, host: HostServices) -> Sequence[Transport]:
        """Start the endpoint of the node, for both directions."""
        settings = host.settings
        try:
            paths = ENGINES[self._engine]()
        except ikcp.EngineUnavailable as error:
            host.logger.warning("no KCP, neither from nor to this node: %s", error)
            return []
        destination = KcpDestination(host)
        accepts = not settings["disable_kcp_input"]
        endpoint = Endpoint(host.peer_id, paths, first_conv=secrets.randbits(32), holds=True, underlay=host)
        driver = EndpointDriver(endpoint, host.send, destination.serve if accepts else None, logger=host.logger)
        destination.driver = driver
        for packet_type in (PacketType.KCP_SRC, PacketType.KCP_DST) if accepts else (PacketType.KCP_DST,):
            host.handle(packet_type, partial(_take, driver, packet_type))
        host.task_group.start_soon(driver.run, name="kcp endpoint")
        host.task_group.start_soon(end_orphans, host, driver, name="kcp successors")
        enabled = host.requested or bool(settings["enable_kcp_proxy"])
        return [KcpTransport(Rules(host, enabled), driver)]


class KernelPlugin:
    """The plugin `kernel`: the kernel's TCP as a TCP stack.  It has no options."""

    def __init__(self, options: Mapping[str, object]) -> None:
        check_options(options)

    @hookimpl
    def register_tcp_stacks(self, host: HostServices) -> Sequence[TcpStack]:
        """Listen, and accept while the node runs."""
        stack = KernelStack(host)
        stack.open()
        if not stack.available():
            host.task_group.start_soon(stack.run, name="kernel stack")
        return [stack]


class SmoltcpPlugin:
    """The plugin `smoltcp`: a TCP stack in user space.  It has no options."""

    def __init__(self, options: Mapping[str, object]) -> None:
        check_options(options)

    @hookimpl
    def register_tcp_stacks(self, host: HostServices) -> Sequence[TcpStack]:
        """Offer the stack; one that was asked for and is not there gets a warning, and another stack its work."""
        stack = SmoltcpStack(host)
        if host.requested and stack.available():
            host.logger.warning("%s", stack.available())
        return [stack]


def _take(driver: EndpointDriver, packet_type: int, from_peer: int, payloads: list[bytes]) -> None:
    driver.packets(from_peer, packet_type, payloads)
