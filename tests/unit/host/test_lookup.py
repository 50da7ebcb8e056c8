"""Destination address -> peers, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_address
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host import lookup
from easytier_host.lookup import Kind, Lookup, Target
from easytier_host.next_hop import Path
from easytier_host.pb import common_pb2
from easytier_host.route_records import PeerRecord

OWN = IPv4Interface("10.144.0.1/24")
OWN6 = IPv6Interface("fd00::1/64")


def peer(peer_id: int, ipv4: str | None = None, *cidrs: str, ipv6: str | None = None) -> PeerRecord:
    return PeerRecord(
        peer_id=peer_id,
        hostname=f"n{peer_id}",
        ipv4=IPv4Interface(ipv4) if ipv4 else None,
        ipv6=IPv6Interface(ipv6) if ipv6 else None,
        proxy_cidrs=tuple(IPv4Network(cidr) for cidr in cidrs),
        udp_nat_type=0,
        easytier_version="",
        feature_flag=common_pb2.PeerFeatureFlag(),
        inst_id=UUID(int=0),
        version=1,
        last_seen=0.0,
    )


def table(
    *records: PeerRecord, own: IPv4Interface | None = OWN, offers: tuple[str, ...] = (), exits: tuple[str, ...] = ()
) -> Lookup:
    """A lookup in which each peer is one hop further than the one before."""
    paths = {record.peer_id: Path(record.peer_id, hops, 0) for hops, record in enumerate(records, 1)}
    return Lookup(records, paths, own, OWN6, [IPv4Network(cidr) for cidr in offers], [ip_address(text) for text in exits])


def ask(answers: Lookup, address: str) -> Target:
    return answers.resolve(ip_address(address).packed)


def asked(answers: Lookup, address: str) -> tuple[Kind, tuple[int, ...]]:
    target = ask(answers, address)
    assert target.reason
    return target.kind, target.peers


def to(peer_id: int) -> tuple[Kind, tuple[int, ...]]:
    return Kind.PEER, (peer_id,)


NOWHERE: tuple[Kind, tuple[int, ...]] = (Kind.NONE, ())
MINE: tuple[Kind, tuple[int, ...]] = (Kind.OWN, ())


class TestHosts:
    """Virtual addresses."""

    def test_a_peer_has_its_address(self) -> None:
        answers = table(peer(2, "10.144.0.2/24", ipv6="fd00::2/64"), peer(3, "10.144.0.3/24"))
        assert asked(answers, "10.144.0.3") == to(3)
        assert asked(answers, "10.144.0.2") == to(2)
        assert asked(answers, "fd00::2") == to(2)

    def test_our_own_address_is_ours_whoever_claims_it(self) -> None:
        answers = table(peer(2, "10.144.0.1/24", ipv6="fd00::1/64"))
        assert asked(answers, "10.144.0.1") == MINE
        assert asked(answers, "fd00::1") == MINE

    def test_a_node_that_started_again_takes_the_place_of_its_former_self(self) -> None:
        again = replace(peer(3, "10.144.0.2/24", "192.168.7.0/24"), hostname="n2")
        answers = table(peer(2, "10.144.0.2/24", "192.168.7.0/24"), again, peer(4), replace(peer(5), hostname="n4"))
        assert asked(answers, "10.144.0.2") == asked(answers, "192.168.7.1") == to(3)
        assert asked(answers, "10.144.0.255") == (Kind.FANOUT, (3,))

    def test_a_later_record_without_a_path_takes_nobodys_place(self) -> None:
        records = [peer(2, "10.144.0.2/24"), replace(peer(3, "10.144.0.2/24"), hostname="n2")]
        assert asked(Lookup(records, {2: Path(2, 1, 0)}, OWN), "10.144.0.2") == to(2)

    def test_the_nearest_of_several_claims_wins(self) -> None:
        near, far = peer(9, "10.144.0.7/24"), peer(2, "10.144.0.7/24")
        assert asked(table(near, far), "10.144.0.7") == to(9)
        assert asked(table(far, near), "10.144.0.7") == to(2)

    def test_latency_and_then_the_smaller_id_decide_between_equally_near_ones(self) -> None:
        records = [peer(9, "10.144.0.7/24"), peer(2, "10.144.0.7/24"), peer(3, "10.144.0.7/24")]
        paths = {9: Path(9, 1, 10), 2: Path(2, 1, 20), 3: Path(3, 1, 20)}
        assert Lookup(records, paths, OWN).resolve(ip_address("10.144.0.7").packed).peers == (9,)
        assert Lookup(records[:0:-1], paths, OWN).resolve(ip_address("10.144.0.7").packed).peers == (2,)

    def test_unreachable_peers_have_nothing(self) -> None:
        answers = Lookup([peer(2, "10.144.0.2/24", "10.1.0.0/16")], {}, OWN)
        assert asked(answers, "10.144.0.2") == NOWHERE
        assert asked(answers, "10.1.2.3") == NOWHERE
        assert asked(answers, "255.255.255.255") == (Kind.FANOUT, ())
        assert answers.proxy_routes() == set()

    def test_the_rest_of_our_own_prefix_is_nowhere(self) -> None:
        answers = table(peer(2, "10.144.0.2/24", "10.0.0.0/8", ipv6="fd00::2/64"), exits=("10.144.0.2", "fd00::2"))
        assert asked(answers, "10.144.0.77") == NOWHERE
        assert asked(answers, "fd00::77") == NOWHERE
        assert "10.144.0.77" in ask(answers, "10.144.0.77").reason


class TestFanout:
    """Broadcast and multicast."""

    answers = table(peer(2, "10.144.0.2/24"), peer(3), peer(4, None, ipv6="fd00::4/64"), peer(5, "10.9.9.9/24"))

    @pytest.mark.parametrize("address", ["255.255.255.255", "224.0.0.251", "239.1.1.1", "10.144.0.255", "8.8.8.255"])
    def test_ipv4_goes_to_all_with_an_ipv4_address(self, address: str) -> None:
        assert asked(self.answers, address) == (Kind.FANOUT, (2, 5))

    def test_ipv6_multicast_goes_to_all_with_an_address(self) -> None:
        assert asked(self.answers, "ff02::fb") == (Kind.FANOUT, (2, 4, 5))

    def test_the_block_is_as_long_as_our_prefix(self) -> None:
        answers = table(peer(2, "10.144.0.255/16"), own=IPv4Interface("10.144.0.1/16"))
        assert asked(answers, "10.144.255.255")[0] is Kind.FANOUT
        assert asked(answers, "10.144.0.255") == to(2)

    def test_without_an_address_blocks_have_24_bits(self) -> None:
        answers = table(peer(2, "10.144.0.2/24"), own=None)
        assert asked(answers, "192.168.7.255") == (Kind.FANOUT, (2,))

    @pytest.mark.parametrize("length", [31, 32])
    def test_the_longest_prefixes_have_no_broadcast_address(self, length: int) -> None:
        answers = table(peer(2, "10.144.0.3/24"), own=IPv4Interface(f"10.144.0.1/{length}"))
        assert asked(answers, "10.144.0.3") == to(2)


class TestNetworks:
    """Proxy networks."""

    def test_the_longest_prefix_wins(self) -> None:
        answers = table(peer(2, None, "10.0.0.0/8", "0.0.0.0/0"), peer(3, None, "10.1.0.0/16"), peer(4, None, "10.1.2.3/32"))
        assert asked(answers, "10.1.2.3") == to(4)
        assert asked(answers, "10.1.2.4") == to(3)
        assert asked(answers, "10.2.0.1") == to(2)
        assert asked(answers, "8.8.8.8") == to(2)

    def test_the_nearest_of_several_offers_wins(self) -> None:
        near, far = peer(9, None, "10.1.0.0/16"), peer(2, None, "10.1.0.0/16")
        assert asked(table(near, far), "10.1.2.3") == to(9)
        assert asked(table(far, near), "10.1.2.3") == to(2)

    def test_our_own_networks_are_ours_with_all_inside(self) -> None:
        answers = table(peer(2, None, "10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/8"), offers=("10.1.0.0/16",))
        assert asked(answers, "10.1.2.3") == MINE
        assert asked(answers, "10.2.0.1") == to(2)

    def test_a_network_inside_our_prefix_is_not_looked_at(self) -> None:
        answers = table(peer(2, "10.144.0.2/24", "10.144.0.64/26"))
        assert asked(answers, "10.144.0.65") == NOWHERE

    def test_elsewhere_is_nowhere(self) -> None:
        answers = table(peer(2, "10.144.0.2/24", "10.1.0.0/16"))
        assert asked(answers, "8.8.8.8") == NOWHERE
        assert asked(answers, "2001:db8::1") == NOWHERE

    def test_at_most_so_many_networks_are_looked_at_nearest_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lookup, "MAX_PROXY_NETWORKS", 2)
        answers = table(peer(2, None, "10.1.0.0/16", "10.2.0.0/16"), peer(3, None, "10.3.0.0/16"), offers=("10.9.0.0/16",))
        assert [asked(answers, f"10.{i}.0.1") for i in (1, 2, 3, 9)] == [to(2), to(2), NOWHERE, MINE]

    def test_routes_of_the_device(self) -> None:
        offered = ("10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/8", "192.168.0.0/24", "10.144.0.0/24", "10.144.0.64/26")
        senseless = ("0.0.0.0/0", "127.0.0.0/8", "224.0.0.0/4")
        answers = table(peer(2, "10.144.0.2/24", *offered, *senseless), offers=("10.1.0.0/16",))
        assert answers.proxy_routes() == {IPv4Network("10.0.0.0/8"), IPv4Network("192.168.0.0/24")}


class TestExitNodes:
    """What nobody offers goes to the first exit node there is."""

    def test_the_first_that_is_reachable(self) -> None:
        answers = table(peer(2, "10.144.0.2/24"), peer(3, "10.144.0.3/24"), exits=("10.144.0.9", "10.144.0.3", "10.144.0.2"))
        assert ask(answers, "8.8.8.8").exit_node
        assert asked(answers, "8.8.8.8") == to(3)
        assert asked(answers, "2001:db8::1") == to(3)

    def test_not_for_addresses_that_have_an_owner(self) -> None:
        answers = table(peer(2, "10.144.0.2/24", "10.1.0.0/16"), exits=("10.144.0.2",))
        for address in ("10.144.0.2", "10.1.2.3"):
            assert not ask(answers, address).exit_node

    def test_not_for_link_local_ipv6(self) -> None:
        assert asked(table(peer(2, "10.144.0.2/24"), exits=("10.144.0.2",)), "fe80::1") == NOWHERE

    def test_we_are_no_exit_node_of_ours(self) -> None:
        assert asked(table(peer(2, "10.144.0.2/24"), exits=("10.144.0.1",)), "8.8.8.8") == NOWHERE


def test_answers_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MAX_CACHED", 3)
    answers = table(peer(2, "10.144.0.2/24"))
    first = ask(answers, "10.144.0.77")
    assert ask(answers, "10.144.0.77") is first
    for last in (78, 79, 80):
        ask(answers, f"10.144.0.{last}")
    assert ask(answers, "10.144.0.77") is not first
    assert ask(answers, "10.144.0.77") == first


@given(st.binary(max_size=20))
def test_any_bytes_have_an_answer(address: bytes) -> None:
    target = table(peer(2, "10.144.0.2/24", "10.1.0.0/16"), exits=("10.144.0.2",)).resolve(address)
    assert (target.kind in (Kind.PEER, Kind.FANOUT)) or target.peers == ()
    if len(address) not in (4, 16):
        assert target.kind is Kind.NONE


@given(st.binary(min_size=4, max_size=4), st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=8))
def test_networks_agree_with_a_plain_search(address: bytes, networks: list[tuple[int, int]]) -> None:
    records = [peer(2 + i, None, str(IPv4Network((first, length), strict=False))) for i, (first, length) in enumerate(networks)]
    ip = ip_address(address)
    around = [record for record in records if ip in record.proxy_cidrs[0]]
    target = table(*records, own=IPv4Interface("10.144.0.1/32")).resolve(address)
    if target.kind is Kind.PEER:
        longest = max(record.proxy_cidrs[0].prefixlen for record in around)
        nearest = next(record for record in around if record.proxy_cidrs[0].prefixlen == longest)
        assert target.peers == (nearest.peer_id,)
    else:
        assert not around or ip.is_multicast or str(ip) in ("255.255.255.255", "10.144.0.1")
