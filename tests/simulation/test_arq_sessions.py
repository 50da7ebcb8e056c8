"""Sessions whose engines are `arq`: with each other, with those of the engine `kcp`, and with a model of a stock node."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import cast

import pytest

from easytier_kcp_plugin.kcp import arq, ikcp
from easytier_kcp_plugin.kcp.arq.engine import ArqEngine
from easytier_kcp_plugin.kcp.arq.path import ArqPath
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.engine import PathFactory
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.header import SYN_ACK, SessionHeader
from tests.simulation.storm import Tight
from tests.unit.kcp import network as network_module
from tests.unit.kcp.network import ACCEPTOR, OPENER, Application, Link, Network
from tests.unit.kcp.stock import Stock

REQUEST, RESPONSE = b"question", b"answer" * 20_000


@pytest.fixture(autouse=True)
def arq_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `Network` makes has our engine; the model of stock keeps its own."""
    monkeypatch.setattr(network_module, "ikcp", SimpleNamespace(paths=arq.paths))


def tight_paths(window: int) -> PathFactory:
    """As of a node with many sessions."""
    return lambda: Tight(window)


def answer_once_asked(received: bytes) -> bytes | None:
    return RESPONSE if received == REQUEST else None


@pytest.mark.parametrize("other", ["arq", "kcp"])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_both_streams_arrive_whole_and_end(other: str, loss: float) -> None:
    network = Network(Link(loss=loss))
    if other == "kcp":
        network.ends[ACCEPTOR] = Endpoint(ACCEPTOR, ikcp.paths(), first_conv=1)
    there, back = random.Random(1).randbytes(400_000), random.Random(2).randbytes(300_000)
    network.serve = lambda event: Application(event.session, back)
    client = network.connect(there)
    network.run(60.0, network.settled)
    (server,) = [application for application in network.applications.values() if application is not client]
    assert (bytes(server.incoming), bytes(client.incoming)) == (there, back)
    assert (client.reason, server.reason) == (CloseReason.FINISHED, CloseReason.FINISHED)


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_a_request_to_stock_and_its_answer(loss: float) -> None:
    network = Network(Link(loss=loss))
    network.ends[ACCEPTOR] = Stock(ACCEPTOR, OPENER, opener=False, respond=answer_once_asked)
    application = network.connect(REQUEST, then_finish=False)
    network.run(20.0, lambda: application.eof)
    assert application.incoming == RESPONSE


@pytest.mark.parametrize("duplicate", [0.0, 1.0])
def test_a_slow_reader_of_stock_is_asked_for_its_window_now_and_then(duplicate: float) -> None:
    """Each answer that is no news must not draw a question: with copies they would multiply without end."""
    network = Network(Link(delay=0.0005, duplicate=duplicate))
    stock = Stock(ACCEPTOR, OPENER, opener=False, read_bytes_per_second=20_000)
    network.ends[ACCEPTOR] = stock
    client = network.connect(bytes(100_000))
    network.run(4.0)
    sent = len(network.log)
    assert client.finished
    network.run(0.9)
    assert len(network.log) - sent < 60
    network.run(30.0, network.settled)
    assert len(stock.dialled[0].received) == 100_000
    assert client.reason is CloseReason.FINISHED


def test_many_short_flows_over_one_path() -> None:
    network = Network(Link(loss=0.05))
    network.serve = lambda event: Application(event.session, b"short")
    clients = [network.connect(b"flow", port=1000 + index) for index in range(60)]
    network.run(60.0, network.settled)
    assert {bytes(client.incoming) for client in clients} == {b"short"}


def engines_between(network: Network) -> list[ArqEngine]:
    """Of the first session, opener's first."""
    engines = [network.opener.sessions[0].engine, network.acceptor.sessions[0].engine]
    assert all(isinstance(engine, ArqEngine) for engine in engines)
    return cast("list[ArqEngine]", engines)


def test_two_ends_of_our_kind_tell_each_other_and_use_larger_windows() -> None:
    network = Network(Link(delay=0.05))
    network.serve = lambda event: Application(event.session, then_finish=False)
    network.connect(bytes(30_000_000), then_finish=False)
    network.run(3.0)
    opener, acceptor = engines_between(network)
    for engine in (opener, acceptor):
        assert engine.receiver.tells_runs
    assert opener.statistics.peer_window > 1024 < opener.sender.window.size
    assert acceptor.receiver.space.size > 1024


def test_an_offer_that_is_lost_with_the_syn_ack_comes_with_the_answer_to_a_ping() -> None:
    network = Network()
    # The opener learns of the acceptor by a PONG alone.
    network.filter = lambda packet: packet[0] == OPENER or SessionHeader.parse(packet[2]).flags != SYN_ACK
    network.serve = lambda event: Application(event.session, RESPONSE, then_finish=False)
    client = network.connect(REQUEST, then_finish=False)
    network.run(0.5)
    assert client.session.was_established
    assert client.session.peer_offer is None
    network.run(3.0)
    assert client.incoming == RESPONSE
    assert client.session.peer_offer is not None
    assert engines_between(network)[0].receiver.tells_runs


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_an_end_reaches_a_crowded_peer_whose_offer_was_lost(loss: float) -> None:
    """By stock's rules our FIN would wait for a window of 1024, which a peer with many sessions does not have."""
    network = Network(Link(loss=loss), paths=tight_paths(64))
    network.filter = lambda packet: packet[0] == OPENER or SessionHeader.parse(packet[2]).flags != SYN_ACK
    network.serve = lambda event: Application(event.session, RESPONSE, answer_after_eof=True)
    client = network.connect(REQUEST)
    network.run(20.0, network.settled)
    assert client.incoming == RESPONSE
    assert client.reason is CloseReason.FINISHED


def test_a_reader_may_sleep_on_a_window_smaller_than_what_its_peer_sends_first() -> None:
    """Of the first 128 segments 32 fit; the others are no reason to give the session up."""
    data = random.Random(1).randbytes(300_000)
    network = Network(paths=tight_paths(32))
    network.serve = lambda event: Application(event.session, asleep=True)
    client = network.connect(data)
    network.run(200.0)
    assert client.reason is None
    server = network.partner(client)
    server.asleep = False
    server.run(network.acceptor, network.now)
    network.run(20.0, network.settled)
    assert server.incoming == data
    assert client.reason is CloseReason.FINISHED


def test_with_the_engine_kcp_at_the_other_end_stock_rules_hold() -> None:
    network = Network()
    network.ends[ACCEPTOR] = network.acceptor = Endpoint(ACCEPTOR, ikcp.paths(), first_conv=1)
    network.serve = lambda event: Application(event.session, then_finish=False)
    network.connect(bytes(5_000_000), then_finish=False)
    network.run(2.0)
    engine = network.opener.sessions[0].engine
    assert isinstance(engine, ArqEngine)
    assert not engine.receiver.tells_runs
    assert engine.sender.window.size == 1024


def test_what_nobody_has_read_of_a_session_that_is_over_still_counts_as_memory() -> None:
    network = Network(Link(delay=0.05))
    network.serve = lambda event: Application(event.session, then_finish=False)
    client = network.connect(bytes(30_000_000), then_finish=False)
    network.run(1.0)
    server = network.partner(client)
    server.asleep = True
    memory = cast("ArqPath", server.session.path).memory
    network.run(2.0)
    reserved = memory.reserved
    assert reserved > 0
    network.opener.reset(client.session, network.now)
    network.run(1.0, lambda: server.reason is not None)
    assert server.reason is CloseReason.RESET
    assert memory.reserved >= reserved > 0
    while network.acceptor.read(server.session, 65_536):
        assert memory.reserved == memory.memory.reserved
    assert memory.reserved == 0
