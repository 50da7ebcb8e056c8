"""The example plugins do what their first lines say, installed and found by entry point."""

import importlib
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, closing
from importlib.metadata import distributions
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream

from easytier_hooks import (
    TCP,
    Candidate,
    Closed,
    Counters,
    Failed,
    PeerCapabilities,
    PluginLoadError,
    PluginManager,
    Seen,
    Selection,
)
from easytier_hooks.testing import make_flow, make_peer
from easytier_host import Config, Node
from easytier_host.demo import nodes
from easytier_host.demo.line import BadLine, Line
from tests.plugins.conftest import HOOK_EXAMPLES, PROJECT
from tests.tui import scene

PAGE = (PROJECT / "examples/README.md").read_text(encoding="utf-8")
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
        "table = dict.fromkeys(['capability_watch', 'flow_log', 'parcel', 'port_policy'], True)\n"
        "manager = easytier_hooks.PluginManager(table | {'flow_sqlite': {'path': 'flows.db'}})\n"
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
        ["flow_sqlite", "0.1.0", "loaded", ["on_tcp_flow"]],
        ["parcel", "0.1.0", "loaded", ["select_transport", "register_transports"]],
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


@pytest.mark.anyio
async def test_flow_sqlite_writes_ended_flows_and_keeps_the_newest(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "flows.db"
    manager = manager_for(site, {"flow_sqlite": {"path": str(file), "keep": 2}})
    async with manager.running():
        manager.notify_flow(make_flow(1, transport="kcp"), Counters(1000, 2_000_000))
        for number in (1, 2, 3):
            flow = make_flow(number, peer=make_peer(2, "b"), transport="kcp")
            manager.notify_flow(flow, Seen())
            manager.notify_flow(flow, Counters(number, 10 * number))
            manager.notify_flow(flow, Failed("refused") if number == 3 else Closed("FIN both ways"))
    with closing(sqlite3.connect(file)) as database:
        columns = "destination, peer, transport, failed, end_reason, sent, received"
        assert database.execute(f"SELECT {columns} FROM flows ORDER BY rowid").fetchall() == [
            ("10.144.0.2:22", "b", "kcp", 0, "FIN both ways", 2, 20),
            ("10.144.0.2:22", "b", "kcp", 1, "refused", 3, 30),
        ]


@pytest.mark.parametrize("options", [{}, {"path": ""}, {"path": "x", "keep": True}, {"path": "x", "size": 1}])
def test_flow_sqlite_refuses_options_that_it_cannot_use(site: Path, options: dict[str, object]) -> None:
    with pytest.raises(PluginLoadError, match=r"flow_sqlite.*(path|keep)"):
        manager_for(site, {"flow_sqlite": options})


@pytest.mark.anyio
async def test_parcel_carries_a_flow_over_a_line_that_loses(site: Path) -> None:
    sent = bytes(range(256)) * 16
    line = Line(rate_bits=1e9, delay=0.002, loss=0.05, queue_bytes=100_000)

    async def echo(stream: ByteStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        far = await start(stack, site, nodes.config("far", 2, listeners=("udp://127.0.0.1:0",)), [])
        listener = await far.listen_tcp(80)
        tasks.start_soon(listener.serve, echo)
        bad = BadLine(nodes.udp_address(far), line)
        tasks.start_soon(bad.run)
        near = await start(stack, site, nodes.config("near", 1, peers=(f"udp://127.0.0.1:{bad.address[1]}",)), ["far"])
        await nodes.until_known(near, ("far",), timeout=20)
        # Whoever is not known yet is refused.
        await nodes.until_known(far, ("near",), timeout=20)
        with anyio.fail_after(30):
            async with await near.connect_tcp("10.144.0.2", 80) as stream:
                await stream.send(sent)
                await stream.send_eof()
                assert b"".join([chunk async for chunk in stream]) == sent
            # Where nobody listens the opener is told at once.
            with pytest.raises(ConnectionRefusedError):
                await near.connect_tcp("10.144.0.2", 81)
        first, *_ = near.gate.table
        assert (first.transport, first.reason) == ("parcel", "far takes parcels, says the configuration")
        assert bad.there.lost + bad.back.lost > 0


async def start(stack: AsyncExitStack, site: Path, config: Config, peers: list[str]) -> Node:
    """A node with the plugin, and nothing else that carries flows."""
    return await stack.enter_async_context(Node(config, plugins=manager_for(site, {"parcel": {"peers": peers}})))


@pytest.mark.anyio
async def test_the_panel_shows_the_flows_that_move_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "examples" / "flow_panel")
    example = importlib.import_module("flow_panel")
    program = example.Dashboard(scene.ScriptFeed(scene.FIRST))
    async with program.run_test(size=(100, 20)) as pilot:
        panel = program.query_one(example.FlowPanel)
        with anyio.fail_after(10):
            while "flows" not in str(panel.border_subtitle):
                await pilot.pause(0.02)
        first, *others = str(panel.content).splitlines()
        assert first.split() == ["38.0", "MB/s", "kcp", "10.144.0.2:22", "b"]
        assert len(others) == 2
        assert panel.border_subtitle == "3 flows"


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace, for the ports of the page: needs root")
def test_the_commands_of_the_page_work_as_they_stand_there(site: Path, tmp_path: Path) -> None:
    # A checkout whose database is not in ours.
    (tmp_path / "examples").symlink_to(PROJECT / "examples")
    (installing,) = re.findall(r"^pip install (.*)$", PAGE, re.MULTILINE)
    assert set(installing.split()) == {f"examples/{name}" for name in HOOK_EXAMPLES}
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    script = "\n".join(["set -e", "set -m", "ip link set lo up", *blocks, "echo complete"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-s"],
        input=script,
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("complete\n")
    for name in HOOK_EXAMPLES:
        assert re.search(rf"{name} .*loaded", done.stdout), done.stdout
    assert re.search(r"10\.144\.0\.2:8000 .* parcel ", done.stdout)
    assert "chosen by plugin port_policy: port 22 is kept on TCP" in done.stdout
    size = (PROJECT / "examples/near.toml").stat().st_size
    (received,) = re.findall(r"\('10\.144\.0\.2:8000', 'parcel', (\d+)\)", done.stdout)
    assert int(received) > size
    assert "hello 10.144.0.1, you asked for /page" in done.stdout
    assert "peer" in done.stderr
    assert re.search(r"flow \d+ .*10\.144\.0\.2:8000 over parcel closed", done.stderr)
    assert not (tmp_path / "flows.db").exists()
