"""The checked-in protobuf code is what the .proto files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
CHECKED_IN = PROJECT / "host" / "easytier_host" / "pb"


def test_generated_code_is_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(PROJECT / "proto" / "generate.py"), str(tmp_path)], check=True, timeout=50)

    fresh = {path.name: path.read_text() for path in (tmp_path / "easytier_host" / "pb").iterdir()}
    checked_in = {path.name: path.read_text() for path in CHECKED_IN.glob("*_pb2.*")}
    assert fresh.keys() == checked_in.keys()
    stale = [name for name in fresh if fresh[name] != checked_in[name]]
    assert not stale, f"run `python proto/generate.py`: {stale}"
