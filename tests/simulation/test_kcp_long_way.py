"""Paths so long, or silent for so long, that a working acceptor might be taken for a deaf one: no request goes out twice."""

from __future__ import annotations

import pytest

from easytier_kcp_plugin.kcp.events import CloseReason
from tests.unit.kcp.network import ACCEPTOR, OPENER, Link, Network
from tests.unit.kcp.stock import Stock

REQUEST, RESPONSE = b"question", b"answer" * 50


def answer_once_asked(received: bytes) -> bytes | None:
    return RESPONSE if received == REQUEST else None


def with_stock_acceptor(link: Link) -> tuple[Network, Stock]:
    network = Network(link)
    stock = Stock(ACCEPTOR, OPENER, opener=False, respond=answer_once_asked)
    network.ends[ACCEPTOR] = stock
    return network, stock


@pytest.mark.parametrize("delay", [0.3, 0.6, 0.9])
def test_a_stock_acceptor_far_away_is_asked_once(delay: float) -> None:
    network, stock = with_stock_acceptor(Link(delay=delay))
    application = network.connect(REQUEST, then_finish=False)
    network.run(20.0, lambda: application.incoming == RESPONSE)
    assert application.incoming == RESPONSE
    assert len(stock.dialled) == 1


def test_a_path_that_is_silent_after_the_handshake_costs_no_second_request() -> None:
    network, stock = with_stock_acceptor(Link())
    application = network.connect(REQUEST, then_finish=False)
    network.run(1.0, lambda: bool(stock.dialled))
    network.filter = lambda _packet: False
    network.run(8.0)
    network.filter = lambda _packet: True
    network.run(20.0, lambda: application.incoming == RESPONSE)
    assert application.incoming == RESPONSE
    assert [dialled.received for dialled in stock.dialled] == [REQUEST]


def test_a_far_acceptor_of_our_kind_is_asked_once() -> None:
    network = Network(Link(delay=0.6))
    application = network.connect(REQUEST)
    network.run(20.0, network.settled)
    assert application.reason is CloseReason.FINISHED
    assert network.acceptor.counters.accepted == 1
