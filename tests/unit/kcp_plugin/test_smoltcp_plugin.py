"""The plugin `smoltcp` in a node, with the native module and without it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from ipaddress import IPv4Interface
from typing import Any, cast

import anyio
import pytest

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.manager import PluginManager
from easytier_host.config.model import Config, Flags, default_plugins
from easytier_host.instance import Node, NodeError
from easytier_host.nic.memory import MemoryNic
from easytier_kcp_plugin.plugin import SmoltcpPlugin
from easytier_kcp_plugin.stack import smoltcp
from tests.unit.host.helpers import device_frame, tcp_segment
from tests.unit.kcp_plugin.stack_links import Host, MemoryLink, flow_key

pytestmark = pytest.mark.anyio

FIRST_SYN = device_frame(tcp_segment(ports=(40_000, 80)))


async def test_without_the_native_module_the_stack_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "easytier_kcp_plugin._native", None)
    async with anyio.create_task_group() as tasks:
        host = cast("Any", Host(tasks))
        with caplog.at_level(logging.WARNING):
            (stack,) = SmoltcpPlugin({}).register_tcp_stacks(host)
        assert stack.available() == smoltcp.MISSING
        assert [record.getMessage() for record in caplog.records] == [smoltcp.MISSING]
        with pytest.raises(TransportUnavailable, match="not in this installation"):
            await stack.terminate(MemoryLink(), flow_key(), FIRST_SYN)
        with pytest.raises(TransportUnavailable, match="not in this installation"):
            await stack.connect(MemoryLink(), flow_key())


def node(*, use_smoltcp: bool, table: Mapping[str, bool]) -> Node:
    """A node with a device; its address is one of this machine, so that the kernel stack can listen there."""
    flags = Flags(use_smoltcp=use_smoltcp, enable_ipv6=False)
    plugins = PluginManager(table, defaults=default_plugins(flags), environ={})
    plugins.load()
    return Node(Config(ipv4=IPv4Interface("127.0.77.1/24"), flags=flags, plugins=table), nic=MemoryNic(), plugins=plugins)


@pytest.mark.skipif(find_spec("easytier_kcp_plugin._native") is None, reason="the native module is not built: no cargo here")
async def test_a_node_takes_the_stack_that_it_was_asked_to_take() -> None:
    for flag, wanted, taken in ((True, False, "smoltcp"), (False, True, "smoltcp"), (False, False, "kernel")):
        async with node(use_smoltcp=flag, table={"smoltcp": True} if wanted else {}) as started:
            assert started.gate.stack is not None
            assert started.gate.stack.name == taken


async def test_a_node_without_the_native_module_does_as_well_as_it_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "easytier_kcp_plugin._native", None)
    with pytest.raises(NodeError) as caught:
        async with node(use_smoltcp=True, table={}):
            pass
    assert str(caught.value) == f"use_smoltcp: {smoltcp.MISSING}"
    async with node(use_smoltcp=False, table={"smoltcp": True}) as started:
        assert started.gate.stack is not None
        assert started.gate.stack.name == "kernel"
        assert caplog.text.count(smoltcp.MISSING) == 1


def test_the_plugin_has_no_options() -> None:
    with pytest.raises(ValueError, match="there is no option 'buffers'; it has none"):
        SmoltcpPlugin({"buffers": 1})
