"""What is installed beside the Python packages: the unit file, the man pages, the container file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "systemd" / "easytier-core@.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    # The command and the page that it names need not be installed here.
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/easytier-core", sys.executable).replace("Documentation=man:", "#"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_node_has_three_capabilities_and_no_way_to_more() -> None:
    rights = dict(re.findall(r"^(\w*Capabilit\w*|NoNewPrivileges)=(.*)$", UNIT.read_text(), re.MULTILINE))
    given = "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE"
    assert rights == {"AmbientCapabilities": given, "CapabilityBoundingSet": given, "NoNewPrivileges": "yes"}


def test_the_man_pages_are_what_the_options_say(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "packaging/manual.py"), str(tmp_path)], timeout=30, check=True)
    kept = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "packaging/man").iterdir()}
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert kept == made, "run  python packaging/manual.py packaging/man"


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here")
def test_man_shows_the_page_without_a_complaint() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-l", str(ROOT / "packaging/man/easytier-core.1")],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "-c, --config-file FILE" in done.stdout


def test_the_container_is_made_of_files_that_are_there() -> None:
    text = (ROOT / "packaging" / "Containerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
