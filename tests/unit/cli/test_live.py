"""Commands that go on printing: `proxy --watch` and `ping`."""

from __future__ import annotations

import json

import pytest

from easytier_cli.commands import watch
from easytier_host.pb import portal_own_pb2, portal_pb2
from tests.unit.cli import replay
from tests.unit.cli.nodes import FLOW, answer, node, on_terminal, refusal, route, run, stock


def watched() -> dict[replay.Method, bytes | replay.Answers]:
    """A flow is there, connects, sends, and so much happens that the reader misses some; then the node goes."""
    seen, connected, more = (portal_own_pb2.FlowInfo() for _ in range(3))
    for flow, state in ((seen, "seen"), (connected, "connected"), (more, "connected")):
        flow.CopyFrom(FLOW)
        flow.id, flow.state = 5, state
    more.bytes_sent = 2_000_000
    update = portal_own_pb2.FlowUpdate(sequence=8, flow_id=5, time_ms=1_700_000_000_123, event="connected")
    news = (
        portal_own_pb2.WatchFlowsResponse(cursor=b"1", is_snapshot=True, flows=[seen]),
        portal_own_pb2.WatchFlowsResponse(cursor=b"2", flows=[connected], updates=[update]),
        portal_own_pb2.WatchFlowsResponse(cursor=b"3", flows=[more]),
        portal_own_pb2.WatchFlowsResponse(cursor=b"4", is_snapshot=True, flows=[more], missed=7),
    )
    return {**node(), ("", "PythonNodeRpc", 3): list(map(answer, news))}


def test_watching_gives_one_object_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(watched(), "proxy --watch -o json") == 4
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["event"] for each in said] == ["snapshot", "connected", "counters", "missed", "snapshot"]
    assert (said[1]["sequence"], said[1]["flow"]["state"], said[1]["flow"]["src"]) == (8, "connected", "10.144.0.1:40000")
    assert said[2]["flow"]["bytes_sent"] == 2_000_000
    assert said[3]["count"] == 7


def test_watching_into_a_pipe_gives_one_line_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(watched(), "proxy --watch") == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "10.144.0.1:40000 -> 10.144.0.2:22  kcp seen  the peer takes KCP (auto)"
    assert lines[1].endswith(":20.123  10.144.0.1:40000 -> 10.144.0.2:22  connected")
    assert lines[2] == "7 updates missed"
    assert run(watched(), "proxy --watch --filter port:99") == 4
    assert capsys.readouterr().out == "7 updates missed\n"


def test_watching_on_a_terminal_draws_the_table_anew() -> None:
    text = "\n".join(on_terminal("proxy --watch", 100, watched(), status=4))
    assert text.count("\x1b[H\x1b[J| src") == 4
    assert "1 of 1 flows; Ctrl-C ends" in text
    assert "7 updates missed" in text


def test_watching_on_a_narrow_terminal_still_shows_the_rates() -> None:
    heading = next(line for line in on_terminal("proxy --watch", 80, watched(), status=4) if "src" in line)
    assert {"src", "dst", "state", "up/s", "down/s"} <= {cell.strip() for cell in heading.split("|")}


def test_watching_a_stock_node_tells_what_comes_and_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "STOCK_INTERVAL", 0.0)
    entry = portal_pb2.TcpProxyEntry(src=FLOW.src, dst=FLOW.dst, state=portal_pb2.ConnectingDst)
    later = portal_pb2.TcpProxyEntry(src=FLOW.src, dst=FLOW.dst, state=portal_pb2.Connected)
    lists = [portal_pb2.ListTcpProxyEntryResponse(entries=entries) for entries in ([entry], [later], [later], [])]
    known: dict[replay.Method, bytes | replay.Answers] = {**stock()}
    known["tcp", "TcpProxyRpc", 1] = list(map(answer, lists))
    assert run(known, "proxy --watch -o json") == 4
    output = capsys.readouterr()
    assert [json.loads(line)["event"] for line in output.out.splitlines()] == ["connecting", "connected", "gone"]
    assert "stock" in output.err


def test_a_stock_node_is_a_table_on_a_terminal_and_its_failures_are_named() -> None:
    entry = portal_pb2.TcpProxyEntry(src=FLOW.src, dst=FLOW.dst, state=portal_pb2.Connected)
    known: dict[replay.Method, bytes | replay.Answers] = {**stock()}
    known["tcp", "TcpProxyRpc", 1] = [answer(portal_pb2.ListTcpProxyEntryResponse(entries=[entry]))]
    known["kcp_src", "TcpProxyRpc", 1] = refusal("out of memory")
    text = "\n".join(on_terminal("proxy --watch", 100, known, status=4))
    assert "| 10.144.0.1:40000 | 10.144.0.2:22 |" in text
    assert "1 of 1 flows, the list kcp_src is missing: " in text


# Ping


def pinged(*outcomes: str) -> dict[replay.Method, bytes | replay.Answers]:
    """A node whose pings of n2 end so."""
    answers = [portal_own_pb2.PingResponse(rtt_us=51_800, outcome=outcome, detail="no way") for outcome in outcomes]
    return {**node(routes=(route(2),)), ("", "PythonNodeRpc", 8): list(map(answer, answers))}


@pytest.mark.parametrize(
    ("outcome", "status", "said"),
    [
        ("connected", 0, "51.8 ms"),
        ("refused", 0, "51.8 ms (the port is closed)"),
        ("failed", 4, "no way"),
        ("timeout", 5, "no answer in 2.5 s"),
    ],
)
def test_a_ping_tells_how_it_went(outcome: str, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pinged(outcome), "ping --kcp n2 -c 1") == status
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"kcp to n2 (10.144.0.2:9): {said}"
    assert last.startswith(f"{int(status == 0)} of 1 answered")


def test_pings_are_objects_too_and_unknown_peers_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pinged("connected"), "ping --kcp 10.144.0.2 -c 1 -o json --port 22") == 0
    said = {"sequence": 1, "peer": "10.144.0.2", "rtt_us": 51_800, "outcome": "connected", "detail": "no way"}
    assert json.loads(capsys.readouterr().out) == said
    assert run(pinged(), "ping --kcp n9 -c 1") == 4
    assert "easytier-cli peer" in capsys.readouterr().err
