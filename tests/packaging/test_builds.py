"""What a build of the project contains: with the native module, without it, and as a source distribution.

Built from a copy of the tree, by the setuptools and setuptools-rust of this environment, without network.  What is
installed into a clean environment has its dependencies from where pip has them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from easytier_host.config.options import DOCUMENTATION

PROJECT = Path(__file__).parents[2]
PARTS = (
    "easytier_kcp_plugin",
    "hooks",
    "host",
    "cli",
    "tui",
    "native",
    "packaging",
    "docs",
    "examples",
    "bench",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
)
TEXTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
PACKAGES = {"easytier_cli", "easytier_hooks", "easytier_host", "easytier_kcp_plugin", "easytier_tui"}
SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"
NEEDS_CARGO = pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo here")
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


def dead_links(folder: Path) -> list[str]:
    """What pages in this folder link to, but is not there."""
    return [
        f"{page.relative_to(folder)}: {target}"
        for page in folder.rglob("*.md")
        for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]


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
    assert {name.split("/")[0] for name in names if not name.startswith("easytier_kcp_plugin-")} == PACKAGES
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


@pytest.fixture(scope="module")
def native_wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The folder of earlier builds saves compiling the crates that this one depends on.
    target = str(PROJECT / "native" / "target")
    folder = tmp_path_factory.mktemp("native") / "wheels"
    done = build(source, "build_wheel", folder, EASYTIER_NATIVE="1", CARGO_TARGET_DIR=target)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.iterdir()
    return wheel


@pytest.mark.slow
@pytest.mark.timeout(200)
@NEEDS_CARGO
def test_a_wheel_with_the_native_module_serves_every_newer_python(native_wheel: Path, tmp_path: Path) -> None:
    assert "-cp311-abi3-" in native_wheel.name
    assert {"easytier_kcp_plugin/_native.abi3.so", "easytier_host/_native.abi3.so"} <= contents(native_wheel)

    with zipfile.ZipFile(native_wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "import easytier_kcp_plugin._native as stack, easytier_host._native as host; print(stack.__file__, host.__file__);"
        "stack.Stack(mtu=1380, seed=1); host.Aead('aes-gcm', bytes(16))"
    )
    isolated = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert isolated.returncode == 0, isolated.stderr
    modules = (tmp_path / package / "_native.abi3.so" for package in ("easytier_kcp_plugin", "easytier_host"))
    assert isolated.stdout.split() == list(map(str, modules))


@pytest.mark.slow
@pytest.mark.timeout(200)
@NEEDS_CARGO
def test_a_clean_environment_without_a_compiler_takes_the_wheel(native_wheel: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PATH"] = str(clean / "bin")

    def run(*command: str) -> str:
        ended = subprocess.run(
            [str(clean / "bin" / command[0]), *command[1:]],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    run("python", "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary", ":all:", str(native_wheel))
    assert run("easytier-core", "--check-config", "--no-tun").startswith("ok: ")
    assert "smoltcp" in run("easytier-core", "--list-plugins")
    assert run("easytier-cli", "completions", "bash")
    assert run("easytier-tui", "--help")
    assert run("python", "-c", "import easytier_kcp_plugin._native, easytier_host._native as host; print(host.__file__)")
    assert "kcp" not in {distribution.name.lower() for distribution in distributions(path=[run("python", "-c", SITE).strip()])}
    installed = {str(path.relative_to(clean)) for path in clean.rglob("*") if path.is_file()}
    assert {f"share/man/man1/easytier-{name}.1" for name in ("core", "cli", "tui")} <= installed
    assert {"lib/systemd/system/easytier-core@.service", "lib/sysusers.d/easytier.conf"} <= installed
    assert f"{DOCUMENTATION}/docs/configuration.md" in installed
    assert dead_links(clean / DOCUMENTATION) == []


def test_what_a_plugin_imports_brings_neither_the_host_nor_a_terminal() -> None:
    program = (
        "import sys, easytier_hooks, easytier_kcp_plugin, easytier_kcp_plugin.plugin, easytier_kcp_plugin.auto;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    own = {"easytier_hooks", "easytier_kcp_plugin"}
    loaded = {name for name in done.stdout.split() if not name.startswith("_")}
    assert own <= loaded
    assert loaded <= own | {"anyio", "exceptiongroup", "idna", "pluggy", "sniffio", "typing_extensions"}


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
    unit = {"packaging/systemd/easytier-core@.service", "packaging/man/easytier-core.1"}
    assert rust | manifests | stubs | unit | {"setup.py"} <= names
    assert not [name for name in names if name.startswith("native/target") or name.endswith(".so")]
