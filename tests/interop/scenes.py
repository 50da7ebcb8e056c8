"""The networks that the interop tests play in, each a context manager, and the questions they share.

With `EASYTIER_TEST_OURS=stock` in the environment a genuine core takes the place of ours: a rehearsal, which tells a
mistake of the test from one of our node.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import permutations

from tests.netns.nodes import NodeOptions, RunningNode, StockNode, make_node, reachable_hosts
from tests.netns.topology import Namespace, Topology, wait_for

PORT = 11010
JOIN_SECONDS = 15.0
REHEARSAL = os.environ.get("EASYTIER_TEST_OURS") == "stock"


def node(kind: str, namespace: Namespace, options: NodeOptions) -> RunningNode:
    """A node of `kind` `stock` or `ours`."""
    return make_node("stock" if REHEARSAL else kind, namespace, options)


def options_for(number: int, **more: object) -> NodeOptions:
    """Options of node `number`: hostname `n<number>`, address `10.144.0.<number>/24`; `more` are fields of NodeOptions."""
    return replace(NodeOptions(f"n{number}", f"10.144.0.{number}/24"), **more)  # type: ignore[arg-type]


def listener(scheme: str, host: str = "0.0.0.0") -> str:
    return f"{scheme}://{host}:{PORT}"


@contextmanager
def pair(
    listening: str,
    dialling: str,
    *,
    scheme: str = "udp",
    ipv6: bool = False,
    start: bool = True,
    differences: dict[str, object] | None = None,
    **both: object,
) -> Iterator[tuple[RunningNode, RunningNode]]:
    """Two nodes on one veth; the second one dials the first.

        n1 (listens) 10.9.1.1 / fd09::1 ======== 10.9.1.2 / fd09::2 n2 (dials)

    `both` are options of both; `differences` change those of the dialling one.
    """
    with Topology() as topology:
        left, right = topology.namespace("n1"), topology.namespace("n2")
        topology.join(left, right, *(("fd09::1/64", "fd09::2/64") if ipv6 else ("10.9.1.1/24", "10.9.1.2/24")))
        any_host, target = ("[::]", "[fd09::1]") if ipv6 else ("0.0.0.0", "10.9.1.1")
        first = node(listening, left, options_for(1, listeners=(listener(scheme, any_host),), **both))
        second = node(dialling, right, options_for(2, peers=(listener(scheme, target),), **(both | (differences or {}))))
        if start:
            first.start()
            second.start()
        yield first, second


@contextmanager
def chain(kinds: Sequence[str], *, scheme: str = "udp", **all_options: object) -> Iterator[list[RunningNode]]:
    """Three nodes in a row; the middle one listens, and the ends have no underlay in common.

    n1 (dials) 10.9.1.2 ==== 10.9.1.1 n2 (listens) 10.9.2.1 ==== 10.9.2.2 n3 (dials)
    """
    with Topology() as topology:
        spaces = [topology.namespace(f"n{number}") for number in (1, 2, 3)]
        topology.join(spaces[1], spaces[0], "10.9.1.1/24", "10.9.1.2/24")
        topology.join(spaces[1], spaces[2], "10.9.2.1/24", "10.9.2.2/24")
        options = [
            options_for(1, peers=(f"{scheme}://10.9.1.1:{PORT}",), **all_options),
            options_for(2, listeners=(listener(scheme),), **all_options),
            options_for(3, peers=(f"{scheme}://10.9.2.1:{PORT}",), **all_options),
        ]
        nodes = [node(kind, space, each) for kind, space, each in zip(kinds, spaces, options, strict=True)]
        for each in (nodes[1], nodes[0], nodes[2]):
            each.start()
        yield nodes


def sees(observer: StockNode, other: RunningNode) -> bool:
    """Whether the stock node's route table has the other one with its virtual address."""
    return reachable_hosts(observer).get(other.options.hostname) == other.options.ipv4


def wait_joined(nodes: Sequence[RunningNode], timeout: float = JOIN_SECONDS) -> None:
    """Wait until each node reaches each other: by the routes of stock nodes, and by an echo every way."""
    for one, other in permutations(nodes, 2):
        if isinstance(one, StockNode):
            wait_for(partial(sees, one, other), f"{one!r} has a route to {other!r}", timeout)
        wait_for(partial(reaches, one, other), f"echo from {one!r} to {other!r}", timeout)


def reaches(one: RunningNode, other: RunningNode) -> bool:
    """Whether one echo request from one node's namespace to the other's virtual address is answered."""
    return one.ping(other) == 1.0


def echoes_all(one: RunningNode, other: RunningNode, *, count: int, size_bytes: int) -> None:
    """Wait until a whole series of echo requests is answered.  A node that has just joined may lose some on a busy machine."""
    wait_for(
        lambda: one.ping(other, count=count, size_bytes=size_bytes, interval=0.02) == 1.0,
        f"all of {count} echoes of {size_bytes} bytes from {one!r} to {other!r}",
        10,
    )


def stock_of(nodes: Sequence[RunningNode], index: int) -> StockNode:
    """The node at `index`, which has to be a stock one."""
    found = nodes[index]
    assert isinstance(found, StockNode), found
    return found
