"""The example plugins, installed from a copy of their folders as anybody would install them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
HOOK_EXAMPLES = ("capability_watch", "flow_log", "flow_sqlite", "parcel", "port_policy")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples installed. Needs setuptools and no network."""
    source = tmp_path_factory.mktemp("source")
    for example in HOOK_EXAMPLES:
        shutil.copytree(PROJECT / "examples" / example, source / example)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, *offline, "--target", str(target), *(str(source / example) for example in HOOK_EXAMPLES)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target
