"""Faults, and the networks in which they are tried: what happens to a flow under way, and when new ones work again.

    n1 source 10.9.1.1 ==== 10.9.1.2 n2 destination 10.77.0.1 ==== 10.77.0.2 lan       overlay 10.144.0.1, 10.144.0.2

The source dials the destination.  `test_faults` runs some cases, `matrix` all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.interop.kcp_scenes import kcp_options, transports
from tests.interop.scenes import PORT, listener
from tests.netns.nodes import NodeOptions, NodeWithoutDevice, OurNode, RunningNode, make_node
from tests.netns.pulse import Watch, echo_server, watch
from tests.netns.topology import Namespace, Topology, traces, wait_for

CUT: Final = 12.0
"""Seconds without a line: longer than any node waits before it gives a neighbour up."""
DOWN: Final = 30.0
"""Seconds without an interface; flows wait for a minute."""
STEADY: Final = 10.5
"""Seconds that a connection lives before the fault; a younger one is made anew after a longer pause (`connector`)."""
STARTING: Final = threading.Semaphore(2)
"""Held by who starts nodes, which costs a second of the processor each: many scenes at once would time out else."""
LIVE_SECONDS: Final = 30.0
"""For a flow to go on or to end after all that a fault does."""
DESCRIPTORS: Final = 2
"""That the node may have beside those in use."""


class Case(NamedTuple):
    """One cell of the matrix."""

    way: str
    """How flows enter at the source: `kernel` or `smoltcp` ends those of the TUN device; `no-tun`: a port forward."""
    scheme: str
    target: str
    """`node`: a server on the destination; `subnet`: one behind it."""
    peer: str
    """The destination is `ours` or `stock`."""
    fault: str

    def __str__(self) -> str:
        return "-".join(self)


class Outcome(NamedTuple):
    """What was seen, in seconds."""

    recovery: float
    """From the end of the fault until a new flow had its answer."""
    live: str
    """What became of the flow under way: `goes on`, or how it ended for the application."""


@dataclass
class Scene:
    """A running case, before its fault."""

    case: Case
    source: RunningNode
    destination: RunningNode
    watch: Watch


@dataclass(frozen=True)
class Fault:
    """`strike` returns the time at which the fault was over.  `ours` and `stock` are the seconds that docs/reliability.md
    gives a new flow, with a destination of that kind; `ends` says whether a flow under way ends."""

    strike: Callable[[Scene], float]
    ours: float
    stock: float
    ends: bool = False


def kill(scene: Scene) -> float:
    """The destination dies without a word, and is started again."""
    scene.destination.kill9()
    began = time.monotonic()
    scene.destination.start()
    return began


def own(scene: Scene) -> float:
    """The source dies without a word, and is started again."""
    scene.source.kill9()
    began = time.monotonic()
    scene.source.start()
    return began


def stop(scene: Scene) -> float:
    """The destination is restarted in good order, which the flow under way delays by 2 s."""
    assert scene.destination.stop() == 0
    scene.destination.start()
    return time.monotonic()


def blackhole(scene: Scene) -> float:
    """The line drops everything for a while."""
    _cut(scene.destination.namespace, "v0r")
    return time.monotonic()


def interface(scene: Scene) -> float:
    """The source's interface is down for a while."""
    space = scene.source.namespace
    space.run("ip", "link", "set", "v0l", "down")
    time.sleep(DOWN)
    space.run("ip", "link", "set", "v0l", "up")
    return time.monotonic()


def rebind(scene: Scene) -> float:
    """The source's underlay address changes."""
    space = scene.source.namespace
    space.run("ip", "addr", "flush", "dev", "v0l", "scope", "global")
    space.run("ip", "addr", "add", "10.9.1.7/24", "dev", "v0l")
    return time.monotonic()


def suspend(scene: Scene) -> float:
    """The source stands still, as a suspended machine does."""
    os.kill(scene.source.process.pid, signal.SIGSTOP)
    time.sleep(CUT)
    os.kill(scene.source.process.pid, signal.SIGCONT)
    return time.monotonic()


def device(scene: Scene) -> float:
    """Somebody deletes the source's TUN device."""
    scene.source.namespace.run("ip", "link", "del", "et0")
    return time.monotonic()


def touched(scene: Scene) -> float:
    """Somebody takes everything from the source's TUN device but itself, and the packet filter, which nodes have no part in."""
    space = scene.source.namespace
    began = time.monotonic()
    for command in ("ip link set et0 down", "ip link set et0 up", "ip addr flush dev et0", "nft flush ruleset"):
        space.run(*command.split())
    return began


def descriptors(scene: Scene) -> float:
    """The source has hardly a file descriptor left for a while, which costs neither the flow under way nor the processor."""
    process = scene.source.process
    allowed = len(os.listdir(f"/proc/{process.pid}/fd")) + DESCRIPTORS - 1
    subprocess.run(["prlimit", f"--pid={process.pid}", f"--nofile={allowed}:"], check=True)
    before = process.cpu_seconds()
    time.sleep(4)
    assert process.cpu_seconds() - before < 2, "it spins"
    scene.watch.wait_beat(time.monotonic(), 2)
    subprocess.run(["prlimit", f"--pid={process.pid}", "--nofile=1024:"], check=True)
    return time.monotonic()


FAULTS: Final[Mapping[str, Fault]] = {
    "kill": Fault(kill, ours=8.0, stock=15.0, ends=True),
    "stop": Fault(stop, ours=6.0, stock=15.0, ends=True),
    "own": Fault(own, ours=6.0, stock=16.0, ends=True),
    "blackhole": Fault(blackhole, ours=9.0, stock=9.0),
    "interface": Fault(interface, ours=4.0, stock=4.0),
    "rebind": Fault(rebind, ours=6.0, stock=18.0),
    "suspend": Fault(suspend, ours=6.0, stock=18.0),
    "device": Fault(device, ours=3.0, stock=3.0),
    "touched": Fault(touched, ours=4.0, stock=4.0),
    "descriptors": Fault(descriptors, ours=4.0, stock=4.0),
}


def play(case: Case, steady: float = STEADY) -> Outcome:
    """Try one case, after flows have run for `steady` seconds.

    Raises AssertionError for what does not hold, also if anything is left behind when the nodes have stopped.
    """
    fault = FAULTS[case.fault]
    with scene(case) as played:
        time.sleep(steady)
        since = fault.strike(played)
        recovery = played.watch.wait_new_flow(since, fault.ours if case.peer == "ours" else fault.stock)
        if fault.ends:
            live = played.watch.wait_live_end(LIVE_SECONDS)
            assert live in ("ConnectionResetError", "ended by FIN"), live
        else:
            played.watch.wait_beat(time.monotonic(), LIVE_SECONDS)
            live = "goes on"
        assert played.source.alive
        assert played.destination.alive
    return Outcome(recovery, live)


@contextmanager
def scene(case: Case) -> Iterator[Scene]:
    """The network of a case, with flows under way by KCP."""
    with Topology() as topology, ExitStack() as stack:
        left, right = topology.namespace("n1"), topology.namespace("n2")
        topology.join(left, right, "10.9.1.1/24", "10.9.1.2/24")
        server, address, bind = right, "10.144.0.2", "0.0.0.0"
        if case.target == "subnet":
            server, address = topology.namespace("lan"), "10.77.0.2"
            topology.join(server, right, "10.77.0.2/24", "10.77.0.1/24")
        before = [traces(space) for space in (left, right)]
        port = stack.enter_context(echo_server(server, bind))
        networks = ("10.77.0.0/24",) if case.target == "subnet" else ()
        destination = make_node(
            case.peer,
            right,
            kcp_options(
                2,
                source=False,
                listeners=(listener(case.scheme),),
                proxy_networks=networks,
                our_arguments=("--drain-timeout", "2"),
            ),
        )
        source = _source(case, left, f"{address}:{port}")
        start(destination, source)
        entrance = ("127.0.0.1", 18_080) if case.way == "no-tun" else (address, port)
        watched = stack.enter_context(watch(left, *entrance))
        assert transports(source, "kcp"), "flows go by KCP"
        assert not transports(source, "tcp")
        yield Scene(case, source, destination, watched)
        source.stop()
        destination.stop()
        for space, trace in zip((left, right), before, strict=True):
            _undo_rebind(case, space)
            wait_for(lambda space=space, trace=trace: traces(space) == trace, f"{space!r} is as before: {trace}", 5)  # type: ignore[misc]


def start(destination: RunningNode, source: RunningNode) -> None:
    """Start both, and wait until they know each other."""
    with STARTING:
        destination.start()
        source.start()
        source.wait_logged("route to peer", 20.0)


def _source(case: Case, space: Namespace, target: str) -> RunningNode:
    arguments: tuple[str, ...] = ("--drain-timeout", "2")
    if case.way == "no-tun":
        arguments += ("--no-tun", "--port-forward", f"tcp://127.0.0.1:18080/{target}")
    options: NodeOptions = kcp_options(
        1,
        source=True,
        stack="smoltcp" if case.way == "smoltcp" else "kernel",
        peers=(f"{case.scheme}://10.9.1.2:{PORT}",),
        our_arguments=arguments,
    )
    return (NodeWithoutDevice if case.way == "no-tun" else OurNode)(space, options)


def _cut(space: Namespace, device_name: str) -> None:
    hook = "{ type filter hook prerouting priority -300 ; policy accept ; }"
    space.run("nft", "add", "table", "ip", "cut")
    space.run("nft", "add", "chain", "ip", "cut", "everything", hook)
    space.run("nft", "add", "rule", "ip", "cut", "everything", "iifname", device_name, "drop")
    time.sleep(CUT)
    space.run("nft", "delete", "table", "ip", "cut")


def _undo_rebind(case: Case, space: Namespace) -> None:
    if case.fault == "rebind" and space.label == "n1":
        space.run("ip", "addr", "flush", "dev", "v0l", "scope", "global")
        space.run("ip", "addr", "add", "10.9.1.1/24", "dev", "v0l")
