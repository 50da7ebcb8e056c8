"""What a line looks like, which lines come through, and how floods are held back."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import pytest

from easytier_host.config import Config, FileLog
from easytier_host.log import (
    LEVELS,
    LINES_AT_ONCE,
    LINES_PER_SECOND,
    JsonFormatter,
    TextFormatter,
    bind,
    configured,
)
from tests.unit.host.helpers import FakeClock

LOGGER = logging.getLogger("easytier.test")


def record(message: str, *args: object, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("easytier.peers", level, __file__, 1, message, args, None)
    made.created = 1_700_000_000.25
    made.__dict__.update(extra)
    return made


def test_a_line_of_text() -> None:
    line = TextFormatter().format(record("gone after %d s", 7, instance="a", peer=42))
    assert line == "2023-11-14T22:13:20.250Z WARN  peers [a] peer 42: gone after 7 s"
    assert TextFormatter().format(record("x", level=logging.INFO)) == "2023-11-14T22:13:20.250Z INFO  peers: x"


def test_a_line_of_json() -> None:
    line = json.loads(JsonFormatter().format(record("gone: %s", "é\n", instance="a", peer=42)))
    assert line == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warn",
        "logger": "easytier.peers",
        "instance": "a",
        "peer": 42,
        "message": "gone: é\n",
    }


def test_names_from_peers_cannot_forge_lines_or_steer_a_terminal() -> None:
    line = TextFormatter().format(record("peer %s", "a\n2023 INFO ok\x1b[2J\x9b\u2028"))
    assert line.endswith(r"peer a\x0a2023 INFO ok\x1b[2J\x9b\u2028")
    assert line.isprintable()


def test_an_exception_is_shown_in_both_forms() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        made = record("failed", exc_info=sys.exc_info())
    assert "\nTraceback" in TextFormatter().format(made)
    assert "ValueError: why" in json.loads(JsonFormatter().format(made))["exception"]


def test_bound_loggers_add_up(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        of_peer = bind(bind(LOGGER, instance="a"), peer=0)
        of_peer.info("one")
        bind(of_peer, peer=8).info("two")
    assert [(r.__dict__["instance"], r.__dict__["peer"]) for r in caplog.records] == [("a", 0), ("a", 8)]


def test_levels_and_foreign_libraries() -> None:
    stream = io.StringIO()
    with configured("info", packages={"plugin"}, stream=stream):
        LOGGER.debug("no")
        LOGGER.info("yes")
        logging.getLogger("library").info("no")
        logging.getLogger("library").warning("yes")
        logging.getLogger("plugins").info("no: another name")
        logging.getLogger("plugin").info("yes")
        logging.getLogger("plugin.part").info("yes")
        logging.getLogger("plugin").debug("no")
    LOGGER.error("no: after the end")
    assert [line.split("  ", 1)[1] for line in stream.getvalue().splitlines()] == [
        "test: yes",
        "library: yes",
        "plugin: yes",
        "plugin.part: yes",
    ]


def test_trace_shows_everything_and_off_nothing() -> None:
    stream = io.StringIO()
    with configured("trace", stream=stream):
        LOGGER.log(LEVELS["trace"], "deep")
    with configured("off", stream=stream):
        LOGGER.critical("never")
    assert "TRACE test: deep" in stream.getvalue()
    assert "never" not in stream.getvalue()


def test_the_file_is_made_written_and_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easytier_host.log.MEGABYTE", 1000)
    directory = tmp_path / "new" / "logs"
    with configured("off", FileLog(level="debug", dir=str(directory), file="n.log", size=1, count=2), log_format="json"):
        for number in range(100):
            LOGGER.debug("line %d", number)
    assert sorted(path.name for path in directory.iterdir()) == ["n.log", "n.log.1", "n.log.2"]
    assert json.loads((directory / "n.log").read_text().splitlines()[-1])["message"] == "line 99"
    assert all(path.stat().st_size <= 1000 for path in directory.iterdir())


def test_a_file_that_cannot_be_made_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    root_handlers = list(logging.getLogger().handlers)
    with pytest.raises(NotADirectoryError), configured("info", FileLog(level="info", dir=str(tmp_path / "plain" / "x"))):
        pytest.fail("entered")
    assert logging.getLogger().handlers == root_handlers


def test_a_flood_of_lines_is_cut_and_told_and_hides_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("easytier_host.log.time.monotonic", clock)
    stream = io.StringIO()
    with configured("info", stream=stream):
        for number in range(LINES_AT_ONCE + 50):
            LOGGER.info("line %d", number)
        assert stream.getvalue().count("\n") == LINES_AT_ONCE
        LOGGER.warning("this is serious")
        assert "this is serious" in stream.getvalue()
        clock.advance(1)
        for number in range(1000):
            LOGGER.info("later %d", number)
    lines = stream.getvalue().splitlines()
    assert lines[LINES_AT_ONCE + 1].endswith("50 lines were left out: too many at once")
    assert lines[-1].endswith(f"later {LINES_PER_SECOND - 1:g}")


def test_a_logged_config_shows_no_secret() -> None:
    stream = io.StringIO()
    with configured("info", stream=stream):
        LOGGER.info("%s %r", *[Config(network_name="n", network_secret="hunter2", plugins={"kcp": {"token": "hunter2"}})] * 2)
    assert "network_name='n'" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
