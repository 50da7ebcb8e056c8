"""`proxy` beyond stock: what it shows of flows, in which order, and why a destination is reached as it is."""

from __future__ import annotations

import json

import pytest

from easytier_host.pb import portal_own_pb2
from tests.unit.cli.nodes import FLOW, node, on_terminal, route, run, stock


def test_wide_tells_why(capsys: pytest.CaptureFixture[str]) -> None:
    gone = portal_own_pb2.FlowInfo()
    gone.CopyFrom(FLOW)
    gone.state, gone.end_reason = "closed", "FIN both ways"
    assert run(node(flows=(FLOW, gone)), "proxy --wide") == 0
    [row] = capsys.readouterr().out.splitlines()[2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["10.144.0.1:40000", "10.144.0.2:22", "n2", "kcp", "connected"]
    assert cells[5:12] == ["1.50 MB", "0 B", "2 kB", "0 B", "51.8 ms", "5.1%", "3"]
    assert cells[13] == "the peer takes KCP (auto)"
    assert run(node(flows=(FLOW, gone)), "proxy --closed") == 0
    output = capsys.readouterr().out
    assert "FIN both ways; the peer takes KCP" in output
    assert "closed" in output


def test_the_loss_of_the_path_is_there_on_a_usual_terminal() -> None:
    heading, _, row = on_terminal("proxy --wide", 120, node(flows=(FLOW,)))
    assert dict(zip(*([cell.strip() for cell in line.split("|")] for line in (heading, row)), strict=True))["loss"] == "5.1%"


def wide_flows() -> tuple[portal_own_pb2.FlowInfo, ...]:
    found = []
    for number, (transport, state, rate) in enumerate(
        [("kcp", "connected", 5), ("tcp", "connected", 50), ("tcp", "closed", 0)]
    ):
        flow = portal_own_pb2.FlowInfo()
        flow.CopyFrom(FLOW)
        flow.id, flow.transport, flow.state, flow.send_rate = number, transport, state, rate
        flow.src.port = 40_000 + number
        found.append(flow)
    return tuple(found)


@pytest.mark.parametrize(
    ("more", "ports"),
    [
        ("", [40000, 40001]),
        ("--sort rate", [40001, 40000]),
        ("--sort rate --reverse", [40000, 40001]),
        ("--filter transport:kcp", [40000]),
        ("--closed --filter=-state:conn", [40002]),
        ("--filter port:40001", [40001]),
        ("--filter cidr:10.145.0.0/16", []),
    ],
)
def test_flows_are_chosen_and_sorted(more: str, ports: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node(flows=wide_flows()), f"proxy --wide -o json {more}") == 0
    assert [int(flow["src"].rpartition(":")[2]) for flow in json.loads(capsys.readouterr().out)] == ports


# Why


CANDIDATES = (
    portal_own_pb2.Candidate(transport="kcp", available=True, reason="n2 accepts KCP"),
    portal_own_pb2.Candidate(transport="tcp", available=True, reason="plain TCP is always there"),
)
EXPLAINED = portal_own_pb2.ExplainResponse(
    peer_id=2,
    peer_hostname="n2",
    peer_version="2.6.4",
    hops=2,
    next_hop_hostname="n5",
    via_network="10.1.0.0/16",
    candidates=CANDIDATES,
    transport="kcp",
    reason="loss 5.1 %",
    chosen_by="auto",
)


def test_why_explains_one_destination(capsys: pytest.CaptureFixture[str]) -> None:
    known = node(flows=(FLOW,), explained=EXPLAINED)
    assert run(known, "proxy why 10.144.0.2:22") == 0
    assert capsys.readouterr().out.splitlines() == [
        "10.144.0.2:22: peer n2 (2 hops, the next one n5, version 2.6.4, announces 10.1.0.0/16)",
        "  kcp   chosen by plugin auto: loss 5.1 %",
        "  tcp   possible: plain TCP is always there",
        "  flow  10.144.0.1:40000: kcp, connected, the peer takes KCP (auto)",
    ]
    assert run(known, "proxy why 10.144.0.2:23 -o json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["destination"], told["transport"], told["flows"]) == ("10.144.0.2:23", "kcp", [])
    assert [each["transport"] for each in told["candidates"]] == ["kcp", "tcp"]


def test_a_router_is_asked_for_the_hosts_behind_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    router = node(explained=portal_own_pb2.ExplainResponse(peer_id=2, candidates=CANDIDATES, own_networks=["192.168.5.0/24"]))
    assert run(router, "proxy why 10.144.0.2:22") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "  a host in 192.168.5.0/24 may get something else: --from ADDRESS"
    assert run(router, "proxy why 10.144.0.2:22 --from 192.168.5.9") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("10.144.0.2:22 from 192.168.5.9: peer 2 (")
    assert not any("--from" in line for line in rest)
    for wrong in ("proxy --from 192.168.5.9", "proxy why n2:22 --from n9"):
        with pytest.raises(SystemExit):
            run(router, wrong)
        assert "--from" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "asked"), [("n2:22", "10.144.0.2:22"), ("2", "10.144.0.2:0"), ("a:80", "10.144.0.1:80")])
def test_why_takes_a_peer_by_its_name_or_id(name: str, asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node(routes=(route(2),)), f"proxy why {name} -o json") == 0
    assert json.loads(capsys.readouterr().out)["destination"] == asked


def test_why_says_that_nobody_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node(routes=(route(2),)), "proxy why n9:22") == 4
    assert capsys.readouterr().out == "no node is called n9, or it has no address; easytier-cli peer lists them\n"


def test_why_knows_when_nobody_has_the_destination(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = portal_own_pb2.ExplainResponse(transport="tcp", reason="no peer has fd00::1", chosen_by="default")
    assert run(node(explained=nobody), "proxy why fd00::1") == 4
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[fd00::1]: no node has this address")
    assert second == "  tcp   no peer has fd00::1"


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("10.144.0.2:22", "10.144.0.2:22: peer n2 (direct, version 2.6.4)\n  kcp   the peer accepts it"),
        ("10.3.4.5", "10.3.4.5: peer n3 (2 hops, version 2.6.4)\n  kcp   no: the peer does not accept it"),
        ("10.99.0.1", "10.99.0.1: no node has this address"),
    ],
)
def test_why_asks_the_routes_of_a_stock_node(destination: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(stock(route(2), route(3, kcp=False)), f"proxy why {destination}") == 3
    output = capsys.readouterr()
    assert output.out.rstrip("\n") == said
    assert "stock" in output.err
