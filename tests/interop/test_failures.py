"""Peers that die, come back, or never should have been let in; and what a node leaves behind.

n1 ======== n2                               a pair; or
n1 (stock, witness) ==== n2 ==== n3 (dies)   what n2 knows is read from what n1 was told
"""

from __future__ import annotations

import time

import pytest

from bench.link import LinkOptions, LossyLink
from tests.interop.scenes import PORT, REHEARSAL, chain, listener, node, options_for, pair, sees, stock_of, wait_joined
from tests.netns.nodes import OurNode, RunningNode, StockNode
from tests.netns.requirements import INTEROP
from tests.netns.topology import Topology, traces, wait_for

pytestmark = INTEROP

GONE_SECONDS = {"tcp": 4.0, "udp": 15.0}
"""TCP tells at once: 2 s and some slack for a busy machine.  UDP tells nothing: five pings are lost first, about 9 s, and a
genuine core pings a quiet connection ever more rarely, which adds a few seconds."""
BACK_SECONDS = 15.0
REFUSED_SECONDS = 10.0


def gone_after(witness: StockNode, victim: RunningNode, scheme: str) -> float:
    """Kill the victim and return the seconds until the witness has no route to it."""
    start = time.monotonic()
    victim.kill9()
    wait_for(lambda: not sees(witness, victim), f"{witness!r} forgets {victim!r}", GONE_SECONDS[scheme])
    return time.monotonic() - start


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize("dying_end", ["dials", "listens"])
def test_stock_notices_our_death_and_our_return(scheme: str, dying_end: str) -> None:
    kinds = ("stock", "ours") if dying_end == "dials" else ("ours", "stock")
    with pair(*kinds, scheme=scheme) as nodes:
        wait_joined(nodes)
        survivor, victim = (nodes[0], nodes[1]) if dying_end == "dials" else (nodes[1], nodes[0])
        assert isinstance(survivor, StockNode)
        gone_after(survivor, victim, scheme)
        victim.start()
        wait_joined(nodes, BACK_SECONDS)


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_we_notice_the_death_and_return_of_a_stock_peer_that_dials_us(scheme: str) -> None:
    with chain(("stock", "ours", "stock"), scheme=scheme) as nodes:
        wait_joined(nodes)
        gone_after(stock_of(nodes, 0), nodes[2], scheme)
        nodes[2].start()
        wait_joined(nodes, BACK_SECONDS)


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_we_notice_the_death_of_a_stock_peer_that_we_dial_and_dial_again(scheme: str) -> None:
    with Topology() as topology:
        spaces = [topology.namespace(f"n{number}") for number in (1, 2, 3)]
        topology.join(spaces[1], spaces[0], "10.9.1.1/24", "10.9.1.2/24")
        topology.join(spaces[1], spaces[2], "10.9.2.1/24", "10.9.2.2/24")
        nodes = [
            node("stock", spaces[0], options_for(1, listeners=(listener(scheme),))),
            node("ours", spaces[1], options_for(2, peers=(f"{scheme}://10.9.1.2:{PORT}", f"{scheme}://10.9.2.2:{PORT}"))),
            node("stock", spaces[2], options_for(3, listeners=(listener(scheme),))),
        ]
        for each in nodes:
            each.start()
        wait_joined(nodes)
        gone_after(stock_of(nodes, 0), nodes[2], scheme)
        nodes[2].start()
        wait_joined(nodes, BACK_SECONDS)


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_a_cut_link_is_noticed_and_healed(scheme: str) -> None:
    with Topology() as topology:
        left, right = topology.namespace("n1"), topology.namespace("n2")
        with LossyLink(left.name, right.name, LinkOptions(), ("10.9.1.1/24", "10.9.1.2/24")) as link:
            stock = StockNode(left, options_for(1, listeners=(listener(scheme),)))
            ours = node("ours", right, options_for(2, peers=(f"{scheme}://10.9.1.1:{PORT}",)))
            for each in (stock, ours):
                each.start()
            wait_joined((stock, ours))
            link.change(loss=1.0)
            wait_for(lambda: not sees(stock, ours), "the stock node gives up", 20)
            link.change(loss=0.0)
            wait_joined((stock, ours), BACK_SECONDS)


def test_a_peer_that_starts_later_is_found() -> None:
    with pair("stock", "ours", start=False) as nodes:
        nodes[1].start()
        assert nodes[1].ping(nodes[0]) == 0.0
        nodes[0].start()
        wait_joined(nodes, BACK_SECONDS)


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize(("listening", "dialling"), [("stock", "ours"), ("ours", "stock")])
@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"network_secret": "not the secret"}, {"listening": "with another secret", "dialling": "with another secret"}),
        # A stock node serves strangers as a relay; ours, in its place, turns them away.
        ({"network_name": "another network"}, {"listening": "it belongs to network", "dialling": "as a public relay"}),
    ],
    ids=["wrong-secret", "wrong-network"],
)
def test_strangers_stay_outside_and_everybody_stays_up(
    scheme: str, listening: str, dialling: str, difference: dict[str, object], words: dict[str, str]
) -> None:
    with pair(listening, dialling, scheme=scheme, differences=difference) as nodes:
        for each, role in zip(nodes, ("listening", "dialling"), strict=True):
            if isinstance(each, OurNode):
                each.wait_logged(words[role], REFUSED_SECONDS)
        # Long enough for the dialling side to have tried again.
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            assert nodes[0].alive
            assert nodes[1].alive
            assert nodes[0].ping(nodes[1]) == 0.0
            assert nodes[1].ping(nodes[0]) == 0.0


@pytest.mark.skipif(REHEARSAL, reason="stock refuses strangers in its own words")
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_a_stranger_does_not_keep_friends_outside(scheme: str) -> None:
    with Topology() as topology:
        spaces = [topology.namespace(f"n{number}") for number in (1, 2, 3)]
        topology.bridge({space: f"10.9.1.{number}/24" for number, space in enumerate(spaces, 1)})
        target = (f"{scheme}://10.9.1.1:{PORT}",)
        nodes = [
            node("ours", spaces[0], options_for(1, listeners=(listener(scheme),))),
            node("stock", spaces[1], options_for(2, peers=target, network_secret="not the secret")),
            node("stock", spaces[2], options_for(3, peers=target)),
        ]
        for each in nodes:
            each.start()
        wait_joined((nodes[0], nodes[2]))
        assert nodes[2].ping(nodes[1]) == 0.0


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize("ending", ["SIGTERM", "SIGKILL"])
def test_nothing_is_left_behind(scheme: str, ending: str) -> None:
    with pair("stock", "ours", scheme=scheme, start=False) as nodes:
        ours = nodes[1]
        before = traces(ours.namespace)
        for each in nodes:
            each.start()
        wait_joined(nodes)
        assert traces(ours.namespace) != before
        if ending == "SIGTERM":
            assert ours.stop() == 0
        else:
            ours.kill9()
        wait_for(lambda: traces(ours.namespace) == before, f"as before: {before}", 5)


def test_sigterm_is_quick_while_traffic_flows_and_peers_are_gone() -> None:
    with pair("stock", "ours", scheme="tcp") as nodes:
        wait_joined(nodes)
        nodes[1].namespace.spawn("ping", "-n", "-q", "-i", "0.002", nodes[0].address)
        nodes[0].kill9()
        start = time.monotonic()
        assert nodes[1].stop() == 0
        assert time.monotonic() - start < 5
