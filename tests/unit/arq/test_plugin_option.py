"""`[plugins.kcp] engine`: which values it has."""

from __future__ import annotations

import pytest

from easytier_kcp_plugin.plugin import ENGINES, KcpPlugin


@pytest.mark.parametrize("options", [{}, {"engine": "kcp"}, {"engine": "arq"}])
def test_engines_that_there_are(options: dict[str, object]) -> None:
    assert list(KcpPlugin(options).advertise_capabilities())


@pytest.mark.parametrize("engine", ["", "ARQ", 1, True, ["arq"], {"arq": 1}, None])
def test_others_are_refused_with_the_choice(engine: object) -> None:
    with pytest.raises(ValueError, match="none of 'kcp', 'arq'"):
        KcpPlugin({"engine": engine})


def test_other_options_are_refused() -> None:
    with pytest.raises(ValueError, match="no option 'engines'"):
        KcpPlugin({"engines": "arq"})


def test_every_engine_makes_paths() -> None:
    for paths in ENGINES.values():
        assert paths()().pump(0.0) == ([], None)
