"""What a build of the project contains: with the native module, without it, and as a source distribution.

Built from a copy of the tree, by the setuptools and setuptools-rust of this environment, without network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PARTS = ("easytier_kcp_plugin", "hooks", "host", "cli", "tui", "native", "pyproject.toml", "setup.py", "MANIFEST.in")
TEXTS = ("README.md", "LICENSE")
PACKAGES = {"easytier_cli", "easytier_hooks", "easytier_host", "easytier_kcp_plugin", "easytier_tui"}
WITHOUT_CARGO = os.pathsep.join(
    folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "cargo").exists()
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("target", "*.so", "__pycache__", "*.egg-info")
    for part in PARTS:
        if (PROJECT / part).is_dir():
            shutil.copytree(PROJECT / part, copy / part, ignore=unwanted)
        else:
            shutil.copy(PROJECT / part, copy / part)
    for text in TEXTS:
        shutil.copy(PROJECT / text, copy / text)
    return copy


def build(source: Path, hook: str, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call a hook of the build backend (PEP 517), as pip does."""
    target.mkdir()
    shutil.rmtree(source / "build", ignore_errors=True)
    return subprocess.run(
        [sys.executable, "-c", f"import setuptools.build_meta as backend; backend.{hook}({str(target)!r})"],
        cwd=source,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize(
    "environment",
    [{"EASYTIER_NATIVE": "0"}, {"EASYTIER_NATIVE": "", "PATH": WITHOUT_CARGO}],
    ids=["not wanted", "no cargo"],
)
def test_a_wheel_without_the_native_module_is_for_every_platform(
    source: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = build(source, "build_wheel", tmp_path / "wheels", **environment)
    assert done.returncode == 0, done.stderr
    [wheel] = (tmp_path / "wheels").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    names = contents(wheel)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"easytier_kcp_plugin/_native.pyi", "easytier_host/_native.pyi"} <= names
    assert not [name for name in names if name.endswith((".so", ".rs"))]


def test_a_required_native_module_that_cannot_be_built_is_an_error(source: Path, tmp_path: Path) -> None:
    done = build(source, "build_wheel", tmp_path / "wheels", EASYTIER_NATIVE="1", PATH=WITHOUT_CARGO)
    assert done.returncode != 0
    assert "rust" in done.stderr.lower()


def test_an_unknown_wish_is_an_error(source: Path, tmp_path: Path) -> None:
    done = build(source, "build_wheel", tmp_path / "wheels", EASYTIER_NATIVE="yes")
    assert done.returncode != 0
    assert "EASYTIER_NATIVE is 'yes'" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo here")
def test_a_wheel_with_the_native_module_serves_every_newer_python(source: Path, tmp_path: Path) -> None:
    # The folder of earlier builds saves compiling the crates that this one depends on.
    target = str(PROJECT / "native" / "target")
    done = build(source, "build_wheel", tmp_path / "wheels", EASYTIER_NATIVE="1", CARGO_TARGET_DIR=target)
    assert done.returncode == 0, done.stderr
    [wheel] = (tmp_path / "wheels").iterdir()
    assert "-cp311-abi3-" in wheel.name
    assert {"easytier_kcp_plugin/_native.abi3.so", "easytier_host/_native.abi3.so"} <= contents(wheel)

    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = (
        "import easytier_kcp_plugin._native as stack, easytier_host._native as host; print(stack.__file__, host.__file__);"
        "stack.Stack(mtu=1380, seed=1); host.Aead('aes-gcm', bytes(16))"
    )
    isolated = subprocess.run(
        [sys.executable, "-c", program], cwd=site, capture_output=True, text=True, timeout=30, check=False
    )
    assert isolated.returncode == 0, isolated.stderr
    modules = (site / package / "_native.abi3.so" for package in ("easytier_kcp_plugin", "easytier_host"))
    assert isolated.stdout.split() == list(map(str, modules))


def test_the_source_distribution_has_what_the_native_module_is_built_from(source: Path, tmp_path: Path) -> None:
    done = build(source, "build_sdist", tmp_path / "sdist")
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "sdist").iterdir()
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    native = PROJECT / "native"
    rust = {str(file.relative_to(PROJECT)) for part in ("src", "host", "wire") for file in (native / part).rglob("*.rs")}
    manifests = {f"native/{name}" for name in ("Cargo.toml", "Cargo.lock", "host/Cargo.toml", "wire/Cargo.toml")}
    stubs = {"easytier_kcp_plugin/_native.pyi", "host/easytier_host/_native.pyi"}
    assert rust | manifests | stubs | {"setup.py"} <= names
    assert not [name for name in names if name.startswith("native/target") or name.endswith(".so")]
