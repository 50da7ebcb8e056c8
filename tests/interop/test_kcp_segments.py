"""Segments larger than stock's, towards a genuine core: the padded PING is answered, and a path that shrinks is survived."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.interop.kcp_scenes import kcp_chain, kcp_options
from tests.interop.scenes import REHEARSAL, listener, node, wait_joined
from tests.netns.nodes import NodeOptions, RunningNode
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import finish, games
from tests.netns.topology import Namespace, Topology, mute_router, wait_for

pytestmark = [
    *INTEROP,
    pytest.mark.skipif(REHEARSAL, reason="a genuine core never asks for larger segments"),
]

RESIZED = re.compile(r"segments to peer \d+ carry (\d+) bytes")


def sizes(ours: RunningNode) -> list[int]:
    """What the segments of our node carried, in turn."""
    return [int(size) for size in RESIZED.findall(ours.log())]


def start(kinds: Sequence[str], spaces: Sequence[Namespace], options: Sequence[NodeOptions]) -> list[RunningNode]:
    """The last node listens, or the one in the middle; it is started first."""
    nodes = [node(*each) for each in zip(kinds, spaces, options, strict=True)]
    for each in sorted(nodes, key=lambda each: not each.options.listeners):
        each.start()
    wait_joined(nodes)
    return nodes


@contextmanager
def neighbours(
    source: str, destination: str, *, scheme: str = "udp", ipv6: bool = False, **both: Any
) -> Iterator[list[RunningNode]]:
    """n1 source fd09::2 / 10.9.1.2 ==== 10.9.1.1 / fd09::1 n2 destination"""
    with Topology() as topology:
        spaces = [topology.namespace("n1"), topology.namespace("n2")]
        topology.join(spaces[0], spaces[1], *(("fd09::2/64", "fd09::1/64") if ipv6 else ("10.9.1.2/24", "10.9.1.1/24")))
        any_host, target = ("[::]", "[fd09::1]") if ipv6 else ("0.0.0.0", "10.9.1.1")
        options = [
            kcp_options(1, source=True, peers=(listener(scheme, target),), **both),
            kcp_options(2, source=False, listeners=(listener(scheme, any_host),), **both),
        ]
        yield start((source, destination), spaces, options)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        pytest.param(1382, {"scheme": "udp"}, id="udp"),
        pytest.param(1382, {"scheme": "tcp"}, id="tcp"),
        pytest.param(1410, {"scheme": "udp", "algorithm": "off"}, id="udp-clear"),
        pytest.param(1410, {"scheme": "tcp", "algorithm": "off"}, id="tcp-clear"),
        pytest.param(1362, {"scheme": "udp", "ipv6": True}, id="udp-ipv6"),
        pytest.param(1382, {"scheme": "udp", "compression": True}, id="udp-compressed"),
    ],
)
@pytest.mark.parametrize("source", ["ours", "stock"])
def test_segments_to_a_genuine_core_grow(source: str, size: int, settings: dict[str, Any]) -> None:
    kinds = ("ours", "stock") if source == "ours" else ("stock", "ours")
    with neighbours(*kinds, **settings) as nodes, games(nodes[0].namespace, nodes[1].namespace, nodes[1].address) as played:
        played.play("upload" if source == "ours" else "download", size_bytes=10_000_000)
        assert sizes(nodes[kinds.index("ours")]) == [size]


def test_segments_grow_through_a_genuine_relay_less_than_its_ipv6_would_need() -> None:
    with (
        kcp_chain(("ours", "stock", "stock")) as nodes,
        games(nodes[0].namespace, nodes[2].namespace, nodes[2].address) as played,
    ):
        played.play("upload", size_bytes=10_000_000)
        assert sizes(nodes[0]) == [1362]


@contextmanager
def through_a_router(destination: str, *, ipv6: bool) -> Iterator[tuple[list[RunningNode], Namespace, str]]:
    """n1 source, ours ==== router ==== n2 destination.  Also the router and its device towards n2.  It tells nobody that a
    packet was too large."""
    with Topology() as topology:
        spaces = [topology.namespace("n1"), topology.namespace("n2")]
        router, device, (_, far) = mute_router(topology, *spaces, ipv6=ipv6)
        any_host, target = ("[::]", f"[{far}]") if ipv6 else ("0.0.0.0", far)
        options = [
            kcp_options(1, source=True, peers=(listener("udp", target),)),
            kcp_options(2, source=False, listeners=(listener("udp", any_host),)),
        ]
        yield start(("ours", destination), spaces, options), router, device


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_a_black_hole_after_the_route_has_changed_repairs_itself(ipv6: bool) -> None:
    with through_a_router("stock", ipv6=ipv6) as (nodes, router, device):
        source, destination = nodes
        with games(source.namespace, destination.namespace, destination.address) as played:
            client = played.begin("upload", size_bytes=120_000_000)
            wait_for(lambda: sizes(source) == [1362 if ipv6 else 1382], "segments are large")
            router.run("ip", "link", "set", device, "mtu", "1400")
            finish(client, 50)
            if ipv6:
                # By IPv4 the router cuts what leaves as one of many, so that nothing stalls.
                assert sizes(source)[1] == 1176


def test_where_full_packets_never_pass_segments_stay_small() -> None:
    with through_a_router("stock", ipv6=False) as (nodes, router, device):
        router.run("ip", "link", "set", device, "mtu", "1400")
        with games(nodes[0].namespace, nodes[1].namespace, nodes[1].address) as played:
            played.play("upload", size_bytes=10_000_000)
        assert sizes(nodes[0]) == []
