"""Findings of a node about itself, and what is made of the rules of a firewall."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from easytier_hooks.types import Connected, Failed, TransportSelected
from easytier_host.config.model import Flags
from easytier_host.nic.memory import MemoryNic
from easytier_host.portal import diagnosis
from tests.unit.host.helpers import make_node
from tests.unit.host.portal.portals import flow


def rules(policy: str, *expressions: list[dict[str, Any]], hook: str = "input") -> str:
    """A ruleset of one chain in nft's JSON."""
    place = {"family": "inet", "table": "filter"}
    entries: list[dict[str, Any]] = [
        {"metainfo": {"json_schema_version": 1}},
        {"table": {"family": "inet", "name": "filter"}},
        {"chain": {**place, "name": "input", "hook": hook, "policy": policy}},
    ]
    entries += [{"rule": {**place, "chain": "input", "expr": expression}} for expression in expressions]
    return json.dumps({"nftables": entries})


def of_device(name: str) -> list[dict[str, Any]]:
    match = {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}
    return [{"match": match}, {"accept": None}]


@pytest.mark.parametrize(
    ("ruleset", "status"),
    [
        (rules("accept"), "ok"),
        (rules("drop"), "warn"),
        (rules("drop", of_device("lo")), "warn"),
        (rules("drop", of_device("tun0")), "ok"),
        (rules("drop", hook="forward"), "ok"),
        (json.dumps({"nftables": []}), "ok"),
    ],
)
def test_a_chain_that_drops_is_found(ruleset: str, status: str) -> None:
    (found,) = diagnosis.firewall_findings(ruleset, "tun0")
    assert found.status == status
    assert ("nft insert rule inet filter input iifname tun0 accept" in found.advice) == (status == "warn")


ESTABLISHED: list[dict[str, Any]] = [
    {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
    {"accept": None},
]


def test_the_user_space_stack_needs_no_rule_but_that_for_answers() -> None:
    """What is already done is not advised, nor what does not help."""
    (found,) = diagnosis.firewall_findings(rules("drop", ESTABLISHED), "tun0", by_kernel=False)
    assert (found.status, found.advice) == ("ok", "")
    (found,) = diagnosis.firewall_findings(rules("drop", ESTABLISHED), "tun0")
    assert found.status == "warn"
    assert "--use-smoltcp" in found.advice
    for by_kernel in (True, False):
        (found,) = diagnosis.firewall_findings(rules("drop"), "tun0", by_kernel=by_kernel)
        assert found.status == "warn"
        assert "smoltcp" not in found.advice


@pytest.mark.parametrize("ruleset", ["", "[]", "{}", '{"nftables": 5}', '{"nftables": [{"chain": 1}]}', "no json"])
def test_rules_that_cannot_be_read_are_no_finding(ruleset: str) -> None:
    assert diagnosis.firewall_findings(ruleset, "tun0") == []


@pytest.mark.parametrize(
    ("status", "has"), [("CapEff:\t0000000000001000\n", True), ("CapEff:\t0000000000000fff\n", False), ("", True)]
)
def test_rights_are_read(status: str, has: bool) -> None:
    assert diagnosis.has_capability(status, 12) is has


@pytest.mark.anyio
async def test_an_installation_without_cargo_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "easytier_host._native", None)
    async with make_node(1) as node:
        found = {each.subject: each for each in await diagnosis.findings(node)}
        assert found["packets"].status == "warn"
        assert "install cargo" in found["packets"].advice


@pytest.mark.anyio
async def test_a_node_without_a_device() -> None:
    async with make_node(1) as node:
        found = {each.subject: each for each in await diagnosis.findings(node)}
        assert found["device"].status == "ok"
        assert "no_tun" in found["device"].text
        assert "firewall" not in found
        assert "no plugin offers it" in found["kcp in"].text
        assert found["kcp out"].text.startswith("off")


@pytest.mark.anyio
async def test_a_plugin_that_is_switched_off_is_named() -> None:
    async with make_node(1, flags=Flags(no_tun=True, enable_kcp_proxy=True)) as node:
        node.config = replace(node.config, plugins={"kcp": False})
        found = {each.subject: each for each in await diagnosis.findings(node)}
        assert (found["kcp out"].status, found["kcp out"].advice) == ("fail", "leave out kcp = false below [plugins]")


@pytest.mark.anyio
async def test_what_is_wrong_comes_with_advice() -> None:
    flags = Flags(no_tun=False, mtu=1480, disable_kcp_input=True, enable_kcp_proxy=True)
    async with make_node(1, flags=flags, nic=MemoryNic(mtu=1460)) as node:
        node.gate.transports.clear()
        for number, goes_through in ((1, True), (2, False)):
            flow_id = flow(node, number, "tcp")
            node.gate.report(flow_id, TransportSelected("tcp", "kcp: no answer", "fallback"))
            # Nobody answers at a mistyped address, whatever carries the flow.
            node.gate.report(flow_id, Connected() if goes_through else Failed("no answer"))
        found = {each.subject: each for each in await diagnosis.findings(node)}
        assert {subject for subject, each in found.items() if each.status != "ok"} >= {"kcp in", "kcp out", "fallback", "mtu"}
        assert found["kcp out"].status == "fail"
        assert found["fallback"].text == "1 flow had to go by plain TCP, the last one: kcp: no answer"
        assert "disable_kcp_input is set" in found["kcp in"].text
        assert all(each.advice for each in found.values() if each.status != "ok")
