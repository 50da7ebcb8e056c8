"""The example plugins do what their first lines say, installed and found by entry point."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

import pytest

from easytier_hooks import (
    TCP,
    Candidate,
    Closed,
    Failed,
    PeerCapabilities,
    PluginLoadError,
    PluginManager,
    Seen,
    Selection,
)
from easytier_hooks.testing import make_flow, make_peer
from tests.plugins.conftest import HOOK_EXAMPLES, PROJECT

CANDIDATES = (
    Candidate("kcp", available=True, reason="the peer accepts KCP"),
    Candidate(TCP, available=True, reason="always there"),
)


@pytest.fixture(autouse=True)
def importable(site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    monkeypatch.syspath_prepend(site)
    caplog.set_level(logging.INFO)
    yield
    for name in [name for name in sys.modules if name.removeprefix("easytier_") in HOOK_EXAMPLES]:
        del sys.modules[name]


def manager_for(site: Path, table: Mapping[str, object]) -> PluginManager:
    installed = [entry for dist in distributions(path=[str(site)]) for entry in dist.entry_points]
    manager = PluginManager(table, environ={}, installed=installed, question_deadline=5.0, stop_timeout=5.0)
    manager.load()
    return manager


def lines(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == logger]


def test_another_python_finds_all_of_them_by_entry_point(site: Path) -> None:
    program = (
        "import json, easytier_hooks\n"
        "manager = easytier_hooks.PluginManager(dict.fromkeys(['capability_watch', 'flow_log', 'port_policy'], True))\n"
        "manager.load()\n"
        "print(json.dumps([[row.name, row.version, row.state, row.hooks] for row in manager.describe() if row.hooks]))\n"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(PROJECT / "hooks")])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=30, check=False, cwd=site
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ["capability_watch", "0.1.0", "loaded", ["on_peer_capabilities"]],
        ["flow_log", "0.1.0", "loaded", ["on_tcp_flow"]],
        ["port_policy", "0.1.0", "loaded", ["select_transport"]],
    ]


@pytest.mark.anyio
async def test_flow_log_logs_how_a_flow_ended(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_for(site, {"flow_log": True})
    async with manager.running():
        manager.notify_flow(make_flow(1), Seen())
        manager.notify_flow(make_flow(1, transport="kcp"), Closed("both ends finished"))
        manager.notify_flow(make_flow(2, transport="tcp"), Failed("refused"))
    assert lines(caplog, "easytier_flow_log") == [
        "flow 1 10.144.0.1:51838 -> 10.144.0.2:22 over kcp closed: both ends finished",
        "flow 2 10.144.0.1:51838 -> 10.144.0.2:22 over tcp failed: refused",
    ]


@pytest.mark.anyio
async def test_capability_watch_logs_all_at_first_and_then_what_changed(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_for(site, {"capability_watch": True})
    async with manager.running():
        manager.notify_capabilities(make_peer(2, "b"), PeerCapabilities(kcp_input=True))
        manager.notify_capabilities(make_peer(2, "b"), PeerCapabilities(kcp_input=False))
        manager.notify_capabilities(make_peer(2, "renamed"), PeerCapabilities(kcp_input=False))
    first, *others = lines(caplog, "easytier_capability_watch")
    assert first.startswith("peer 2 (b): kcp_input=True, no_relay_kcp=False, ")
    assert others == ["peer 2 (b): kcp_input=False", "peer 2 (renamed): nothing new"]


@pytest.mark.anyio
async def test_port_policy_keeps_its_ports_on_tcp_and_passes_on_others(site: Path) -> None:
    manager = manager_for(site, {"port_policy": {"ports": [22, 53]}})
    async with manager.running():
        ssh = await manager.select(make_flow(1, destination_port=22), make_peer(), CANDIDATES)
        web = await manager.select(make_flow(2, destination_port=443), make_peer(), CANDIDATES)
    assert ssh == Selection(TCP, "port 22 is kept on TCP", "port_policy")
    assert web == Selection("kcp", "the peer accepts KCP", "default")


@pytest.mark.parametrize("ports", [22, ["22"]])
def test_port_policy_refuses_options_that_it_cannot_use(site: Path, ports: object) -> None:
    with pytest.raises(PluginLoadError, match=r"port_policy.*ports: expected a list of port numbers"):
        manager_for(site, {"port_policy": {"ports": ports}})
