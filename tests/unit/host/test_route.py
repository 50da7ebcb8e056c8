"""Records and connection info: what is published, taken, passed on and forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.pb.peer_rpc_pb2 import RoutePeerInfo, SyncRouteInfoRequest, SyncRouteInfoResponse
from easytier_host.route import (
    MAX_BITMAP_PEERS,
    MAX_LINKS,
    MAX_RECORD_SIZE,
    MAX_RECORDS,
    MAX_REQUEST_RECORDS_SIZE,
    LinkState,
    RouteError,
)
from easytier_host.route_records import (
    MAX_NEIGHBOURS,
    OwnRecord,
    decode_bitmap,
    encode_bitmap,
    encode_record,
    may_pass_on,
    parse_cidr,
)

INST_ID = UUID("11111111-2222-4333-8444-555555555555")
WALL_NOW = 1_700_000_000.0
ME, LEFT, RIGHT, FAR = 1, 2, 3, 4

Rows = dict[int, tuple[int, set[int]]]
"""Peer id -> (version, neighbours)."""


def node(peer_id: int = ME, own: OwnRecord | None = None, neighbours: Iterable[int] = ()) -> LinkState:
    numbers = count(peer_id * 1000)
    state = LinkState(peer_id, own or OwnRecord(INST_ID, hostname=f"n{peer_id}"), lambda: next(numbers), now=0.0)
    state.set_neighbours(frozenset(neighbours))
    return state


def link(left: LinkState, right: LinkState) -> None:
    left.add_neighbour(right.peer_id)
    right.add_neighbour(left.peer_id)


def sync(sender: LinkState, receiver: LinkState, now: float = 0.0) -> SyncRouteInfoRequest | None:
    """Let one node tell another what it lacks; returns what was said."""
    request = sender.build_request(receiver.peer_id, now, WALL_NOW)
    if request is not None:
        response = receiver.handle_request(sender.peer_id, request, now)
        assert sender.on_response(receiver.peer_id, request, response, now)
    return request


def record(peer_id: int, version: int = 1, **fields: object) -> RoutePeerInfo:
    return RoutePeerInfo(peer_id=peer_id, version=version, **fields)  # type: ignore[arg-type]


def request_from(peer_id: int, *records: RoutePeerInfo, session: int = 7, rows: Rows | None = None) -> SyncRouteInfoRequest:
    request = SyncRouteInfoRequest(my_peer_id=peer_id, my_session_id=session, is_initiator=True)
    if records:
        request.peer_infos.items.extend(records)
    if rows:
        request.conn_bitmap.CopyFrom(encode_bitmap(rows))
    return request


def answer(session: int = 7) -> SyncRouteInfoResponse:
    return SyncRouteInfoResponse(is_initiator=True, session_id=session)


def rows_of(request: SyncRouteInfoRequest) -> Rows:
    return {peer_id: (version, set(neighbours)) for peer_id, version, neighbours in decode_bitmap(request.conn_bitmap, {})}


def built(state: LinkState, peer_id: int, now: float = 0.0) -> SyncRouteInfoRequest:
    request = state.build_request(peer_id, now, WALL_NOW, keepalive=True)
    assert request is not None
    return request


def ids(request: SyncRouteInfoRequest) -> set[int]:
    return {item.peer_id for item in request.peer_infos.items}


def assert_harmless(request: SyncRouteInfoRequest, receiver: int) -> None:
    """Nothing in it ends a stock daemon (control plane 12.3)."""
    for item in request.peer_infos.items:
        assert item.peer_id != receiver
        assert item.version > 0
        assert item.network_length <= 32
        assert item.ipv6_addr.network_length <= 128
        assert item.ipv6_public_addr_prefix.network_length <= 128
        assert item.ipv6_public_addr_lease.network_length <= 128
        assert all(IPv4Network(cidr) for cidr in item.proxy_cidrs)
    size = len(request.conn_bitmap.peer_ids)
    assert size <= MAX_BITMAP_PEERS
    assert len(request.conn_bitmap.bitmap) == (size * size + 7) // 8
    assert not request.HasField("foreign_network_infos")
    assert not request.HasField("conn_peer_list")


class TestOwnRecord:
    """What we publish about ourselves."""

    own = OwnRecord(
        UUID("11111111-2222-4333-8444-455555555555"),
        hostname="pynode",
        ipv4=IPv4Interface("10.77.0.9/24"),
        easytier_version="2.6.4-py",
        feature_flag=common_pb2.PeerFeatureFlag(avoid_relay_data=True, support_conn_list_sync=True, disable_p2p=True),
    )
    encoded = (
        "08d487cb8d0a12180891a2c4880110b38689910218d58a91a20820d5aad5aa052205088980b452320670796e6f6465"
        "380642060880e2cfaa0648015208322e362e342d70795a0610012801500160888e98a8c0e08081016818"
    )
    """Control plane, appendix A5."""

    def test_is_encoded_as_in_the_specification(self) -> None:
        message = encode_record(self.own, 0xA1B2C3D4, 0x0102030405060708, version=1, wall_now=1_700_000_000.9)
        assert message.SerializeToString().hex() == self.encoded

    def test_first_request_is_the_one_of_the_specification(self) -> None:
        numbers = iter([0x0102030405060708, 0x1122334455667788])
        state = LinkState(0xA1B2C3D4, self.own, lambda: next(numbers), now=0.0)
        state.add_neighbour(0x11223344)
        request = built(state, 0x11223344)
        # Appendix A6, but with ascending peer ids, as stock sorts them, and our first connection at version 2.
        expected = SyncRouteInfoRequest(my_peer_id=0xA1B2C3D4, my_session_id=0x1122334455667788, is_initiator=True)
        expected.peer_infos.items.append(RoutePeerInfo.FromString(bytes.fromhex(self.encoded)))
        expected.conn_bitmap.peer_ids.add(peer_id=0x11223344, version=0)
        expected.conn_bitmap.peer_ids.add(peer_id=0xA1B2C3D4, version=2)
        expected.conn_bitmap.bitmap = b"\x04"
        assert request == expected

    def test_long_and_unencodable_hostnames_are_cut_to_32_characters(self) -> None:
        message = encode_record(OwnRecord(INST_ID, hostname="\udcff" + "h" * 99), 1, 1, 1, 0.0)
        assert message.hostname == "?" + "h" * 31

    def test_ipv6_travels_with_its_prefix(self) -> None:
        receiver = node(LEFT, neighbours=[ME])
        sync(node(ME, OwnRecord(INST_ID, ipv6=IPv6Interface("fd00::9/64")), [LEFT]), receiver)
        assert [peer.ipv6 for peer in receiver.peers()] == [IPv6Interface("fd00::9/64")]

    def test_a_change_gets_the_next_version_and_no_change_none(self) -> None:
        state, other = node(neighbours=[LEFT]), node(LEFT, neighbours=[ME])
        sync(state, other)
        state.update_own(state.own)
        assert not state.wants_sync(LEFT)
        state.update_own(replace(state.own, proxy_cidrs=(IPv4Network("10.1.0.0/16"),)))
        assert state.wants_sync(LEFT)
        request = sync(state, other)
        assert request is not None
        assert [item.version for item in request.peer_infos.items] == [2]
        assert [peer.proxy_cidrs for peer in other.peers()] == [(IPv4Network("10.1.0.0/16"),)]

    def test_it_is_renewed_each_hour(self) -> None:
        state, other = node(neighbours=[LEFT]), node(LEFT, neighbours=[ME])
        sync(state, other)
        assert sync(state, other, now=3599.9) is None
        before = other.generation
        request = sync(state, other, now=3600.0)
        assert request is not None
        assert [item.version for item in request.peer_infos.items] == [2]
        # Nothing in it changed, so that nobody has to compute anything anew.
        assert other.generation == before
        assert other.peers()[0].last_seen == 3600.0

    def test_the_renewal_shows_without_a_request(self) -> None:
        state, other = node(neighbours=[LEFT]), node(LEFT, neighbours=[ME])
        sync(state, other)
        state.expire(3600.0)
        assert state.wants_sync(LEFT)


class TestSessions:
    """Who knows what, and when it is said again."""

    def test_news_are_sent_once(self) -> None:
        state, other = node(neighbours=[LEFT]), node(LEFT, neighbours=[ME])
        first = sync(state, other)
        assert first is not None
        assert ids(first) == {ME}
        assert rows_of(first) == {ME: (2, {LEFT})}
        assert not state.wants_sync(LEFT)
        assert state.build_request(LEFT, 0.0, WALL_NOW) is None

    def test_a_keepalive_has_three_fields(self) -> None:
        state, other = node(neighbours=[LEFT]), node(LEFT, neighbours=[ME])
        first = sync(state, other)
        assert first is not None
        assert built(state, LEFT) == SyncRouteInfoRequest(my_peer_id=ME, my_session_id=first.my_session_id, is_initiator=True)

    def test_the_hourly_renewal_shows_after_an_answer(self) -> None:
        state = node(neighbours=[LEFT])
        assert state.on_response(LEFT, built(state, LEFT), answer(), 3600.0)
        assert state.wants_sync(LEFT)

    def test_an_old_version_from_a_neighbour_does_not_undo_what_it_took(self) -> None:
        state = node(neighbours=[LEFT])
        assert state.on_response(LEFT, built(state, LEFT), answer(), 0.0)
        state.handle_request(LEFT, request_from(LEFT, rows={ME: (1, set())}), 0.0)
        assert not state.wants_sync(LEFT)

    def test_an_unanswered_request_is_repeated(self) -> None:
        state = node(neighbours=[LEFT])
        first = built(state, LEFT)
        state.on_failure(LEFT)
        assert state.wants_sync(LEFT)
        assert built(state, LEFT) == first
        assert state.counters.syncs_failed == 1

    @pytest.mark.parametrize(("error", "claims"), [(peer_rpc_pb2.DuplicatePeerId, 1), (peer_rpc_pb2.Stopped, 0)])
    def test_a_refused_request_is_repeated(self, error: peer_rpc_pb2.SyncRouteInfoError, claims: int) -> None:
        state = node(neighbours=[LEFT])
        assert not state.on_response(LEFT, built(state, LEFT), SyncRouteInfoResponse(session_id=7, error=error), 0.0)
        assert ids(built(state, LEFT)) == {ME}
        assert state.counters.own_id_claimed == claims

    def test_another_session_id_in_a_response_means_everything_again(self) -> None:
        state = node(neighbours=[LEFT])
        assert state.on_response(LEFT, built(state, LEFT), answer(session=7), 0.0)
        assert state.on_response(LEFT, built(state, LEFT), answer(session=8), 0.0)
        request = built(state, LEFT)
        assert ids(request) == {ME}
        assert ME in rows_of(request)

    def test_another_session_id_in_a_request_means_everything_again(self) -> None:
        state = node(neighbours=[LEFT])
        state.handle_request(LEFT, request_from(LEFT, session=7), 0.0)
        assert state.on_response(LEFT, built(state, LEFT), answer(session=7), 0.0)
        assert not state.wants_sync(LEFT)
        state.handle_request(LEFT, request_from(LEFT, session=8), 0.0)
        assert ids(built(state, LEFT)) == {ME}

    def test_a_late_answer_to_an_earlier_connection_tells_nothing(self) -> None:
        state = node(neighbours=[LEFT])
        early = built(state, LEFT)
        state.remove_neighbour(LEFT)
        assert state.on_response(LEFT, early, answer(), 0.0)
        state.add_neighbour(LEFT)
        assert built(state, LEFT).my_session_id != early.my_session_id
        assert state.on_response(LEFT, early, answer(), 0.0)
        assert ids(built(state, LEFT)) == {ME}

    def test_what_changes_while_a_request_is_under_way_is_sent_afterwards(self) -> None:
        state = node(neighbours=[LEFT])
        request = built(state, LEFT)
        state.update_own(replace(state.own, hostname="renamed"))
        assert state.on_response(LEFT, request, answer(), 0.0)
        assert [item.hostname for item in built(state, LEFT).peer_infos.items] == ["renamed"]

    def test_the_session_id_stays_while_other_neighbours_come_and_go(self) -> None:
        state = node(neighbours=[LEFT])
        before = built(state, LEFT).my_session_id
        state.add_neighbour(RIGHT)
        state.remove_neighbour(RIGHT)
        assert built(state, LEFT).my_session_id == before

    def test_each_change_of_neighbours_gets_the_next_version(self) -> None:
        state = node(neighbours=[LEFT])
        state.add_neighbour(RIGHT)
        assert rows_of(built(state, LEFT))[ME] == (3, {LEFT, RIGHT})
        state.add_neighbour(RIGHT)
        state.remove_neighbour(FAR)
        assert rows_of(built(state, LEFT))[ME][0] == 3
        state.remove_neighbour(RIGHT)
        assert rows_of(built(state, LEFT))[ME] == (4, {LEFT})

    def test_without_session_nothing_is_sent(self) -> None:
        state = node()
        assert state.build_request(LEFT, 0.0, WALL_NOW, keepalive=True) is None
        assert not state.wants_sync(LEFT)

    def test_impossible_neighbours_are_refused(self) -> None:
        state = node(neighbours=[LEFT])
        with pytest.raises(ValueError, match="its own neighbour"):
            state.add_neighbour(ME)
        with pytest.raises(ValueError, match="more than 1024"):
            state.set_neighbours(frozenset(range(10, 11 + MAX_NEIGHBOURS)))
        assert state.neighbours == {LEFT}


class TestReceiving:
    """What is taken from a neighbour's request."""

    def test_the_answer_never_has_the_error_field(self) -> None:
        state = node(neighbours=[LEFT])
        response = state.handle_request(LEFT, request_from(LEFT), 0.0)
        assert response.is_initiator
        assert response.session_id == built(state, LEFT).my_session_id
        assert not response.HasField("error")

    def test_only_neighbours_are_heard(self) -> None:
        state = node(neighbours=[LEFT])
        with pytest.raises(RouteError, match="not a neighbour"):
            state.handle_request(FAR, request_from(FAR, record(FAR)), 0.0)
        with pytest.raises(RouteError, match=f"speaks for peer {FAR}"):
            state.handle_request(LEFT, request_from(FAR, record(FAR)), 0.0)
        assert state.peers() == []

    def test_only_a_greater_version_replaces(self) -> None:
        state = node(neighbours=[LEFT])
        names = []
        for version, hostname in [(5, "a"), (5, "b"), (4, "c"), (6, "d")]:
            state.handle_request(LEFT, request_from(LEFT, record(LEFT, version, hostname=hostname)), 0.0)
            names.append(state.peers()[0].hostname)
        assert names == ["a", "a", "a", "d"]

    def test_the_view_has_what_was_told(self) -> None:
        flags = common_pb2.PeerFeatureFlag(kcp_input=True)
        told = record(
            LEFT,
            hostname="h" * 300,
            ipv4_addr=common_pb2.Ipv4Addr(addr=0x0A4D0001),
            network_length=16,
            proxy_cidrs=["10.1.0.0/16", "10.2.0.1/16", "nonsense", "192.168.7.7", "10.0.0.0/255.0.0.0", "fd00::/8"],
            udp_nat_type=common_pb2.FullCone,
            easytier_version="2.6.4",
            feature_flag=flags,
            inst_id=common_pb2.UUID(part1=0x11111111, part2=0x22224333, part3=0x84445555, part4=0x55555555),
        )
        state = node(neighbours=[LEFT])
        state.handle_request(LEFT, request_from(LEFT, told), 12.0)
        (view,) = state.peers()
        assert (view.peer_id, view.version, view.last_seen) == (LEFT, 1, 12.0)
        assert view.hostname == "h" * 255
        assert view.ipv4 == IPv4Interface("10.77.0.1/16")
        assert view.proxy_cidrs == (IPv4Network("10.1.0.0/16"), IPv4Network("192.168.7.7/32"))
        assert (view.udp_nat_type, view.easytier_version, view.inst_id) == (3, "2.6.4", INST_ID)
        assert view.feature_flag == flags
        assert state.message(LEFT) == told
        assert state.message(FAR) is None

    @pytest.mark.parametrize(("length", "expected"), [(0, "10.77.0.1/24"), (32, "10.77.0.1/32"), (33, None), (2**32 - 1, None)])
    def test_prefix_lengths(self, length: int, expected: str | None) -> None:
        state = node(neighbours=[LEFT])
        told = record(LEFT, ipv4_addr=common_pb2.Ipv4Addr(addr=0x0A4D0001), network_length=length)
        state.handle_request(LEFT, request_from(LEFT, told), 0.0)
        assert state.peers()[0].ipv4 == (IPv4Interface(expected) if expected else None)

    def test_impossible_ipv6_prefixes_are_left_out(self) -> None:
        state = node(neighbours=[LEFT])
        told = record(LEFT, ipv6_addr=common_pb2.Ipv6Inet(network_length=129))
        state.handle_request(LEFT, request_from(LEFT, told), 0.0)
        assert state.peers()[0].ipv6 is None

    def test_records_without_id_or_version_and_large_ones_are_refused(self) -> None:
        state = node(neighbours=[LEFT])
        refused = [record(0), record(FAR, version=0), record(FAR, hostname="x" * MAX_RECORD_SIZE)]
        state.handle_request(LEFT, request_from(LEFT, *refused), 0.0)
        assert state.peers() == []
        assert state.counters.records_refused == 3

    def test_a_full_table_refuses_new_peers_and_still_updates_known_ones(self) -> None:
        state = node(neighbours=[LEFT])
        state.handle_request(LEFT, request_from(LEFT, *(record(10 + i) for i in range(MAX_RECORDS))), 0.0)
        state.handle_request(LEFT, request_from(LEFT, record(LEFT), record(10, 2, hostname="new")), 0.0)
        # Its own has a place whatever others there are.
        assert len(state.peers()) == MAX_RECORDS + 1
        state.handle_request(LEFT, request_from(LEFT, record(9)), 0.0)
        assert len(state.peers()) == MAX_RECORDS + 1
        assert state.counters.records_refused == 1
        assert next(peer.hostname for peer in state.peers() if peer.peer_id == 10) == "new"

    def test_in_a_full_table_neighbours_have_equal_shares(self) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        state.handle_request(LEFT, request_from(LEFT, record(LEFT), *(record(1000 + i) for i in range(MAX_RECORDS))), 0.0)
        invented = len(state.peers())
        state.handle_request(RIGHT, request_from(RIGHT, record(RIGHT), *(record(10 + i) for i in range(100))), 0.0)
        known = {peer.peer_id for peer in state.peers()}
        assert known > {LEFT, RIGHT, *range(10, 110)}
        assert len(known) == invented + 1
        # What gave way does not come back in their place.
        state.handle_request(LEFT, request_from(LEFT, *(record(1000 + i, 2) for i in range(MAX_RECORDS))), 0.0)
        assert {peer.peer_id for peer in state.peers()} == known

    def test_connections_are_bounded_and_shared_in_the_same_way(self) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        crowd = frozenset(range(100_000, 100_000 + MAX_NEIGHBOURS))
        rows = [(1000 + i, crowd) for i in range(MAX_LINKS // MAX_NEIGHBOURS + 5)]
        request = request_from(LEFT)
        for peer_id, connected in rows:
            info = request.conn_peer_list.peer_conn_infos.add(connected_peer_ids=sorted(connected))
            info.peer_id.peer_id, info.peer_id.version = peer_id, 1
        state.handle_request(LEFT, request, 0.0)
        assert sum(map(len, state.connections().values())) == MAX_LINKS
        assert state.counters.conn_info_refused == 5
        state.handle_request(RIGHT, request_from(RIGHT, rows={RIGHT: (1, {ME, FAR}), FAR: (1, {RIGHT})}), 0.0)
        assert {peer_id: state.connections()[peer_id] for peer_id in (RIGHT, FAR)} == {RIGHT: {ME, FAR}, FAR: {RIGHT}}
        assert sum(map(len, state.connections().values())) <= MAX_LINKS + 2

    def test_nobody_speaks_for_a_neighbour_of_ours(self) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        state.handle_request(RIGHT, request_from(RIGHT, record(RIGHT, 3, hostname="right"), rows={RIGHT: (3, {ME})}), 0.0)
        forged = request_from(LEFT, record(RIGHT, 4000, hostname="left"), rows={RIGHT: (4000, {LEFT})})
        state.handle_request(LEFT, forged, 0.0)
        assert [peer.hostname for peer in state.peers()] == ["right"]
        assert state.connections() == {RIGHT: {ME}}

    def test_what_others_said_of_a_neighbour_counts_once_it_is_none(self) -> None:
        """It has moved to another neighbour of ours, which told us before we knew that its connection to us is dead."""
        state = node(neighbours=[LEFT, RIGHT])
        state.handle_request(RIGHT, request_from(RIGHT, record(RIGHT, 3, hostname="right"), rows={RIGHT: (3, {ME})}), 0.0)
        news = request_from(
            LEFT, record(LEFT), record(RIGHT, 4, hostname="moved"), rows={LEFT: (1, {ME, RIGHT}), RIGHT: (5, {LEFT, FAR})}
        )
        state.handle_request(LEFT, news, 1.0)
        assert {peer.hostname for peer in state.peers()} == {"", "right"}
        state.remove_neighbour(RIGHT)
        assert {peer.hostname for peer in state.peers()} == {"", "moved"}
        assert state.connections()[RIGHT] == {LEFT, FAR}

    def test_what_others_said_of_a_neighbour_is_forgotten_with_who_said_it(self) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        state.handle_request(RIGHT, request_from(RIGHT, record(RIGHT, 3, hostname="right")), 0.0)
        state.handle_request(LEFT, request_from(LEFT, record(RIGHT, 4, hostname="moved")), 1.0)
        state.remove_neighbour(LEFT)
        state.remove_neighbour(RIGHT)
        assert [peer.hostname for peer in state.peers()] == ["right"]

    def test_a_neighbour_is_believed_about_itself_whatever_was_said_before_it_came(self) -> None:
        state = node(neighbours=[LEFT])
        last = 0xFFFF_FFFF
        forged = request_from(
            LEFT, record(LEFT), record(FAR, last, hostname="forged"), rows={FAR: (last, {LEFT}), LEFT: (1, {ME, FAR})}
        )
        state.handle_request(LEFT, forged, 0.0)
        assert "forged" in {peer.hostname for peer in state.peers()}
        state.add_neighbour(FAR)
        state.handle_request(FAR, request_from(FAR, record(FAR, 3, hostname="far"), rows={FAR: (3, {ME, LEFT})}), 0.0)
        assert {peer.hostname for peer in state.peers()} == {"", "far"}
        assert state.connections()[FAR] == {ME, LEFT}
        # And then as always: by version.
        state.handle_request(FAR, request_from(FAR, record(FAR, 2, hostname="old")), 0.0)
        assert {peer.hostname for peer in state.peers()} == {"", "far"}

    def test_the_nearest_are_told_of_first(self) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        state.handle_request(
            LEFT, request_from(LEFT, record(9), record(8), record(LEFT), rows={LEFT: (1, {ME, 9}), 9: (1, {8})}), 0.0
        )
        state.handle_request(RIGHT, request_from(RIGHT, record(RIGHT)), 0.0)
        assert [item.peer_id for item in built(state, RIGHT).peer_infos.items] == [ME, LEFT, 9, 8]

    def test_a_record_under_our_id_is_counted_and_ignored(self) -> None:
        state = node(neighbours=[LEFT])
        state.handle_request(LEFT, request_from(LEFT, record(ME, 99, peer_route_id=123)), 0.0)
        assert state.counters.own_id_claimed == 1
        assert state.peers() == []
        assert [item.version for item in built(state, LEFT).peer_infos.items] == [1]

    def test_our_own_record_coming_back_is_no_claim(self) -> None:
        state = node(neighbours=[LEFT])
        mine = built(state, LEFT).peer_infos.items[0]
        state.handle_request(LEFT, request_from(LEFT, mine), 0.0)
        assert state.counters.own_id_claimed == 0

    def test_connections_of_others_in_both_forms(self) -> None:
        by_bitmap, by_list = node(neighbours=[LEFT]), node(neighbours=[LEFT])
        rows = {LEFT: (3, {ME, FAR}), FAR: (5, {LEFT})}
        by_bitmap.handle_request(LEFT, request_from(LEFT, rows=rows), 0.0)
        request = request_from(LEFT)
        for peer_id, (version, neighbours) in rows.items():
            entry = request.conn_peer_list.peer_conn_infos.add(connected_peer_ids=sorted(neighbours))
            entry.peer_id.peer_id, entry.peer_id.version = peer_id, version
        by_list.handle_request(LEFT, request, 0.0)
        assert by_bitmap.connections() == by_list.connections() == {LEFT: {ME, FAR}, FAR: {LEFT}}

    def test_connections_are_replaced_by_a_greater_version_only(self) -> None:
        state = node(neighbours=[LEFT])
        for version, neighbours in [(3, {ME}), (3, {FAR}), (2, {FAR}), (0, {FAR})]:
            state.handle_request(LEFT, request_from(LEFT, rows={LEFT: (version, neighbours)}), 0.0)
            assert state.connections() == {LEFT: {ME}}
        state.handle_request(LEFT, request_from(LEFT, rows={LEFT: (4, set())}), 0.0)
        assert state.connections() == {LEFT: set()}

    def test_nobody_knows_our_neighbours_better(self) -> None:
        state = node(neighbours=[LEFT])
        state.handle_request(LEFT, request_from(LEFT, rows={ME: (2**32 - 1, {FAR})}), 0.0)
        assert state.connections() == {}
        assert rows_of(built(state, LEFT))[ME] == (2, {LEFT})

    def test_a_short_bitmap_is_refused_before_it_is_read(self) -> None:
        state = node(neighbours=[LEFT])
        request = request_from(LEFT, rows={LEFT: (1, {ME, FAR}), FAR: (1, {LEFT})})
        request.conn_bitmap.bitmap = request.conn_bitmap.bitmap[:-1]
        state.handle_request(LEFT, request, 0.0)
        assert state.connections() == {}
        assert state.counters.conn_info_refused == 1

    def test_too_many_peers_or_neighbours_are_refused(self) -> None:
        state = node(neighbours=[LEFT])
        request = request_from(LEFT)
        for peer_id in range(10, 11 + MAX_RECORDS):
            request.conn_peer_list.peer_conn_infos.add().peer_id.MergeFrom(
                peer_rpc_pb2.PeerIdVersion(peer_id=peer_id, version=1)
            )
        state.handle_request(LEFT, request, 0.0)
        many = set(range(10, 11 + MAX_NEIGHBOURS))
        state.handle_request(LEFT, request_from(LEFT, rows={LEFT: (1, many)}), 0.0)
        assert state.connections() == {}
        state.handle_request(LEFT, request_from(LEFT, rows={LEFT: (1, many - {10})}), 0.0)
        assert len(state.connections()[LEFT]) == MAX_NEIGHBOURS

    def test_generation_follows_content_alone(self) -> None:
        state = node(neighbours=[LEFT])
        requests = [
            (request_from(LEFT, record(LEFT, 1, hostname="a"), rows={LEFT: (1, {ME})}), True),
            (request_from(LEFT, record(LEFT, 2, hostname="a"), rows={LEFT: (2, {ME})}), False),
            (request_from(LEFT, record(LEFT, 3, hostname="b")), True),
            (request_from(LEFT, rows={LEFT: (3, {ME, FAR})}), True),
            (request_from(LEFT), False),
        ]
        for request, changes in requests:
            before = state.generation
            state.handle_request(LEFT, request, 0.0)
            assert (state.generation > before) == changes


class TestFlooding:
    """What is passed on, and what never is."""

    def test_a_record_reaches_the_third_node_as_it_was_with_fields_that_nobody_declared(self) -> None:
        middle = node(LEFT, neighbours=[ME, RIGHT])
        undeclared = bytes.fromhex("f2 3f 04 01 02 03 04")
        told = RoutePeerInfo.FromString(record(ME, 9, hostname="x").SerializeToString() + undeclared)
        middle.handle_request(ME, request_from(ME, told, rows={ME: (4, {LEFT})}), 0.0)
        request = built(middle, RIGHT)
        passed_on = next(item for item in request.peer_infos.items if item.peer_id == ME)
        assert passed_on.SerializeToString() == told.SerializeToString()
        assert rows_of(request)[ME] == (4, {LEFT})

    def test_three_nodes_in_a_line_learn_of_each_other(self) -> None:
        left, middle, right = nodes = node(LEFT), node(ME), node(RIGHT)
        link(left, middle)
        link(middle, right)
        for _ in range(2):
            for sender, receiver in ((left, middle), (right, middle), (middle, left), (middle, right)):
                sync(sender, receiver)
        assert [state.reachable() for state in nodes] == [{ME, RIGHT}, {LEFT, RIGHT}, {LEFT, ME}]
        assert not any(state.wants_sync(peer_id) for state in nodes for peer_id in (LEFT, ME, RIGHT))

    def test_nothing_goes_back_to_where_it_came_from(self) -> None:
        state = node(neighbours=[LEFT])
        told = request_from(LEFT, record(LEFT), record(FAR), rows={LEFT: (1, {ME, FAR}), FAR: (1, {LEFT})})
        state.handle_request(LEFT, told, 0.0)
        request = built(state, LEFT)
        assert ids(request) == {ME}
        assert rows_of(request).keys() == {ME}

    def test_an_older_version_than_ours_is_corrected(self) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        state.handle_request(LEFT, request_from(LEFT, record(LEFT), record(FAR, 5), rows={LEFT: (1, {FAR})}), 0.0)
        state.handle_request(RIGHT, request_from(RIGHT, record(FAR, 4)), 0.0)
        assert (FAR, 5) in {(item.peer_id, item.version) for item in built(state, RIGHT).peer_infos.items}

    def test_the_receiver_is_told_nothing_about_itself(self) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        told = request_from(LEFT, record(LEFT), record(RIGHT, 9), rows={LEFT: (1, {ME, RIGHT}), RIGHT: (9, {ME, LEFT})})
        state.handle_request(LEFT, told, 0.0)
        request = built(state, RIGHT)
        assert ids(request) == {ME, LEFT}
        assert rows_of(request).keys() == {ME, LEFT}

    @pytest.mark.parametrize(
        "harmful",
        [
            record(FAR, proxy_cidrs=["10.0.0.0/8", "10.0.0.1/8"]),
            record(FAR, proxy_cidrs=["nonsense"]),
            record(FAR, proxy_cidrs=[""]),
            record(FAR, network_length=33),
            record(FAR, ipv6_addr=common_pb2.Ipv6Inet(network_length=129)),
            record(FAR, ipv6_public_addr_prefix=common_pb2.Ipv6Inet(network_length=129)),
            record(FAR, ipv6_public_addr_lease=common_pb2.Ipv6Inet(network_length=129)),
        ],
    )
    def test_a_harmful_record_is_used_but_not_passed_on(self, harmful: RoutePeerInfo) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        told = request_from(LEFT, record(LEFT), harmful, rows={LEFT: (1, {ME, FAR}), FAR: (1, {LEFT})})
        state.handle_request(LEFT, told, 0.0)
        assert FAR in state.reachable()
        request = built(state, RIGHT)
        assert ids(request) == {ME, LEFT}
        assert_harmless(request, RIGHT)
        assert rows_of(request).keys() == {ME, LEFT, FAR}
        assert state.on_response(RIGHT, request, answer(), 0.0)
        assert not state.wants_sync(RIGHT)

    def test_peers_out_of_reach_are_not_passed_on(self) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        state.handle_request(LEFT, request_from(LEFT, record(FAR), rows={FAR: (1, {LEFT})}), 0.0)
        assert ids(built(state, RIGHT)) == {ME}
        state.handle_request(LEFT, request_from(LEFT, record(LEFT), rows={LEFT: (1, {FAR})}), 0.0)
        assert ids(built(state, RIGHT)) == {ME, LEFT, FAR}

    def test_a_large_network_takes_several_requests(self) -> None:
        state = node(neighbours=[LEFT, RIGHT])
        far = range(10, 3010)
        told = request_from(LEFT, record(LEFT), *(record(peer_id, hostname="h" * 200) for peer_id in far))
        for peer_id in far:
            entry = told.conn_peer_list.peer_conn_infos.add(connected_peer_ids=[peer_id - 1, peer_id + 1])
            entry.peer_id.peer_id, entry.peer_id.version = peer_id, 1
        entry = told.conn_peer_list.peer_conn_infos.add(connected_peer_ids=[ME, 10])
        entry.peer_id.peer_id, entry.peer_id.version = LEFT, 1
        state.handle_request(LEFT, told, 0.0)
        assert len(state.reachable()) == 3001
        receiver = node(RIGHT, neighbours=[ME])
        requests = 0
        while state.wants_sync(RIGHT):
            request = sync(state, receiver)
            assert request is not None
            assert_harmless(request, RIGHT)
            assert request.peer_infos.ByteSize() <= MAX_REQUEST_RECORDS_SIZE + 10 * len(request.peer_infos.items)
            requests += 1
            assert requests < 10
        assert requests > 1
        assert receiver.reachable() == state.reachable() - {RIGHT} | {ME}


class TestExpiry:
    """What is forgotten, and what then has to be said again."""

    def reached(self) -> LinkState:
        state = node(neighbours=[LEFT, RIGHT])
        told = request_from(LEFT, record(LEFT), record(FAR), rows={LEFT: (1, {ME, FAR}), FAR: (1, {LEFT})})
        state.handle_request(LEFT, told, 0.0)
        assert state.on_response(RIGHT, built(state, RIGHT), answer(), 0.0)
        return state

    def test_a_reachable_record_lives_until_it_was_not_renewed(self) -> None:
        state = self.reached()
        for now in (60.0, 1800.0, 3659.9):
            state.expire(now)
            assert state.reachable() == {LEFT, FAR}
        before = state.generation
        state.expire(3660.0)
        assert state.peers() == []
        assert state.connections() == {}
        assert state.generation > before

    def test_renewal_prolongs(self) -> None:
        state = self.reached()
        state.handle_request(LEFT, request_from(LEFT, record(LEFT, 2), record(FAR, 2)), 3600.0)
        state.expire(3660.0)
        assert state.reachable() == {LEFT, FAR}

    def test_an_unreachable_record_goes_after_90_seconds(self) -> None:
        state = self.reached()
        state.expire(1000.0)
        state.handle_request(LEFT, request_from(LEFT, rows={LEFT: (2, {ME})}), 1000.0)
        state.expire(1089.9)
        assert {peer.peer_id for peer in state.peers()} == {LEFT, FAR}
        state.expire(1090.0)
        assert {peer.peer_id for peer in state.peers()} == {LEFT}
        assert state.connections().keys() == {LEFT}

    def test_news_of_an_unreachable_peer_prolong(self) -> None:
        state = node(neighbours=[LEFT])
        state.handle_request(LEFT, request_from(LEFT, record(FAR)), 0.0)
        state.handle_request(LEFT, request_from(LEFT, record(FAR, 2)), 50.0)
        state.expire(139.9)
        assert [peer.peer_id for peer in state.peers()] == [FAR]
        state.expire(140.0)
        assert state.peers() == []

    def test_connections_of_a_peer_without_record_go_after_90_seconds(self) -> None:
        state = node(neighbours=[LEFT])
        state.handle_request(LEFT, request_from(LEFT, rows={FAR: (1, {LEFT})}), 0.0)
        state.expire(89.9)
        assert state.connections() == {FAR: {LEFT}}
        state.expire(90.0)
        assert state.connections() == {}

    def test_a_forgotten_record_is_passed_on_when_it_returns(self) -> None:
        state = self.reached()
        assert not state.wants_sync(RIGHT)
        state.handle_request(LEFT, request_from(LEFT, rows={LEFT: (2, {ME})}), 0.0)
        state.expire(90.0)
        state.handle_request(LEFT, request_from(LEFT, record(FAR), rows={LEFT: (3, {ME, FAR}), FAR: (1, {LEFT})}), 91.0)
        request = built(state, RIGHT)
        assert FAR in ids(request)
        assert FAR in rows_of(request)

    def test_a_peer_that_comes_into_reach_again_is_passed_on_again(self) -> None:
        # The neighbour may have forgotten it before us.
        state = self.reached()
        state.handle_request(LEFT, request_from(LEFT, rows={LEFT: (2, {ME})}), 0.0)
        assert state.on_response(RIGHT, built(state, RIGHT), answer(), 0.0)
        state.handle_request(LEFT, request_from(LEFT, rows={LEFT: (3, {ME, FAR})}), 50.0)
        request = built(state, RIGHT)
        assert FAR in ids(request)
        assert {LEFT, FAR} <= rows_of(request).keys()


class TestBitmap:
    """The matrix on the wire."""

    def test_example_of_the_specification(self) -> None:
        message = encode_bitmap({1: (4, {2}), 2: (7, {1, 3})})
        assert [(entry.peer_id, entry.version) for entry in message.peer_ids] == [(1, 4), (2, 7), (3, 0)]
        assert message.bitmap == bytes.fromhex("2a00")

    def test_without_rows_it_is_empty(self) -> None:
        assert encode_bitmap({}).bitmap == b""

    @given(
        st.dictionaries(
            st.integers(1, 40),
            st.tuples(st.integers(1, 2**32 - 1), st.frozensets(st.integers(1, 60), max_size=20)),
            max_size=20,
        )
    )
    def test_round_trip(self, rows: dict[int, tuple[int, frozenset[int]]]) -> None:
        message = encode_bitmap(rows)
        assert len(message.bitmap) == (len(message.peer_ids) ** 2 + 7) // 8
        assert {peer_id: (version, neighbours) for peer_id, version, neighbours in decode_bitmap(message, {})} == rows

    def test_longer_bitmaps_than_needed_are_read(self) -> None:
        message = encode_bitmap({1: (4, {2})})
        message.bitmap += b"\xff"
        assert list(decode_bitmap(message, {})) == [(1, 4, frozenset({2}))]


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "10.1.2.3"])
def test_canonical_cidrs(text: str) -> None:
    assert parse_cidr(text) == IPv4Network(text)


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/255.0.0.0", "10/8", "::/0", " 10.0.0.0/8"]
)
def test_other_cidrs(text: str) -> None:
    assert parse_cidr(text) is None
    assert not may_pass_on(record(FAR, proxy_cidrs=[text]))


SMALL_IDS = st.integers(0, 6)
VERSIONS = st.sampled_from([0, 1, 2, 3, 2**32 - 1])
RECORDS = st.builds(
    RoutePeerInfo,
    peer_id=SMALL_IDS,
    version=VERSIONS,
    hostname=st.text(max_size=5),
    network_length=st.sampled_from([0, 24, 33]),
    ipv4_addr=st.builds(common_pb2.Ipv4Addr, addr=st.integers(0, 2**32 - 1)),
    ipv6_addr=st.builds(common_pb2.Ipv6Inet, network_length=st.sampled_from([0, 128, 129])),
    proxy_cidrs=st.lists(st.sampled_from(["10.0.0.0/8", "10.0.0.1/8", "", "x", "::/0"]), max_size=2),
    peer_route_id=st.integers(0, 3),
)
ENTRIES = st.builds(peer_rpc_pb2.PeerIdVersion, peer_id=SMALL_IDS, version=VERSIONS)
CONN_INFO: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(
        lambda entries, bits: {"conn_bitmap": peer_rpc_pb2.RouteConnBitmap(peer_ids=entries, bitmap=bits)},
        st.lists(ENTRIES, max_size=5),
        st.binary(max_size=6),
    ),
    st.builds(
        lambda infos: {"conn_peer_list": peer_rpc_pb2.RouteConnPeerList(peer_conn_infos=infos)},
        st.lists(
            st.builds(
                peer_rpc_pb2.RouteConnPeerList.PeerConnInfo, peer_id=ENTRIES, connected_peer_ids=st.lists(SMALL_IDS, max_size=5)
            ),
            max_size=5,
        ),
    ),
    st.just({}),
)
REQUESTS = st.builds(
    lambda session, records, conn_info: SyncRouteInfoRequest(
        my_peer_id=LEFT, my_session_id=session, peer_infos=peer_rpc_pb2.RoutePeerInfos(items=records), **conn_info
    ),
    st.integers(1, 2),
    st.lists(RECORDS, max_size=5),
    CONN_INFO,
)


@settings(deadline=None)
@given(st.lists(st.tuples(REQUESTS, st.sampled_from([0.0, 1.0, 100.0, 4000.0])), max_size=6))
def test_any_request_is_taken_and_nothing_harmful_goes_out(story: list[tuple[SyncRouteInfoRequest, float]]) -> None:
    state = node(neighbours=[LEFT, RIGHT])
    now = 0.0
    for request, pause in story:
        response = state.handle_request(LEFT, request, now)
        assert not response.HasField("error")
        for receiver in (LEFT, RIGHT):
            outgoing = built(state, receiver, now)
            assert_harmless(outgoing, receiver)
            assert state.on_response(receiver, outgoing, answer(request.my_session_id if receiver == LEFT else 7), now)
            # Else the loop around this would never rest.
            assert not state.wants_sync(receiver)
        assert 0 not in state.connections()
        assert not {0, ME} & {peer.peer_id for peer in state.peers()}
        now += pause
        state.expire(now)


@given(st.binary(max_size=200))
def test_any_bytes_that_decode_are_taken(data: bytes) -> None:
    state = node(neighbours=[LEFT])
    try:
        request = SyncRouteInfoRequest.FromString(data)
    except DecodeError:
        return
    request.my_peer_id = LEFT
    state.handle_request(LEFT, request, 0.0)
    assert_harmless(built(state, LEFT), LEFT)
