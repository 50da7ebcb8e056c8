"""Caps, strangers and tables of an endpoint, packet by packet.  How sessions behave over links is in tests/simulation."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from easytier_kcp_plugin.kcp import bodies, ikcp
from easytier_kcp_plugin.kcp import endpoint as endpoint_module
from easytier_kcp_plugin.kcp import limits as limits_module
from easytier_kcp_plugin.kcp import peers as peers_module
from easytier_kcp_plugin.kcp.attempts import REACHING_TIME
from easytier_kcp_plugin.kcp.conn_data import ConnData, Offer
from easytier_kcp_plugin.kcp.endpoint import SHADOW_LIFE, Endpoint
from easytier_kcp_plugin.kcp.events import Closed, CloseReason, Established, Incoming, Readable, SessionClosed
from easytier_kcp_plugin.kcp.handshake import State
from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, PING, PONG, RST, SYN, SYN_ACK, PacketType, SessionHeader
from easytier_kcp_plugin.kcp.limits import LimitReached, Limits
from easytier_kcp_plugin.kcp.segment import Command, Segment, parse_segments
from easytier_kcp_plugin.kcp.session import Session
from tests.unit.kcp.network import request

ME, PEER, STRANGER = 2002, 1001, 3003


def make(**limits: float) -> Endpoint:
    return Endpoint(ME, ikcp.paths(), first_conv=0xFFFF_FFFF, limits=Limits(**limits))  # type: ignore[arg-type]


def packet(conv: int, flags: int, body: bytes = b"", peer: int = PEER) -> bytes:
    """Of an opener that asks us."""
    return SessionHeader(conv, peer, ME, flags).encode() + body


def push(conv: int, data: bytes = b"x", sn: int = 0) -> bytes:
    return packet(conv, ACK_DATA, Segment(conv, Command.PUSH, 0, 1024, 0, sn, 0, len(data)).encode(data))


def give(endpoint: Endpoint, *payloads: bytes, now: float = 0.0, peer: int = PEER) -> list[tuple[int, int, bytes]]:
    """Packets of an opener in, answers out: conv, flags, body."""
    endpoint.receive(peer, PacketType.KCP_SRC, payloads, now)
    answers = []
    for batch in endpoint.poll(now).batches:
        assert (batch.peer_id, batch.packet_type) == (peer, PacketType.KCP_DST)
        for payload in batch.payloads:
            header = SessionHeader.parse(payload)
            assert (header.src_session_id, header.dst_session_id) == (peer, ME)
            answers.append((header.conv, header.flags, payload[14:]))
    return answers


def ask(endpoint: Endpoint, conv: int, port: int, now: float = 0.0) -> list[tuple[int, int, bytes]]:
    return give(endpoint, packet(conv, SYN, request(port).encode()), now=now)


def test_a_request_is_announced_with_the_third_packet_and_its_body_is_kept() -> None:
    endpoint = make()
    endpoint.receive(PEER, PacketType.KCP_SRC, [packet(5, SYN, request().encode())], 0.0)
    assert endpoint.poll(0.0).events == []
    endpoint.receive(PEER, PacketType.KCP_SRC, [push(5, b"hello")], 0.1)
    incoming, readable = endpoint.poll(0.1).events
    assert isinstance(incoming, Incoming)
    assert incoming.conn_data == request()
    assert readable == Readable(incoming.session)
    assert (incoming.session.conv, incoming.session.state) == (5, State.ESTABLISHED)
    assert endpoint.read(incoming.session, 100) == b"hello"


def test_a_stock_opener_gets_the_empty_syn_ack_it_knows_and_ours_an_offer() -> None:
    endpoint = make()
    assert ask(endpoint, 5, 1) == [(5, SYN_ACK, b"")]
    data = ConnData(request(2).src, request(2).dst, Offer(window=4096))
    ((conv, flags, body),) = give(endpoint, packet(6, SYN, data.encode()))
    assert (conv, flags) == (6, SYN_ACK)
    assert ConnData.decode(body) == ConnData(None, None, Offer())


def holding() -> tuple[Endpoint, bytes]:
    """An endpoint that holds SYNs, and one of an opener of our kind for conv 6."""
    offered = ConnData(request(2).src, request(2).dst, Offer())
    return Endpoint(ME, ikcp.paths(), first_conv=0, holds=True), packet(6, SYN, offered.encode())


def announced(endpoint: Endpoint, now: float) -> Session:
    (incoming,) = endpoint.poll(now).events
    assert isinstance(incoming, Incoming)
    return incoming.session


def test_a_syn_of_our_kind_is_answered_once_the_destination_is_reached() -> None:
    endpoint, syn = holding()
    endpoint.receive(PEER, PacketType.KCP_SRC, [syn], 0.0)
    poll = endpoint.poll(0.0)
    ((payload,),) = [batch.payloads for batch in poll.batches]
    assert payload == SessionHeader(6, PEER, ME, PING).encode() + bodies.HELD
    (incoming,) = poll.events
    assert isinstance(incoming, Incoming)
    assert give(endpoint, syn, now=0.1) == [(6, PING, bodies.HELD)]
    assert give(endpoint, packet(6, PING), push(6, b"early"), now=0.2) == []
    endpoint.confirm(incoming.session, 0.3)
    ((conv, flags, body),) = give(endpoint, now=0.3)
    assert (conv, flags) == (6, SYN_ACK)
    assert ConnData.decode(body).offer is not None
    endpoint.confirm(incoming.session, 0.4)
    assert give(endpoint, push(6, b"hello"), now=0.4)
    assert endpoint.read(incoming.session, 100) == b"hello"


def test_a_stock_opener_is_not_held() -> None:
    endpoint, _ = holding()
    assert ask(endpoint, 5, 1) == [(5, SYN_ACK, b"")]


@pytest.mark.parametrize(
    ("reason", "body"), [(CloseReason.ABORTED, b""), (CloseReason.DESTINATION_UNREACHABLE, bodies.UNREACHABLE), (None, None)]
)
def test_a_held_opener_that_gives_up_or_is_told_why_there_is_no_answer(reason: CloseReason | None, body: bytes | None) -> None:
    endpoint, syn = holding()
    endpoint.receive(PEER, PacketType.KCP_SRC, [syn], 0.0)
    session = announced(endpoint, 0.0)
    if reason is None:
        endpoint.receive(PEER, PacketType.KCP_SRC, [packet(6, RST)], 0.1)
    else:
        endpoint.reset(session, 0.1, reason)
    poll = endpoint.poll(0.1)
    answers = [payload for batch in poll.batches for payload in batch.payloads]
    assert answers == ([] if body is None else [packet(6, RST, body)])
    assert poll.events == [Closed(session, reason or CloseReason.RESET)]
    endpoint.confirm(session, 0.2)
    assert endpoint.poll(0.2).batches == []
    assert endpoint.held_entries == 0


def test_what_is_held_too_long_is_reset() -> None:
    endpoint, syn = holding()
    endpoint.receive(PEER, PacketType.KCP_SRC, [syn], 0.0)
    session = announced(endpoint, 0.0)
    assert endpoint.poll(0.1).deadline <= SHADOW_LIFE
    assert endpoint.poll(SHADOW_LIFE).events == [Closed(session, CloseReason.SUPERSEDED)]
    assert endpoint.held_entries == 0


@pytest.mark.parametrize(
    ("answers", "body", "reason"),
    [
        # As many as SYNs were repeated may be answers to the PINGs that went with them.
        (10, b"", CloseReason.DESTINATION_REFUSED),
        (1, bodies.UNREACHABLE, CloseReason.DESTINATION_UNREACHABLE),
        (0, b"", CloseReason.DESTINATION_SILENT),
    ],
)
def test_an_opener_that_is_told_to_wait_waits_and_neither_hedges_nor_doubts_the_peer(
    answers: int, body: bytes, reason: CloseReason
) -> None:
    endpoint = make()
    session = endpoint.connect(PEER, request(), 0.0, timeout=2.0)
    ((syn,),) = [batch.payloads for batch in endpoint.poll(0.0).batches]
    conv = SessionHeader.parse(syn).conv

    def told(flags: int, body: bytes, now: float) -> None:
        endpoint.receive(PEER, PacketType.KCP_DST, [SessionHeader(conv, ME, PEER, flags).encode() + body], now)

    told(PING, bodies.HELD, 0.05)
    convs: set[int] = set()
    for step in range(1, round(REACHING_TIME / 0.05) + 1):
        poll = endpoint.poll(step * 0.05)
        assert poll.events == []
        convs.update(SessionHeader.parse(payload).conv for batch in poll.batches for payload in batch.payloads)
    assert convs == {conv}
    for _ in range(answers):
        told(RST, body, REACHING_TIME + 0.04)
    assert endpoint.poll(REACHING_TIME + 0.06).events == [Closed(session, reason)]


def test_a_repeated_syn_only_repeats_the_answer() -> None:
    endpoint = make()
    for _ in range(3):
        assert ask(endpoint, 5, 1) == [(5, SYN_ACK, b"")]
    assert len(endpoint.sessions) == 1
    endpoint.receive(PEER, PacketType.KCP_SRC, [packet(5, ACK_DATA)], 0.0)
    endpoint.poll(0.0)
    assert ask(endpoint, 5, 2) == [(5, SYN_ACK, b"")]
    assert endpoint.sessions[0].conn_data == request(1)


@pytest.mark.parametrize("flags", [ACK_DATA, FIN, SYN_ACK, PING, 0x00, 0x80])
def test_strangers_get_an_rst_no_larger_than_their_question(flags: int) -> None:
    endpoint = make()
    assert give(endpoint, packet(9, flags, b"body")) == [(9, RST, b"")]
    assert endpoint.sessions == []


@pytest.mark.parametrize("flags", [RST, RST | SYN, PONG])
def test_some_strangers_get_nothing(flags: int) -> None:
    assert give(make(), packet(9, flags, b"body")) == []


def test_answers_to_strangers_are_limited() -> None:
    endpoint = make()
    flood = [packet(conv, ACK_DATA) for conv in range(1000)]
    assert len(give(endpoint, *flood)) == 64
    assert len(give(endpoint, *flood, now=0.5)) == 32
    assert endpoint.counters.strangers == 2000
    assert endpoint.counters.resets_sent == 96


@pytest.mark.parametrize(
    "payload",
    [
        SessionHeader(5, PEER, STRANGER, SYN).encode(),
        SessionHeader(5, STRANGER, ME, SYN).encode(),
        SessionHeader(5, ME, PEER, SYN).encode(),
    ],
    ids=["for another", "from another", "swapped"],
)
def test_ids_must_be_those_of_the_sender_and_ours(payload: bytes) -> None:
    endpoint = make()
    assert give(endpoint, payload + request().encode()) == []
    assert endpoint.counters.dropped_foreign == 1


def test_nobody_can_touch_the_session_of_another_peer() -> None:
    endpoint = make()
    ask(endpoint, 5, 1)
    give(endpoint, packet(5, ACK_DATA))
    forged = SessionHeader(5, PEER, ME, RST).encode()
    own = SessionHeader(5, STRANGER, ME, RST).encode()
    endpoint.receive(STRANGER, PacketType.KCP_SRC, [forged, own], 0.1)
    # Nor does an answer of an acceptor reach a session that we accepted.
    endpoint.receive(PEER, PacketType.KCP_DST, [SessionHeader(5, ME, PEER, RST).encode()], 0.1)
    assert [session.state for session in endpoint.sessions] == [State.ESTABLISHED]


def test_short_packets_and_unknown_types_are_counted() -> None:
    endpoint = make()
    endpoint.receive(PEER, PacketType.KCP_SRC, [b"", b"x" * 13], 0.0)
    endpoint.receive(PEER, 1, [packet(1, SYN)], 0.0)
    assert endpoint.counters.dropped_malformed == 2
    assert endpoint.counters.dropped_foreign == 1


@pytest.mark.parametrize("body", [b"\xff", b"", ConnData(request().src, None).encode()])
def test_a_request_that_does_not_decode_or_names_no_destination_is_refused(body: bytes) -> None:
    endpoint = make()
    assert give(endpoint, packet(5, SYN, body)) == [(5, RST, b"")]
    assert endpoint.counters.dropped_malformed == 1
    assert endpoint.sessions == []


@pytest.mark.parametrize("began", [0.0, 8.47, 31.559, 255.814])
def test_at_its_deadline_a_poll_does_what_it_was_for(began: float) -> None:
    """Whatever sums and differences of times are rounded to: a loop would spin."""
    endpoint = Endpoint(ME, ikcp.paths(), first_conv=0, holds=True)
    endpoint.receive(PEER, PacketType.KCP_SRC, [packet(5, SYN, ConnData(None, request().dst, Offer()).encode())], began)
    now = endpoint.poll(began).deadline
    for _ in range(100):
        deadline = endpoint.poll(now).deadline
        assert deadline > now
        if deadline == math.inf:
            break
        now = deadline
    assert endpoint.sessions == []


def test_an_opener_that_is_known_to_be_ours_gets_our_offer_with_a_pong() -> None:
    """Not of a PING that the handshake sends, nor if it is stock."""
    endpoint = make()
    ours = ConnData(request(1).src, request(1).dst, Offer())
    give(endpoint, packet(5, SYN, ours.encode()), packet(5, ACK_DATA))
    give(endpoint, packet(6, SYN, request(2).encode()), packet(6, ACK_DATA))
    ((_, flags, body),) = give(endpoint, packet(5, PING, b"?"), now=1.0)
    assert flags == PONG
    assert body[:1] == b"?"
    assert ConnData.decode(body[1:]).offer == Offer(window=1024)
    for conv, sent in ((5, b""), (5, b"size"), (6, b"?")):
        assert give(endpoint, packet(conv, PING, sent), now=1.0) == [(conv, PONG, sent)]


def test_half_open_requests_are_limited_for_each_peer_and_in_all() -> None:
    endpoint = make(half_open_per_peer=3, half_open=5)
    answers = [flags for conv in range(10) for _, flags, _ in ask(endpoint, conv, conv + 1)]
    assert answers == [SYN_ACK] * 3
    body = request().encode()
    others = [give(endpoint, packet(conv, SYN, body, peer=STRANGER), peer=STRANGER) for conv in range(5)]
    assert [len(answer) for answer in others] == [1, 1, 0, 0, 0]
    assert endpoint.counters.dropped_at_limit == 10


def test_a_half_open_request_that_took_long_gives_way_and_its_opener_is_told() -> None:
    endpoint = make(half_open_per_peer=2)
    for conv in (1, 2):
        ask(endpoint, conv, conv, now=float(conv))
    assert 3 not in [conv for conv, _, _ in ask(endpoint, 3, 3, now=5.9)]
    answers = ask(endpoint, 4, 4, now=6.0)
    assert (1, RST, b"") in answers
    assert (4, SYN_ACK, b"") in answers
    assert [session.conv for session in endpoint.sessions] == [2, 4]
    assert (endpoint.counters.gave_way, endpoint.counters.dropped_at_limit) == (1, 1)


def test_a_request_that_is_refused_anyway_costs_no_other_its_place() -> None:
    endpoint = make(half_open_per_peer=2, sessions_per_peer=2)
    for conv in (1, 2):
        ask(endpoint, conv, conv)
    assert (3, RST, b"") in ask(endpoint, 3, 3, now=6.0)
    assert len(endpoint.sessions) == 2


def test_what_is_held_may_give_way_too_and_the_application_hears_of_it() -> None:
    offered = ConnData(request(2).src, request(2).dst, Offer()).encode()
    endpoint = Endpoint(ME, ikcp.paths(), first_conv=0, holds=True, limits=Limits(half_open_per_peer=1))
    endpoint.receive(PEER, PacketType.KCP_SRC, [packet(6, SYN, offered)], 0.0)
    session = announced(endpoint, 0.0)
    endpoint.receive(PEER, PacketType.KCP_SRC, [packet(7, SYN, offered)], 5.0)
    poll = endpoint.poll(5.0)
    assert packet(6, RST) in [payload for batch in poll.batches for payload in batch.payloads]
    assert poll.events[0] == Closed(session, CloseReason.GAVE_WAY)
    assert isinstance(poll.events[1], Incoming)


def test_half_open_requests_make_room_after_ten_seconds() -> None:
    endpoint = make(half_open_per_peer=1)
    assert ask(endpoint, 1, 1)
    sent: Counter[int] = Counter()
    now, deadline = 0.0, 0.0
    while deadline < math.inf:
        now = deadline
        poll = endpoint.poll(now)
        sent.update(SessionHeader.parse(payload).flags for batch in poll.batches for payload in batch.payloads)
        deadline = poll.deadline
    assert now == pytest.approx(10.0)
    assert sent == {SYN_ACK: 6, PING: 6, RST: 1}
    assert endpoint.held_entries == 0
    assert ask(endpoint, 2, 2, now=11.0) == [(2, SYN_ACK, b"")]


def test_sessions_are_limited_and_an_opener_is_told() -> None:
    endpoint = make(sessions_per_peer=2)
    for conv in (1, 2):
        ask(endpoint, conv, conv)
    assert ask(endpoint, 3, 3) == [(3, RST, b"")]
    with pytest.raises(LimitReached, match="2 with peer 1001"):
        endpoint.connect(PEER, request(), 0.0)
    assert endpoint.connect(STRANGER, request(), 0.0).state is State.SYN_SENT


def test_sessions_that_linger_do_not_count_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "MAX_LINGERING", 10)
    endpoint = make(sessions_per_peer=1)
    for conv in range(30):
        ask(endpoint, conv, conv + 1)
        give(endpoint, packet(conv, ACK_DATA))
        endpoint.close(endpoint.sessions[0], 0.0)
        answers = give(endpoint, packet(conv, FIN))
        assert (conv, FIN, b"") in answers, "nothing was sent, so there is nothing to wait for"
        assert endpoint.sessions == []
    assert endpoint.held_entries <= 10 + 10 + 30
    assert (29, FIN, b"") in give(endpoint, packet(29, FIN), now=10.0)
    assert give(endpoint, packet(0, FIN), now=10.0) == [(0, RST, b"")]


def test_paths_of_peers_without_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "MAX_IDLE", 5)
    endpoint = make()
    for peer in range(100, 150):
        session = endpoint.connect(peer, request(), 0.0)
        endpoint.reset(session, 0.0)
        endpoint.poll(0.0)
    live = endpoint.connect(7, request(), 0.0)
    endpoint.poll(0.0)
    assert len(endpoint._peers) <= 6
    assert live in endpoint.sessions


def test_a_crowded_endpoint_gives_smaller_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "WINDOWS", ((1, 1024), (2, 256)))
    endpoint = make()
    windows = []
    for conv in (1, 2, 3):
        ask(endpoint, conv, conv)
        answers = give(endpoint, push(conv))
        (segment,) = parse_segments(answers[-1][2], conv)[0]
        windows.append(segment.wnd)
    assert windows == [1023, 255, 127]


def test_pings_get_their_body_back() -> None:
    endpoint = make()
    ask(endpoint, 5, 1)
    assert give(endpoint, packet(5, PING, b"p" * 1200)) == [(5, PONG, b"p" * 1200)]


def test_convs_wrap_and_skip_those_in_use() -> None:
    endpoint = make()
    sessions = [endpoint.connect(PEER, request(port), 0.0) for port in range(1, 4)]
    convs = [SessionHeader.parse(payload).conv for batch in endpoint.poll(0.0).batches for payload in batch.payloads]
    assert convs == [0xFFFF_FFFF, 0, 1]
    assert {session.state for session in sessions} == {State.SYN_SENT}


def test_calls_on_a_session_that_is_over() -> None:
    endpoint = make()
    session = endpoint.connect(PEER, request(), 0.0)
    endpoint.poll(0.0)
    endpoint.reset(session, 0.0)
    assert endpoint.poll(0.0).events == [Closed(session, CloseReason.ABORTED)]
    endpoint.reset(session, 0.0)
    endpoint.finish(session, 0.0)
    endpoint.close(session, 0.0)
    assert endpoint.read(session, 10) == b""
    assert not session.at_eof
    with pytest.raises(SessionClosed, match="reset by this node"):
        endpoint.write(session, b"x")
    assert endpoint.poll(0.0).events == []
    assert endpoint.poll(endpoint.poll(0.0).deadline).deadline == math.inf
    assert endpoint.held_entries == 0


def test_writing_after_the_end_of_our_direction_is_an_error() -> None:
    endpoint = make()
    session = endpoint.connect(PEER, request(), 0.0)
    endpoint.finish(session, 0.0)
    with pytest.raises(SessionClosed, match="has been ended"):
        endpoint.write(session, b"x")


def test_bytes_may_be_written_before_the_answer_up_to_a_bound() -> None:
    endpoint = make()
    session = endpoint.connect(PEER, request(), 0.0)
    assert endpoint.write(session, bytes(50_000)) == 50_000
    endpoint.poll(0.0)
    answer = SessionHeader(session_conv(endpoint), ME, PEER, SYN_ACK).encode()
    endpoint.receive(PEER, PacketType.KCP_DST, [answer], 0.05)
    assert endpoint.poll(0.05).events == [Established(session)]
    assert endpoint.write(session, bytes(50_000)) == 15_536
    assert endpoint.write(session, b"x") == 0


def session_conv(endpoint: Endpoint) -> int:
    """Of the only attempt of the only opener."""
    ((_, conv),) = endpoint._peers[PEER].by_conv
    return conv


def test_engines_of_a_congested_peer_are_not_asked() -> None:
    endpoint = make()
    ask(endpoint, 5, 1)
    endpoint.receive(PEER, PacketType.KCP_SRC, [push(5)], 0.0)
    endpoint.write(endpoint.sessions[0], bytes(10_000))
    poll = endpoint.poll(0.0, congested={PEER})
    assert poll.batches == []
    assert poll.deadline > 0.0, "no spinning meanwhile"
    (batch,) = endpoint.poll(0.1).batches
    assert len(batch.payloads) >= 9


def test_one_batch_for_each_peer_and_type() -> None:
    endpoint = make()
    for conv in range(3):
        endpoint.receive(PEER, PacketType.KCP_SRC, [packet(conv, SYN, request(conv).encode())], 0.0)
    endpoint.connect(PEER, request(), 0.0)
    batches = {(batch.peer_id, batch.packet_type): len(batch.payloads) for batch in endpoint.poll(0.0).batches}
    assert batches == {(PEER, PacketType.KCP_DST): 3, (PEER, PacketType.KCP_SRC): 1}


def test_a_stock_opener_that_has_chosen_gets_its_later_hedges_reset() -> None:
    endpoint = make()
    ask(endpoint, 1, 40_000)
    give(endpoint, push(1))
    assert ask(endpoint, 2, 40_000, now=0.4) == [(2, RST, b"")]
    assert endpoint.counters.siblings_reset == 1
    assert ask(endpoint, 3, 40_001, now=0.4) == [(3, SYN_ACK, b"")], "another port"
    assert (4, SYN_ACK, b"") in ask(endpoint, 4, 40_000, now=2.5), "another time"


def test_the_same_port_may_connect_again_at_once_when_the_first_flow_has_ended() -> None:
    endpoint = make()
    ask(endpoint, 1, 40_000)
    give(endpoint, push(1), packet(1, FIN))
    assert ask(endpoint, 2, 40_000, now=0.4) == [(2, SYN_ACK, b"")]


def test_openers_of_our_kind_and_those_without_source_have_no_siblings() -> None:
    endpoint = make()
    body = ConnData(request().src, request().dst, Offer()).encode()
    sourceless = ConnData(None, request().dst).encode()
    for conv, data in enumerate([body, body, sourceless, sourceless]):
        give(endpoint, packet(conv, SYN, data))
        endpoint.receive(PEER, PacketType.KCP_SRC, [push(conv)], 0.0)
    assert [session.announced for session in endpoint.sessions] == [True] * 4


def words(endpoint: Endpoint, now: float) -> list[bytes]:
    return [payload for batch in endpoint.last_words(now) for payload in batch.payloads]


def test_a_node_that_stops_knows_what_its_peers_must_not_miss() -> None:
    endpoint = make()
    for conv in (5, 6, 7):
        ask(endpoint, conv, conv)
    endpoint.receive(PEER, PacketType.KCP_SRC, [push(conv, b"all") for conv in (5, 6, 7)], 0.1)
    ended, reset_before, live = [event.session for event in endpoint.poll(0.1).events if isinstance(event, Incoming)]
    give(endpoint, packet(5, FIN), now=0.2)
    assert endpoint.read(ended, 100) == b"all"
    endpoint.finish(ended, 0.2)
    endpoint.poll(60.0)
    assert ended.state is State.LINGER
    endpoint.reset(reset_before, 60.0)
    endpoint.poll(60.0)
    assert words(endpoint, 60.0) == [packet(6, RST), packet(5, FIN)]
    # Of a reset that was said long ago its peer has heard, by the answers that it got.
    assert words(endpoint, 61.0) == [packet(5, FIN)]
    endpoint.stop(61.0)
    assert live.reason is CloseReason.ABORTED
    assert (7, RST, b"") in give(endpoint, now=61.0)
    assert words(endpoint, 61.0) == [packet(7, RST), packet(5, FIN)]
    # Who comes now is refused, and makes no session.
    assert ask(endpoint, 8, 8, now=61.1) == [(8, RST, b"")]
    assert not endpoint.sessions
