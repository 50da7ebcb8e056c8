"""Cells and tables."""

from __future__ import annotations

from unicodedata import east_asian_width

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_cli import output
from easytier_cli.flows import age
from easytier_host.pb import common_pb2, portal_pb2


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (17, "17 B"), (999, "999 B"), (1000, "1 kB"), (1024, "1.02 kB"), (4_250, "4.25 kB"), (2**64 - 1, "18.45 EB")],
)
def test_decimal_bytes(count: int, text: str) -> None:
    assert output.decimal_bytes(count) == text


@pytest.mark.parametrize(("count", "text"), [(624, "624 B"), (1024, "1 KiB"), (8_602, "8.40 KiB"), (2**64 - 1, "16 EiB")])
def test_binary_bytes(count: int, text: str) -> None:
    assert output.binary_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (59.9, "59s"), (131, "2m11s"), (11_100, "3h05m"), (187_200, "2d04h")]
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_wide_characters_take_two_columns() -> None:
    assert output.table(("name", "n"), [("网络", "1"), ("ab", "2")]).splitlines() == [
        "| name | n |",
        "|------|---|",
        "| 网络 | 1 |",
        "| ab   | 2 |",
    ]


@pytest.mark.parametrize("width", [15, 20, 40])
def test_a_table_is_cut_to_fit(width: int) -> None:
    narrowing = (("why", 24), ("x", 0))
    lines = output.table(("id", "x", "why"), [("1", "y", "because it is so")], width, narrowing).splitlines()
    assert {len(line) for line in lines} == {min(width, 29)}
    assert ("..." in lines[2]) == (width < 29)
    assert ("x" in lines[0]) == (width >= 29)


@given(
    st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), max_size=3),
    st.integers(29, 120),
    st.lists(st.tuples(st.sampled_from(["a column", "b", "another column"]), st.integers(0, 20)), max_size=4),
)
def test_no_table_is_wider_than_the_terminal(rows: list[list[str]], width: int, narrowing: list[tuple[str, int]]) -> None:
    # One column at least stays.
    narrowing = [step for step in narrowing if step[0] != "b"]
    lines = output.table(("a column", "b", "another column"), rows, width, narrowing).split("\n")
    assert len(lines) == len(rows) + 2
    assert all(sum(2 if east_asian_width(char) in "WF" else 1 for char in line) <= width for line in lines)


def test_what_was_cut_gets_back_what_a_column_leaves() -> None:
    rows = [("10.144.0.1:40000", "0123456789", "because it is so")]
    narrowing = (("why", 6), ("x", 0))
    assert output.table(("src", "x", "why"), rows, 40, narrowing).splitlines()[2] == "| 10.144.0.1:40000 | because it is so |"
    assert output.table(("src", "x", "why"), rows, 45, narrowing).splitlines()[2] == (
        "| 10.144.0.1:40000 | 0123456789 | becaus... |"
    )


def test_an_empty_table_is_its_heading() -> None:
    assert output.table(("a", "b"), []) == "| a | b |\n|---|---|"


def test_messages_look_like_those_of_stock() -> None:
    entry = portal_pb2.TcpProxyEntry(
        src=common_pb2.SocketAddr(ipv4=common_pb2.Ipv4Addr(addr=1), port=2), start_time=2**40, state=portal_pb2.Connected
    )
    assert output.plain(entry) == {
        "src": {"port": 2, "ip": {"Ipv4": {"addr": 1}}},
        "dst": None,
        "start_time": 2**40,
        "state": 3,
        "transport_type": 0,
    }
    assert output.plain(portal_pb2.Route())["cost_latency_first"] is None
    assert output.plain(portal_pb2.MetricSnapshot(name="x", labels={"k": "v"}))["labels"] == {"k": "v"}


def test_addresses_and_unknown_numbers() -> None:
    address = common_pb2.SocketAddr(ipv6=common_pb2.Ipv6Addr(part1=0xFD00_0000, part4=1), port=22)
    assert output.socket_address(address) == "[fd00::1]:22"
    assert output.socket_address(common_pb2.SocketAddr()) == "0.0.0.0:0"
    # Field 4 of a newer node with a state that this program does not know.
    assert output.enum_name(portal_pb2.TcpProxyEntry.FromString(b"\x20\x63"), "state") == "99"
