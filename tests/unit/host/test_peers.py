"""All connections of a node: the best of each neighbour, the caps, and who is told what."""

from __future__ import annotations

import pytest

from easytier_host.metrics import Metrics
from easytier_host.packet import PacketType, PeerHeader
from easytier_host.peer_conn import PeerConn
from easytier_host.peers import (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_CONNECTIONS_PER_PEER,
    PeerMap,
    underlay_address,
)
from tests.unit.host.helpers import ME, OTHER, PEER, FakeClock, FakeTunnel, Recorder, fake_tunnel, make_conn


class Peers:
    """A map whose callbacks are recorded."""

    def __init__(self) -> None:
        self.joined = Recorder()
        self.left = Recorder()
        self.metrics = Metrics()
        self.map = PeerMap(self.joined, self.left, self.metrics)

    def add(self, peer_id: int, *latencies: float) -> PeerConn:
        """Add a connection with these round trips."""
        conn = make_conn(peer_id)
        conn._round_trips.extend(latencies)
        conn.tunnel.on_close = lambda reason: self.map.remove(conn, reason)
        self.map.add(conn)
        return conn


def test_the_first_connection_joins_and_the_last_one_leaves() -> None:
    peers = Peers()
    first, second = peers.add(PEER), peers.add(PEER)
    peers.map.remove(first, "one")
    assert peers.joined.calls == [(first,)]
    assert peers.left.calls == []
    assert peers.map.best[PEER] is second
    peers.map.remove(second, "two")
    assert peers.left.calls == [(PEER, "two")]
    assert peers.map.neighbours() == frozenset()
    assert peers.map.best == {}


def test_removing_twice_or_a_stranger_has_no_effect() -> None:
    peers = Peers()
    conn = peers.add(PEER)
    peers.map.remove(make_conn(PEER), "a stranger")
    peers.map.remove(make_conn(OTHER), "a stranger")
    assert peers.map.connections(PEER) == [conn]
    peers.map.remove(conn, "gone")
    peers.map.remove(conn, "gone")
    assert len(peers.left.calls) == 1
    assert peers.map.refusal(PEER) is None


def test_frames_take_the_connection_with_the_least_latency() -> None:
    peers = Peers()
    slow, fast = peers.add(PEER, 0.2), peers.add(PEER, 0.02)
    assert peers.map.best[PEER] is fast
    peers.map.remove(fast, "gone")
    assert peers.map.best[PEER] is slow


def test_a_connection_without_latency_waits_for_one() -> None:
    peers = Peers()
    known = peers.add(PEER, 0.2)
    unknown = peers.add(PEER)
    assert peers.map.best[PEER] is known
    unknown._round_trips.append(0.1)
    peers.map.tick(1000.0)
    assert peers.map.best[PEER] is unknown


@pytest.mark.parametrize(("challenger", "wins"), [(0.090, False), (0.076, False), (0.073, True), (0.010, True)])
def test_only_a_clear_gain_moves_frames_to_another_connection(challenger: float, wins: bool) -> None:
    peers = Peers()
    current, other = peers.add(PEER, 0.100), peers.add(PEER, challenger)
    assert peers.map.best[PEER] is (other if wins else current)


def test_two_connections_of_like_latency_do_not_take_turns() -> None:
    peers = Peers()
    first, second = peers.add(PEER, 0.0010), peers.add(PEER, 0.0009)
    for step in range(50):
        first._round_trips.append(0.0010 if step % 2 else 0.0005)
        second._round_trips.append(0.0005 if step % 2 else 0.0010)
        first.received_frames += 1
        second.received_frames += 1
        peers.map.tick(1000.0 + step)
        assert peers.map.best[PEER] is first


def test_a_peer_has_at_most_eight_connections() -> None:
    peers = Peers()
    conns = [peers.add(PEER) for _ in range(MAX_CONNECTIONS_PER_PEER)]
    assert "8 connections" in (peers.map.refusal(PEER) or "")
    assert peers.map.refusal(OTHER) is None
    peers.map.remove(conns[0], "gone")
    assert peers.map.refusal(PEER) is None


def test_one_address_has_at_most_256_of_those_that_come_in() -> None:
    peers = Peers()
    # One host may have all addresses of a /64.
    address = "2001:db8::/64"
    for peer_id in range(1, MAX_CONNECTIONS_PER_ADDRESS + 1):
        tunnel = FakeTunnel(remote=f"[2001:db8::{peer_id:x}]:1")
        assert underlay_address(tunnel) == address
        assert peers.map.refusal(peer_id, address) is None
        peers.map.add(PeerConn(tunnel, ME, peer_id, is_foreign_relay=False, is_initiator=False, now=0.0))
    assert "256" in (peers.map.refusal(5000, address) or "")
    assert peers.map.refusal(5000, "192.0.2.1") is None
    # Whom we dial is not counted.
    assert peers.map.refusal(5000) is None
    peers.map.remove(peers.map.best[1], "gone")
    assert peers.map.refusal(5000, address) is None


def test_a_node_has_at_most_1024_connections() -> None:
    peers = Peers()
    for peer_id in range(1, MAX_CONNECTIONS + 1):
        assert peers.map.refusal(peer_id) is None
        peers.add(peer_id)
    assert "1024" in (peers.map.refusal(5000) or "")
    peers.map.remove(peers.map.best[1], "gone")
    assert peers.map.refusal(5000) is None


def test_tick_pings_every_connection_and_counts_what_it_sent() -> None:
    peers = Peers()
    conns = [peers.add(PEER), peers.add(PEER), peers.add(OTHER)]
    peers.map.tick(1000.0)
    for conn in conns:
        (ping,) = fake_tunnel(conn).sent
        assert PeerHeader.parse(ping).packet_type == PacketType.PING
        assert (conn.sent_frames, conn.sent_bytes) == (1, len(ping))
    assert (peers.metrics.sent_frames, peers.metrics.sent_bytes) == (3, 3 * 20)
    fake_tunnel(conns[0]).full = True
    peers.map.tick(1002.0)
    assert peers.metrics.dropped_congestion == 1


def test_tick_closes_what_is_dead_and_leaves_the_rest() -> None:
    peers, clock = Peers(), FakeClock()
    dead, alive = peers.add(PEER), peers.add(OTHER)
    while fake_tunnel(dead).reason is None and clock.now < 1060:
        alive.received_frames += 1
        peers.map.tick(clock.advance(0.5))
    assert fake_tunnel(dead).reason == "no answer to pings"
    assert peers.left.calls == [(PEER, "no answer to pings")]
    assert list(peers.map) == [alive]


def test_a_silent_connection_yields_to_one_that_answers_before_it_counts_as_dead() -> None:
    peers, clock = Peers(), FakeClock()
    old, new = peers.add(PEER, 0.001), peers.add(PEER, 0.100)
    assert peers.map.best[PEER] is old
    while peers.map.best[PEER] is old and clock.now < 1060:
        new.received_frames += 1
        peers.map.tick(clock.advance(0.5))
    assert clock.now - 1000 <= 3
    assert not old.tunnel.closed
    # Once it is heard of again, it is the better one.
    old.received_frames += 1
    new.received_frames += 1
    peers.map.tick(clock.advance(0.5))
    assert peers.map.best[PEER] is old


def test_frames_leave_a_connection_in_doubt_and_it_is_closed_without_answer() -> None:
    peers, clock = Peers(), FakeClock()
    doubted, other = peers.add(PEER, 0.02), peers.add(PEER, 0.2)
    peers.map.doubt(doubted, clock.now, "said goodbye")
    assert peers.map.best[PEER] is other
    [ping] = fake_tunnel(doubted).take()
    assert PeerHeader.parse(ping).packet_type == PacketType.PING
    peers.map.tick(clock.advance(1.0))
    # Not what it left unanswered, but why it was asked.
    assert fake_tunnel(doubted).reason == "said goodbye"
    assert peers.map.connections(PEER) == [other]


def test_all_can_be_in_doubt_at_once() -> None:
    peers, clock = Peers(), FakeClock()
    connections = [peers.add(PEER), peers.add(OTHER)]
    peers.map.doubt_all(clock.now)
    assert all(len(fake_tunnel(conn).take()) == 1 for conn in connections)
