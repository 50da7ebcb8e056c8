"""Stock's whitelists and the rules of `[[access]]`: the first that fits decides, and all is allowed without any."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from easytier_host.access import Access, Question
from easytier_host.config.model import AccessRule, Config


def asked(port: int = 22, **more: Any) -> Question:
    values: dict[str, Any] = {
        "proto": "tcp",
        "peer": "laptop",
        "source": ip_address("10.144.0.2"),
        "destination": ip_address("10.144.0.1"),
        "port": port,
        "is_here": True,
    }
    return Question(**values | more)


def test_without_rules_all_is_allowed() -> None:
    access = Access(Config())
    assert not access.limits("tcp")
    assert not access.limits("udp")
    assert access.refusal(asked(peer=None, source=None)) == ""


def test_a_whitelist_is_about_one_protocol_of_this_node() -> None:
    access = Access(Config(tcp_whitelist=((22, 22), (8000, 8100))))
    assert [access.refusal(asked(port)) == "" for port in (21, 22, 7999, 8000, 8100, 8101)] == [
        *(False, True, False, True, True, False)
    ]
    assert access.refusal(asked(80)) == "port 80 is not in tcp_whitelist"
    assert access.refusal(asked(80, proto="udp")) == ""
    assert access.refusal(asked(80, is_here=False, destination=ip_address("192.168.7.9"))) == ""
    assert (access.limits("tcp"), access.limits("udp")) == (True, False)


def test_a_whitelist_of_port_0_allows_none() -> None:
    access = Access(Config(udp_whitelist=((0, 0),)))
    assert access.refusal(asked(53, proto="udp")) == "port 53 is not in udp_whitelist"


@pytest.mark.parametrize(
    ("condition", "fits", "does_not"),
    [
        ({"proto": "tcp"}, {}, {"proto": "udp"}),
        ({"peer": "laptop"}, {}, {"peer": "phone"}),
        ({"source": ip_network("10.144.0.0/24")}, {}, {"source": ip_address("10.145.0.2")}),
        ({"source": ip_network("10.144.0.0/24")}, {}, {"source": None}),
        ({"source": ip_network("10.144.0.0/24")}, {}, {"source": ip_address("fd00::1")}),
        ({"destination": ip_network("10.144.0.1/32")}, {}, {"destination": ip_address("192.168.7.9")}),
        ({"ports": ((1, 21), (22, 22))}, {}, {"port": 23}),
    ],
)
def test_a_rule_fits_if_all_its_conditions_hold(
    condition: dict[str, Any], fits: dict[str, Any], does_not: dict[str, Any]
) -> None:
    access = Access(Config(access=(AccessRule(False, **condition),)))
    assert access.refusal(asked(**fits)) == "access rule 1 denies it"
    assert access.refusal(asked(**does_not)) == ""


def test_the_first_rule_that_fits_decides() -> None:
    access = Access(
        Config(access=(AccessRule(True, peer="laptop", ports=((22, 22),)), AccessRule(False, "tcp"), AccessRule(True)))
    )
    assert access.refusal(asked()) == ""
    assert access.refusal(asked(80)) == "access rule 2 denies it"
    assert access.refusal(asked(peer="phone")) == "access rule 2 denies it"
    assert access.refusal(asked(80, proto="udp")) == ""
    assert (access.limits("tcp"), access.limits("udp")) == (True, False)


def test_no_rule_opens_what_a_whitelist_closes() -> None:
    access = Access(Config(tcp_whitelist=((80, 80),), access=(AccessRule(True),)))
    assert access.refusal(asked(22)) == "port 22 is not in tcp_whitelist"


def test_where_there_are_rules_an_unknown_peer_reaches_nothing() -> None:
    access = Access(Config(access=(AccessRule(True), AccessRule(False))))
    assert "nothing is known of the peer" in access.refusal(asked(peer=None))
