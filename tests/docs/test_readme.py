"""The README's commands, run exactly as they stand there.

The shell blocks of the walkthrough run as one script, in a mount and network namespace of their own, so that the plain names
in it meet nothing on this machine and nothing of a second run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# A virtual environment's activate script in the project folder is what the README's reader has; here the tests' own takes its
# place.
ACTIVATE = ". .venv/bin/activate\n"


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [match["text"] for match in BLOCK.finditer(text) if match["language"] == language]


def run(command: list[str], *, limit: float, script: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"}
    return subprocess.run(
        command, input=script, capture_output=True, text=True, timeout=limit, cwd=ROOT, env=environment, check=False
    )


def test_the_demo_works() -> None:
    assert "make demo" in blocks("sh")[0]
    result = run([sys.executable, "-m", "bench.demo"], limit=55)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("all answered") == 3
    assert "All bytes were the server's" in result.stdout
    assert result.stderr == ""


def test_the_program_works() -> None:
    (program,) = blocks("python")
    result = run([sys.executable, "-"], limit=30, script=program)
    assert result.returncode == 0, result.stderr
    assert "route_added" in result.stdout
    assert result.stdout.rstrip().endswith("seconds")


def test_the_files_are_a_valid_configuration(tmp_path: Path) -> None:
    toml, *more = blocks("toml")
    file = tmp_path / "home.toml"
    file.write_text("\n".join([toml, *more]), encoding="utf-8")
    assert "`chmod 600 home.toml`" in (ROOT / "README.md").read_text(encoding="utf-8")
    file.chmod(0o600)
    result = run(["easytier-core", "-c", str(file), "--check-config"], limit=30)
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr.lower()


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")
@pytest.mark.timeout(120)
def test_the_walkthrough_works_and_leaves_nothing_behind() -> None:
    walkthrough = "".join(blocks("sh")[1:])
    assert walkthrough.startswith(ACTIVATE)
    script = "set -e\nset -m\nmkdir -p /run/netns && mount -t tmpfs none /run/netns\n" + walkthrough.removeprefix(ACTIVATE)
    script += 'test -z "$(ls /run/netns)"\ntest -z "$(jobs -r)"\necho walkthrough complete\n'
    result = run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-s"],
        limit=100,
        script=script,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 packets transmitted, 3 received" in result.stdout
    assert re.search(r"10\.144\.0\.1:8000.*[Kk]cp", result.stdout)
    assert result.stdout.rstrip().endswith("walkthrough complete")
