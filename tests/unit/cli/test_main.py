"""How the command ends, what goes where, and what a terminal gets to see."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from google.protobuf.message import Message

from easytier_cli.main import main
from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_own_pb2, portal_pb2
from tests.unit.cli import replay

MODULE = [sys.executable, "-m", "easytier_cli.main"]


def answer(message: Message) -> bytes:
    return peer_rpc_pb2.RpcResponse(response=message.SerializeToString()).SerializeToString()


def node(
    *, hostname: str = "a", routes: tuple[portal_pb2.Route, ...] = (), flows: tuple[portal_own_pb2.FlowInfo, ...] = ()
) -> dict[replay.Method, bytes]:
    """What a node says that knows these routes and flows."""
    info = portal_pb2.NodeInfo(peer_id=1, ipv4_addr="10.144.0.1/24", hostname=hostname, version="2.6.4-py0")
    instances = portal_pb2.ListNetworkInstanceResponse(inst_ids=[common_pb2.UUID(part4=1)])
    meta = portal_pb2.NetworkInstanceMeta(inst_id=common_pb2.UUID(part4=1), instance_name="lab")
    return {
        ("", "WebClientService", 5): answer(instances),
        ("", "WebClientService", 8): answer(portal_pb2.ListNetworkInstanceMetaResponse(metas=[meta])),
        ("", "PeerManageRpc", 1): answer(portal_pb2.ListPeerResponse()),
        ("", "PeerManageRpc", 3): answer(portal_pb2.ListRouteResponse(routes=routes)),
        ("", "PeerManageRpc", 7): answer(portal_pb2.ShowNodeInfoResponse(node_info=info)),
        ("", "ConnectorManageRpc", 1): answer(portal_pb2.ListConnectorResponse()),
        ("", "PythonNodeRpc", 1): answer(portal_own_pb2.ListFlowsResponse(flows=flows)),
        ("", "PythonNodeRpc", 2): answer(
            portal_own_pb2.ListPluginsResponse(
                plugins=[portal_own_pb2.PluginInfo(name="kcp", version="1", status="loaded", hooks=["x", "y"])]
            )
        ),
    }


def run(known: dict[replay.Method, bytes], command: str) -> int:
    with replay.portal(known) as port:
        return main([*command.split(), "-p", f"127.0.0.1:{port}"])


def route(number: int, *, kcp: bool = True) -> portal_pb2.Route:
    return portal_pb2.Route(
        peer_id=number,
        ipv4_addr=common_pb2.Ipv4Inet(address=common_pb2.Ipv4Addr(addr=0x0A900000 + number), network_length=24),
        next_hop_peer_id=2,
        cost=number - 1,
        path_latency_latency_first=7 * number,
        hostname=f"n{number}",
        version="2.6.4",
        proxy_cidrs=[f"10.{number}.0.0/16"],
        feature_flag=common_pb2.PeerFeatureFlag(kcp_input=kcp),
    )


FLOW = portal_own_pb2.FlowInfo(
    src=common_pb2.SocketAddr(ipv4=common_pb2.Ipv4Addr(addr=0x0A900001), port=40000),
    dst=common_pb2.SocketAddr(ipv4=common_pb2.Ipv4Addr(addr=0x0A900002), port=22),
    peer_hostname="n2",
    transport="kcp",
    state="connected",
    reason="the peer takes KCP",
    bytes_sent=1_500_000,
    rtt_us=51_840,
    retransmitted=3,
)


# How it ends


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
        *("", "fly", "peer fly", "-p localhost:1 peer", "-p 1 peer", "-p ::1:1 peer", "-o xml peer", "-i x peer"),
        *("proxy why", "proxy why x", "proxy why 10.0.0.1:99999", "--timeout 0 peer", "--timeout nan peer"),
    ],
)
def test_wrong_usage_is_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(command.split())
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "usage: easytier-cli" in output.err


def test_a_refusal_is_4(capsys: pytest.CaptureFixture[str]) -> None:
    refusal = peer_rpc_pb2.RpcResponse()
    refusal.error.execute_error.error_message = "more than one instance fits"
    known = node() | {("", "ConnectorManageRpc", 1): refusal.SerializeToString()}
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


def test_wide_tells_why(capsys: pytest.CaptureFixture[str]) -> None:
    gone = portal_own_pb2.FlowInfo()
    gone.CopyFrom(FLOW)
    gone.state, gone.end_reason = "closed", "FIN both ways"
    assert run(node(flows=(FLOW, gone)), "proxy --wide") == 0
    [row] = capsys.readouterr().out.splitlines()[2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:9] == ["10.144.0.1:40000", "10.144.0.2:22", "n2", "kcp", "connected", "1.50 MB", "0 B", "51.8 ms", "3"]
    assert cells[10] == "the peer takes KCP"
    assert run(node(flows=(FLOW, gone)), "proxy --closed") == 0
    assert "FIN both ways; the peer takes KCP" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("10.144.0.2:22", "peer n2 (10.144.0.2/24, direct)"),
        ("10.3.4.5", "peer n3 (10.144.0.3/24, 2 hops)\n  kcp   the peer does not accept it (version 2.6.4)"),
        ("10.99.0.1", "no node has this address"),
    ],
)
def test_why_explains_one_destination(destination: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = node(routes=(route(2), route(3, kcp=False)), flows=(FLOW,))
    assert run(known, f"proxy why {destination}") == 0
    output = capsys.readouterr().out
    assert said in output
    assert ("10.144.0.1:40000: connected, the peer takes KCP" in output) == (destination == "10.144.0.2:22")


def test_plugins_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node(), "plugins") == 0
    assert capsys.readouterr().out.splitlines()[2] == "| kcp    | 1       | loaded | x, y  |"


def test_doctor_finds_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node(), "doctor") == 6
    assert "no other node is known" in capsys.readouterr().out
    assert run(node(routes=(route(2), route(3, kcp=False))), "doctor") == 0
    output = capsys.readouterr().out
    assert "| ok     | peer n2    | direct, takes KCP" in output
    assert "| warn   | peer n3    | 2 hops, takes no KCP" in output


def test_several_instances_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    metas = [portal_pb2.NetworkInstanceMeta(inst_id=common_pb2.UUID(part4=n), instance_name=f"lab{n}") for n in (1, 2)]
    known = node() | {("", "WebClientService", 8): answer(portal_pb2.ListNetworkInstanceMetaResponse(metas=metas))}
    assert run(known, "node") == 0
    output = capsys.readouterr().out
    assert "== lab1 (00000000-0000-0000-0000-000000000001) ==\n| Virtual IP" in output
    assert "\n\n== lab2 (00000000-0000-0000-0000-000000000002) ==\n" in output
    assert run(known, "node -n lab2") == 0
    assert "==" not in capsys.readouterr().out


def on_terminal(command: str, columns: int, known: dict[replay.Method, bytes]) -> list[str]:
    """What a terminal of this width gets."""
    master, slave = pty.openpty()
    with replay.portal(known) as port:
        environment = os.environ | {"COLUMNS": str(columns), "LINES": "24"}
        subprocess.run(
            [*MODULE, *command.split(), "-p", f"127.0.0.1:{port}"], stdout=slave, env=environment, timeout=30, check=True
        )
    os.close(slave)
    data = b""
    try:
        while part := os.read(master, 10_000):
            data += part
    except OSError:
        pass
    os.close(master)
    return data.decode().splitlines()


def test_a_narrow_terminal_gets_fewer_columns() -> None:
    known = replay.answers(replay.conversations("2.6.4")[0])
    assert [line.count("|") - 1 for line in on_terminal("proxy", 200, known)] == [5, 5, 5, 5]
    narrow = on_terminal("proxy", 70, known)
    assert max(map(len, narrow)) < 70
    assert "start_time" not in narrow[0]
    assert "state" in narrow[0]
    assert on_terminal("proxy --no-trunc", 70, known) == on_terminal("proxy", 200, known)


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
