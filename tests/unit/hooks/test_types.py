"""The values that hooks are told."""

from dataclasses import FrozenInstanceError, fields
from ipaddress import ip_address

import pytest

from easytier_hooks import Capability, FlowKey, PeerCapabilities
from easytier_hooks.guard import Fault, PluginCounters
from easytier_hooks.testing import make_flow, make_peer


@pytest.mark.parametrize(
    ("source", "destination", "text"),
    [
        ("10.144.0.1", "10.144.0.2", "10.144.0.1:51838 -> 10.144.0.2:22"),
        ("fd00::1", "fd00::2", "[fd00::1]:51838 -> [fd00::2]:22"),
    ],
)
def test_a_flow_key_reads_as_source_and_destination(source: str, destination: str, text: str) -> None:
    assert str(FlowKey(ip_address(source), 51838, ip_address(destination), 22)) == text


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_flow_key_refuses_what_is_no_port(port: int) -> None:
    with pytest.raises(ValueError, match="not a port"):
        FlowKey(ip_address("10.0.0.1"), port, ip_address("10.0.0.2"), 22)


def test_a_flow_key_refuses_two_address_families() -> None:
    with pytest.raises(ValueError, match="two families"):
        FlowKey(ip_address("10.0.0.1"), 1, ip_address("fd00::1"), 22)


def test_a_flow_is_a_snapshot_that_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make_flow().transport = "kcp"  # type: ignore[misc]


def test_the_sample_flow_goes_to_the_sample_peer() -> None:
    peer = make_peer(7)
    assert make_flow(peer=peer).key.destination_ip == peer.ipv4


def test_each_capability_is_a_field_of_what_peers_announce() -> None:
    assert {capability.value for capability in Capability} <= {field.name for field in fields(PeerCapabilities)}


def test_each_fault_has_its_counter() -> None:
    assert {fault.value for fault in Fault} == {field.name for field in fields(PluginCounters)}
