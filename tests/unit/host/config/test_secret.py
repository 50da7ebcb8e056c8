"""Where the network's secret comes from, and who else may see it there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from easytier_host.config import ConfigError, load
from easytier_host.config.options import parse
from easytier_host.config.secret import hidden

TOML = '[network_identity]\nnetwork_name = "n"\nnetwork_secret = "{}"\n'


def file_of(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", ["s3 cret", "s3 cret\n", "s3 cret\r\n"])
def test_a_file_of_its_own_holds_the_secret(tmp_path: Path, text: str) -> None:
    path = file_of(tmp_path / "secret", text)
    for options in (parse(["--secret-file", str(path)], {}), parse([], {"ET_SECRET_FILE": str(path)})):
        loaded = load(options, environ={})
        assert (loaded.configs[0].network_secret, loaded.warnings) == ("s3 cret", ())


def test_it_comes_before_that_of_the_configuration(tmp_path: Path) -> None:
    config = file_of(tmp_path / "a.toml", TOML.format("other"))
    secret = file_of(tmp_path / "secret", "s3cret")
    loaded = load(parse(["-c", str(config), "--secret-file", str(secret)], {}), environ={})
    assert loaded.configs[0].network_secret == "s3cret"


@pytest.mark.parametrize("text", ["", "\n", "two\nlines", "x" * 5000])
def test_another_file_is_a_fault_that_shows_nothing_of_it(tmp_path: Path, text: str) -> None:
    path = file_of(tmp_path / "secret", text)
    with pytest.raises(ConfigError) as caught:
        parse(["--secret-file", str(path)], {})
    (problem,) = caught.value.problems
    assert problem.startswith(f"--secret-file: {path} does not hold one line")
    assert "two" not in problem
    with pytest.raises(ConfigError, match="No such file"):
        parse(["--secret-file", str(tmp_path / "none")], {})


def test_one_secret_is_enough(tmp_path: Path) -> None:
    path = file_of(tmp_path / "secret", "s3cret")
    with pytest.raises(ConfigError, match="ET_NETWORK_SECRET and --secret-file both give the secret"):
        parse(["--secret-file", str(path)], {"ET_NETWORK_SECRET": "other"})


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_file_with_a_secret_that_all_can_read_is_warned_of(tmp_path: Path, mode: int, warns: bool) -> None:
    secret = file_of(tmp_path / "secret", "s3cret", mode)
    assert bool(parse(["--secret-file", str(secret)], {}).warnings) is warns
    config = file_of(tmp_path / "a.toml", TOML.format("s3cret"), mode)
    found = load(parse(["-c", str(config)], {}), environ={}).warnings
    assert [f"chmod 600 {config}" in warning for warning in found] == [True] * warns


def test_a_file_without_a_secret_may_be_read(tmp_path: Path) -> None:
    for text in ("", TOML.format(""), TOML.format("${SECRET}")):
        config = file_of(tmp_path / "a.toml", text, 0o644)
        assert load(parse(["-c", str(config)], {}), environ={"SECRET": "s3cret"}).warnings == ()


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--network-secret", "s3cret", "-n", "x"], ["-n", "x"]),
        (["-n", "x", "--network-secret=s3cret"], ["-n", "x"]),
        (["--network-secret", "first", "--network-secret=s3cret"], []),
    ],
)
def test_the_command_line_is_made_anew_without_the_secret(words: list[str], left: list[str]) -> None:
    found = hidden([sys.executable, *words], {"PATH": "/bin", "ET_NETWORK_SECRET": "before"})
    assert found == ([sys.executable, *left], {"PATH": "/bin", "ET_NETWORK_SECRET": "s3cret"})


def test_other_command_lines_stay() -> None:
    assert hidden(["easytier-core", "-n", "--network-secrets", "x"], {}) is None
    assert hidden(["easytier-core", "--network-secret"], {}) is None


def test_an_empty_secret_is_none() -> None:
    assert hidden(["--network-secret", "", "--no-tun"], {}) is None
