"""The proving ground itself: what it builds is there, what it removes is gone, and its link does what it says.

a 10.9.1.1 ======== 10.9.1.2 b          veth; or `bench.link` between 10.99.0.1 and 10.99.0.2
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.link import LinkOptions, LossyLink
from tests.netns.requirements import NETNS
from tests.netns.topology import Namespace, Topology, python_environment, sweep_stale, take_logs, wait_for
from tests.netns.traffic import iperf_tcp, iperf_udp, transfer

pytestmark = NETNS

FAR = "10.99.0.2"


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    with Topology() as topology:
        yield topology.namespace("a"), topology.namespace("b")


def existing(namespace: Namespace) -> bool:
    return Path("/run/netns", namespace.name).exists()


def test_a_topology_joins_and_isolates() -> None:
    with Topology() as topology:
        left, right, stranger = (topology.namespace(label) for label in "abc")
        topology.join(left, right, "10.9.1.1/24", "10.9.1.2/24")
        assert left.ping("10.9.1.2") == 1.0
        assert stranger.ping("10.9.1.2") == 0.0
        transfer(left, right, "10.9.1.2")


def test_a_bridge_joins_all_members() -> None:
    with Topology() as topology:
        members = [topology.namespace(label) for label in "abc"]
        topology.bridge({member: f"10.9.1.{number}/24" for number, member in enumerate(members, 1)})
        assert [member.ping(f"10.9.1.{number}") for member in members for number in (1, 2, 3)] == [1.0] * 9


def test_an_error_inside_removes_everything_and_keeps_the_logs() -> None:
    topology = Topology()

    def fail_inside() -> None:
        with topology:
            process = topology.namespace("a").spawn("sh", "-c", "echo last words; exec sleep 600", label="speaker")
            wait_for(lambda: "last words" in process.log(), "the process speaks")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    (space,) = topology.namespaces
    assert not existing(space)
    assert not space.processes[0].running
    assert ("a-speaker, ended with -9", "last words\n") in take_logs()


def test_a_killed_run_is_swept_by_the_next() -> None:
    code = (
        "import time\n"
        "from tests.netns.topology import Topology\n"
        "with Topology() as topology:\n"
        "    space = topology.namespace('lost')\n"
        "    print(space.name, space.spawn('sleep', '600').pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=python_environment()) as run:
        assert run.stdout is not None
        name, pid = run.stdout.readline().split()
        run.kill()
    assert Path("/run/netns", name).exists()
    logs = list(Path(tempfile.gettempdir()).glob(f"{name.partition('-')[0]}-*.log"))
    assert len(logs) == 1
    assert name in sweep_stale()
    assert not Path("/run/netns", name).exists()
    assert not logs[0].exists()
    wait_for(lambda: not running(int(pid)), "the process inside is gone")


def running(pid: int) -> bool:
    """Whether the process exists and is not just waiting for its parent to notice its end."""
    try:
        return " Z " not in re.sub(r"\(.*\)", "", Path(f"/proc/{pid}/stat").read_text())
    except FileNotFoundError:
        return False


def test_wait_for_tells_the_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"rain: not within 0\.1 s; last answer: ''"):
        wait_for(lambda: "", "rain", 0.1)


def test_the_link_delays_both_ways(ends: tuple[Namespace, Namespace]) -> None:
    near, far = ends
    with LossyLink(near.name, far.name, LinkOptions(delay=0.02)):
        assert 40.0 <= near.round_trip_ms(FAR) < 44.0


def test_the_link_limits_the_rate(ends: tuple[Namespace, Namespace]) -> None:
    near, far = ends
    with LossyLink(near.name, far.name, LinkOptions(rate_bits=20e6, delay=0.005, queue_bytes=50_000)) as link:
        assert iperf_udp(near, far, FAR, mbits=15).lost_share == 0.0
        flooded = iperf_udp(near, far, FAR, mbits=40)
        assert 15 < flooded.mbits < 22
        assert link.statistics()[0]["overflowed"] > 0
        assert iperf_tcp(near, far, FAR, seconds=2).mbits < 21


def test_the_link_loses_its_share(ends: tuple[Namespace, Namespace]) -> None:
    near, far = ends
    with LossyLink(near.name, far.name, LinkOptions(loss=0.1)) as link:
        near.ping(FAR, count=500, interval=0.002)
        there, back = link.statistics()
        # 500 draws of 0.1: four standard deviations are 27.
        assert 23 <= there["lost"] <= 77
        assert there["delivered"] > back["delivered"]


def test_the_link_is_cut_and_mended(ends: tuple[Namespace, Namespace]) -> None:
    near, far = ends
    with LossyLink(near.name, far.name, LinkOptions()) as link:
        assert near.ping(FAR) == 1.0
        link.change(loss=1.0)
        assert near.ping(FAR) == 0.0
        link.change(loss=0.0)
        assert near.ping(FAR) == 1.0
    assert near.links() == []


def test_the_link_carries_ipv6(ends: tuple[Namespace, Namespace]) -> None:
    near, far = ends
    with LossyLink(near.name, far.name, LinkOptions(), ("fd99::1/64", "fd99::2/64")):
        assert near.ping("fd99::2") == 1.0


def test_a_link_to_nowhere_is_an_error(ends: tuple[Namespace, Namespace], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="does not answer"), LossyLink(ends[0].name, "no-such-namespace", LinkOptions()):
        pass
    assert "no-such-namespace" in capfd.readouterr().err


def test_a_stuck_process_is_reported_and_killed(ends: tuple[Namespace, Namespace]) -> None:
    process = ends[0].spawn("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done", label="deaf")
    wait_for(lambda: "deaf" in process.log(), "the process is deaf")
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"did not stop within 0\.3 s"):
        process.terminate(0.3)
    assert not process.running
    assert time.monotonic() - start < 5
