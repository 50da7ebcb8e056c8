"""The commands as a user runs them: easytier-cli asks our easytier-core, whose neighbour is a genuine core.

n1 (stock, listens) 10.9.1.1 ======== 10.9.1.2 n2 (ours, dials, KCP proxy on)        overlay 10.144.0.1, 10.144.0.2
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop.scenes import pair, wait_joined
from tests.netns.nodes import RunningNode
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import finish, games
from tests.netns.topology import wait_for

pytestmark = INTEROP

Pair = tuple[RunningNode, RunningNode]
RULES = """
add table inet lab
add chain inet lab input { type filter hook input priority 0; policy drop; }
add rule inet lab input iifname { "lo", "eth0" } accept
"""
CLOSE = "import sys; from easytier_host.rpc.client import PortalClient; PortalClient().close_flow(int(sys.argv[1]))"


@pytest.fixture(scope="module")
def joined() -> Iterator[Pair]:
    with pair("stock", "ours", differences={"our_arguments": ("--enable-kcp-proxy", "--metrics-listener", "9188")}) as nodes:
        wait_joined(nodes)
        yield nodes


def ask(node: RunningNode, *command: str) -> Any:
    """What the command prints in the node's namespace, as JSON."""
    shown = node.namespace.run(sys.executable, "-m", "easytier_cli.main", "-o", "json", *command)
    assert shown.stderr == ""
    return json.loads(shown.stdout)


def test_the_stock_neighbour_is_listed(joined: Pair) -> None:
    _, ours = joined
    own, other = wait_for(lambda: _measured(ask(ours, "peer")), "a round trip is measured")
    assert (own["hostname"], own["cidr"], own["cost"]) == ("n2", "10.144.0.2/24", "Local")
    assert (other["hostname"], other["cidr"], other["cost"], other["tunnel_proto"]) == ("n1", "10.144.0.1/24", "p2p", "udp")
    assert other["version"].startswith("2.6.4")
    _, route = ask(ours, "route")
    assert (route["next_hop_ipv4"], route["path_len"]) == ("DIRECT", 1)


def _measured(rows: list[dict[str, str]]) -> list[dict[str, str]] | None:
    return rows if rows[1]["lat_ms"] != "-" else None


def test_the_configured_peer_is_connected(joined: Pair) -> None:
    _, ours = joined
    assert ask(ours, "connector") == [{"url": {"url": "udp://10.9.1.1:11010"}, "status": 0}]


def test_flows_over_kcp_are_listed_as_such(joined: Pair) -> None:
    stock, ours = joined
    with games(ours.namespace, stock.namespace, stock.address) as played:
        client = played.begin("idle", count=2, seconds=2.0)

        def connected() -> list[dict[str, str]] | None:
            found = [flow for flow in ask(ours, "proxy") if flow["state"] == "Connected"]
            return found if len(found) == 2 else None

        flows = wait_for(connected, "two flows are listed as connected")
        assert [(flow["dst"].partition(":")[0], flow["transport_type"]) for flow in flows] == [(stock.address, "Kcp")] * 2
        wide = ask(ours, "proxy", "--wide")
        assert {(flow["transport"], flow["peer_hostname"], flow["direction"]) for flow in wide} == {("kcp", "n1", "outbound")}
        assert {flow["stack"] for flow in wide} == {"kernel"}
        assert sorted(flow["src"] for flow in wide) == sorted(flow["src"] for flow in flows)
        finish(client)


def test_doctor_has_nothing_to_find(joined: Pair) -> None:
    _, ours = joined
    assert {found["status"] for found in ask(ours, "doctor")} == {"ok"}


def test_why_and_ping_agree_that_kcp_works(joined: Pair) -> None:
    stock, ours = joined
    told = ask(ours, "proxy", "why", f"{stock.address}:5201")
    assert (told["transport"], told["peer_hostname"], told["hops"]) == ("kcp", "n1", 1)
    pinged = ask(ours, "ping", "--kcp", "n1", "-c", "1")
    assert pinged["outcome"] in ("connected", "refused"), pinged
    assert 0 < pinged["rtt_us"] < 2_000_000


def test_a_flow_is_followed_until_it_is_closed_from_here(joined: Pair) -> None:
    stock, ours = joined
    watching = ours.namespace.spawn(sys.executable, "-m", "easytier_cli.main", "proxy", "--watch", "-o", "json", label="watch")
    with games(ours.namespace, stock.namespace, stock.address) as played:
        client = played.begin("idle", count=1, seconds=5.0)
        port = str(played.port_of("banner"))

        def seen(state: str) -> dict[str, Any] | None:
            for line in watching.log().splitlines():
                told: dict[str, Any] = json.loads(line)
                if told["flow"]["state"] == state and told["flow"]["dst"].endswith(f":{port}"):
                    return told
            return None

        connected = wait_for(lambda: seen("connected"), "the connection is told")
        assert connected["flow"]["transport"] == "kcp"
        flow_id = str(connected["flow"]["id"])
        ours.namespace.run(sys.executable, "-c", CLOSE, flow_id)
        ended = wait_for(lambda: seen("failed"), "the end is told")
        assert (ended["event"], ended["detail"]) == ("failed", "closed by the user")
        wait_for(lambda: not client.running or None, "the application ends")
        assert "BrokenResourceError" in client.log(), "it was reset"
    watching.terminate()


def test_doctor_finds_a_firewall_that_drops(joined: Pair) -> None:
    _, ours = joined
    ours.namespace.run("nft", RULES)
    try:
        found = {each["subject"]: each for each in ask(ours, "doctor")}
        assert found["firewall"]["status"] == "warn"
        assert "nft insert rule inet lab input iifname" in found["firewall"]["advice"]
    finally:
        ours.namespace.run("nft", "delete", "table", "inet", "lab")


def test_metrics_can_be_scraped(joined: Pair) -> None:
    _, ours = joined
    text = ours.namespace.run("curl", "-sf", "http://127.0.0.1:9188/metrics").stdout
    assert "node_peers{" in text
    assert ours.options.network_secret not in text


def test_the_secret_is_not_told(joined: Pair) -> None:
    _, ours = joined
    for command in (("node",), ("node", "config"), ("stats",), ("peer", "-v"), ("route", "-v"), ("plugins",)):
        assert ours.options.network_secret not in json.dumps(ask(ours, *command))
