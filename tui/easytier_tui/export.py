"""Tables and flows as JSON or CSV, for other programs: whole numbers and names of fields, no human units."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import asdict, fields

from easytier_tui.model import FlowState
from easytier_tui.records import FlowRecord

FORMATS: Final = (".csv", ".json")
_FIELDS: Final = tuple(field.name for field in fields(FlowRecord))
# A spreadsheet would take a cell that begins with one of these for a formula, and names come from the network.
_FORMULA: Final = ("=", "+", "-", "@")


class ExportError(ValueError):
    """Nothing was written; the message says why and what would do."""


def table(flows: Iterable[FlowState], suffix: str) -> str:
    """The flows in the form that `suffix` names, `.csv` or `.json`."""
    if suffix == ".json":
        return to_json([asdict(flow.record) for flow in flows])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows([_cell(getattr(flow.record, name)) for name in _FIELDS] for flow in flows)
    return text.getvalue()


def flow(state: FlowState, suffix: str) -> str:
    """One flow with its events; CSV has a line for each event, one without any, and in each all that is known of the flow."""
    if suffix == ".json":
        events = [{"at": note.at, "text": note.text} for note in state.notes]
        return to_json(asdict(state.record) | {"events": events})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_FIELDS, "at", "event"))
    known = [_cell(getattr(state.record, name)) for name in _FIELDS]
    happened: list[tuple[object, object]] = [(note.at, _cell(note.text)) for note in state.notes]
    writer.writerows([*known, *each] for each in happened or [("", "")])
    return text.getvalue()


def row(cells: Sequence[str]) -> str:
    """A line of a table, for the clipboard."""
    return "\t".join(cell.strip() for cell in cells)


def check_name(text: str) -> Path:
    """The name of a download; no file is looked at.  Raises `ExportError` if its ending is of no form, or with a folder."""
    path = Path(text.strip())
    if path.suffix.lower() not in FORMATS:
        raise ExportError(f"the file name must end with {' or '.join(FORMATS)}")
    if path.name != str(path):
        raise ExportError("a name without a folder, please: the browser chooses the folder")
    return path


def check_path(text: str) -> Path:
    """The file to write to.  Raises `ExportError` if its ending is of no form, or if it exists."""
    path = Path(text.strip()).expanduser()
    check_name(path.name)
    if path.exists():
        raise ExportError(f"{path} exists already: choose another name")
    return path


def write(path: Path, text: str) -> None:
    """Make the file.  Raises `ExportError`."""
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from None


def to_json(data: object) -> str:
    return json.dumps(data, indent=2, ensure_ascii=True) + "\n"


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value
