"""Plugins that are written into a folder as an installer would leave them, and a manager that sees only these."""

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from textwrap import dedent

import pytest


class SitePackages:
    """A folder with installed distributions."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(self, name: str, source: str, *, value: str = "", distribution: str = "", version: str = "1.0") -> None:
        """Install a plugin whose module is `module_<name>`; `value` is the entry point if it is not the module."""
        distribution = distribution or f"dist-{name}"
        (self.path / f"module_{name}.py").write_text("from easytier_hooks import hookimpl\n" + dedent(source))
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[easytier.plugins]\n{name} = {value or f'module_{name}'}\n")

    def entry_points(self) -> list[EntryPoint]:
        """Those of this folder alone."""
        return [entry for dist in distributions(path=[str(self.path)]) for entry in dist.entry_points]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SitePackages]:
    monkeypatch.syspath_prepend(tmp_path)
    yield SitePackages(tmp_path)
    for name in [name for name in sys.modules if name.startswith("module_")]:
        del sys.modules[name]
