"""What the user-space TCP stack can do and the kernel's cannot: pass a closed firewall, and carry flows of hosts behind a node.

lan1 10.77.0.2 ==== 10.77.0.1 n1 10.99.0.1 ==50 ms there and back== 10.99.0.2 n2 10.78.0.1 ==== 10.78.0.2 lan2
                              10.144.0.1                                          10.144.0.2
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from bench.link import LinkOptions
from tests.interop.kcp_scenes import NEEDS_NATIVE, STACKS, KcpPair, endings, kcp_pair, transports
from tests.netns.nodes import OurNode, RunningNode
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import Games, finish, games
from tests.netns.topology import Namespace, Topology, wait_for

pytestmark = [
    *INTEROP,
    pytest.mark.skipif(shutil.which("nft") is None and not os.environ.get("CI"), reason="needs the command nft"),
]


def close_firewall(node: Namespace) -> None:
    """No connection may come in from the overlay's device; answers may."""
    for words in (
        "add table ip closed",
        "add chain ip closed input { type filter hook input priority 0 ; }",
        "add rule ip closed input iifname et0 tcp flags & ( syn | ack ) == syn counter drop",
    ):
        node.run("nft", *words.split())


def refused_by_firewall(node: Namespace) -> bool:
    return "packets 0 " not in node.run("nft", "list", "table", "ip", "closed").stdout


@pytest.mark.parametrize("stack", STACKS)
def test_a_closed_firewall_is_no_obstacle_in_user_space(stack: str) -> None:
    with kcp_pair("ours", "stock", stack=stack) as nodes, nodes.games() as played:
        close_firewall(nodes.source.namespace)
        if stack == "smoltcp":
            played.play("download", size_bytes=2_000_000)
            assert played.play("flows", count=10, at_once=10)["errors"] == []
            assert transports(nodes.source, "tcp") == []
            assert not refused_by_firewall(nodes.source.namespace)
        else:
            assert played.play("flows", count=1)["errors"] == []
            assert played.play("flows", count=5)["errors"] == []
            first, *others = transports(nodes.source, "tcp")
            # One flow waits for what the firewall drops, and finds out for the others.
            assert first == "kcp: the kernel's TCP did not answer within 2 s"
            assert len(others) == 5
            assert all(re.fullmatch(r"the kernel's TCP did not answer \d+ s ago", reason) for reason in others)
            assert nodes.source.log().count("a firewall seems to drop what comes from the TUN device") == 1
            assert refused_by_firewall(nodes.source.namespace)


@dataclass
class Lans:
    """Two nodes with a host behind each."""

    nodes: KcpPair
    first: Namespace
    second: Namespace

    @property
    def ours(self) -> OurNode:
        ours = self.nodes.source if isinstance(self.nodes.source, OurNode) else self.nodes.destination
        assert isinstance(ours, OurNode)
        return ours

    @contextmanager
    def games(self) -> Iterator[Games]:
        """A server on the second host, clients on the first."""
        with games(self.first, self.second, "10.78.0.2") as played:
            yield played


@contextmanager
def lans(source: str, destination: str, stack: str = "smoltcp") -> Iterator[Lans]:
    pair = kcp_pair(
        source,
        destination,
        stack=stack,
        source_more={"proxy_networks": ("10.77.0.0/24",)},
        destination_more={"proxy_networks": ("10.78.0.0/24",)},
    )
    with pair as nodes, Topology() as topology:
        first = host_behind(nodes.source, topology, "lan1", "10.77.0")
        second = host_behind(nodes.destination, topology, "lan2", "10.78.0")
        for node, network in ((nodes.source, "10.78.0.0/24"), (nodes.destination, "10.77.0.0/24")):
            wait_for(partial(has_route, node.namespace, network), f"route to {network}")
        yield Lans(nodes, first, second)


def host_behind(node: RunningNode, topology: Topology, label: str, network: str) -> Namespace:
    """A host for which the node's machine is the gateway."""
    host = topology.namespace(label)
    topology.join(host, node.namespace, f"{network}.2/24", f"{network}.1/24")
    host.run("ip", "route", "add", "default", "via", f"{network}.1")
    node.namespace.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    return host


def has_route(namespace: Namespace, network: str) -> bool:
    return any(network in route for route in namespace.routes())


@NEEDS_NATIVE
@pytest.mark.parametrize("destination", ["stock", "ours"])
def test_hosts_behind_our_node_reach_hosts_behind_another_by_kcp(destination: str) -> None:
    with lans("ours", destination) as between, between.games() as played:
        played.play("download", size_bytes=3_000_000)
        played.play("upload", size_bytes=3_000_000)
        played.play("banner")
        played.play("half_close", late=0.5)
        assert played.play("flows", count=30, at_once=30)["errors"] == []
        assert played.play("attempt", port=9)["outcome"] in ("refused", "reset")
        assert len(transports(between.ours, "kcp")) == 35
        assert transports(between.ours, "tcp") == []
        assert len(endings(between.ours, "Failed")) == 1


def test_hosts_behind_a_stock_node_reach_hosts_behind_ours_by_kcp() -> None:
    with lans("stock", "ours") as between, between.games() as played:
        played.play("download", size_bytes=3_000_000)
        played.play("upload", size_bytes=3_000_000)
        # Of many at once a genuine source refuses some by itself.
        assert played.play("flows", count=10)["errors"] == []
        assert len(transports(between.ours, "kcp")) == 12
        assert transports(between.ours, "tcp") == []


def test_without_the_option_they_do_by_plain_tcp() -> None:
    with lans("ours", "stock", stack="kernel") as between, between.games() as played:
        played.play("download", size_bytes=1_000_000)
        assert transports(between.ours, "kcp") == []
        assert transports(between.ours, "tcp") == ["subnet-to-subnet needs --use-smoltcp"]


@pytest.mark.parametrize("stack", STACKS)
def test_a_node_that_stops_resets_the_connections_of_applications(stack: str) -> None:
    with kcp_pair("ours", "ours", stack=stack) as nodes, nodes.games() as played:
        running = played.begin("attempt", port=played.port_of("silent"), limit=30.0)
        wait_for(lambda: "Connected()" in nodes.source.log(), "the flow is carried")
        assert nodes.source.stop() == 0
        answer = finish(running)
        assert answer["outcome"] == "reset"
        assert answer["seconds"] < 15.0


@NEEDS_NATIVE
def test_a_flow_that_is_silent_costs_little_memory() -> None:
    flows, most_bytes = 400, 64_000
    with kcp_pair("ours", "ours", link=LinkOptions(), stack="smoltcp", quiet=True) as nodes, nodes.games() as played:
        played.play("banner")
        source = nodes.source
        before = source.process.resident_bytes()
        client = played.begin("idle", count=flows, seconds=2.0)
        wait_for(lambda: established(source.namespace) == flows, f"{flows} connections", 40.0)
        assert source.process.resident_bytes() - before < flows * most_bytes
        assert finish(client)["alive"] == flows


def established(namespace: Namespace) -> int:
    """TCP connections of applications."""
    return len(namespace.run("ss", "-Htn", "state", "established").stdout.splitlines())
