"""The pages as `make docs` reads them, and what docs/first-plugin.md shows, exactly as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/first-plugin.md").read_text(encoding="utf-8")


def files() -> dict[str, str]:
    """Each block of Python or TOML, by the file that the words before it name last."""
    found: dict[str, str] = {}
    pieces = re.split(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    for words, language, block in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=False):
        if language in ("python", "toml"):
            *_, name = re.findall(rf"`(\w+\.{'py' if language == 'python' else 'toml'})`", words)
            found[name] = block
    return found


def test_every_link_leads_somewhere_and_no_page_is_left_out(tmp_path: Path) -> None:
    read = [sys.executable, "-m", "sphinx", "-b", "dummy", "--quiet", "--keep-going", "--fail-on-warning", "-c", "docs"]
    done = subprocess.run([*read, ".", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder, with all files of the page."""
    made = tmp_path_factory.mktemp("tcp-for-databases")
    for name, text in files().items():
        (made / name).write_text(text, encoding="utf-8")
    assert {path.name for path in made.iterdir()} == {
        *("pyproject.toml", "tcp_for_databases.py", "test_tcp_for_databases.py", "node.toml"),
    }
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*install, "--disable-pip-version-check", "--root-user-action=ignore", "--target", str(made / "site"), str(made)],
        timeout=50,
        check=True,
    )
    return made


def environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    return os.environ | {"PATH": path, "PYTHONPATH": str(folder / "site")}


def test_the_test_of_the_page_passes(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tcp_for_databases.py"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace, for the ports of the page: needs root")
def test_the_nodes_of_the_page_say_what_it_shows(folder: Path) -> None:
    listing, explaining = re.findall(r"^```sh\n(easytier-core.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    script = f"set -e\nset -m\nip link set lo up\n{listing}{explaining}echo complete\n"
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-s"],
        input=script,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("complete\n")
    shown = re.findall(r"^```\n((?:PLUGIN|10\.144).*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(shown) == 2
    assert [text for text in shown if without_versions(text) not in without_versions(done.stdout)] == [], done.stdout


def without_versions(text: str) -> str:
    """A release changes those, and nothing else."""
    return re.sub(r"\d+\.\d+\.\d+(-py\S+?)?(?=[\s)])", "VERSION", text)


def test_reports_of_faults_ask_for_what_the_doctor_says() -> None:
    forms = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / ".github/ISSUE_TEMPLATE").iterdir()
    }
    assert forms.keys() == {"bug", "config", "idea", "slow"}
    for name in ("bug", "slow"):
        [doctor] = [field for field in forms[name]["body"] if field.get("id") == "doctor"]
        assert "easytier-cli doctor" in doctor["attributes"]["label"]
        assert doctor["validations"]["required"]
