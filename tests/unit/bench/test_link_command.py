"""What the options of `python -m bench.link` become."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest

from bench.link import LinkOptions
from bench.link_command import bbr_notes, described, main, to_link

NOTHING = {
    "rate": 0.0,
    "rtt": 0.0,
    "jitter": 0.0,
    "loss": 0.0,
    "burst": 0.0,
    "queue": None,
    "late": 0.0,
    "late_by": 0.0,
    "seed": 1,
}


def test_units_are_those_of_the_emulator() -> None:
    options = NOTHING | {"rate": 100.0, "rtt": 50.0, "loss": 5.0, "burst": 5.0, "late": 1.0, "late_by": 3.0, "seed": 7}
    assert to_link(options) == LinkOptions(
        rate_bits=100e6, delay=0.025, loss=0.05, queue_bytes=625_000, burst=5.0, late=0.01, late_by=0.003, seed=7
    )
    assert to_link(NOTHING | {"rate": 0.1}).queue_bytes == 30_000
    assert to_link(NOTHING | {"queue": 64.0}).queue_bytes == 64_000


def test_a_link_is_described_in_a_line() -> None:
    assert described(to_link(NOTHING)) == "no limit, 0 ms there and back, 0.00% lost each way"
    bad = to_link(NOTHING | {"rate": 50.0, "rtt": 50.0, "loss": 2.5, "burst": 5.0, "jitter": 4.0, "late": 1.0, "late_by": 3.0})
    assert described(bad) == (
        "50 Mbit/s, a queue of 312.5 KB, 50 ms there and back, 2.50% lost each way, in runs of 5, 4 ms of jitter, "
        "1.00% are 3 ms late"
    )


@pytest.mark.parametrize("more", ["--loss 101", "--burst 0.5", "--rate -1", "--los 1", ""])
def test_impossible_links_are_wrong_usage(
    more: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    try:
        status = main(["left", "right", *more.split()] if more else ["left"])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2
    assert capsys.readouterr().err


def test_it_needs_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["left", "right"]) == 1
    assert "run it as root" in capsys.readouterr().err


_SHELL = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = subprocess.Popen([sys.executable, "-c", sys.argv[1]], process_group=0)
input()
os.tcsetpgrp(0, job.pid)
job.wait()
"""
_JOB = """
from bench import link_command
sleep = link_command.time.sleep
link_command.time.sleep = lambda seconds: (print("waits", flush=True), sleep(0.05))
print("got", next(link_command.lines()))
"""


def test_in_the_background_it_goes_on_and_reads_once_it_is_in_front() -> None:
    """A job that reads its terminal in the background is stopped by the kernel, and the line with it."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(Path(__file__).parents[3])
        os.execv(sys.executable, [sys.executable, "-c", _SHELL, _JOB])
    said = b""

    def until(word: bytes) -> None:
        nonlocal said
        while word not in said:
            # An error once nobody has the other end any more.
            said += os.read(terminal, 4096)

    try:
        until(b"waits")
        os.write(terminal, b"fg\n")
        until(b"fg")
        os.write(terminal, b"--loss 2\n")
        until(b"got --loss 2")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def test_where_losses_hardly_slow_tcp_down_it_is_told() -> None:
    assert bbr_notes({"left": "cubic", "right": "reno", "other": ""}) == []
    (note,) = bbr_notes({"left": "cubic", "right": "bbr"})
    assert note.startswith("right: TCP that is sent here uses bbr")
    assert note.endswith("ip netns exec right sysctl -w net.ipv4.tcp_congestion_control=cubic")
