"""From which address packets to neighbours leave, and what a change of it leads to."""

from __future__ import annotations

import socket

import anyio
import pytest

from easytier_host.peer_conn import PeerConn
from easytier_host.underlay_watch import UnderlayWatch, source_address
from tests.unit.host.helpers import OTHER, PEER, make_conn


class Net:
    """Two neighbours; `source` is the address from which everything leaves, None while there is no way."""

    def __init__(self) -> None:
        self.connections = [make_conn(PEER), make_conn(OTHER)]
        self.source: str | None = "10.9.1.1"
        self.doubted: list[PeerConn] = []
        self.hurried = 0
        self.watch = UnderlayWatch(lambda: self.connections, self.doubted.append, self._hurry, lambda _url: self.source)
        self.watch.look()

    def _hurry(self) -> None:
        self.hurried += 1


def test_neighbours_reached_from_another_address_are_asked_once() -> None:
    net = Net()
    net.source = "10.9.1.7"
    net.watch.react()
    assert net.doubted == net.connections
    net.watch.react()
    assert net.doubted == net.connections
    assert net.hurried == 2


def test_other_news_is_no_reason_to_doubt_but_to_dial() -> None:
    net = Net()
    net.watch.react()
    assert (net.doubted, net.hurried) == ([], 1)


def test_an_interface_that_was_down_is_no_change_if_its_address_is_the_same() -> None:
    net = Net()
    net.source = None
    net.watch.react()
    net.source = "10.9.1.1"
    net.watch.react()
    assert net.doubted == []
    net.source = None
    net.watch.react()
    net.source = "10.9.1.7"
    net.watch.react()
    assert net.doubted == net.connections


def test_a_neighbour_that_came_since_is_not_in_doubt() -> None:
    net = Net()
    new = make_conn(7)
    net.connections.append(new)
    net.source = "10.9.1.7"
    net.watch.react()
    assert new not in net.doubted


def test_the_routing_table_knows_the_address() -> None:
    assert source_address("udp://127.0.0.1:9") == "127.0.0.1"
    assert source_address("tcp://[::1]:9") == "::1"
    assert source_address("ring://x") is None
    assert source_address("udp://host.invalid") is None


@pytest.mark.anyio
async def test_a_sandbox_without_news_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(socket.socket):
        def bind(self, _address: object) -> None:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", Deaf)
    with anyio.fail_after(5):
        await Net().watch.run()
