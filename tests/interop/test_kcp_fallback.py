"""When KCP cannot be had: flows go by plain TCP soon, and our node says why.

n1 source 10.99.0.1 ==50 ms there and back== 10.99.0.2 n2 destination        overlay 10.144.0.1, 10.144.0.2
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.interop.kcp_scenes import NEEDS_NATIVE, KcpPair, kcp_pair, transports
from tests.interop.scenes import REHEARSAL, wait_joined
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import finish
from tests.netns.topology import wait_for

pytestmark = [
    *INTEROP,
    pytest.mark.skipif(REHEARSAL, reason="a genuine source has no fallback"),
    pytest.mark.skipif(shutil.which("nft") is None and not os.environ.get("CI"), reason="needs the command nft"),
]

FALLBACK_SECONDS = 2.2 + 0.3
"""To find out that KCP does not answer, and three round trips of TCP with room for a busy machine."""
DISABLED = "kcp input disabled there"


def one_flow(nodes: KcpPair, *, count: int = 1) -> float:
    """Play some small flows; returns the seconds that the slowest took."""
    with nodes.games() as played:
        answer = played.play("flows", count=count)
    assert answer["errors"] == []
    return float(answer["seconds"][-1])


@contextmanager
def without_kcp(nodes: KcpPair) -> Iterator[None]:
    """Packets of the types 11 and 12 do not arrive: the type is byte 16 after the UDP header of an unencrypted frame."""
    for node in (nodes.source, nodes.destination):
        for words in (
            "add table ip filter",
            "add chain ip filter input { type filter hook input priority 0 ; }",
            "add rule ip filter input iifname link0 meta l4proto udp @th,192,8 { 0x0b, 0x0c } counter drop",
        ):
            node.namespace.run("nft", *words.split())
    try:
        yield
    finally:
        for node in (nodes.source, nodes.destination):
            node.namespace.run("nft", "delete", "table", "ip", "filter")


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        pytest.param("stock", {"stock_flags": {"disable_kcp_input": True}}, id="stock-disable_kcp_input"),
        pytest.param("ours", {"our_arguments": ("--disable-kcp-input",)}, id="ours-disable-kcp-input"),
    ],
)
def test_a_peer_that_takes_no_kcp_gets_tcp_without_delay(kind: str, more: dict[str, object]) -> None:
    with kcp_pair("ours", kind, destination_more=more) as nodes:
        assert one_flow(nodes) < 0.5
        assert transports(nodes.source, "kcp") == []
        assert transports(nodes.source, "tcp") == [DISABLED]


def test_a_peer_without_the_plugin_gets_tcp_without_delay(tmp_path: Path) -> None:
    config = tmp_path / "n2.toml"
    config.write_text("[plugins]\nkcp = false\n")
    with kcp_pair("ours", "ours", destination_more={"our_arguments": ("-c", str(config))}) as nodes:
        assert one_flow(nodes) < 0.5
        assert transports(nodes.source, "tcp") == [DISABLED]


@pytest.mark.parametrize(
    ("kind", "stack"),
    [
        pytest.param("stock", "kernel", id="stock"),
        pytest.param("ours", "kernel", id="ours"),
        pytest.param("stock", "smoltcp", id="stock-smoltcp", marks=NEEDS_NATIVE),
    ],
)
def test_kcp_that_is_lost_on_the_way_costs_two_seconds(kind: str, stack: str) -> None:
    with kcp_pair("ours", kind, algorithm="off", stack=stack) as nodes:
        one_flow(nodes)
        with without_kcp(nodes):
            assert one_flow(nodes) < FALLBACK_SECONDS
            # The next flow does not pay again for what the first one found out.
            assert one_flow(nodes) < 0.5
        first, second = transports(nodes.source, "tcp")
        assert first == "kcp: KCP connect failed: the peer did not answer"
        assert second.startswith("KCP got no answer from")
        if kind == "ours":
            wait_for(lambda: one_flow(nodes) and transports(nodes.source, "kcp")[2:], "KCP is tried again", 15)


@pytest.mark.parametrize(
    ("kind", "stack"),
    [
        pytest.param("stock", "kernel", id="stock"),
        pytest.param("ours", "kernel", id="ours"),
        pytest.param("ours", "smoltcp", id="ours-smoltcp", marks=NEEDS_NATIVE),
    ],
)
def test_a_peer_may_change_its_mind_while_flows_run(kind: str, stack: str) -> None:
    """The running flow ends with its peer; new ones follow what the peer says since."""
    with kcp_pair("ours", kind, stack=stack) as nodes:
        destination = nodes.destination
        with nodes.games() as played:
            running = played.begin("attempt", port=played.port_of("silent"), limit=30.0)
            wait_for(lambda: transports(nodes.source, "kcp") and "Connected()" in nodes.source.log(), "the flow goes by KCP")
            destination.stop()
            destination.options = replace(
                destination.options,
                stock_flags={"disable_kcp_input": True},
                our_arguments=(*destination.options.our_arguments, "--disable-kcp-input"),
            )
            destination.start()
            wait_joined((nodes.source, destination))
            answer = played.play("flows", count=3)
            assert answer["errors"] == []
            assert transports(nodes.source, "tcp") == [DISABLED] * 3
            if kind == "ours":
                assert finish(running)["outcome"] == "reset"
