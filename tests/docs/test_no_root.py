"""What docs/embedding.md and docs/no-root.md show, and the example that they name, exactly as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from easytier_host import embedding, forward_udp
from easytier_host.acceptor import MAX_CONNECTIONS
from easytier_host.pipe import BUFFER_BYTES
from easytier_host.plain_tcp import CONNECT_TIMEOUT
from easytier_host.socks import server

ROOT = Path(__file__).resolve().parents[2]
EMBEDDING = (ROOT / "docs/embedding.md").read_text(encoding="utf-8")
NO_ROOT = (ROOT / "docs/no-root.md").read_text(encoding="utf-8")


def block(page: str, language: str) -> str:
    """The first block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def run(*argv: str, script: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, input=script, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)


def test_the_program_echoes() -> None:
    result = run(sys.executable, "-W", "error", "-", script=block(EMBEDDING, "python"))
    assert (result.stdout, result.returncode) == ("b'hello'\n", 0), result.stderr


def test_the_example_fetches_its_page() -> None:
    result = run(sys.executable, "-W", "error", "examples/overlay_http/overlay_http.py")
    assert result.stdout == "hello 10.144.0.1, you asked for /page\n", result.stderr
    assert '"GET /page HTTP/1.1" 200' in result.stderr


def test_the_command_and_the_file_are_good(tmp_path: Path) -> None:
    command = shlex.split(block(NO_ROOT, "sh").replace("\\\n", ""))
    assert command[0] == "easytier-core"
    file = tmp_path / "forwards.toml"
    file.write_text(block(NO_ROOT, "toml"), encoding="utf-8")
    result = run(sys.executable, "-m", "easytier_host.main", *command[1:], "-c", str(file), "--check-config")
    assert (result.returncode, "warning" in result.stderr.lower()) == (0, False), result.stderr


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (EMBEDDING, f"did not answer within {CONNECT_TIMEOUT:g} s"),
        (EMBEDDING, f"At most {embedding.BACKLOG} connections wait to be accepted"),
        (EMBEDDING, f"{BUFFER_BYTES // 1024} KiB wait in each direction"),
        (NO_ROOT, f"A forward takes {MAX_CONNECTIONS} connections at a time"),
        (NO_ROOT, f"something every {forward_udp.TIMEOUT:g} s; of more than {forward_udp.MAX_CLIENTS} clients"),
        (NO_ROOT, f"by address; {server.MAX_ASSOCIATIONS} at a time"),
        (NO_ROOT, f"A client has {server.HANDSHAKE_TIMEOUT:g} s to say what it wants"),
    ],
)
def test_figures_are_those_of_the_code(page: str, text: str) -> None:
    assert text in " ".join(page.split())
