"""Recordings and exports: written, read back, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from easytier_tui import export, recording
from easytier_tui.feed import FeedError
from easytier_tui.model import FlowState, Model
from easytier_tui.recording import Recorder, RecordingError, ReplayFeed
from easytier_tui.records import Link, Update
from easytier_tui.session import Session
from tests.tui import scene
from tests.tui.scene import NOW, ScriptFeed

LATER = Update(NOW + 0.5, flows=(replace(scene.SSH, key="1.9"),), missed=2)
GONE = Update(NOW + 1, Link("gone", "no node answers", NOW + 5))


class Clock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def record(path: Path, *updates: Update) -> Path:
    recorder = Recorder(path, "127.0.0.1:15888")
    for update in updates:
        recorder.write(update)
    recorder.close()
    return path


def test_a_recording_is_told_again_at_its_pace(tmp_path: Path) -> None:
    clock = Clock()
    feed = ReplayFeed(record(tmp_path / "r.jsonl", scene.FIRST, LATER, GONE), 2.0, monotonic=clock)
    first = feed.step()
    assert first == replace(scene.FIRST, link=Link("replayed", "recording, 15:06:40"))
    assert feed.clock() == NOW
    clock.now += 0.2
    assert feed.clock() == pytest.approx(NOW + 0.4)
    clock.now += 0.05
    assert feed.step().flows == LATER.flows
    clock.now += 10
    last = feed.step()
    assert last.link == Link("ended", "the recording has ended")
    assert feed.clock() == NOW + 1, "time stands still at the end"
    assert feed.history(1) == ()
    with pytest.raises(FeedError, match="cannot be changed"):
        feed.close_flow(1)
    feed.close()
    assert feed.step() == Update(NOW + 1)


def test_that_the_node_was_away_is_told_too(tmp_path: Path) -> None:
    clock = Clock()
    feed = ReplayFeed(record(tmp_path / "r.jsonl", scene.FIRST, GONE, replace(LATER, at=NOW + 2)), monotonic=clock)
    clock.now += 10
    feed.step()
    assert feed.step().link == Link("gone", "no node answers")
    feed.close()


def test_closing_ends_a_wait(tmp_path: Path) -> None:
    feed = ReplayFeed(record(tmp_path / "r.jsonl", scene.FIRST, replace(LATER, at=NOW + 3600)), monotonic=Clock())
    feed.step()
    feed.close()
    assert feed.step().flows == ()


HEADER = b'{"format": "easytier-tui", "version": 1}\n'


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no recording"),
        (b"GIF89a", "no recording"),
        (b"[\n 1,\n 2\n]\n", "no recording"),
        (b'{"format": "other", "version": 1}\n', "no recording"),
        (b'{"format": "easytier-tui", "version": 9}\n', "version 9"),
        (HEADER, "no updates"),
        (HEADER + b'{"at": "soon"}\n', "line 2"),
        (HEADER + b'{"at": 1, "flows": [{"key": "1"}]}\n', "line 2"),
        (HEADER + b"\xff\xfe\n", "line 2"),
        (HEADER + b'{"at": 1, "link": {"kind": "gone", "text": "\\u001b[2J"}}\n', "control characters"),
        (HEADER + '{"at": 1, "link": {"kind": "gone", "text": "\u202e"}}\n'.encode(), "control characters"),
        (HEADER + b'{"at": 1, "link": {"kind": "no such", "text": ""}}\n', "line 2"),
    ],
)
def test_what_is_no_recording_is_refused(content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=word):
        ReplayFeed(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="No such file"):
        ReplayFeed(tmp_path / "nothing")


def test_a_broken_line_ends_the_replay_with_its_number(tmp_path: Path) -> None:
    path = record(tmp_path / "r.jsonl", scene.FIRST)
    path.write_bytes(path.read_bytes() + b'{"at": 1, "flows": 7}\n')
    feed = ReplayFeed(path, monotonic=Clock())
    link = feed.step().link
    assert link is not None
    assert link.kind == "ended"
    assert "line 3" in link.text
    feed.close()


@given(st.binary(max_size=80))
def test_any_file_is_a_recording_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("r") / "r.jsonl"
    path.write_bytes(HEADER + content)
    try:
        feed = ReplayFeed(path, monotonic=Clock())
    except RecordingError:
        return
    model = Model()
    model.apply(feed.step())
    feed.close()


def test_texts_with_backslashes_survive(tmp_path: Path) -> None:
    told = replace(scene.FIRST, flows=(replace(scene.SSH, reason=r"C:\u001b\new"),))
    feed = ReplayFeed(record(tmp_path / "r.jsonl", told), monotonic=Clock())
    assert feed.step().flows == told.flows
    feed.close()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = record(tmp_path / "r.jsonl", scene.FIRST)
    with pytest.raises(RecordingError, match="exists already"):
        Recorder(path, "")
    with pytest.raises(RecordingError, match="cannot write"):
        Recorder(tmp_path / "no" / "such" / "folder", "")


def test_a_recording_that_cannot_go_on_ends_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(ScriptFeed())
    session.apply(scene.FIRST)
    session.record(tmp_path / "r.jsonl")
    monkeypatch.setattr(recording, "MAX_FILE_BYTES", 4000)
    for _ in range(40):
        session.apply(scene.FIRST)
    assert session.recorder is None
    assert "the recording ends here" in session.fault
    feed = ReplayFeed(tmp_path / "r.jsonl", monotonic=Clock())
    assert feed.step().flows == scene.FLOWS, "what was written before is whole"
    feed.close()
    session.close()


def states() -> list[FlowState]:
    return [FlowState(flow, NOW) for flow in scene.FLOWS]


def test_a_table_as_csv_and_json() -> None:
    rows = list(csv.DictReader(export.table(states(), ".csv").splitlines()))
    objects = json.loads(export.table(states(), ".json"))
    assert [row["source"] for row in rows] == [each["source"] for each in objects] == [flow.source for flow in scene.FLOWS]
    assert (rows[4]["rtt"], objects[4]["rtt"]) == ("", None)
    assert objects[0]["send_rate"] == 38e6


def test_cells_are_no_formulas() -> None:
    evil = FlowState(replace(scene.SSH, peer="=cmd()", reason="+1"), NOW)
    (row,) = csv.DictReader(export.table([evil], ".csv").splitlines())
    assert (row["peer"], row["reason"]) == ("'=cmd()", "'+1")


def test_a_flow_with_its_events() -> None:
    state = FlowState(scene.SSH, NOW)
    for note in scene.NOTES:
        state.note(note)
    assert [event["text"] for event in json.loads(export.flow(state, ".json"))["events"]] == ["seen", "connected"]
    rows = list(csv.DictReader(export.flow(state, ".csv").splitlines()))
    assert [row["event"] for row in rows] == ["seen", "connected"]
    assert {(row["source"], row["destination"], row["sent"]) for row in rows} == {
        ("10.144.0.1:51838", "10.144.0.2:22", "4810000000")
    }
    (row,) = csv.DictReader(export.flow(FlowState(scene.SSH, NOW), ".csv").splitlines())
    assert (row["peer"], row["event"]) == ("b", "")


def test_where_not_to_write(tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    with pytest.raises(export.ExportError, match="exists already"):
        export.check_path(str(tmp_path / "there.csv"))
    with pytest.raises(export.ExportError, match=r"\.csv or \.json"):
        export.check_path("flows.xls")
    with pytest.raises(export.ExportError, match="cannot write"):
        export.write(tmp_path / "no" / "folder.csv", "")
