"""Our endpoint against a model of stock's: it repeats nothing, loses what comes before accept, stops reading at a FIN."""

from __future__ import annotations

import random

import pytest

from easytier_kcp_plugin.kcp.events import Closed, CloseReason, Incoming, PeerFinished
from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, HEADER_SIZE, RST, SYN, SYN_ACK
from easytier_kcp_plugin.kcp.limits import Limits
from tests.unit.kcp.network import ACCEPTOR, OPENER, Application, Link, Network, Packet, request
from tests.unit.kcp.stock import Stock

REQUEST, RESPONSE = b"question", b"answer" * 500


def answer_once_asked(received: bytes) -> bytes | None:
    return RESPONSE if received == REQUEST else None


def with_stock_acceptor(stock: Stock, link: Link | None = None, limits: Limits | None = None) -> Network:
    network = Network(link, limits=limits)
    network.ends[ACCEPTOR] = stock
    return network


def with_stock_opener(stock: Stock, link: Link | None = None) -> Network:
    network = Network(link)
    network.ends[OPENER] = stock
    return network


def acceptor(**settings: object) -> Stock:
    return Stock(ACCEPTOR, OPENER, opener=False, **settings)  # type: ignore[arg-type]


def opener(**settings: object) -> Stock:
    return Stock(OPENER, ACCEPTOR, opener=True, **settings)  # type: ignore[arg-type]


def lose(network: Network, sender: int, wanted: list[tuple[int, bool]]) -> None:
    """Lose the first packet of `sender` of each kind: its flags, and whether it has a body."""
    missing = list(wanted)

    def keep(packet: Packet) -> bool:
        kind = (packet[2][HEADER_SIZE - 2], len(packet[2]) > HEADER_SIZE)
        if packet[0] == sender and kind in missing:
            missing.remove(kind)
            return False
        return True

    network.filter = keep


def test_a_request_and_its_answer() -> None:
    stock = acceptor(respond=answer_once_asked)
    network = with_stock_acceptor(stock)
    application = network.connect(REQUEST, then_finish=False)
    network.run(5.0, lambda: application.eof)
    assert application.incoming == RESPONSE
    network.opener.finish(application.session, network.now)
    network.run(30.0)
    assert application.reason is CloseReason.FINISHED
    assert len(stock.dialled) == 1
    assert stock.conversations == {}


@pytest.mark.parametrize("lost", [[(SYN, True)], [(ACK_DATA, False)], [(ACK_DATA, False), (ACK_DATA, True)]])
@pytest.mark.parametrize("first", ["client", "server"])
def test_a_lost_packet_of_our_opening_costs_no_hang(lost: list[tuple[int, bool]], first: str) -> None:
    stock = acceptor(respond=answer_once_asked if first == "client" else lambda received: RESPONSE)
    network = with_stock_acceptor(stock)
    lose(network, OPENER, lost)
    application = network.connect(REQUEST if first == "client" else b"")
    began = network.now
    network.run(5.0, lambda: application.eof)
    assert application.incoming == RESPONSE
    assert network.now - began < 0.7
    assert len(stock.dialled) == 1


def test_a_lost_syn_ack_costs_no_second_conversation() -> None:
    stock = acceptor(respond=answer_once_asked)
    network = with_stock_acceptor(stock)
    lose(network, ACCEPTOR, [(SYN_ACK, False)])
    application = network.connect(REQUEST)
    network.run(5.0, lambda: application.eof)
    assert application.incoming == RESPONSE
    assert len(stock.conversations) == 1


def test_a_syn_that_its_ping_overtakes() -> None:
    """The RST that the PING draws arrives after the SYN|ACK."""
    stock = acceptor(respond=answer_once_asked)
    network = with_stock_acceptor(stock, Link(delay=0.1, jitter=0.15))
    for port in range(20):
        application = network.connect(REQUEST, port=1000 + port)
        network.run(10.0, lambda application=application: application.eof)  # type: ignore[misc]
        assert application.incoming == RESPONSE


def test_a_full_accept_queue_is_overcome_by_another_conversation() -> None:
    stock = acceptor(respond=answer_once_asked)
    stock.accepting = False
    network = with_stock_acceptor(stock)
    application = network.connect(REQUEST)
    network.run(0.9)
    stock.accepting = True
    network.run(5.0, lambda: application.eof)
    assert application.incoming == RESPONSE
    assert len(stock.dialled) == 1
    assert RST in network.flags_sent(OPENER)


def test_a_flow_that_speaks_now_and_then_leaves_no_timers_behind() -> None:
    stock = acceptor()
    network = with_stock_acceptor(stock)
    application = network.connect(REQUEST, then_finish=False)
    for _ in range(200):
        network.run(3.0)
        stock.dialled[0].outgoing += b"x"
    network.run(1.0)
    assert len(application.incoming) == 200
    assert len(network.opener._timers) < 20


def test_many_flows_at_once_all_get_through_the_accept_queue_of_four() -> None:
    stock = acceptor(respond=answer_once_asked, accept_delay=0.01)
    network = with_stock_acceptor(stock)
    applications = [network.connect(REQUEST, port=1000 + index) for index in range(30)]
    network.run(60.0, network.settled)
    assert {bytes(application.incoming) for application in applications} == {RESPONSE}


def test_what_a_stream_brings_together_does_not_overrun_the_accept_queue() -> None:
    """Behind each loss all that was sent meanwhile waits, and comes at once; two hundred flows lose most of themselves so."""
    stock = acceptor(respond=answer_once_asked, accept_delay=0.0001)
    network = with_stock_acceptor(stock, Link(loss=0.05, stream=True))
    applications = [network.connect(REQUEST, port=1000 + index) for index in range(200)]
    begun = network.now
    network.run(10.0, lambda: all(application.incoming == RESPONSE for application in applications))
    assert {bytes(application.incoming) for application in applications} == {RESPONSE}
    assert network.now - begun < 6.0
    assert len(stock.dialled) == 200, "no request was made twice"
    assert network.flags_sent(OPENER).count(SYN) < 400


def test_on_a_stream_a_conversation_that_was_lost_is_found_out_soon() -> None:
    stock = acceptor(respond=answer_once_asked)
    stock.accepting = False
    network = with_stock_acceptor(stock, Link(stream=True))
    application = network.connect(REQUEST)
    network.run(0.2)
    stock.accepting = True
    network.run(0.6, lambda: application.eof)
    assert application.incoming == RESPONSE
    assert len(stock.dialled) == 1


def test_an_acceptor_that_never_accepts() -> None:
    stock = acceptor()
    stock.accepting = False
    network = with_stock_acceptor(stock)
    application = network.connect(REQUEST)
    network.run(60.0, network.settled)
    assert application.reason is CloseReason.NOT_ACCEPTED
    network.run(30.0)
    assert stock.conversations == {}


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_a_slow_reader_gets_the_tail_before_our_fin(loss: float) -> None:
    data = random.Random(4).randbytes(700_000)
    stock = acceptor(read_bytes_per_second=300_000)
    network = with_stock_acceptor(stock, Link(loss=loss), limits=Limits(half_close_idle=0.0))
    network.connect(data)
    network.run(60.0, lambda: bool(stock.dialled) and stock.dialled[0].broken)
    assert stock.dialled[0].received == data


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_a_slow_client_gets_the_tail_before_our_fin(loss: float) -> None:
    data = random.Random(4).randbytes(700_000)
    stock = opener(read_bytes_per_second=300_000)
    network = with_stock_opener(stock, Link(loss=loss))
    network.serve = lambda event: Application(event.session, data)
    stock.hedge(request().encode(), network.now)
    network.run(60.0, lambda: bool(stock.dialled) and stock.dialled[0].broken)
    assert stock.dialled[0].received == data


def test_our_half_close_waits_for_the_answer() -> None:
    """Stock would drop the answer at our FIN."""
    answer = random.Random(6).randbytes(1_000_000)
    stock = acceptor(respond=lambda received: answer if received == REQUEST else None)
    network = with_stock_acceptor(stock, Link(loss=0.02))
    application = network.connect(REQUEST)
    network.run(60.0, network.settled)
    assert application.incoming == answer
    assert application.reason is CloseReason.FINISHED
    ends = [sender for _, sender, flags, _ in network.log if flags == FIN]
    assert ends[0] == ACCEPTOR


@pytest.mark.parametrize("idle", [2.0, 5.0])
def test_our_half_close_goes_out_when_no_answer_comes(idle: float) -> None:
    stock = acceptor()
    network = with_stock_acceptor(stock, limits=Limits(half_close_idle=idle))
    application = network.connect(REQUEST)
    began = network.now
    network.run(60.0, network.settled)
    assert stock.dialled[0].received == REQUEST
    assert application.reason is CloseReason.FINISHED
    assert idle <= network.now - began <= idle + 0.5


def test_our_half_close_waits_as_long_as_the_answer_trickles() -> None:
    stock = acceptor()
    network = with_stock_acceptor(stock, limits=Limits(half_close_idle=2.0))
    application = network.connect(REQUEST)
    for second in range(6):
        network.run(1.0)
        assert network.flags_sent(OPENER).count(FIN) == 0
        stock.dialled[0].outgoing += b"%d" % second
    network.run(60.0, network.settled)
    assert application.incoming == b"012345"
    assert application.reason is CloseReason.FINISHED


def test_a_close_does_not_wait_for_an_answer() -> None:
    stock = acceptor()
    network = with_stock_acceptor(stock)
    application = network.connect(REQUEST, then_finish=False)
    network.run(1.0)
    network.opener.close(application.session, network.now)
    began = network.now
    network.run(60.0, network.settled)
    assert application.reason is CloseReason.FINISHED
    assert network.now - began < 0.3
    assert stock.dialled[0].received == REQUEST


@pytest.mark.parametrize("sender", [OPENER, ACCEPTOR])
def test_a_lost_fin_hangs_nobody(sender: int) -> None:
    stock = acceptor(respond=answer_once_asked)
    network = with_stock_acceptor(stock)
    lose(network, sender, [(FIN, False)])
    application = network.connect(REQUEST)
    network.run(60.0, network.settled)
    assert application.incoming == RESPONSE
    network.run(30.0)
    assert stock.conversations == {}
    assert application.reason is CloseReason.FINISHED


def test_an_end_of_stream_proves_that_the_conversation_was_accepted() -> None:
    """Though every segment of the acceptor is lost: a second conversation would ask the destination for all of it again."""
    network = Network()
    ends_at = network.now + 0.9
    stock = acceptor(respond=lambda received: b"" if network.now > ends_at else None)
    network.ends[ACCEPTOR] = stock
    network.filter = lambda packet: packet[0] == OPENER or packet[2][HEADER_SIZE - 2] != ACK_DATA
    application = network.connect(REQUEST, then_finish=False)
    network.run(60.0, network.settled)
    assert application.eof
    assert len(stock.dialled) == 1
    assert [type(event) for event in network.events[OPENER]].count(PeerFinished) == 1


def test_an_opener_that_has_dropped_the_conversation_did_not_end_it() -> None:
    """It answers PINGs with RST, as after a FIN of its own that was lost; but it has acknowledged nothing."""
    stock = opener()
    network = with_stock_opener(stock)
    network.serve = lambda event: Application(event.session, RESPONSE)
    stock.hedge(request().encode(), network.now, times=1)

    def forget(packet: Packet) -> bool:
        if packet[2][HEADER_SIZE - 2] == ACK_DATA and stock.conversations:
            stock._end(next(iter(stock.conversations.values())))
        return True

    network.filter = forget
    network.run(20.0, lambda: bool(network.applications) and network.settled())
    (application,) = network.applications.values()
    assert application.reason is CloseReason.RESET
    assert not application.eof


def incoming(network: Network) -> list[Incoming]:
    return [event for event in network.events[ACCEPTOR] if isinstance(event, Incoming)]


def test_a_stock_opener_is_served() -> None:
    data = random.Random(8).randbytes(700_000)
    stock = opener(respond=lambda received: REQUEST if received == data else None)
    network = with_stock_opener(stock, Link(loss=0.02))
    network.serve = lambda event: Application(event.session, data, then_finish=False)
    stock.hedge(request().encode(), network.now)
    network.run(60.0, lambda: bool(network.applications) and all(a.eof for a in network.applications.values()))
    (event,) = incoming(network)
    assert event.conn_data == request()
    assert stock.dialled[0].received == data
    assert network.applications[event.session].incoming == REQUEST


def test_of_the_hedges_of_a_stock_opener_one_is_announced_and_the_losers_are_reset() -> None:
    stock = opener(close_when_broken=False)
    network = with_stock_opener(stock, Link(delay=0.45))
    network.serve = lambda event: Application(event.session, then_finish=False)
    stock.hedge(request().encode(), network.now)
    network.run(2.0)
    stock.connection().outgoing = REQUEST
    network.run(5.0)
    assert len(incoming(network)) == 1
    states = sorted(entry.state for entry in stock.conversations.values())
    assert states == ["Closed"] * 4 + ["Established"]
    assert bytes(network.applications[incoming(network)[0].session].incoming) == REQUEST
    assert len(network.acceptor.sessions) == 1


def test_a_server_that_speaks_first_is_heard_though_the_third_packet_is_lost() -> None:
    """Stock in Established leaves our repeated SYN|ACKs without answer; that it answers PINGs proves that it is there."""
    stock = opener()
    network = with_stock_opener(stock)
    lose(network, OPENER, [(ACK_DATA, False)])
    network.serve = lambda event: Application(event.session, RESPONSE, then_finish=False)
    stock.hedge(request().encode(), network.now)
    began = network.now
    network.run(5.0, lambda: bool(stock.dialled) and bytes(stock.dialled[0].received) == RESPONSE)
    assert bytes(stock.dialled[0].received) == RESPONSE
    assert network.now - began < 1.2


def test_a_loser_that_was_announced_first_gives_way_to_the_winner() -> None:
    stock = opener()
    network = with_stock_opener(stock, Link(delay=0.25))
    network.serve = lambda event: Application(event.session, then_finish=False)
    lost_syn_acks = 0

    def keep(packet: Packet) -> bool:
        """The first attempt gets no SYN|ACK in time; of the winner nothing but its SYN arrives for a second."""
        nonlocal lost_syn_acks
        conv, flags = int.from_bytes(packet[2][:4], "little"), packet[2][HEADER_SIZE - 2]
        if conv == 500 and flags == SYN_ACK and lost_syn_acks < 2:
            lost_syn_acks += 1
            return False
        return not (conv == 501 and packet[0] == OPENER and flags != SYN and network.now < 101.8)

    network.filter = keep
    stock.hedge(request().encode(), network.now, times=2)
    network.run(1.0)
    stock.connection().outgoing = REQUEST
    network.run(5.0)
    first, second = incoming(network)
    assert (first.session.conv, second.session.conv) == (500, 501)
    assert Closed(first.session, CloseReason.SUPERSEDED) in network.events[ACCEPTOR]
    assert network.applications[second.session].incoming == REQUEST


def test_a_stock_source_that_closes_early_does_not_hold_us() -> None:
    """It stops reading for good, and its window stays shut; our next PING draws its RST."""
    stock = opener(respond=lambda received: b"" if received else None)
    network = with_stock_opener(stock)
    network.serve = lambda event: Application(event.session, bytes(5_000_000))
    stock.hedge(request().encode(), network.now)

    def drop_reader() -> bool:
        for entry in stock.dialled:
            entry.broken = entry.broken or entry.closing
        return False

    network.run(60.0, drop_reader)
    assert network.settled()
    assert network.acceptor.sessions == []
