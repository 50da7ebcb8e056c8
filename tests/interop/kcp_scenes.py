"""Networks in which TCP flows travel by KCP, over links with delay and losses; for tests and for `bench/rivals.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec

import pytest

from bench.link import LinkOptions, LossyLink
from tests.interop.scenes import PORT, listener, node, options_for, wait_joined
from tests.netns.nodes import NodeOptions, OurNode, RunningNode
from tests.netns.tcp_games import Games, games
from tests.netns.topology import Topology

DIRECTIONS = {"ours-stock": ("ours", "stock"), "stock-ours": ("stock", "ours"), "ours-ours": ("ours", "ours")}
"""Name (source - destination) -> kinds of both."""
NEEDS_NATIVE = pytest.mark.skipif(
    find_spec("easytier_kcp_plugin._native") is None, reason="the native module is not built: no cargo here"
)
STACKS = (pytest.param("kernel", id="kernel"), pytest.param("smoltcp", id="smoltcp", marks=NEEDS_NATIVE))
"""What ends the connections of applications at the source, as parameters of tests."""
DELAY = 0.0225
JITTER = 0.005
"""Seconds, one way: 50 ms there and back on average."""
LONG_WAY = LinkOptions(delay=DELAY, jitter=JITTER)


def kcp_options(number: int, *, source: bool, quiet: bool = False, stack: str = "kernel", **more: object) -> NodeOptions:
    """Options of node `number`, with the KCP proxy on if it is a `source`; `stack` is "kernel" or "smoltcp"."""
    options = options_for(number, **more)
    arguments = ("--console-log-level", "info" if quiet else "debug", *options.our_arguments)
    flags = dict(options.stock_flags)
    if source:
        arguments += ("--enable-kcp-proxy",)
        flags["enable_kcp_proxy"] = True
    if stack == "smoltcp":
        arguments += ("--use-smoltcp",)
        flags["use_smoltcp"] = True
    return options_for(number, **(more | {"our_arguments": arguments, "stock_flags": flags}))


@dataclass
class KcpPair:
    """Two joined nodes; flows begin at `source`.  `link` is the underlay between them."""

    source: RunningNode
    destination: RunningNode
    link: LossyLink

    def games(self) -> AbstractContextManager[Games]:
        """A server at the destination, clients at the source."""
        return games(self.source.namespace, self.destination.namespace, self.destination.address)


@contextmanager
def kcp_pair(
    source: str,
    destination: str,
    *,
    scheme: str = "udp",
    link: LinkOptions = LONG_WAY,
    source_more: dict[str, object] | None = None,
    destination_more: dict[str, object] | None = None,
    quiet: bool = False,
    stack: str = "kernel",
    **both: object,
) -> Iterator[KcpPair]:
    """Two nodes over a lossy link; the source dials the destination.  The losses begin once the nodes have met.  With
    `quiet` our nodes do not log flows.  `stack` is that of the source.

    n1 source 10.99.0.1 ==link0, delay, loss== 10.99.0.2 n2 destination        overlay 10.144.0.1, 10.144.0.2
    """
    with Topology() as topology:
        left, right = topology.namespace("n1"), topology.namespace("n2")
        with LossyLink(left.name, right.name, replace(link, loss=0.0)) as emulator:
            first = node(
                source,
                left,
                kcp_options(
                    1,
                    source=True,
                    quiet=quiet,
                    stack=stack,
                    peers=(f"{scheme}://10.99.0.2:{PORT}",),
                    **(both | (source_more or {})),
                ),
            )
            second = node(
                destination,
                right,
                kcp_options(
                    2,
                    source=False,
                    quiet=quiet,
                    stack="kernel",
                    listeners=(listener(scheme),),
                    **(both | (destination_more or {})),
                ),
            )
            second.start()
            first.start()
            wait_joined((first, second))
            emulator.change(loss=link.loss)
            yield KcpPair(first, second, emulator)


def transports(node: RunningNode, transport: str) -> list[str]:
    """The reasons with which our node has chosen `transport`, one for each flow, oldest first."""
    assert isinstance(node, OurNode), node
    pattern = re.compile(rf"TransportSelected\(transport='{transport}', reason=(['\"])(.*?)\1, chosen_by")
    return [found[2] for found in pattern.finditer(node.log())]


def endings(node: RunningNode, kind: str) -> list[str]:
    """The reasons of the `Closed` or `Failed` events of our node."""
    assert isinstance(node, OurNode), node
    return [found[2] for found in re.finditer(rf"{kind}\(reason=(['\"])(.*?)\1\)", node.log())]


@contextmanager
def kcp_chain(kinds: Sequence[str]) -> Iterator[list[RunningNode]]:
    """Three joined nodes in a row, over UDP; flows begin at the first, and the middle one relays.

    n1 source 10.9.1.2 ==== 10.9.1.1 n2 (listens) 10.9.2.1 ==== 10.9.2.2 n3 destination
    """
    with Topology() as topology:
        spaces = [topology.namespace(f"n{number}") for number in (1, 2, 3)]
        topology.join(spaces[1], spaces[0], "10.9.1.1/24", "10.9.1.2/24")
        topology.join(spaces[1], spaces[2], "10.9.2.1/24", "10.9.2.2/24")
        options = [
            kcp_options(1, source=True, peers=(f"udp://10.9.1.1:{PORT}",)),
            kcp_options(2, source=False, listeners=(listener("udp"),)),
            kcp_options(3, source=False, peers=(f"udp://10.9.2.1:{PORT}",)),
        ]
        nodes = [node(kind, space, each) for kind, space, each in zip(kinds, spaces, options, strict=True)]
        for each in (nodes[1], nodes[0], nodes[2]):
            each.start()
        wait_joined(nodes)
        yield nodes
