"""A log file on a disk that is full: what is lost, what is said of it, and that it goes on."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from easytier_host.config.model import FileLog
from easytier_host.log import configured

logger = logging.getLogger("easytier.test")


@pytest.fixture
def console() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def full(tmp_path: Path, console: io.StringIO) -> Iterator[Path]:
    """A log file that fails as one on a full disk does, with a log on standard error beside it."""
    path = tmp_path / "a.log"
    os.symlink("/dev/full", path)
    with configured("info", FileLog("info", str(tmp_path), "a.log"), stream=console):
        yield path


def test_a_full_disk_costs_lines_of_the_file_and_is_said_once(full: Path, console: io.StringIO) -> None:
    for number in range(5):
        logger.info("line %d", number)
    said = console.getvalue()
    assert said.count("cannot be written, its lines are lost: No space left on device") == 1
    assert all(f"line {number}" in said for number in range(5))
    assert "Traceback" not in said
    assert full.exists()


def test_the_file_goes_on_with_whole_lines_once_there_is_room(full: Path, console: io.StringIO) -> None:
    for _ in range(3):
        logger.info("lost")
    full.unlink()
    logger.info("kept")
    logger.info("kept too")
    # The warning itself was for this file as well, and lost with the other lines.
    assert "is written again; 4 lines are missing" in console.getvalue()
    lines = full.read_text().splitlines()

    assert [line[25:31].strip() for line in lines] == ["INFO", "WARN", "INFO"]


def test_levels_change_while_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with configured("off", FileLog("info", str(tmp_path), "a.log")) as levels:
        logger.error("nobody on the screen sees this")
        assert levels.set("debug", "error")
        logger.debug("a detail")
        logger.error("a fault")
    assert [line.partition("test: ")[2] for line in capsys.readouterr().err.splitlines()] == ["a detail", "a fault"]
    assert (tmp_path / "a.log").read_text().count("\n") == 2


def test_a_file_that_was_not_there_at_the_start_takes_a_restart() -> None:
    with configured("info") as levels:
        assert not levels.set("info", "debug")
        assert levels.set("info", "")
