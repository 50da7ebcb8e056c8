"""TCP over KCP between our node and a genuine core, and between two of ours, on links with losses: both underlays,
encrypted and not.

n1 source 10.99.0.1 ==50 ms there and back, jitter, loss== 10.99.0.2 n2 destination        overlay 10.144.0.1, 10.144.0.2
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.link import LinkOptions
from tests.interop.kcp_scenes import DELAY, DIRECTIONS, JITTER, NEEDS_NATIVE, KcpPair, endings, kcp_pair, transports
from tests.interop.scenes import REHEARSAL
from tests.netns.nodes import OurNode
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import Games

pytestmark = INTEROP

LINKS = [
    *(
        pytest.param((name, scheme, algorithm, loss, "kernel"), id=f"{name}-{scheme}-{algorithm}-{loss:.0%}")
        for name in DIRECTIONS
        for scheme, algorithm, loss in (
            ("udp", "aes-gcm", 0.0),
            ("udp", "aes-gcm", 0.05),
            ("udp", "off", 0.1),
            ("tcp", "aes-gcm", 0.01),
        )
    ),
    *(
        pytest.param((name, "udp", "aes-gcm", 0.05, "smoltcp"), id=f"{name}-udp-aes-gcm-5%-smoltcp", marks=NEEDS_NATIVE)
        for name, kinds in DIRECTIONS.items()
        if kinds[0] == "ours"
    ),
]
BULK = 5_000_000
SMALL_FLOWS = 60
"""On links that lose much; a third of them elsewhere."""
AT_ONCE = 100
NO_HANG = 10.0
"""Seconds: a lost packet costs some RTTs, a hang of stock costs this much and more."""


@pytest.fixture(scope="module", params=LINKS)
def joined(request: pytest.FixtureRequest) -> Iterator[tuple[KcpPair, Games]]:
    name, scheme, algorithm, loss, stack = request.param
    link = LinkOptions(delay=DELAY, jitter=JITTER, loss=loss)
    pair = kcp_pair(*DIRECTIONS[name], scheme=scheme, link=link, algorithm=algorithm, stack=stack)
    with pair as nodes, nodes.games() as played:
        yield nodes, played


def all_by_kcp(nodes: KcpPair) -> None:
    """Our node (or both) says that each flow so far went by KCP and has ended well."""
    for node in (nodes.source, nodes.destination):
        if isinstance(node, OurNode):
            assert transports(node, "kcp")
            assert transports(node, "tcp") == []
            assert endings(node, "Failed") == []


def test_bulk_arrives_unchanged_both_ways(joined: tuple[KcpPair, Games]) -> None:
    nodes, played = joined
    played.play("download", size_bytes=BULK)
    played.play("upload", size_bytes=BULK)
    if not REHEARSAL:
        all_by_kcp(nodes)


def test_small_flows_one_by_one_and_at_once(joined: tuple[KcpPair, Games]) -> None:
    nodes, played = joined
    count = SMALL_FLOWS if nodes.link.options.loss >= 0.05 else SMALL_FLOWS // 3
    one_by_one = played.play("flows", count=count, limit=NO_HANG)
    assert one_by_one["errors"] == []
    at_once = played.play("flows", count=AT_ONCE, at_once=AT_ONCE, limit=NO_HANG)
    assert at_once["errors"] == []


def test_a_server_may_speak_first_and_a_client_in_single_bytes(joined: tuple[KcpPair, Games]) -> None:
    _, played = joined
    for _ in range(3):
        # A genuine source may need long for its handshake where much is lost.
        played.play("banner", limit=2 * NO_HANG)
    played.play("upload", size_bytes=2000, piece_bytes=1, limit=NO_HANG)
