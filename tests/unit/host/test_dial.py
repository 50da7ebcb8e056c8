"""What peers may reach through this node, and under which address it is dialled."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_hooks import DialRefused
from easytier_host import Config, Flags
from easytier_host.config.model import ProxyNetwork
from easytier_host.dial import dial_target, real_address

CONFIG = Config(
    ipv4=IPv4Interface("10.144.0.1/24"),
    ipv6=IPv6Interface("fd00::1/64"),
    proxy_networks=(
        ProxyNetwork(IPv4Network("192.168.7.0/24"), IPv4Network("10.1.3.0/24")),
        ProxyNetwork(IPv4Network("10.1.2.0/24")),
        ProxyNetwork(IPv4Network("127.0.0.0/24"), IPv4Network("10.1.4.0/24")),
    ),
)
EXIT = Config(
    ipv4=IPv4Interface("10.144.0.1/24"),
    ipv6=IPv6Interface("fd00::1/64"),
    proxy_networks=(ProxyNetwork(IPv4Network("10.1.2.0/24"), IPv4Network("10.1.3.0/24")),),
    flags=Flags(enable_exit_node=True),
)
WITHOUT_DEVICE = Config(ipv4=IPv4Interface("10.144.0.1/24"), flags=Flags(no_tun=True))


@pytest.mark.parametrize(
    ("config", "wanted", "dialled"),
    [
        (CONFIG, "10.144.0.1", "10.144.0.1"),
        (CONFIG, "fd00::1", "fd00::1"),
        (WITHOUT_DEVICE, "10.144.0.1", "127.0.0.1"),
        (CONFIG, "10.1.2.9", "10.1.2.9"),
        (CONFIG, "10.1.3.9", "192.168.7.9"),
    ],
)
def test_what_is_ours_or_offered_is_dialled(config: Config, wanted: str, dialled: str) -> None:
    assert dial_target(config, (), ip_address(wanted), 80) == (ip_address(dialled), 80)


@pytest.mark.parametrize(
    "wanted",
    [
        "10.144.0.2",
        "127.0.0.1",
        "0.0.0.0",
        "169.254.1.1",
        "224.0.0.1",
        "8.8.8.8",
        "::1",
        "192.168.7.9",  # offered under another address only
        "10.1.4.1",  # would be loopback behind its mapping
    ],
)
def test_everything_else_is_refused(wanted: str) -> None:
    with pytest.raises(DialRefused):
        dial_target(CONFIG, (), ip_address(wanted), 80)


def test_listeners_of_the_node_are_not_for_peers() -> None:
    with pytest.raises(DialRefused, match="11010 is a listener"):
        dial_target(CONFIG, {11010}, ip_address("10.144.0.1"), 11010)
    # A host behind the node may listen on the same port.
    assert dial_target(CONFIG, {11010}, ip_address("10.1.2.9"), 11010)[1] == 11010


@pytest.mark.parametrize("wanted", ["10.1.3.1", "10.1.2.1"])
def test_nor_are_they_under_another_address_of_this_machine(wanted: str) -> None:
    interfaces = {ip_address("192.168.7.1"), ip_address("10.1.2.1")}
    with pytest.raises(DialRefused, match="11010 is a listener"):
        dial_target(CONFIG, {11010}, ip_address(wanted), 11010, interface_addresses=interfaces)
    assert dial_target(CONFIG, {11010}, ip_address(wanted), 22, interface_addresses=interfaces)[0] in interfaces


@pytest.mark.parametrize(
    ("wanted", "dialled"),
    [("203.0.113.9", "203.0.113.9"), ("2001:db8::9", "2001:db8::9"), ("192.168.1.1", "192.168.1.1"), ("10.1.3.9", "10.1.2.9")],
)
def test_an_exit_leads_anywhere_for_those_that_chose_it(wanted: str, dialled: str) -> None:
    assert dial_target(EXIT, (), ip_address(wanted), 80, exit_node=True) == (ip_address(dialled), 80)


@pytest.mark.parametrize("config", [EXIT, CONFIG])
def test_nobody_is_an_exit_without_being_asked_and_told(config: Config) -> None:
    with pytest.raises(DialRefused, match="neither"):
        dial_target(config, (), ip_address("203.0.113.9"), 80, exit_node=config is CONFIG)


HOSTILE = Config(
    ipv4=IPv4Interface("10.144.0.1/24"),
    proxy_networks=tuple(
        ProxyNetwork(IPv4Network(real), IPv4Network(f"10.9.{number}.0/24"))
        for number, real in enumerate(("0.0.0.0/24", "127.0.0.0/24", "169.254.169.0/24", "224.0.0.0/24", "10.144.0.0/24"))
    ),
)


@pytest.mark.parametrize("wanted", ["10.9.0.0", "10.9.0.9", "10.9.1.1", "10.9.2.254", "10.9.3.1", "10.9.4.2"])
def test_a_mapping_leads_neither_into_this_machine_nor_back_into_the_overlay(wanted: str) -> None:
    with pytest.raises(DialRefused):
        real_address(HOSTILE, ip_address(wanted))


def test_a_network_around_the_overlay_does_not_lead_back_into_it() -> None:
    config = Config(ipv4=IPv4Interface("10.144.0.1/24"), proxy_networks=(ProxyNetwork(IPv4Network("10.0.0.0/8")),))
    assert real_address(config, ip_address("10.1.2.3")) == ip_address("10.1.2.3")
    with pytest.raises(DialRefused, match="not outside of the overlay"):
        real_address(config, ip_address("10.144.0.2"))


@pytest.mark.parametrize(
    "wanted",
    [
        "127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "ff02::1",
        "10.144.0.2",
        "10.144.0.255",
        "fd00::2",
    ],
)
def test_an_exit_leads_neither_into_this_machine_nor_back_into_the_overlay(wanted: str) -> None:
    with pytest.raises(DialRefused):
        real_address(EXIT, ip_address(wanted), True)


@pytest.mark.parametrize("port", [-1, 0, 65_536])
def test_a_port_has_to_be_one(port: int) -> None:
    with pytest.raises(DialRefused):
        dial_target(CONFIG, (), ip_address("10.144.0.1"), port)


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_nothing_but_these_is_ever_dialled(wanted: object, port: int) -> None:
    address = ip_address(str(wanted))
    try:
        ip, _ = dial_target(EXIT, (), address, port, exit_node=True)
    except DialRefused:
        return
    assert not (ip.is_loopback)
    assert not (ip.is_link_local)
    assert not (ip.is_multicast)
    assert not (ip.is_unspecified)
