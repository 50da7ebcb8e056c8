"""Our command against what stock's portal said: it prints what stock's command printed."""

from __future__ import annotations

import json

import pytest

from easytier_cli.main import main
from tests.unit.cli import replay

# (connection of the capture, command line of stock, our command line)
LIKE_STOCK = [
    (0, "proxy", "proxy"),
    (1, "-o json proxy", "-o json proxy"),
    (2, "peer", "peer"),
    (3, "-o json peer", "peer -o json"),
    (4, "route", "route"),
    (5, "-o json route", "-o json route list"),
    (6, "node", "node"),
    (7, "-o json node info", "-o json node info"),
    (8, "stats", "stats"),
]


# The captures were made on a machine with this time zone.
pytestmark = pytest.mark.usefixtures("in_utc")


def run(known: dict[replay.Method, bytes], command: str) -> int:
    with replay.portal(known) as port:
        return main([*command.split(), "-p", f"127.0.0.1:{port}"])


@pytest.mark.parametrize(("connection", "stock", "ours"), LIKE_STOCK, ids=[case[1] for case in LIKE_STOCK])
def test_output_is_that_of_stock(connection: int, stock: str, ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = replay.answers(replay.conversations("2.6.4")[connection])
    assert run(known, ours) == 0
    output = capsys.readouterr()
    assert output.out.rstrip("\n") == replay.printed("2.6.4")[stock]
    assert output.err == ""


def test_connectors_are_a_table_instead_of_a_dump(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(replay.answers(replay.conversations("2.6.4")[9]), "connector") == 0
    assert capsys.readouterr().out.splitlines() == [
        "| url                  | status    |",
        "|----------------------|-----------|",
        "| udp://10.9.0.2:11010 | connected |",
    ]


def old_rows(command: str) -> list[list[str]]:
    """The cells of a box table of stock 2.2.4."""
    lines = [line for line in replay.printed("2.2.4")[command].splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def our_rows(output: str) -> list[list[str]]:
    lines = [line for line in output.splitlines() if not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(("connection", "command"), [(0, "proxy"), (3, "node")])
def test_an_old_core_gives_the_same_cells(connection: int, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(replay.answers(replay.conversations("2.2.4")[connection]), command) == 0
    assert our_rows(capsys.readouterr().out) == old_rows(command)


def test_peers_of_an_old_core(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(replay.answers(replay.conversations("2.2.4")[1]), "peer") == 0
    _, own, other = our_rows(capsys.readouterr().out)
    assert own[:4] == ["10.144.0.1/24", "a", "Local", "-"]
    assert other == ["10.144.0.2/24", "b", "p2p", "10.39", "0.0%", "4.25 kB", "1.61 kB", "udp", "Unknown", "2.2.4"]


def test_routes_of_an_old_core(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(replay.answers(replay.conversations("2.2.4")[2]), "-o json route") == 0
    own, other = json.loads(capsys.readouterr().out)
    assert own["next_hop_hostname"] == "Local"
    assert (other["next_hop_ipv4"], other["path_len"], other["path_latency"]) == ("DIRECT", 1, 10)
    assert (other["next_hop_ipv4_lat_first"], other["path_len_lat_first"]) == ("10.144.0.2/24", 100)


def test_connectors_of_an_old_core(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(replay.answers(replay.conversations("2.2.4")[4]), "-o json connector") == 0
    assert json.loads(capsys.readouterr().out) == [{"url": {"url": "udp://10.9.0.2:11010"}, "status": 0}]


def test_a_core_without_the_service_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(replay.answers(replay.conversations("2.2.4")[1]), "stats") == 4
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("easytier-cli: the node at 127.0.0.1:")
    assert "it does not have this service" in output.err
    assert "StatsRpc" not in output.err, "its names are for programs"


def test_a_stock_core_tells_less_of_flows_than_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(replay.answers(replay.conversations("2.6.4")[0]), "proxy --wide") == 3
    output = capsys.readouterr()
    assert output.out.rstrip("\n") == replay.printed("2.6.4")["proxy"]
    assert "stock" in output.err
