"""Our node and a genuine core as neighbours: each underlay with each cipher, and both ways of dialling.

n1 (listens) 10.9.1.1 ======== 10.9.1.2 n2 (dials)        overlay 10.144.0.1, 10.144.0.2
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.scenes import echoes_all, pair, sees, wait_joined
from tests.netns.nodes import ALGORITHMS, RunningNode, StockNode
from tests.netns.requirements import INTEROP
from tests.netns.topology import wait_for
from tests.netns.traffic import iperf_tcp, iperf_udp, transfer

pytestmark = INTEROP

MATRIX = [
    pytest.param(("stock", "ours", scheme, algorithm), id=f"ours-dials-{scheme}-{algorithm}")
    for scheme in ("udp", "tcp")
    for algorithm in ALGORITHMS
] + [pytest.param(("ours", "stock", scheme, "aes-gcm"), id=f"stock-dials-{scheme}-aes-gcm") for scheme in ("udp", "tcp")]

SANE_MBITS = 20.0
"""Far below what either node does, far above what a stumbling TCP would."""

Pair = tuple[RunningNode, RunningNode]


@pytest.fixture(scope="module", params=MATRIX)
def joined(request: pytest.FixtureRequest) -> Iterator[Pair]:
    listening, dialling, scheme, algorithm = request.param
    with pair(listening, dialling, scheme=scheme, algorithm=algorithm) as nodes:
        wait_joined(nodes)
        yield nodes


def test_stock_lists_the_other_with_its_address(joined: Pair) -> None:
    stock, other = joined if isinstance(joined[0], StockNode) else (joined[1], joined[0])
    assert isinstance(stock, StockNode)
    assert sees(stock, other)
    (route,) = stock.routes()
    assert route["cost"] == 1


@pytest.mark.parametrize("size_bytes", [8, 1300, 5 * 1024])
def test_echo_both_ways(joined: Pair, size_bytes: int) -> None:
    one, other = joined
    echoes_all(one, other, count=5, size_bytes=size_bytes)
    echoes_all(other, one, count=5, size_bytes=size_bytes)


def test_tcp_arrives_unchanged_both_ways(joined: Pair) -> None:
    one, other = joined
    transfer(one.namespace, other.namespace, other.address)
    transfer(other.namespace, one.namespace, one.address)


def test_tcp_is_fast_enough_both_ways(joined: Pair) -> None:
    one, other = joined
    assert iperf_tcp(one.namespace, other.namespace, other.address).mbits > SANE_MBITS
    assert iperf_tcp(other.namespace, one.namespace, one.address).mbits > SANE_MBITS


def test_udp_arrives_both_ways(joined: Pair) -> None:
    one, other = joined
    for source, destination in ((one, other), (other, one)):
        result = iperf_udp(source.namespace, destination.namespace, destination.address, mbits=20)
        assert result.mbits > 15
        assert result.lost_share < 0.1


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
@pytest.mark.parametrize(("listening", "dialling"), [("stock", "ours"), ("ours", "stock")])
def test_ipv6_underlay(scheme: str, listening: str, dialling: str) -> None:
    with pair(listening, dialling, scheme=scheme, ipv6=True) as nodes:
        wait_joined(nodes)
        echoes_all(nodes[0], nodes[1], count=5, size_bytes=1300)
        transfer(nodes[1].namespace, nodes[0].namespace, nodes[0].address)


@pytest.mark.parametrize("compressing", ["stock", "ours"])
def test_compressed_packets_are_understood(compressing: str) -> None:
    size_bytes = 2_000_000
    with pair("stock", "ours", differences={"compression": compressing == "ours"}, compression=compressing == "stock") as nodes:
        wait_joined(nodes)
        stock = nodes[0]
        assert isinstance(stock, StockNode)
        source, destination = (nodes[0], nodes[1]) if compressing == "stock" else (nodes[1], nodes[0])
        transfer(source.namespace, destination.namespace, destination.address, size_bytes=size_bytes, content="zeros")
        counter = "tx_bytes" if compressing == "stock" else "rx_bytes"

        def carried() -> int:
            return max(int(conn["stats"][counter]) for peer in stock.peers() for conn in peer["conns"])

        assert 10_000 < wait_for(carried, "counters of the connection") < size_bytes / 4, "the packets were not compressed"
