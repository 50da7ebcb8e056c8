"""`doctor`, and what needs no node: completions and a configuration to begin with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

import pytest

from easytier_cli.main import main
from easytier_host.pb import portal_own_pb2
from tests.unit.cli import replay
from tests.unit.cli.nodes import FAULTY, KCP_PLUGIN, MODULE, node, refusal, route, run, stock

Findings = dict[str, dict[str, str]]


def examined(known: Mapping[replay.Method, bytes], status: int, capsys: pytest.CaptureFixture[str]) -> Findings:
    """What `doctor` finds, by subject."""
    assert run(known, "doctor -o json") == status
    return {each["subject"]: each for each in json.loads(capsys.readouterr().out)}


def test_doctor_finds_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    alone = examined(node(), 0, capsys)["peers"]
    assert (alone["status"], alone["text"]) == ("warn", "no other node is known")
    found = examined(node(routes=(route(2), route(3, kcp=False))), 0, capsys)
    assert (found["peer n2"]["status"], found["peer n2"]["text"]) == ("ok", "direct, version 2.6.4, takes KCP")
    assert found["peer n3"]["status"] == "warn"
    assert found["peer n3"]["advice"]


def test_doctor_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    drops = portal_own_pb2.Finding(status="warn", subject="firewall", text="drops", advice="accept")
    assert run(node(routes=(route(2),), finding=drops), "doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("warn  firewall    drops")
    assert lines[place + 1] == "                  -> accept"


def test_doctor_warns_of_plugins_that_did_something_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    broken = portal_own_pb2.PluginInfo(name="broken", status="broken: KeyError: 'oh'")
    found = examined(node(plugins=[KCP_PLUGIN, FAULTY, broken]), 6, capsys)
    assert [found[f"plugin {name}"]["status"] for name in ("kcp", "lazy", "broken")] == ["ok", "warn", "fail"]
    assert found["plugin lazy"]["text"] == (
        "loaded, rests 12 s; faults since the start: 2 raised, 3 unusable, 5 too slow; the last 4s ago: "
        "select_transport was too slow"
    )
    assert found["plugin lazy"]["advice"]


def test_doctor_tells_what_it_could_not_ask(capsys: pytest.CaptureFixture[str]) -> None:
    known = node(routes=(route(2),)) | dict.fromkeys([("", "PythonNodeRpc", 7), ("", "ConnectorManageRpc", 1)], refusal("busy"))
    found = examined(known, 6, capsys)
    assert found["machine"]["status"] == found["connectors"]["status"] == "fail"
    assert "busy" in found["machine"]["text"]


def test_doctor_works_with_a_stock_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(stock(route(2)), "doctor") == 0
    assert "not looked at" in capsys.readouterr().out


# Without a node


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_know_the_words(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completions", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("doctor", "prometheus", "wide", "easytier-cli"))


def test_bash_takes_the_completions() -> None:
    script = subprocess.run([*MODULE, "completions", "bash"], capture_output=True, text=True, check=True, timeout=30).stdout
    ask = "complete -p easytier-cli; COMP_WORDS=(easytier-cli do); COMP_CWORD=1; _shtab_easytier_cli; echo ${COMPREPLY[@]}"
    shown = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True, timeout=30)
    assert "-F _shtab_easytier_cli easytier-cli" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "doctor"


def test_a_configuration_to_begin_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "template"]) == 0
    assert "#network_name = " in capsys.readouterr().out
