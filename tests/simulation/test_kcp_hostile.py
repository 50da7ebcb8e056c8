"""Anything may come from a peer: nothing raises, nothing grows without bound, and other sessions are not touched."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easytier_kcp_plugin.kcp import ikcp
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, PING, PONG, RST, SYN, SYN_ACK, PacketType, SessionHeader
from easytier_kcp_plugin.kcp.limits import Limits
from easytier_kcp_plugin.kcp.segment import Segment
from easytier_kcp_plugin.kcp.session import Session
from tests.unit.kcp.network import ACCEPTOR, OPENER, Application, Network, request, settle

SMALL = Limits(sessions=12, sessions_per_peer=8, half_open=8, half_open_per_peer=6)
u32 = st.one_of(st.integers(0, 8), st.integers(0, 0xFFFF_FFFF), st.integers(0xFFFF_FFF0, 0xFFFF_FFFF))

segments = st.builds(
    lambda conv, cmd, frg, wnd, ts, sn, una, payload, lie: Segment(
        conv, cmd, frg, wnd, ts, sn, una, (len(payload) + lie) & 0xFFFF_FFFF
    ).encode(payload),
    st.integers(0, 3),
    st.sampled_from([81, 81, 81, 82, 82, 83, 84, 85]),
    st.sampled_from([0, 0, 0, 1, 255]),
    st.integers(0, 0xFFFF),
    u32,
    u32,
    u32,
    st.binary(max_size=40),
    st.sampled_from([0, 0, 0, 0, 1, -1]),
)
bodies = st.one_of(
    st.just(b""),
    st.binary(max_size=60),
    st.lists(segments, max_size=5).map(b"".join),
    st.integers(1, 5).map(lambda port: request(port).encode()),
)
known_flags = st.sampled_from([SYN, SYN, SYN_ACK, ACK_DATA, ACK_DATA, ACK_DATA, FIN, RST, PING, PONG])
packets = st.one_of(
    st.builds(
        lambda conv, flags, body: (conv, int(flags), body),
        st.integers(0, 3),
        st.one_of(known_flags, known_flags, st.integers(0, 255)),
        bodies,
    ),
    st.binary(max_size=20),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("packet"), st.booleans(), packets),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.3, 2.0, 11.0, 61.0]), st.none()),
        st.tuples(st.just("call"), st.integers(0, 6), st.integers(0, 10)),
    ),
    max_size=60,
)

ME, PEER = 2002, 1001


class Victim:
    """An endpoint of ours whose application does arbitrary things as well."""

    def __init__(self) -> None:
        self.now = 10.0
        self.endpoint = Endpoint(ME, ikcp.paths(), first_conv=0, limits=SMALL)
        self.sessions: list[Session] = []
        self.closed: list[Session] = []

    def packet(self, as_source: bool, what: tuple[int, int, bytes] | bytes) -> None:
        packet_type = PacketType.KCP_DST if as_source else PacketType.KCP_SRC
        if isinstance(what, tuple):
            conv, flags, body = what
            ids = (ME, PEER) if as_source else (PEER, ME)
            what = SessionHeader(conv, *ids, flags).encode() + body
        self.endpoint.receive(PEER, packet_type, [what], self.now)

    def call(self, which: int, session_number: int) -> None:
        if which == 0 and len(self.endpoint.sessions) < 4:
            self.sessions.append(self.endpoint.connect(PEER, request(), self.now))
        if not self.sessions:
            return
        session = self.sessions[session_number % len(self.sessions)]
        if which == 1:
            self.endpoint.read(session, 1 + session_number)
        elif which == 2 and session.reason is None and not session.ended:
            self.endpoint.write(session, bytes(3000))
        elif which == 3:
            self.endpoint.finish(session, self.now)
        elif which == 4:
            self.endpoint.close(session, self.now)
        elif which == 5:
            self.endpoint.reset(session, self.now)

    def poll(self) -> None:
        settle(self.endpoint, self.now, self.sessions, self.closed)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(20_000):
            self.poll()
            deadline = self.endpoint.poll(self.now).deadline
            if deadline > end:
                self.now = end
                return
            self.now = deadline
        raise AssertionError("too busy")


@settings(deadline=None, max_examples=300)
@given(steps)
def test_any_packets_and_calls_in_any_order(script: list[tuple[str, float, object]]) -> None:
    victim = Victim()
    for what, number, argument in script:
        if what == "packet":
            assert isinstance(argument, tuple | bytes)
            victim.packet(bool(number), argument)
        elif what == "wait":
            victim.wait(number)
        else:
            assert isinstance(argument, int)
            victim.call(int(number), argument)
        victim.poll()
        assert len(victim.endpoint.sessions) <= SMALL.sessions
    for session in victim.sessions:
        victim.endpoint.close(session, victim.now)
    victim.wait(200.0)
    assert victim.endpoint.sessions == []
    assert victim.endpoint.held_entries == 0
    assert {session for session in victim.sessions if session.reason is None} == set()
    assert sorted(map(id, victim.closed)) == sorted(map(id, victim.sessions))


@pytest.mark.parametrize("seed", range(5))
def test_garbage_beside_a_good_flow_does_not_touch_it(seed: int) -> None:
    """From another peer anything, and packets of the flow's own peer under other convs."""
    source = random.Random(seed)
    data = source.randbytes(200_000)
    network = Network(seed=seed)
    network.serve = lambda incoming: Application(incoming.session)
    application = network.connect(data)
    conv = 0xFFFF_FFF0
    for _ in range(300):
        flags = source.choice([SYN, SYN_ACK, ACK_DATA, FIN, RST, PING, source.randrange(256)])
        stranger = SessionHeader(conv, 666, ACCEPTOR, flags).encode()
        network.inject(ACCEPTOR, 666, PacketType.KCP_SRC, stranger + source.randbytes(source.randrange(60)))
        forged = SessionHeader(conv, OPENER, ACCEPTOR, flags).encode()
        network.inject(ACCEPTOR, 666, PacketType.KCP_SRC, forged)
        other = SessionHeader(source.randrange(1000), OPENER, ACCEPTOR, flags).encode()
        network.inject(ACCEPTOR, OPENER, PacketType.KCP_SRC, other + source.randbytes(source.randrange(60)))
        network.run(0.002)
    network.run(60.0, lambda: application.reason is not None)
    assert application.reason is CloseReason.FINISHED
    assert network.partner(application).incoming == data


def test_a_flood_of_requests_holds_a_bounded_number_of_entries() -> None:
    endpoint = Endpoint(ME, ikcp.paths(), first_conv=0)
    sent = 0
    for number in range(20_000):
        payload = SessionHeader(number, PEER, ME, SYN).encode() + request(number % 60_000 + 1).encode()
        endpoint.receive(PEER, PacketType.KCP_SRC, [payload], number / 1000)
        sent += sum(len(batch.payloads) for batch in endpoint.poll(number / 1000).batches)
    assert endpoint.held_entries <= Limits().half_open_per_peer * 5
    assert sent < Limits().half_open_per_peer * 3 * 16


def test_an_established_flood_is_held_to_the_sessions_of_one_peer() -> None:
    endpoint = Endpoint(ME, ikcp.paths(), first_conv=0, limits=Limits(sessions_per_peer=50))
    for number in range(2000):
        syn = SessionHeader(number, PEER, ME, SYN).encode() + request(number + 1).encode()
        third = SessionHeader(number, PEER, ME, ACK_DATA).encode()
        endpoint.receive(PEER, PacketType.KCP_SRC, [syn, third], 0.0)
        endpoint.poll(0.0)
    assert len(endpoint.sessions) == 50
