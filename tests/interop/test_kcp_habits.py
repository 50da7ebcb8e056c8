"""Applications with awkward habits over KCP: half-closes, readers that sleep, targets that refuse or say nothing, used ports.

n1 source 10.99.0.1 ==50 ms there and back== 10.99.0.2 n2 destination 10.77.0.1 ==== nobody     overlay 10.144.0.1, .2

A genuine core ends both directions of a flow at the first end of one; what is tested with it is what it can do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from bench.link import LinkOptions
from easytier_kcp_plugin.kcp.events import CloseReason
from tests.interop.kcp_scenes import DELAY, DIRECTIONS, JITTER, STACKS, KcpPair, endings, kcp_pair, transports
from tests.interop.scenes import REHEARSAL
from tests.netns.nodes import OurNode
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import Games, finish, games
from tests.netns.topology import wait_for

pytestmark = [
    *INTEROP,
    pytest.mark.skipif(shutil.which("nft") is None and not os.environ.get("CI"), reason="needs the command nft"),
]

CLOSED_PORT = 9
SILENT_PORT = 7777
"""Dropped by a filter at the destination: a target that never answers."""

EMPTY_NETWORK = "10.77.0.0/24"
"""Behind the destination."""
UNUSED = "10.77.0.77"
FROM_STOCK = [pytest.param(("stock-ours", "kernel"), id="stock-ours")]
TO_STOCK, AMONG_OURS = (
    [pytest.param((name, *stack.values), id=f"{name}-{stack.id}", marks=stack.marks) for stack in STACKS]
    for name in ("ours-stock", "ours-ours")
)
OUR_SOURCE = pytest.mark.parametrize("joined", [*TO_STOCK, *AMONG_OURS], indirect=True)
OURS = pytest.mark.parametrize("joined", AMONG_OURS, indirect=True)


@pytest.fixture(scope="module", params=[*FROM_STOCK, *TO_STOCK, *AMONG_OURS])
def joined(request: pytest.FixtureRequest) -> Iterator[tuple[str, KcpPair, Games]]:
    """The direction, the nodes and the games."""
    link = LinkOptions(delay=DELAY, jitter=JITTER)
    name, stack = request.param
    offers: dict[str, object] = {"proxy_networks": (EMPTY_NETWORK,)}
    with kcp_pair(*DIRECTIONS[name], link=link, stack=stack, destination_more=offers) as nodes, nodes.games() as played:
        for words in (
            "add table ip silence",
            "add chain ip silence input { type filter hook input priority 0 ; }",
            f"add rule ip silence input tcp dport {SILENT_PORT} drop",
        ):
            nodes.destination.namespace.run("nft", *words.split())
        for words in (
            "link add lan type veth peer name beyond",
            "addr add 10.77.0.1/24 dev lan",
            "link set lan up",
            "link set beyond up",
        ):
            nodes.destination.namespace.run("ip", *words.split())
        yield name, nodes, played


@OUR_SOURCE
def test_an_end_of_the_request_is_no_end_of_the_flow(joined: tuple[str, KcpPair, Games]) -> None:
    # A genuine source ends the flow when its application ends one direction.
    _, _, played = joined
    played.play("half_close", late=1.0)


@OURS
def test_an_answer_may_wait_for_the_end_of_the_request(joined: tuple[str, KcpPair, Games]) -> None:
    # A genuine core ends both directions at the end of one.
    _, _, played = joined
    played.play("digest_at_end", size_bytes=300_000)


def test_a_reader_that_sleeps_costs_no_memory(joined: tuple[str, KcpPair, Games]) -> None:
    """No more than the windows: stock's, or between our own ends up to 23 MB of payload, twice that in a sender's memory."""
    name, nodes, played = joined
    ours = [node for node in (nodes.source, nodes.destination) if isinstance(node, OurNode)]
    played.play("download", size_bytes=1_000_000)
    before = [node.process.resident_bytes() for node in ours]
    size_bytes, bound = (150_000_000, 24_000_000 + 2 * 23_000_000) if name == "ours-ours" else (40_000_000, 24_000_000)
    client = played.begin("download", size_bytes=size_bytes, sleep=3.0, after_bytes=500_000)
    highest = list(before)

    def ended() -> bool:
        for index, node in enumerate(ours):
            highest[index] = max(highest[index], node.process.resident_bytes())
        return not client.running

    wait_for(ended, "end of the download", 40)
    finish(client)
    for node, low, high in zip(ours, before, highest, strict=True):
        assert high - low < bound, f"{node!r} grew by {high - low} bytes"


def test_a_refusal_is_felt_at_once(joined: tuple[str, KcpPair, Games]) -> None:
    name, nodes, played = joined
    answer = played.play("attempt", port=CLOSED_PORT, limit=10.0)
    if name == "stock-ours" or REHEARSAL:
        assert answer["outcome"] in ("reset", "closed")
    else:
        assert answer["outcome"] in ("refused", "reset")
        assert endings(nodes.source, "Failed")[-1] in (str(CloseReason.DESTINATION_REFUSED), "KCP: reset by the peer")
    assert answer["seconds"] < 1.0


@OUR_SOURCE
def test_a_target_that_never_answers(joined: tuple[str, KcpPair, Games]) -> None:
    pair, nodes, played = joined
    client = played.begin("attempt", port=SILENT_PORT, limit=14.0)
    if pair == "ours-ours":
        an_address_that_no_host_has(nodes, played)
    answer = finish(client)
    if pair == "ours-ours":
        # As without us: the application waits for as long as it likes.
        assert answer["outcome"] == "no answer"
    else:
        # A genuine destination accepts before it dials, and gives up after 10 s.
        assert answer["outcome"] in ("reset", "closed")
        assert 5.0 < answer["seconds"] < 14.0


def an_address_that_no_host_has(nodes: KcpPair, played: Games) -> None:
    """The destination's kernel looks for it for 3 s; what that finds out is told to the application, and nothing else tried."""
    wait_for(lambda: any(EMPTY_NETWORK in route for route in nodes.source.namespace.routes()), "route to the network")
    assert played.play("attempt", address=UNUSED, port=80)["outcome"] == "unreachable"
    assert CloseReason.DESTINATION_UNREACHABLE in endings(nodes.source, "Failed")


@OUR_SOURCE
def test_a_source_port_may_be_used_again_and_by_two_flows_at_once(joined: tuple[str, KcpPair, Games]) -> None:
    # A genuine source knows flows by their source port alone.
    _, nodes, played = joined
    with games(nodes.source.namespace, nodes.destination.namespace, nodes.destination.address) as other:
        others = [[other.address, other.port_of("answer")]]
        played.play("same_port", others=others, own_port=33_333, rounds=10)


@OUR_SOURCE
def test_a_syn_that_is_repeated_while_it_is_held_opens_one_flow(joined: tuple[str, KcpPair, Games]) -> None:
    """The kernel repeats a TCP SYN after 1 s; KCP needs 1.2 s here."""
    # A genuine source answers the application before it asks the peer.
    _, nodes, played = joined
    before, plain = len(transports(nodes.source, "kcp")), transports(nodes.source, "tcp")
    nodes.link.change(delay=0.6)
    try:
        answer = played.play("flows", count=3, limit=15.0)
    finally:
        nodes.link.change(delay=DELAY)
    assert answer["errors"] == []
    assert len(transports(nodes.source, "kcp")) - before == 3
    assert transports(nodes.source, "tcp") == plain


def test_an_end_that_a_genuine_core_told_in_vain_is_found_out() -> None:
    """Its FIN (flags at byte 36 of an unencrypted frame) goes out once only; here none arrives."""
    with kcp_pair("ours", "stock", algorithm="off") as nodes, nodes.games() as played:
        for words in (
            "add table ip losses",
            "add chain ip losses input { type filter hook input priority 0 ; }",
            "add rule ip losses input iifname link0 meta l4proto udp @th,192,8 0x0c @th,352,8 0x04 counter drop",
        ):
            nodes.source.namespace.run("nft", *words.split())
        answer = played.play("download", size_bytes=50_000, limit=10.0)
        assert "packets 0 " not in nodes.source.namespace.run("nft", "list", "table", "ip", "losses").stdout
        assert answer["seconds"] < 4.0
        assert endings(nodes.source, "Closed") == ["FIN both ways"]
