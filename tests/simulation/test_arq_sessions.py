"""Sessions whose engines are `arq`: with each other, with those of the engine `kcp`, and with a model of a stock node."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from easytier_kcp_plugin.kcp import arq, ikcp
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.events import CloseReason
from tests.unit.kcp import network as network_module
from tests.unit.kcp.network import ACCEPTOR, OPENER, Application, Link, Network
from tests.unit.kcp.stock import Stock

REQUEST, RESPONSE = b"question", b"answer" * 20_000


@pytest.fixture(autouse=True)
def arq_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `Network` makes has our engine; the model of stock keeps its own."""
    monkeypatch.setattr(network_module, "ikcp", SimpleNamespace(paths=arq.paths))


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


def test_many_short_flows_over_one_path() -> None:
    network = Network(Link(loss=0.05))
    network.serve = lambda event: Application(event.session, b"short")
    clients = [network.connect(b"flow", port=1000 + index) for index in range(60)]
    network.run(60.0, network.settled)
    assert {bytes(client.incoming) for client in clients} == {b"short"}
