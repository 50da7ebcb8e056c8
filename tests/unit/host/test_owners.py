"""Which addresses a peer may speak for, and what a claim to another one is worth."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_address

import pytest

from easytier_hooks.types import IPAddress, PeerInfo
from easytier_host import Config
from easytier_host.owners import MAX_PROVEN, Claim, Owners
from tests.unit.host.helpers import FAR, OTHER, PEER
from tests.unit.host.test_datapath import record

CONFIG = Config(ipv4=IPv4Interface("10.144.0.1/24"), ipv6=IPv6Interface("fd00::1/64"))
RECORDS = {
    PEER: record(
        PEER,
        ipv4=IPv4Interface("10.144.0.2/24"),
        ipv6=IPv6Interface("fd00::2/64"),
        proxy_cidrs=(IPv4Network("10.50.0.0/16"),),
    ),
    OTHER: record(OTHER, ipv4=IPv4Interface("172.30.0.3/24"), proxy_cidrs=(IPv4Network("192.168.1.0/24"),)),
}


def peer_for(ip: IPAddress) -> PeerInfo | None:
    """Whoever has it, else whoever offers it."""
    for found in RECORDS.values():
        if any(interface is not None and interface.ip == ip for interface in (found.ipv4, found.ipv6)) or any(
            ip in cidr for cidr in found.proxy_cidrs
        ):
            return PeerInfo(found.peer_id, ipv4=found.ipv4.ip if found.ipv4 else None)
    return None


@pytest.fixture
def owners() -> Owners:
    return Owners(CONFIG, RECORDS.get, peer_for)


@pytest.mark.parametrize(
    ("address", "claim"),
    [
        ("10.144.0.2", Claim.OWN),
        ("fd00::2", Claim.OWN),
        ("10.50.9.9", Claim.OWN),
        ("10.144.0.1", Claim.FORGED),  # ours
        ("10.144.0.77", Claim.FORGED),  # nobody's, but of the overlay
        ("fd00::1", Claim.FORGED),
        ("172.30.0.3", Claim.FORGED),  # another peer's, outside of our prefix
        ("127.0.0.1", Claim.FOREIGN),  # a client of stock's SOCKS5 server
        ("0.0.0.0", Claim.FOREIGN),
        ("192.168.9.9", Claim.FOREIGN),  # a host behind it that it does not tell of
        ("192.168.1.9", Claim.FOREIGN),  # the same, though another peer has a network of this name
    ],
)
def test_what_a_claim_is_worth(owners: Owners, address: str, claim: Claim) -> None:
    for _ in range(2):
        assert owners.judge(PEER, ip_address(address)) is claim


def test_no_record_makes_an_address_of_another_node_ones_own() -> None:
    """A peer may announce anything: the address of another, ours, and networks around both."""
    thief = record(
        FAR,
        ipv4=IPv4Interface("10.144.0.2/24"),
        ipv6=IPv6Interface("fd00::1/64"),
        proxy_cidrs=(IPv4Network("0.0.0.0/0"),),
    )
    owners = Owners(CONFIG, (RECORDS | {FAR: thief}).get, peer_for)
    for address in ("10.144.0.2", "10.144.0.1", "fd00::1", "10.144.0.77", "172.30.0.3"):
        assert owners.judge(FAR, ip_address(address)) is Claim.FORGED
        assert not owners.owns(thief, ip_address(address).packed)
    assert owners.judge(FAR, ip_address("192.168.77.7")) is Claim.OWN


def test_of_an_unknown_peer_no_claim_is_believed(owners: Owners) -> None:
    assert owners.judge(FAR, ip_address("10.144.0.2")) is Claim.FORGED
    assert owners.judge(FAR, ip_address("10.50.9.9")) is Claim.FOREIGN
    assert owners.stand_in(FAR, 4) is None


def test_a_peer_stands_for_its_clients(owners: Owners) -> None:
    assert owners.stand_in(PEER, 4) == ip_address("10.144.0.2")
    assert owners.stand_in(PEER, 6) == ip_address("fd00::2")
    assert owners.stand_in(OTHER, 6) is None


def test_a_new_record_is_asked_anew() -> None:
    records = dict(RECORDS)
    owners = Owners(CONFIG, records.get, peer_for)
    address = ip_address("10.50.9.9")
    assert owners.judge(PEER, address) is Claim.OWN
    records[PEER] = record(PEER, ipv4=IPv4Interface("10.144.0.2/24"))
    owners.forget()
    assert owners.judge(PEER, address) is Claim.FOREIGN


def test_the_memory_is_bounded(owners: Owners) -> None:
    for number in range(MAX_PROVEN + 10):
        assert owners.judge(PEER, ip_address("10.50.0.0") + number) is Claim.OWN
    assert len(owners._proven) <= MAX_PROVEN
