"""Two of our endpoints over bad links: bytes whole and in order, then the end; nobody hangs; nothing is left behind."""

from __future__ import annotations

import random

import pytest

from easytier_kcp_plugin.kcp import silence
from easytier_kcp_plugin.kcp.attempts import MAX_ATTEMPTS
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, RST, SYN, SYN_ACK
from easytier_kcp_plugin.kcp.limits import Limits
from tests.unit.kcp.network import ACCEPTOR, OPENER, Application, Link, Network, Packet

LINKS = {
    "clean": Link(),
    "reordering": Link(jitter=0.04),
    "duplicating": Link(duplicate=0.3),
    "lossy": Link(loss=0.1),
    "awful": Link(delay=0.1, jitter=0.05, loss=0.2, duplicate=0.1),
}


def assert_nothing_left(network: Network) -> None:
    """After the time that lingering takes, neither end holds anything of any session."""
    network.run(100.0)
    for endpoint in (network.opener, network.acceptor):
        assert endpoint.sessions == []
        assert endpoint.held_entries == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", LINKS)
def test_both_streams_arrive_whole_and_end(name: str, seed: int) -> None:
    source = random.Random(seed)
    upload, download = source.randbytes(source.randrange(200_000)), source.randbytes(source.randrange(200_000))
    network = Network(LINKS[name], seed)
    network.serve = lambda incoming: Application(incoming.session, download)
    application = network.connect(upload)
    network.run(120.0, network.settled)
    server = network.partner(application)
    assert application.incoming == download
    assert server.incoming == upload
    assert (application.eof, server.eof) == (True, True)
    assert (application.reason, server.reason) == (CloseReason.FINISHED, CloseReason.FINISHED)
    assert_nothing_left(network)


def test_two_hundred_flows_open_and_close_at_ten_percent_loss() -> None:
    network = Network(Link(loss=0.1, jitter=0.005), seed=11, limits=Limits(half_open_per_peer=256))
    network.serve = lambda incoming: Application(incoming.session, b"answer", answer_after_eof=True)
    applications = []
    for index in range(200):
        applications.append(network.connect(b"question %d" % index, port=10_000 + index))
        network.run(0.01)
    network.run(60.0, network.settled)
    assert network.settled()
    for index, application in enumerate(applications):
        assert application.incoming == b"answer"
        assert network.partner(application).incoming == b"question %d" % index
    assert {application.reason for application in network.applications.values()} == {CloseReason.FINISHED}
    assert_nothing_left(network)


@pytest.mark.parametrize("index", range(12))
@pytest.mark.parametrize("sender", [OPENER, ACCEPTOR])
def test_any_single_packet_of_a_short_flow_may_be_lost(sender: int, index: int) -> None:
    """The n-th packet of either end; the flow takes less than a second all the same."""
    network = Network(Link())
    network.serve = lambda incoming: Application(incoming.session, b"answer", answer_after_eof=True)
    seen = 0

    def lose_one(packet: Packet) -> bool:
        nonlocal seen
        seen += packet[0] == sender
        return not (packet[0] == sender and seen == index + 1)

    network.filter = lose_one
    application = network.connect(b"question")
    began = network.now
    network.run(60.0, network.settled)
    assert application.incoming == b"answer"
    assert application.reason is network.partner(application).reason is CloseReason.FINISHED
    assert network.now - began < 1.0
    assert_nothing_left(network)


@pytest.mark.parametrize("first", ["opener", "acceptor"])
def test_half_close_leaves_the_other_direction_alone(first: str) -> None:
    """One end finishes at once and gets 300 kB, which begin only after its end of stream."""
    data = random.Random(5).randbytes(300_000)
    network = Network(Link(loss=0.02))
    if first == "opener":
        network.serve = lambda incoming: Application(incoming.session, data, answer_after_eof=True)
        application = network.connect(b"all of it")
    else:
        network.serve = lambda incoming: Application(incoming.session, b"all of it")
        application = network.connect(data, answer_after_eof=True)
    network.run(60.0, network.settled)
    server = network.partner(application)
    early, late = (application, server) if first == "opener" else (server, application)
    assert early.incoming == data
    assert late.incoming == b"all of it"
    assert early.reason is late.reason is CloseReason.FINISHED
    ends = [(time, sender) for time, sender, flags, _ in network.log if flags == FIN]
    assert ends[0][1] == (OPENER if first == "opener" else ACCEPTOR)
    assert max(time for time, _ in ends) - ends[0][0] > 3 * network.link.delay


@pytest.mark.parametrize("who", [OPENER, ACCEPTOR])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_reset_reaches_the_other_side_which_keeps_what_it_has(who: int, loss: float) -> None:
    network = Network(Link(loss=loss))
    network.serve = lambda incoming: Application(incoming.session, b"x" * 5000, then_finish=False)
    application = network.connect(b"y" * 5000, then_finish=False)
    network.run(20.0, lambda: len(application.incoming) == 5000 and len(network.partner(application).incoming) == 5000)
    server = network.partner(application)
    resetting, other = (application, server) if who == OPENER else (server, application)
    endpoint = network.opener if who == OPENER else network.acceptor
    endpoint.reset(resetting.session, network.now)
    network.run(60.0, network.settled)
    assert (resetting.reason, other.reason) == (CloseReason.ABORTED, CloseReason.RESET)
    assert not other.eof
    assert len(other.incoming) == 5000
    assert_nothing_left(network)


def test_what_came_in_order_can_be_read_after_a_reset() -> None:
    network = Network()
    network.serve = lambda incoming: Application(incoming.session, asleep=True)
    application = network.connect(b"z" * 30_000, then_finish=False)
    network.run(1.0)
    server = network.partner(application)
    network.opener.reset(application.session, network.now)
    network.run(1.0)
    assert server.reason is CloseReason.RESET
    assert network.acceptor.read(server.session, 20_000) + network.acceptor.read(server.session, 20_000) == b"z" * 30_000
    assert network.acceptor.read(server.session, 1) == b""
    assert not server.session.at_eof


def test_a_reader_that_stops_stops_the_writer_and_goes_on_later() -> None:
    data = random.Random(3).randbytes(4_000_000)
    network = Network(Link(loss=0.01))
    network.serve = lambda incoming: Application(incoming.session, asleep=True)
    application = network.connect(data)
    network.run(10.0)
    stopped_at = application.written
    packets = len(network.log)
    network.run(20.0)
    assert application.written == stopped_at < 2 * 1024 * 1176 + 256 * 1024
    assert len(network.log) - packets < 60, "a shut window is asked about now and then, no more"
    server = network.partner(application)
    server.asleep = False
    server.run(network.acceptor, network.now)
    network.run(60.0, network.settled)
    assert server.incoming == data
    assert application.reason is CloseReason.FINISHED


def test_an_idle_session_lives_for_minutes_on_a_few_packets() -> None:
    network = Network()
    network.serve = lambda incoming: Application(incoming.session, then_finish=False)
    application = network.connect(then_finish=False)
    network.run(600.0)
    assert application.reason is None
    assert 60 <= len(network.log) <= 260


def test_a_vanished_peer_is_noticed_within_a_minute_and_a_bit() -> None:
    network = Network()
    application = network.connect(b"hello", then_finish=False)
    network.run(1.0)
    server = network.partner(application)
    network.filter = lambda packet: False
    began = network.now
    network.run(200.0, network.settled)
    assert application.reason is server.reason is CloseReason.SILENT
    assert network.now - began <= 61.0
    assert_nothing_left(network)


def test_a_peer_that_answers_pings_but_acknowledges_nothing_is_given_up() -> None:
    network = Network()
    application = network.connect(b"hello", then_finish=False)
    network.run(1.0)
    network.filter = lambda packet: packet[2][12] != 0x0A
    application.outgoing += b"more"
    application.run(network.opener, network.now)
    network.run(100.0, lambda: application.reason is not None)
    assert application.reason is CloseReason.STALLED


def test_nobody_there() -> None:
    network = Network()
    network.filter = lambda packet: False
    application = network.connect(b"hello")
    began = network.now
    network.run(100.0, network.settled)
    assert application.reason is CloseReason.NO_ANSWER
    assert network.now - began == pytest.approx(10.0)
    convs = {packet for _, _, flags, packet in network.log if flags == SYN}
    assert len(convs) == 1
    assert network.flags_sent(OPENER).count(SYN) < 60
    assert_nothing_left(network)


def test_a_refusal_comes_back_in_one_round_trip() -> None:
    network = Network(limits=Limits(sessions=0))
    network.opener.limits = Limits()
    application = network.connect(b"hello")
    began = network.now
    network.run(100.0, network.settled)
    assert application.reason is CloseReason.REFUSED
    assert network.now - began == pytest.approx(2 * network.link.delay)


def test_a_slow_link_needs_one_conversation_and_no_hedge() -> None:
    """SYNs that are repeated before the first answer can be there name the same conversation."""
    network = Network(Link(delay=0.4))
    application = network.connect(b"hello")
    network.run(60.0, network.settled)
    assert application.reason is CloseReason.FINISHED
    assert network.acceptor.counters.accepted == network.opener.counters.opened == 1
    assert RST not in network.flags_sent(OPENER)
    assert network.flags_sent(ACCEPTOR).count(SYN_ACK) <= MAX_ATTEMPTS


def test_of_two_attempts_the_loser_is_reset_as_soon_as_the_other_is_answered() -> None:
    network = Network(Link(delay=0.8))
    network.serve = lambda incoming: Application(incoming.session, then_finish=False)
    network.connect(then_finish=False)
    network.run(2.3)
    assert len(network.acceptor.sessions) == 2
    network.run(0.2)
    (session,) = network.acceptor.sessions
    assert session.announced


def test_an_end_before_the_third_packet_arrives_is_no_reset() -> None:
    network = Network()
    lost = 0

    def lose_three(packet: Packet) -> bool:
        nonlocal lost
        doomed = packet[0] == OPENER and packet[2][12] == ACK_DATA and lost < 3
        lost += doomed
        return not doomed

    network.filter = lose_three
    application = network.connect()
    network.run(10.0, network.settled)
    assert application.reason is network.partner(application).reason is CloseReason.FINISHED


def test_after_a_close_what_still_comes_is_answered_with_a_reset() -> None:
    network = Network()
    application = network.connect(b"a" * 3_000_000)
    network.run(0.2)
    server = network.partner(application)
    network.acceptor.close(server.session, network.now)
    network.run(60.0, network.settled)
    assert server.reason is CloseReason.ABORTED
    assert application.reason is CloseReason.RESET
    assert_nothing_left(network)


def test_a_close_delivers_what_was_written_before() -> None:
    network = Network(Link(loss=0.05))
    network.serve = lambda incoming: Application(incoming.session, answer_after_eof=True)
    data = random.Random(9).randbytes(200_000)
    application = network.connect(data, then_finish=False)
    network.run(1.0, lambda: application.written == len(data))
    network.opener.close(application.session, network.now)
    network.run(60.0, network.settled)
    assert network.partner(application).incoming == data
    assert application.reason is CloseReason.FINISHED


def test_a_crowd_that_says_nothing_asks_by_turns_and_ends_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "CROWD", 4)
    network = Network()
    network.serve = lambda incoming: Application(incoming.session, then_finish=False)
    crowd = [network.connect(port=50_000 + index, then_finish=False) for index in range(64)]
    network.run(1.0)
    begun = len(network.log)
    network.run(1000.0)
    # Each of them for itself: a question and an answer from both ends every 25 s.
    assert len(network.log) - begun <= 64 * 40 * 4 / 5
    assert not any(application.reason for application in crowd)
    network.filter = lambda packet: False
    cut = network.now
    network.run(200.0, network.settled)
    assert {application.reason for application in crowd} == {CloseReason.SILENT}
    assert network.now - cut <= silence.SILENCE
    assert_nothing_left(network)
