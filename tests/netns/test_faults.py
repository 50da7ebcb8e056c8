"""Faults with flows under way: a part of `matrix`, and what happens at a stop, a reload and with a relay that goes.

All scenes run at the same time, since they mostly wait; each test asks what came out of one.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.interop.kcp_scenes import endings, kcp_chain, kcp_options
from tests.interop.scenes import PORT, listener
from tests.netns.fault_scenes import STARTING, Case, play, start
from tests.netns.nodes import OurNode
from tests.netns.pulse import BEAT, echo_server, watch
from tests.netns.requirements import INTEROP
from tests.netns.topology import Topology, traces, wait_for

pytestmark = INTEROP

CASES = (
    Case("kernel", "udp", "node", "ours", "kill"),
    Case("smoltcp", "tcp", "subnet", "stock", "kill"),
    Case("no-tun", "udp", "node", "ours", "rebind"),
    Case("smoltcp", "udp", "subnet", "ours", "blackhole"),
    Case("kernel", "udp", "node", "stock", "interface"),
    Case("kernel", "udp", "node", "ours", "device"),
    Case("kernel", "udp", "subnet", "ours", "touched"),
    Case("kernel", "tcp", "node", "stock", "suspend"),
    Case("kernel", "udp", "node", "ours", "descriptors"),
)
TAKES_AT_MOST = 120.0


def stopped_node() -> None:
    """SIGTERM at the destination: flows under way go on, new ones are refused, and what is left in the end is told why."""
    with Topology() as topology:
        left, right = topology.namespace("n1"), topology.namespace("n2")
        topology.join(left, right, "10.9.1.1/24", "10.9.1.2/24")
        before = traces(right)
        source = OurNode(left, kcp_options(1, source=True, peers=(f"udp://10.9.1.2:{PORT}",)))
        patience = ("--drain-timeout", "4")
        destination = OurNode(right, kcp_options(2, source=False, listeners=(listener("udp"),), our_arguments=patience))
        start(destination, source)
        with echo_server(right) as port, watch(left, destination.address, port) as watched:
            began = time.monotonic()
            os.kill(destination.process.pid, signal.SIGTERM)
            wait_for(lambda: watched.events("new", "ConnectionRefusedError"), "a new flow is refused", 3)
            watched.wait_beat(time.monotonic(), 2)
            assert destination.process.popen.wait(10) == 0
            assert 4 <= time.monotonic() - began < 7
            assert watched.wait_live_end(2) == "ConnectionResetError"
            # Told by a goodbye; silence would take 7 s.
            source.wait_logged("is gone", 4)
        assert "this node is stopping" in endings(destination, "Failed")
        wait_for(lambda: traces(right) == before, f"as before: {before}", 5)


def second_signal() -> None:
    """Who does not want to wait for flows sends the signal again."""
    with Topology() as topology:
        left, right = topology.namespace("n1"), topology.namespace("n2")
        topology.join(left, right, "10.9.1.1/24", "10.9.1.2/24")
        source = OurNode(left, kcp_options(1, source=True, peers=(f"udp://10.9.1.2:{PORT}",)))
        destination = OurNode(right, kcp_options(2, source=False, listeners=(listener("udp"),)))
        start(destination, source)
        before = traces(left)
        with echo_server(right) as port, watch(left, destination.address, port):
            os.kill(source.process.pid, signal.SIGTERM)
            source.wait_logged("flows are still open", 3)
            os.kill(source.process.pid, signal.SIGTERM)
            assert source.process.popen.wait(2) == -signal.SIGTERM
        assert traces(left) != before
        # Ctrl-C waits for no flow, and the device is gone with the process here too.
        source.start()
        with echo_server(right) as port, watch(left, destination.address, port):
            began = time.monotonic()
            os.kill(source.process.pid, signal.SIGINT)
            assert source.process.popen.wait(5) == 0
            assert time.monotonic() - began < 2
        assert not [device for device in left.links() if device.startswith("et")]


def reloaded_file(folder: Path) -> None:
    """SIGHUP: a peer that the file names from now on is dialled, without a restart."""
    with Topology() as topology:
        left, right = topology.namespace("n1"), topology.namespace("n2")
        topology.join(left, right, "10.9.1.1/24", "10.9.1.2/24")
        config = folder / "a.toml"
        config.write_text("")
        source = OurNode(left, kcp_options(1, source=False, our_arguments=("-c", str(config))))
        destination = OurNode(right, kcp_options(2, source=False, listeners=(listener("udp"),)))
        with STARTING:
            source.start()
            destination.start()
        config.write_text(f'[[peer]]\nuri = "udp://10.9.1.2:{PORT}"\n')
        os.kill(source.process.pid, signal.SIGHUP)
        source.wait_logged("peer: applied", 3)
        wait_for(lambda: source.ping(destination) == 1.0, "echo", 5)
        config.write_text("[flags]\nmtu = 1\n")
        os.kill(source.process.pid, signal.SIGHUP)
        source.wait_logged("the configuration has faults, nothing is changed", 3)
        assert re.search(rf"{config}:2: flags.mtu", source.log())
        assert source.ping(destination) == 1.0


def reloaded_networks(folder: Path) -> None:
    """SIGHUP: a network behind a node is taken away and comes back; the flow under way there goes on, also at the peer."""
    with Topology() as topology:
        left, right, lan = topology.namespace("n1"), topology.namespace("n2"), topology.namespace("lan")
        topology.join(left, right, "10.9.1.1/24", "10.9.1.2/24")
        topology.join(lan, right, "10.77.0.2/24", "10.77.0.1/24")
        config = folder / "b.toml"
        source = OurNode(left, kcp_options(1, source=True, peers=(f"udp://10.9.1.2:{PORT}",)))
        options = kcp_options(2, source=False, listeners=(listener("udp"),), our_arguments=("-c", str(config)))
        destination = OurNode(right, options)

        def offer(*networks: str) -> None:
            config.write_text("".join(f'[[proxy_network]]\ncidr = "{network}"\n' for network in networks))

        offer("10.77.0.0/24")
        start(destination, source)
        with echo_server(lan) as port:
            wait_for(lambda: any("10.77.0.0/24" in line for line in left.routes()), "the route to the network", 5)
            with watch(left, "10.77.0.2", port) as watched:
                offer("10.78.0.0/24")
                os.kill(destination.process.pid, signal.SIGHUP)
                destination.wait_logged("proxy_network: applied", 3)
                wait_for(lambda: any("10.78.0.0/24" in line for line in left.routes()), "the other route", 5)
                assert not any("10.77.0.0/24" in line for line in left.routes())
                since = time.monotonic()
                wait_for(lambda: [e for e in watched.events("new", "TimeoutError") if e["began"] > since], "none is new", 5)
                assert not [event for event in watched.events("new", BEAT) if event["began"] > since]
                watched.wait_beat(time.monotonic(), 2)
                offer("10.77.0.0/24", "10.78.0.0/24")
                os.kill(destination.process.pid, signal.SIGHUP)
                watched.wait_new_flow(time.monotonic(), 5)
                watched.wait_beat(time.monotonic(), 2)


def lost_relay(kind: str) -> None:
    """The relay between two nodes dies and comes back: their flows wait for it."""
    with ExitStack() as stack:
        with STARTING:
            first, relay, last = stack.enter_context(kcp_chain(("ours", kind, "ours")))
        port = stack.enter_context(echo_server(last.namespace))
        watched = stack.enter_context(watch(first.namespace, last.address, port))
        relay.kill9()
        began = time.monotonic()
        relay.start()
        watched.wait_new_flow(began, 15.0)
        watched.wait_beat(time.monotonic(), 20.0)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[object]]]:
    scenes: dict[str, Callable[[], object]] = {str(case): partial(play, case, 0.0) for case in CASES}
    scenes |= {
        "stopped_node": stopped_node,
        "second_signal": second_signal,
        "reloaded_file": partial(reloaded_file, tmp_path_factory.mktemp("reload")),
        "reloaded_networks": partial(reloaded_networks, tmp_path_factory.mktemp("networks")),
        "lost_relay": partial(lost_relay, "ours"),
        "lost_stock_relay": partial(lost_relay, "stock"),
    }
    with ThreadPoolExecutor(len(scenes)) as pool:
        yield {name: pool.submit(scene) for name, scene in scenes.items()}


@pytest.mark.timeout(TAKES_AT_MOST + 60)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_flows_go_on_or_end_and_new_ones_work_in_time(case: Case, outcomes: dict[str, Future[object]]) -> None:
    outcomes[str(case)].result(TAKES_AT_MOST)


@pytest.mark.timeout(TAKES_AT_MOST + 60)
@pytest.mark.parametrize(
    "scene", ["stopped_node", "second_signal", "reloaded_file", "reloaded_networks", "lost_relay", "lost_stock_relay"]
)
def test_what_else_may_happen(scene: str, outcomes: dict[str, Future[object]]) -> None:
    outcomes[scene].result(TAKES_AT_MOST)
