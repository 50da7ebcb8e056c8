"""The benchmark in its quick form: cases run, bytes arrive, figures are there.  Nothing about time.

source 10.99.0.1 ==== bench.link ==== 10.99.0.2 destination
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.netns.requirements import NETNS
from tests.netns.topology import python_environment

pytestmark = NETNS


def test_cases_run_and_their_bytes_arrive(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    argv = [sys.executable, "-m", "bench", "--quick", "--cases", "line-5", "small", "--json", str(raw)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=50, env=python_environment(), check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    bulk, small = json.loads(raw.read_text())["runs"]
    assert bulk["figures"]["mbits"] > 0
    assert bulk["figures"]["sent_per_segment"] > 0
    assert small["figures"]["flows"] == 4
    assert (bulk["figures"]["failed"], small["figures"]["failed"]) == (0, 0)
    assert bulk["figures"]["by_kcp"] == 1
    assert small["figures"]["by_kcp"] == 1
    assert "KCP, ours → ours" in result.stdout
    assert "1 % lost" not in result.stdout
