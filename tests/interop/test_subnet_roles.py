"""Routers of other kinds: exits, nodes without a device or without privileges, both ends with a network; and what none does.

The picture is that of `subnet_scenes`; the stock node is the client, unless said.
"""

from __future__ import annotations

import pytest

from tests.interop.scenes import PORT
from tests.interop.subnet_scenes import (
    HOST,
    NETWORK,
    Scene,
    UnprivilegedNode,
    exchange_datagrams,
    make_stock_or_ours,
    scene,
)
from tests.netns.nodes import OurNode
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import Games, games
from tests.netns.topology import wait_for

pytestmark = INTEROP

STOCK = make_stock_or_ours("stock")
OURS = make_stock_or_ours("ours")


def route_through_device(made: Scene) -> None:
    """Nobody announces the host's network, so the client's owner has to say that it is for the exit."""
    made.client.namespace.run("ip", "route", "add", NETWORK, "dev", made.client.options.dev_name)


@pytest.mark.parametrize("client", ["stock", "ours"])
def test_an_exit_leads_anywhere(client: str) -> None:
    with scene(
        make_stock_or_ours(client),
        OurNode,
        prepare=route_through_device,
        client_more={"exit_nodes": ("10.144.0.2",)},
        our_arguments=("--enable-exit-node",),
    ) as made:
        outside = made.client.namespace
        exchange_datagrams(outside, made.host, HOST, 10, 3000)
        with games(outside, made.host, HOST) as played:
            played.play("download", size_bytes=1_000_000)


def test_a_router_without_device_and_privileges_does_the_same() -> None:
    with scene(
        STOCK,
        UnprivilegedNode,
        sysctls=("net.ipv4.ping_group_range=0 0",),
        proxy_networks=(NETWORK,),
        our_arguments=("--no-tun",),
    ) as made:
        outside, inside = made.client.namespace, made.router.namespace
        assert outside.ping(HOST, count=5, size_bytes=3000, interval=0.02) == 1.0
        exchange_datagrams(outside, made.host, HOST, 10, 3000)
        with games(outside, made.host, HOST) as played:
            play_all(played)
        # Its own address stands for loopback.
        assert outside.ping(made.router.address, count=2, size_bytes=3000) == 1.0
        exchange_datagrams(outside, inside, made.router.address, 10, 3000, bind="127.0.0.1")
        with games(outside, inside, made.router.address, bind="127.0.0.1") as played:
            play_all(played)


def test_the_user_space_stack_serves_a_router_with_a_device_too() -> None:
    with (
        scene(STOCK, OurNode, proxy_networks=(NETWORK,), our_arguments=("--use-smoltcp",)) as made,
        games(made.client.namespace, made.host, HOST) as played,
    ):
        play_all(played)


def play_all(played: Games) -> None:
    assert played.play("flows", count=10, at_once=5)["errors"] == []
    played.play("download", size_bytes=5_000_000)
    played.play("upload", size_bytes=5_000_000)
    played.play("half_close", late=0.2)
    assert played.play("attempt", port=9)["outcome"] == "refused"


def test_without_permission_for_pings_a_warning_says_so() -> None:
    with scene(STOCK, UnprivilegedNode, "10.144.0.2", proxy_networks=(NETWORK,), our_arguments=("--no-tun",)) as made:
        made.router.wait_logged("net.ipv4.ping_group_range", 5.0)
        wait_for(lambda: any(NETWORK in route for route in made.client.namespace.routes()), "route to the network")
        exchange_datagrams(made.client.namespace, made.host, HOST, 10)
        assert made.client.namespace.ping(HOST) == 0.0


@pytest.mark.parametrize("client", ["stock", "ours"])
def test_hosts_on_both_sides_meet(client: str) -> None:
    with scene(
        make_stock_or_ours(client),
        OurNode,
        proxy_networks=(NETWORK,),
        client_more={"proxy_networks": ("192.168.9.0/24",)},
    ) as made:
        # The client is the gateway of a guest, which is one namespace more with a way to it.
        guest = made.topology.namespace("guest")
        made.topology.join(made.client.namespace, guest, "192.168.9.1/24", "192.168.9.9/24")
        made.client.namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        guest.run("ip", "route", "add", "default", "via", "192.168.9.1")
        wait_for(lambda: guest.ping(HOST) == 1.0, "echo from guest to host")
        exchange_datagrams(guest, made.host, HOST, 10, 3000)
        with games(guest, made.host, HOST) as played:
            played.play("download", size_bytes=1_000_000)
            played.play("upload", size_bytes=1_000_000)


@pytest.mark.parametrize("client", ["stock", "ours"])
def test_hosts_behind_the_router_may_ask_nodes(client: str) -> None:
    with scene(make_stock_or_ours(client), OurNode, sysctls=("net.ipv4.ip_forward=1",), proxy_networks=(NETWORK,)) as made:
        made.host.run("ip", "route", "add", "10.144.0.0/24", "via", "192.168.7.1")
        outside, address = made.client.namespace, made.client.address
        assert made.host.ping(address, count=3, size_bytes=3000) == 1.0
        exchange_datagrams(made.host, outside, address, 10, 3000)
        with games(made.host, outside, address) as played:
            played.play("download", size_bytes=1_000_000)


def test_the_router_s_own_listeners_are_not_for_peers() -> None:
    with (
        scene(STOCK, OurNode, "192.168.7.1", proxy_networks=(NETWORK,)) as made,
        games(made.client.namespace, made.router.namespace, "192.168.7.1") as played,
    ):
        assert played.play("flows", count=1)["errors"] == []
        assert played.play("attempt", port=PORT)["outcome"] == "refused"


def test_left_to_the_kernel_the_node_does_nothing() -> None:
    def know_the_way_back(made: Scene) -> None:
        made.host.run("ip", "route", "add", "10.144.0.0/24", "via", "192.168.7.1")

    with scene(
        STOCK,
        OurNode,
        prepare=know_the_way_back,
        sysctls=("net.ipv4.ip_forward=1",),
        proxy_networks=(NETWORK,),
        our_arguments=("--proxy-forward-by-system",),
    ) as made:
        # One hop less: a kernel has passed it on.
        assert "ttl=63" in made.client.namespace.run("ping", "-n", "-c", "1", "-W", "1", HOST).stdout
        exchange_datagrams(made.client.namespace, made.host, HOST, 10, 3000)
        with games(made.client.namespace, made.host, HOST) as played:
            played.play("download", size_bytes=1_000_000)


def test_addresses_that_the_client_has_not_are_not_served() -> None:
    with scene(OURS, OurNode, proxy_networks=(NETWORK,)) as made:
        outside = made.client.namespace
        outside.run("ip", "addr", "add", "10.66.0.1/32", "dev", "lo")
        made.host.run("ip", "route", "add", "10.66.0.0/24", "via", "192.168.7.1")
        stolen = outside.run("ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", "-I", "10.66.0.1", HOST, check=False)
        assert "0 received" in stolen.stdout
        assert outside.ping(HOST) == 1.0
