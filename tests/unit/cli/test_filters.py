"""What may be typed after `--filter`."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_cli import arguments, flows
from easytier_cli.filters import parse
from easytier_cli.flows import FlowRow

ROW = FlowRow(
    source="10.144.0.1:40000",
    destination="10.1.2.7:5432",
    transport="kcp",
    state="half-closed",
    started_at=0.0,
    peer="Gateway",
    direction="outbound",
    reason="loss 5.1 %",
    chosen_by="auto",
    sent=5,
    received=5,
    send_rate=5,
    rtt=0.05,
    loss=0.1,
    retransmitted=5,
)
IPV6 = FlowRow(source="[fd00::1]:40000", destination="[fd00::2]:22", transport="tcp", state="connected", started_at=9.0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "transport:kcp", "transport:tcp,kcp", "state:half", "STATE:HALF", "peer:gate", "port:5432", "port:40000"),
        *("cidr:10.144.0.0/16", "cidr:10.1.0.0/16", "dst:10.1.", "src:10.144.0.1", "by:auto", "why:loss", "direction:out"),
        *("-transport:tcp", "-port:22", "gateway", "kcp port:5432", "10.1.2.7:5432", "-src:10.1.0.0/16"),
    ],
)
def test_a_flow_is_found(text: str) -> None:
    assert parse(text)(ROW)


@pytest.mark.parametrize(
    "text",
    [
        "transport:tcp",
        "state:connected",
        "port:543",
        "cidr:10.2.0.0/16",
        "dst:10.144.",
        "-kcp",
        "kcp port:22",
        "why:rule",
        "fd00",
    ],
)
def test_a_flow_is_left_out(text: str) -> None:
    assert not parse(text)(ROW)


@pytest.mark.parametrize(
    "text", ["cidr:fd00::/64", "dst:fd00::2", "dst:fd", "dst:[fd00::2]:2", "port:22", "[fd00::1]:40000", "src:10.,fd00:"]
)
def test_ipv6_is_found_too(text: str) -> None:
    assert parse(text)(IPV6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trnsport:kcp", 'did you mean "transport:"?'),
        ("colour:red", "there are transport, state"),
        ("port:http", "not a port"),
        ("port:99999", "not a port"),
        ("cidr:10.0.0.0/33", "not a network"),
        ("dst:rubbish", "not an address"),
        ("-src:10.144.0.300", "not an address"),
        ("cidr:10.1.2.3.4", "not an address"),
        ("state:conected", 'did you mean "connected"?'),
        ("state:connected,x", "there are seen, connecting"),
        ("direction:up", "there are outbound"),
        ("state:", "state: what?"),
        ("-colour:red", "no field colour"),
    ],
)
def test_what_cannot_be_understood_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


@given(st.ip_addresses(), st.integers(0, 0xFFFF))
def test_whatever_an_address_begins_with_finds_it(address: IPv4Address | IPv6Address, port: int) -> None:
    source = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    row = replace(ROW, source=source)
    for length in range(1, len(source) + 1):
        assert parse(f"src:{source[:length]}")(row), source[:length]


@given(st.text(max_size=40))
def test_any_text_is_a_filter_or_an_error(text: str) -> None:
    try:
        holds = parse(text)
    except ValueError:
        return
    assert isinstance(holds(ROW), bool)


@pytest.mark.parametrize("name", arguments.ORDERS)
def test_every_order_is_known_and_can_be_reversed(name: str) -> None:
    pairs = [(ROW, 1), (IPV6, 2)]
    forward = [number for _, number in flows.arrange(pairs, None, name)]
    backward = [number for _, number in flows.arrange(pairs, None, name, reverse=True)]
    assert sorted(forward) == [1, 2]
    assert forward == backward[::-1]


def test_the_orders_of_the_command_line_are_those_there_are() -> None:
    assert set(arguments.ORDERS) == set(flows.ORDERS)
