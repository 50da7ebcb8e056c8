"""Flows come and go for long, over a lossy line: what our nodes hold stays level, and is in the end what it was at first.

    n1 source (ours) ==link0, delay, loss== n2 (ours, listens) ======== n3 (stock)       flows n1 - n2, n1 - n3, n3 - n2, by KCP

`make soak SECONDS=14400` goes on for hours.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from bench.link import LinkOptions, LossyLink
from tests.interop.kcp_scenes import kcp_options
from tests.interop.scenes import PORT, listener, node, wait_joined
from tests.netns.nodes import RunningNode
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import finish, games
from tests.netns.topology import Topology, wait_for

logger = logging.getLogger(__name__)

SECONDS: Final = float(os.environ.get("ET_SOAK_SECONDS", "150"))
AT_ONCE: Final = int(os.environ.get("ET_SOAK_AT_ONCE", "3"))
"""Games of each of the three directions."""
LINE: Final = LinkOptions(delay=0.01, jitter=0.004, loss=0.03)
METRICS_PORT: Final = 9188
LOOK_EVERY: Final = max(0.5, SECONDS / 200)
QUIET_SECONDS: Final = 90.0
"""In which a node lets go of what has ended; the longest wait of a session is 60."""
MAY_GROW_BYTES, MAY_GROW_SHARE = 5_000_000, 0.10
"""Of resident memory between the second quarter and the last: noise of allocators, and of how many flows live at the moment."""
MAY_STAY: Final = 3
"""Tasks and files more than in the beginning: a timer here, a connection of a monitor there."""
CHURN: Final = Path(__file__).with_name("churn.py")

pytestmark = [*INTEROP, pytest.mark.timeout(SECONDS + 300), pytest.mark.xdist_group("soak")]


@dataclass(frozen=True)
class Holding:
    """What a node holds at one moment; `flows` are those that live."""

    resident: int
    files: int
    tasks: int
    flows: int


def look(node: RunningNode) -> Holding:
    """Now."""
    url = f"http://127.0.0.1:{METRICS_PORT}/metrics"
    text = node.namespace.run("curl", "--silent", "--show-error", "--max-time", "10", url).stdout

    def total(name: str) -> int:
        return sum(map(int, re.findall(rf"^{name}\{{.*\}} (\d+)$", text, re.MULTILINE)))

    files = len(os.listdir(f"/proc/{node.process.pid}/fd"))
    return Holding(node.process.resident_bytes(), files, total("node_tasks"), total("node_flows"))


@contextmanager
def row() -> Iterator[list[RunningNode]]:
    """The three nodes, joined."""
    ours = ("--metrics-listener", str(METRICS_PORT))
    with ExitStack() as exits:
        topology = exits.enter_context(Topology())
        spaces = [topology.namespace(f"n{number}") for number in (1, 2, 3)]
        link = exits.enter_context(LossyLink(spaces[0].name, spaces[1].name, replace(LINE, loss=0.0)))
        topology.join(spaces[1], spaces[2], "10.9.2.1/24", "10.9.2.2/24")
        options = [
            kcp_options(1, source=True, quiet=True, peers=(f"udp://10.99.0.2:{PORT}",), our_arguments=ours),
            kcp_options(2, source=False, quiet=True, listeners=(listener("udp"),), our_arguments=ours),
            kcp_options(3, source=True, quiet=True, peers=(f"udp://10.9.2.1:{PORT}",)),
        ]
        kinds = ("ours", "ours", "stock")
        nodes = [node(kind, space, each) for kind, space, each in zip(kinds, spaces, options, strict=True)]
        for number in (1, 0, 2):
            nodes[number].start()
        wait_joined(nodes)
        link.change(loss=LINE.loss)
        yield nodes


def assert_level(what: str, values: Sequence[int], may_grow: float) -> None:
    """The most in the last quarter beside the most in the second one: the first one warms up."""
    quarter = len(values) // 4
    before, after = max(values[quarter : 2 * quarter]), max(values[-quarter:])
    assert after <= before + may_grow, f"{what} grew from {before} to {after}: {values[:: max(1, quarter // 5)]}"


def test_what_nodes_hold_stays_level_and_goes_with_the_flows() -> None:
    with ExitStack() as exits:
        nodes = exits.enter_context(row())
        source, middle, stock = nodes
        ours = (source, middle)
        played = {
            (one, other): exits.enter_context(games(one.namespace, other.namespace, other.address))
            for one, other in ((source, middle), (source, stock), (stock, middle))
        }
        before = [look(each) for each in ours]
        churns = []
        for number, ((one, _), served) in enumerate(played.items()):
            kind = "stock" if one is stock else "ours"
            arguments = (str(SECONDS), str(AT_ONCE), str(number), kind, served.address, str(served.port))
            churns.append(one.namespace.spawn(sys.executable, str(CHURN), *arguments, label="churn"))
        held: list[list[Holding]] = [[], []]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and all(churn.running for churn in churns):
            for each, holdings in zip(ours, held, strict=True):
                holdings.append(look(each))
            time.sleep(LOOK_EVERY)
        results = [finish(churn, 100.0) for churn in churns]
        errors = [error for result in results for error in result["errors"]]
        flows = sum(sum(result["played"].values()) for result in results)
        for each, holdings in zip(ours, held, strict=True):
            logger.info("%r: %d games in all; %s ... %s", each, flows, holdings[len(holdings) // 4], holdings[-1])
            resident = [holding.resident for holding in holdings]
            assert_level(f"memory of {each!r}", resident, MAY_GROW_BYTES + MAY_GROW_SHARE * resident[len(resident) // 4])
            for what, values in (("files", [h.files for h in holdings]), ("tasks", [h.tasks for h in holdings])):
                assert_level(f"{what} of {each!r}", values, 0.5 * max(values) + 20)
        assert flows > SECONDS
        assert errors == []
        for each, first in zip(ours, before, strict=True):
            wait_for(has_let_go(each, first), f"{each!r} holds what it began with, {first}: {look(each)}", QUIET_SECONDS)


def has_let_go(node: RunningNode, first: Holding) -> Callable[[], bool]:
    """Whether a node holds no more than at first, but for what may stay."""

    def done() -> bool:
        now = look(node)
        return now.flows == 0 and now.tasks <= first.tasks + MAY_STAY and now.files <= first.files + MAY_STAY

    return done
