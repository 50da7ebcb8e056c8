"""The command: what it prints, how it ends, and that signals stop nodes in good order."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import anyio.lowlevel
import pytest

from easytier_hooks.manager import PluginManager
from easytier_host.config import Config, Loaded
from easytier_host.log import Levels
from easytier_host.main import main
from easytier_host.portal import address
from easytier_host.reload import reload


class FakeNodeError(Exception):
    pass


@dataclass
class Stage:
    """The node module that `main` imports, replaced: it notes what happens to its nodes."""

    said: list[str] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    closes: bool = False
    signals: list[int] = field(default_factory=list)
    """Sent to the process, the last one first, once a node is up and after each reload."""
    patience: list[float] = field(default_factory=list)
    reloads: int = 0


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()

    class FakeNode:
        def __init__(self, config: Config, *, plugins: PluginManager) -> None:
            self.name = config.instance_name
            self.config = config
            self.stopped = anyio.Event()

        async def __aenter__(self) -> Self:
            if self.name in stage.fails:
                raise FakeNodeError("no such device")
            stage.said.append(f"{self.name} up")
            return self

        async def wait_closed(self) -> None:
            if stage.closes:
                return
            if stage.signals:
                os.kill(os.getpid(), stage.signals.pop())
            await self.stopped.wait()

        async def drain(self, patience: float) -> None:
            stage.patience.append(patience)
            await anyio.lowlevel.checkpoint()
            self.stopped.set()

        async def __aexit__(self, *_: object) -> None:
            # Who was drained has time to end in good order; whoever is cancelled has not.
            with anyio.CancelScope(shield=not self.stopped.is_set()):
                await anyio.sleep(0.01)
            stage.said.append(f"{self.name} down")

    module = ModuleType("easytier_host.instance")
    vars(module).update(Node=FakeNode, NodeError=FakeNodeError)
    monkeypatch.setitem(sys.modules, "easytier_host.instance", module)
    return stage


def two_files(folder: Path) -> list[str]:
    for name in ("a", "b"):
        (folder / f"{name}.toml").write_text(f'instance_name = "{name}"')
    return ["-c", f"{folder}/a.toml", "-c", f"{folder}/b.toml"]


def test_it_runs_until_the_node_closes(stage: Stage) -> None:
    stage.closes = True
    assert main(["-m", "x"], environ={}) == 0
    assert stage.said == ["x up", "x down"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_node_and_is_no_failure(stage: Stage, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    stage.signals = [number]
    assert main(two_files(tmp_path), environ={}) == 0
    assert sorted(stage.said) == ["a down", "a up", "b down", "b up"]
    # Who asks at a terminal does not want to wait; who restarts a service does not want flows to be cut.
    assert stage.patience == ([0.0, 0.0] if number == signal.SIGINT else [3.0, 3.0])
    assert signal.getsignal(number) == before


def test_the_file_says_how_long_a_node_waits_for_its_flows(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("drain_timeout = 3")
    stage.signals = [signal.SIGTERM]
    assert main(["-c", f"{tmp_path}/a.toml"], environ={}) == 0
    assert stage.patience == [3.0]


def test_sighup_reads_the_configuration_again_and_stops_nothing(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.toml").write_text('hostname = "before"')
    read: list[str] = []

    async def reload(read_again: Callable[[], Loaded], nodes: Sequence[object], levels: Levels) -> None:
        await anyio.lowlevel.checkpoint()
        (tmp_path / "a.toml").write_text('hostname = "after"')
        read.extend(config.hostname for config in read_again().configs)
        assert len(nodes) == 1
        assert levels.set("info", "")
        os.kill(os.getpid(), stage.signals.pop())

    monkeypatch.setattr("easytier_host.reload.reload", reload)
    stage.signals = [signal.SIGTERM, signal.SIGHUP]
    assert main(["-c", f"{tmp_path}/a.toml"], environ={}) == 0
    assert read == ["after"]
    assert stage.said == ["default up", "default down"]


def test_standard_input_cannot_be_read_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'hostname = "a"')))
    said = capsys.readouterr

    async def then_stop(*arguments: Any) -> None:
        await reload(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("easytier_host.reload.reload", then_stop)
    stage.signals = [signal.SIGHUP]
    assert main(["-c", "-"], environ={}) == 0
    lines = said().err
    assert "standard input cannot be read again" in lines
    assert "nothing is changed" in lines


def test_a_node_that_cannot_start_ends_all_with_one_line(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.fails = {"b"}
    assert main(["--console-log-level", "off", *two_files(tmp_path)], environ={}) == 1
    assert capsys.readouterr().err == 'easytier-core: instance "b": no such device\n'
    assert stage.said.count("a up") == stage.said.count("a down")
    # One alone need not say whose fault it is.
    assert main(["--console-log-level", "off", "-m", "b"], environ={}) == 1
    assert capsys.readouterr().err == "easytier-core: no such device\n"


def test_warnings_are_logged_before_the_start(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.closes = True
    assert main(["--dhcp"], environ={}) == 0
    assert "WARN  main: --dhcp: this option has no effect in this version" in capsys.readouterr().err


def test_log_lines_may_be_json(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.closes = True
    assert main(["--dhcp"], environ={"ET_LOG_FORMAT": "json"}) == 0
    assert '"level": "warn"' in capsys.readouterr().err


def test_a_log_file_that_cannot_be_made_is_a_line(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plain").touch()
    assert main(["--file-log-dir", f"{tmp_path}/plain/x"], environ={}) == 1
    assert capsys.readouterr().err.startswith(f"easytier-core: log file in {tmp_path}/plain/x: ")
    assert stage.said == []


def test_every_problem_of_the_configuration_is_a_line(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.write_text('ipv44 = "1"\n[flags]\nmtu = "x"\n')
    assert main(["-c", str(path)], environ={}) == 1
    assert capsys.readouterr().err.splitlines() == [
        f'easytier-core: {path}:1: unknown key "ipv44" in [root]; did you mean "ipv4"?',
        f"easytier-core: {path}:3: flags.mtu: expected an integer, found a string",
    ]
    assert stage.said == []


def test_what_was_typed_is_wrong_usage_and_a_file_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[flags]\nmtu = 1\n")
    assert main(["--mtu", "much"], environ={}) == 2
    assert capsys.readouterr().err.startswith("easytier-core: --mtu: ")
    assert main(["-c", str(path)], environ={}) == 1
    assert main([], environ={"ET_MTU": "much"}) == 1


def test_nothing_said_of_the_network_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.write_text("")
    for argv, place in (([], ""), (["-c", str(path)], f"{path}: ")):
        assert main(["--check-config", *argv], environ={}) == 0
        assert capsys.readouterr().err.startswith(f'easytier-core: warning: {place}the network is "default" without a secret')
        assert main(["--check-config", *argv, "--network-secret", "s"], environ={}) == 0
        assert "without a secret" not in capsys.readouterr().err


def test_check_config_says_ok_and_starts_nothing(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check-config", "--network-name", "n", "-d"], environ={"ET_NETWORK_SECRET": "hunter2"}) == 0
    shown = capsys.readouterr()
    assert shown.out == 'ok: instance "default" in network "n"\n'
    assert shown.err == "easytier-core: warning: --dhcp: this option has no effect in this version\n"
    assert stage.said == []


@pytest.mark.parametrize("check", [["--check-config"], ["--console-log-level", "off"]], ids=["check", "start"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[plugins]\nkpc = true", "3: plugin 'kpc' is not installed (did you mean 'kcp'?)"),
        ("[plugins]\nkcp = { engin = 1 }", "3: plugin 'kcp': there is no option 'engin' (did you mean 'engine'?)"),
        ('[plugins.kcp]\n\nengine = "foo"', "4: plugin 'kcp': engine: 'foo' is none of 'kcp', 'arq'"),
        ("[plugins.auto]\nhold = 1", "3: plugin 'auto': there is no option 'hold'; it has 'below_mbits', 'hold_seconds'"),
    ],
)
def test_faults_of_plugins_have_file_and_line(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], check: list[str], text: str, problem: str
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"network_identity.network_name = 'a'\n{text}")
    assert main([*check, "-c", str(path)], environ={}) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"easytier-core: {path}:{problem}")
    assert stage.said == []


def test_faults_of_all_networks_are_said_at_once(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = two_files(tmp_path)
    for name in ("a", "b"):
        with (tmp_path / f"{name}.toml").open("a") as file:
            file.write(f"\n[network_identity]\nnetwork_name = 'n'\n[plugins]\nno-{name} = true")
    assert main(["--check-config", *files], environ={}) == 1
    assert [line.partition(" is not")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"easytier-core: {tmp_path}/{name}.toml:5: plugin 'no-{name}'" for name in ("a", "b")
    ]
    assert main(["--list-plugins", "-c", f"{tmp_path}/a.toml"], environ={}) == 1


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a plugin `sample`, whose module is `sample_plugin` with this text."""

    def write(source: str) -> None:
        site = tmp_path / "site"
        info = site / "sample-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "sample_plugin.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[easytier.plugins]\nsample = sample_plugin\n")
        monkeypatch.syspath_prepend(site)

    yield write
    sys.modules.pop("sample_plugin", None)


def test_what_a_plugin_logs_is_written(
    install: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("import logging\nlogging.getLogger(__name__).info('hello')\nraise ValueError('no more')")
    path = tmp_path / "a.toml"
    path.write_text("rpc_portal = 'off'\n[flags]\nno_tun = true\n[plugins]\nsample = true\n")
    assert main(["-c", str(path), "--no-listener"], environ={}) == 1
    shown = capsys.readouterr().err
    assert " INFO  sample_plugin: hello\n" in shown
    assert f"easytier-core: {path}:5: plugin 'sample': ValueError: no more at " in shown
    assert main(["-c", str(path), "--list-plugins"], environ={}) == 1
    assert "sample   1.0      broken     ValueError: no more at " in capsys.readouterr().out


def test_list_plugins_prints_a_table_or_that_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-plugins"], environ={}) == 0
    assert capsys.readouterr().out.split()[0] in ("PLUGIN", "no")


def test_version_and_help_end_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    for option, shown in (("--version", "easytier-core 0."), ("--help", "usage: easytier-core")):
        with pytest.raises(SystemExit) as ended:
            main([option], environ={})
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(shown)


def test_a_secret_is_taken_off_the_command_line_and_is_in_no_line_of_the_log() -> None:
    options = [
        "--network-secret",
        "hunter2",
        "--no-tun",
        "--no-listener",
        "--rpc-portal",
        "off",
        "--console-log-level",
        "trace",
    ]
    command = [sys.executable, "-m", "easytier_host.main", *options, "--peers", "tcp://127.0.0.1:9"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            # The node runs: it is the process that was started, under the same number.
            lines = [next(line for line in process.stderr if "peer id" in line)]
            shown = Path(f"/proc/{process.pid}/cmdline").read_text(encoding="utf-8").split("\0")
            assert shown[1:-1] == [word for word in command[1:] if word not in ("--network-secret", "hunter2")]
            assert "ET_NETWORK_SECRET=hunter2" in Path(f"/proc/{process.pid}/environ").read_text(encoding="utf-8").split("\0")
        finally:
            process.terminate()
        lines += process.stderr
    assert process.returncode == 0
    assert "hunter2" not in "".join(lines)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, easytier_host.main; print(sorted({'anyio', 'cryptography', 'google', 'pluggy'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout == "[]\n"


def test_a_portal_that_was_asked_for_and_cannot_open_is_one_line(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["-r", str(port)], environ={}) == 1
    assert f"rpc_portal: cannot listen on 127.0.0.1 port {port}: " in capsys.readouterr().err
    assert stage.said == []


def test_the_default_portal_is_no_condition(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.closes = True
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(address, "PORTS", [taken.getsockname()[1]])
        assert main([], environ={}) == 0
    assert "easytier-cli cannot ask this process: rpc_portal: cannot listen" in capsys.readouterr().err
    assert stage.said == ["default up", "default down"]


def test_a_listener_that_cannot_be_opened_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    # An address of TEST-NET-3, which no machine has: the real node, which never gets as far as sending.
    assert main(["--no-tun", "--console-log-level", "off", "-l", "tcp://203.0.113.1:1"], environ={}) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("easytier-core: cannot listen on tcp://203.0.113.1:1: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_know_every_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gen-autocomplete", shell], environ={}) == 0
    script = capsys.readouterr().out
    assert [option for option in ("config-file", "enable-kcp-proxy", "port-forward") if option not in script] == []
    paths = {"bash": "config_file_COMPGEN=_shtab_compgen_files", "zsh": ":FILE,...:_files", "fish": "-l config-file -xka"}
    assert paths[shell] in script


def test_no_colon_in_the_name_of_a_value_is_taken_for_a_command_by_zsh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gen-autocomplete", "zsh"], environ={}) == 0
    assert r":PROTO\://IP\:PORT/IP\:PORT,...:" in capsys.readouterr().out


def test_completions_of_an_unknown_shell_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gen-autocomplete", "dash"], environ={}) == 2
    assert "unknown value" in capsys.readouterr().err
