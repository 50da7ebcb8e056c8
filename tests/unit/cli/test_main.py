"""How the command ends, what goes where, and what a terminal gets to see."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import pytest

from easytier_cli import arguments
from easytier_cli.main import main
from easytier_host.pb import common_pb2, portal_own_pb2, portal_pb2
from tests.unit.cli import replay
from tests.unit.cli.nodes import FAULTY, FLOW, MODULE, answer, node, on_terminal, refusal, route, rows, run

# How it ends


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version_is_that_of_the_package(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"easytier-cli {version('easytier-kcp-plugin')}\n"


def test_nobody_there_is_1_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert main(["peer", "-p", f"127.0.0.1:{port}"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    [line] = output.err.splitlines()
    assert line.startswith(f"easytier-cli: no node answers at 127.0.0.1:{port} (connection refused).  Start one:")


@pytest.mark.parametrize(
    "command",
    [
        *("", "fly", "peer fly", "-p a b:1 peer", "-p 0 peer", "-p ::1:1 peer", "-o xml peer", "-i x peer"),
        *("proxy why", "proxy why 10.0.0.999", "proxy why :22", "proxy why 10.0.0.1:99999"),
        *("--timeout 0 peer", "--timeout nan peer"),
        *("proxy --sort x", "proxy --filter colour:red", "proxy --filter port:x", "proxy --filter dst:1/99", "ping 10.0.0.1"),
        *("ping --kcp", "ping --kcp n2 -c 0", "completions ksh", "config", "proxy why [::1", "proxy why 10.0.0.1:"),
    ],
)
def test_wrong_usage_is_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(command.split())
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "usage: easytier-cli" in output.err


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("15889", "127.0.0.1", 15889),
        ("10.0.0.5:1", "10.0.0.5", 1),
        ("[::1]:65535", "::1", 65535),
        ("localhost:15888", "localhost", 15888),
        ("my-node.lan:15888", "my-node.lan", 15888),
    ],
)
def test_where_a_node_answers(text: str, host: str, port: int) -> None:
    assert arguments.portal(text) == (host, port)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("peer -p :15888", 'expected IP:PORT, found ":15888"'),
        ("peer -p 10.0.0.999:15888", '"10.0.0.999" is not an IP address'),
        ("peer -p http://127.0.0.1:15888", "expected IP:PORT"),
        ("peer -p 10.0.0.1/24:15888", "expected IP:PORT"),
        ("peer --timeout abc", 'expected 0.01 to 3600, found "abc"'),
        ("peer -i 7", '"7" is not a UUID'),
        ("ping --kcp n2 -c x", 'expected 1 to 1000000, found "x"'),
        ("proxy why fe80::x", '"fe80::x" is not an IP address'),
        ("proxy list 10.0.0.1", "proxy why IP[:PORT]"),
    ],
)
def test_a_wrong_value_is_said_in_words_of_the_user(command: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(command.split())
    assert word in capsys.readouterr().err


def test_list_may_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    known = node(flows=(FLOW,))
    for command in ("proxy --wide", "plugins"):
        assert run(known, command) == 0
        shown = capsys.readouterr().out
        assert run(known, command.replace(" ", " list ", 1) if " " in command else f"{command} list") == 0
        assert capsys.readouterr().out == shown


def test_a_refusal_is_4(capsys: pytest.CaptureFixture[str]) -> None:
    known = node() | {("", "ConnectorManageRpc", 1): refusal("more than one instance fits")}
    assert run(known, "connector") == 4
    output = capsys.readouterr()
    assert output.out == ""
    assert "more than one instance fits" in output.err


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Gives one connection to `serve`, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_a_portal_that_hangs_up_is_4(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda connection: None) as port:
        assert main(["peer", "-p", f"127.0.0.1:{port}"]) == 4
    assert capsys.readouterr().out == ""


def test_silence_is_5(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda connection: _read_all(connection)) as port:
        assert main(["proxy", "-p", f"127.0.0.1:{port}", "--timeout", "0.05"]) == 5
    output = capsys.readouterr()
    assert output.out == ""
    assert "no answer in 0.05 s" in output.err


def _read_all(connection: socket.socket) -> None:
    while connection.recv(1000):
        pass


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x14\0\0\0" + b"\xff" * 20, b"\x10\0\0\0" + bytes(16)])
def test_something_else_behind_the_port_is_4(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda connection: connection.sendall(data)) as port:
        assert main(["peer", "-p", f"127.0.0.1:{port}"]) == 4
    assert capsys.readouterr().err.startswith("easytier-cli: ")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with replay.portal(node()) as port:
        reader, writer = os.pipe()
        os.close(reader)
        shown = subprocess.run(
            [*MODULE, "peer", "-p", f"127.0.0.1:{port}"], stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False
        )
        os.close(writer)
    assert (shown.returncode, shown.stderr) == (0, b"")


def shell(command: str, port: int) -> subprocess.CompletedProcess[bytes]:
    """Run by a shell, with `easytier-cli` for the program and its portal."""
    program = f"{' '.join(MODULE)} -p 127.0.0.1:{port}"
    text = command.replace("easytier-cli", program)
    return subprocess.run(["sh", "-c", text], capture_output=True, timeout=30, check=False)


def test_closed_streams_are_no_accident() -> None:
    with replay.portal(node()) as port:
        closed = shell("easytier-cli peer >&-", port)
        assert (closed.returncode, closed.stderr) == (3, b"easytier-cli: standard output is closed\n")
    closed = shell("easytier-cli peer 2>&-", port)
    assert (closed.returncode, closed.stdout) == (1, b"")


def test_names_that_the_locale_cannot_write_are_escaped() -> None:
    with replay.portal(node(hostname="网络")) as port:
        shown = shell("PYTHONIOENCODING=ascii easytier-cli node", port)
        assert (shown.returncode, shown.stderr) == (0, b"")
        assert rb"\u7f51\u7edc" in shown.stdout
        as_json = shell("PYTHONIOENCODING=ascii easytier-cli -o json node", port)
    assert json.loads(as_json.stdout)["hostname"] == "网络"


# What it prints


def test_relayed_peers_show_their_hops(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node(routes=(route(3), route(2))), "peer") == 0
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert [line[1:4] for line in lines[2:]] == [["a", "Local", "-"], ["n2", "p2p", "14.00"], ["n3", "relay(2)", "21.00"]]


def test_a_route_shows_its_next_hop(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node(routes=(route(3), route(2))), "route") == 0
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert [line[3:5] for line in lines[2:]] == [["-", "Local"], ["DIRECT", "DIRECT"], ["10.144.0.2/24", "n2"]]


def test_a_name_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = node(hostname="x\x1b[2J\x9b\u202ey")
    assert run(evil, "node") == 0
    assert run(evil, "node -o json") == 0
    assert not {"\x1b", "\x9b", "\u202e"} & set(capsys.readouterr().out)


def test_plugins_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node(), "plugins") == 0
    assert capsys.readouterr().out.splitlines()[2] == "| kcp    | 1       | loaded | -      | x, y  |"
    assert run(node(plugins=[FAULTY]), "plugins") == 0
    assert capsys.readouterr().out.splitlines()[2] == (
        "| lazy   |         | loaded, rests 12 s | 2 raised, 3 unusable, 5 too slow | -     |"
    )


def test_words_of_a_node_do_not_reach_the_terminal_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    bad = "\x1b[2J\nowned"
    metas = [portal_pb2.NetworkInstanceMeta(inst_id=common_pb2.UUID(part4=n), instance_name=f"{bad}{n}") for n in (1, 2)]
    known = node(hostname=bad) | {("", "WebClientService", 8): answer(portal_pb2.ListNetworkInstanceMetaResponse(metas=metas))}
    known["", "ConnectorManageRpc", 1] = refusal(bad)
    known["", "PythonNodeRpc", 5] = answer(portal_own_pb2.ExplainResponse(peer_id=2, peer_hostname=bad))
    evil = route(2)
    evil.hostname = bad
    known["", "PeerManageRpc", 3] = answer(portal_pb2.ListRouteResponse(routes=[evil]))
    for command in ("node", "peer", "doctor", "connector", "connector -n x", "proxy --watch", "proxy why 10.144.0.2"):
        run(known, command)
        output = capsys.readouterr()
        assert "owned" in output.out + output.err
        assert "\x1b" not in output.out + output.err
        assert "\nowned" not in output.out + output.err


# Failures of a part


def test_a_list_that_failed_is_named_and_not_taken_for_empty(capsys: pytest.CaptureFixture[str]) -> None:
    empty = answer(portal_pb2.ListTcpProxyEntryResponse())
    known = node() | {("tcp", "TcpProxyRpc", 1): empty, ("kcp_src", "TcpProxyRpc", 1): refusal("out of memory")}
    assert run(known, "proxy") == 3
    assert "the list kcp_src is missing" in capsys.readouterr().err
    known |= {("tcp", "TcpProxyRpc", 1): refusal("out of memory")}
    assert run(known, "proxy") == 4
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err != ""


def test_one_network_that_fails_does_not_hide_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    metas = [portal_pb2.NetworkInstanceMeta(inst_id=common_pb2.UUID(part4=n), instance_name=f"lab{n}") for n in (1, 2)]
    known: dict[replay.Method, bytes | replay.Answers] = {**node()}
    known["", "WebClientService", 8] = answer(portal_pb2.ListNetworkInstanceMetaResponse(metas=metas))
    known["", "ConnectorManageRpc", 1] = [refusal("busy"), answer(portal_pb2.ListConnectorResponse())]
    assert run(known, "connector") == 3
    output = capsys.readouterr().out
    assert output.count("failed: ") == 1
    assert output.endswith("|-----|--------|\n")


def test_what_is_not_measured_of_a_peer_is_not_shown_as_good(capsys: pytest.CaptureFixture[str]) -> None:
    """A peer behind a relay has no loss of its own, and a node of this project does not look for its NAT.

    Until somebody has measured all of the way there, its latency is told as 0.
    """
    ours, stocks = route(2), route(3)
    ours.version = "2.6.4-py0.1.0"
    stocks.path_latency_latency_first = 0
    for each in (ours, stocks):
        each.stun_info.udp_nat_type = common_pb2.Symmetric
    assert run(node(routes=(ours, stocks)), "peer") == 0
    heading, _, _, *others = capsys.readouterr().out.splitlines()
    cells = [dict(zip(heading.split("|"), line.split("|"), strict=True)) for line in others]
    told = [{name.strip(): cell.strip() for name, cell in row.items()} for row in cells]
    assert [(each["hostname"], each["lat(ms)"], each["loss"], each["NAT"]) for each in told] == [
        ("n2", "14.00", "-", "Unknown"),
        ("n3", "-", "-", "Symmetric"),
    ]
    assert run(node(routes=(ours, stocks)), "peer -o json") == 0
    measures = [(each["lat_ms"], each["loss_rate"]) for each in json.loads(capsys.readouterr().out)[1:]]
    assert measures == [("14.00", "-"), ("-", "-")]
    assert run(node(routes=(ours, stocks)), "route") == 0
    assert [row[6:8] + row[11:12] for row in rows(capsys.readouterr().out)[1:]] == [["1", "-", "14"], ["2", "-", "-"]]
    assert run(node(routes=(ours, stocks)), "route -o json") == 0
    assert [each["path_latency_lat_first"] for each in json.loads(capsys.readouterr().out)[1:]] == [14, 0]


def test_a_neighbour_that_was_not_pinged_yet_has_no_latency(capsys: pytest.CaptureFixture[str]) -> None:
    conn = portal_pb2.PeerConnInfo(conn_id="c", stats=portal_pb2.PeerConnStats(latency_us=0))
    infos = portal_pb2.ListPeerResponse(peer_infos=[portal_pb2.PeerInfo(peer_id=2, conns=[conn])])
    known = node(routes=(route(2),)) | {("", "PeerManageRpc", 1): answer(infos)}
    assert run(known, "peer") == 0
    assert rows(capsys.readouterr().out)[1][3:5] == ["-", "0.0%"]
    conn.stats.latency_us = 290
    infos.peer_infos[0].conns[0].CopyFrom(conn)
    assert run(known | {("", "PeerManageRpc", 1): answer(infos)}, "peer") == 0
    assert rows(capsys.readouterr().out)[1][3:5] == ["0.29", "0.0%"]


def test_several_instances_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    metas = [portal_pb2.NetworkInstanceMeta(inst_id=common_pb2.UUID(part4=n), instance_name=f"lab{n}") for n in (1, 2)]
    known = node() | {("", "WebClientService", 8): answer(portal_pb2.ListNetworkInstanceMetaResponse(metas=metas))}
    assert run(known, "node") == 0
    output = capsys.readouterr().out
    assert "== lab1 (00000000-0000-0000-0000-000000000001) ==\n| Virtual IP" in output
    assert "\n\n== lab2 (00000000-0000-0000-0000-000000000002) ==\n" in output
    assert run(known, "node -n lab2") == 0
    assert "==" not in capsys.readouterr().out


def test_a_narrow_terminal_gets_fewer_columns() -> None:
    known = replay.answers(replay.conversations("2.6.4")[0])
    assert [line.count("|") - 1 for line in on_terminal("proxy", 200, known)] == [5, 5, 5, 5]
    narrow = on_terminal("proxy", 70, known)
    assert max(map(len, narrow)) < 70
    assert "start_time" not in narrow[0]
    assert "state" in narrow[0]
    assert on_terminal("proxy --no-trunc", 70, known) == on_terminal("proxy", 200, known)


@pytest.mark.parametrize(
    ("command", "stays"),
    [
        *(
            ("proxy", "tran"),
            ("proxy --wide", "tran"),
            ("peer", "loss"),
            ("route", "next_hop_hostname"),
            ("node", "Virtual IP"),
        ),
        *(("stats", "Value"), ("plugins", "state"), ("connector", "status")),
    ],
)
def test_no_line_of_a_table_wraps_on_fifty_columns(command: str, stays: str) -> None:
    """And what people look for is there."""
    url = common_pb2.Url(url="tcp://a-rather-long-name.example.org:11010")
    connectors = portal_pb2.ListConnectorResponse(connectors=[portal_pb2.Connector(url=url, status=portal_pb2.CONNECTED)])
    metric = portal_pb2.MetricSnapshot(name="node_frames_without_a_way", value=7, labels={"network_name": "a-long-name" * 3})
    entry = portal_pb2.TcpProxyEntry(src=FLOW.src, dst=FLOW.dst, state=portal_pb2.ConnectingDst, transport_type=portal_pb2.Kcp)
    known = node(routes=(route(2), route(3)), flows=(FLOW,)) | {
        ("", "ConnectorManageRpc", 1): answer(connectors),
        ("", "StatsRpc", 1): answer(portal_pb2.GetStatsResponse(metrics=[metric])),
        ("kcp_src", "TcpProxyRpc", 1): answer(portal_pb2.ListTcpProxyEntryResponse(entries=[entry])),
    }
    lines = on_terminal(command, 50, known)
    assert max(map(len, lines)) < 50
    assert stays in lines[0]


# How quickly


def test_it_starts_without_what_it_does_not_need() -> None:
    heavy = "{'anyio', 'asyncio', 'pluggy', 'cryptography', 'zstandard', 'pyroute2', 'easytier_host.instance'}"
    code = (
        "import sys; from easytier_cli.main import main\n"
        "try: main(['peer', '-p', '127.0.0.1:1'])\n"
        f"finally: print(sorted({heavy} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout == "[]\n"
