"""Both commands together: one process with two networks, asked for both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from easytier_cli.main import main
from tests.netns.topology import wait_for


def test_two_networks_of_one_process_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        text = f'instance_name = "lab{number}"\nipv4 = "10.144.{number}.1"\nrpc_portal = "0"\n'
        (tmp_path / f"{number}.toml").write_text(
            f'{text}[network_identity]\nnetwork_name = "n"\nnetwork_secret = "hidden"\n[flags]\nno_tun = true\n'
        )
    log = tmp_path / "log"
    files = ["-c", str(tmp_path / "1.toml"), "-c", str(tmp_path / "2.toml")]
    with log.open("w") as errors:
        core = subprocess.Popen([sys.executable, "-m", "easytier_host.main", *files], stderr=errors)
    try:
        wait_for(lambda: "easytier-cli can ask at " in log.read_text(), "both nodes run")
        said = log.read_text()
        address = said.split("easytier-cli can ask at ")[1].split()[0]
        assert main(["-p", address, "-o", "json", "node"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(each["instance_name"], each["result"]["ipv4_addr"]) for each in found] == [
            ("lab1", "10.144.1.1/24"),
            ("lab2", "10.144.2.1/24"),
        ]
        assert main(["-p", address, "-n", "lab2", "node", "config"]) == 0
        config = capsys.readouterr().out
        assert 'ipv4 = "10.144.2.1/24"' in config
        assert "hidden" not in config
        assert main(["-p", address, "-n", "lab3", "peer"]) == 4
        assert "no instance fits; running: lab1, lab2" in capsys.readouterr().err
    finally:
        core.terminate()
        assert core.wait(timeout=20) == 0
