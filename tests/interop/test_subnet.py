"""A network behind a node, seen from another one: pings, datagrams and connections, to its own address and to a mapped one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.subnet_scenes import HOST, NETWORK, Scene, exchange_datagrams, make_stock_or_ours, scene
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import games

pytestmark = INTEROP

MAPPED = "10.7.7.9"
OFFERS = {"plain": (NETWORK, HOST), "mapped": (f"{NETWORK}->10.7.7.0/24", MAPPED)}
"""Name -> what the router offers, and the host's address in it."""
PAIRS = {"stock-ours": ("stock", "ours"), "ours-ours": ("ours", "ours"), "ours-stock": ("ours", "stock")}
"""Name (client - router) -> kinds of both."""


@pytest.fixture(
    scope="module",
    params=[pytest.param((PAIRS[pair], OFFERS[offer]), id=f"{pair}-{offer}") for pair in PAIRS for offer in OFFERS],
)
def joined(request: pytest.FixtureRequest) -> Iterator[Scene]:
    (client, router), (network, address) = request.param
    with scene(make_stock_or_ours(client), make_stock_or_ours(router), address, proxy_networks=(network,)) as made:
        yield made


@pytest.mark.parametrize("size_bytes", [8, 1300, 3000])
def test_echo(joined: Scene, size_bytes: int) -> None:
    assert joined.client.namespace.ping(joined.address, count=5, size_bytes=size_bytes, interval=0.02) == 1.0


def test_datagrams_of_all_sizes(joined: Scene) -> None:
    exchange_datagrams(joined.client.namespace, joined.host, joined.address, 0, 10, 1300, 3000, 20_000)


def test_connections(joined: Scene) -> None:
    with games(joined.client.namespace, joined.host, joined.address) as played:
        assert played.play("flows", count=10, at_once=5)["errors"] == []
        played.play("download", size_bytes=5_000_000)
        played.play("upload", size_bytes=5_000_000)
        played.play("banner")
        if joined.router.kind == "ours":
            # A genuine router ends both directions with the first one, and accepts before it dials.
            played.play("half_close", late=0.2)
            assert played.play("attempt", port=9)["outcome"] == "refused"
