"""`python -m bench.link`: a bad line for whoever wants to try one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.netns.requirements import NETNS
from tests.netns.topology import wait_for

pytestmark = NETNS

ROOT = Path(__file__).parents[2]


def test_the_line_is_there_changes_and_leaves_nothing_behind() -> None:
    left, right = (f"lc{os.getpid()}{side}" for side in "lr")
    command = [sys.executable, "-m", "bench.link", left, right, "--rtt", "40", "--rate", "20"]
    line = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert line.stdin is not None
    assert line.stdout is not None
    assert line.stderr is not None

    def pings() -> subprocess.CompletedProcess[str]:
        ping = ["ip", "netns", "exec", left, "ping", "-c", "1", "-W", "1", "10.99.0.2"]
        return subprocess.run(ping, capture_output=True, text=True, timeout=10, check=False)

    try:
        assert line.stdout.readline() == f"{left} 10.99.0.1/24 === link0 === 10.99.0.2/24 {right}\n"
        assert "20 Mbit/s, a queue of 125 KB, 40 ms there and back, 0.00% lost each way" in line.stdout.readline()
        control = ["ip", "netns", "exec", left, "sysctl", "-n", "net.ipv4.tcp_congestion_control"]
        if subprocess.run(control, capture_output=True, text=True, check=True).stdout.startswith("bbr"):
            assert line.stdout.readline().startswith(f"{left}: TCP that is sent here uses bbr")
            assert line.stdout.readline().startswith(f"{right}: TCP that is sent here uses bbr")
        said = wait_for(lambda: done.stdout if (done := pings()).returncode == 0 else None, "an answer over the line")
        assert 40 <= float(said.partition("time=")[2].split()[0]) < 200
        line.stdin.write("--loss much\n--loss 100\n")
        assert line.stderr.readline() == "bench.link: argument --loss: invalid float value: 'much'\n"
        assert "40 ms there and back, 100.00% lost" in line.stdout.readline()
        assert pings().returncode == 1
        line.send_signal(signal.SIGINT)
        said, _ = line.communicate(timeout=10)
        assert line.returncode == 0
        assert f"{left} -> {right}: " in said
        assert " 0 lost" not in said.splitlines()[1]
    finally:
        line.kill()
        line.wait()
    assert not [name for name in (left, right) if Path("/run/netns", name).exists()]
