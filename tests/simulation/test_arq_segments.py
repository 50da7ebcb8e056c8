"""Segments larger than stock's, in sessions: the path is asked, a black hole repairs itself, stock is not disturbed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from easytier_kcp_plugin.kcp import arq
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, HEADER_SIZE, PING
from easytier_kcp_plugin.kcp.segment import SEGMENT_SIZE
from tests.unit.kcp.network import ACCEPTOR, OPENER, Application, Link, Network, Packet
from tests.unit.kcp.stock import Stock

STOCK, LARGE = 1176, 1382
HEADERS = HEADER_SIZE + SEGMENT_SIZE


@dataclass
class Path:
    """What the network is like for payloads, in both directions; also the opener's host."""

    whole: int = HEADERS + LARGE
    """Larger ones vanish."""
    told: int = HEADERS + LARGE
    """What the host says of it."""
    fragments: bool = False
    allowed: list[int] = field(default_factory=list)

    def largest_payload(self, peer_id: int) -> int:
        return 0 if self.fragments else self.told

    def allow_fragments(self, peer_id: int) -> None:
        self.allowed.append(peer_id)
        self.fragments = True

    def is_stream(self, _peer_id: int) -> bool:
        return False

    def carries(self, packet: Packet) -> bool:
        return self.fragments or len(packet[2]) <= self.whole


def network(path: Path, link: Link | None = None, *, stock: bool = True, seed: int = 1) -> Network:
    """An opener with our engines, and a model of a stock node or another of ours, which serves."""
    result = Network(link, seed)
    paths = arq.paths()
    result.ends[OPENER] = result.opener = Endpoint(OPENER, paths, first_conv=1, underlay=path)
    result.acceptor = Endpoint(ACCEPTOR, arq.paths(), first_conv=7)
    result.ends[ACCEPTOR] = Stock(ACCEPTOR, OPENER, opener=False) if stock else result.acceptor
    result.filter = path.carries
    return result


def received(net: Network) -> bytearray:
    """What the stock node has got of its only conversation."""
    stock = net.ends[ACCEPTOR]
    assert isinstance(stock, Stock)
    (conversation,) = stock.conversations.values()
    return conversation.received


def lengths(net: Network, since: float = 0.0) -> set[int]:
    """Of the bodies of data that the opener has sent."""
    return {len(body) for time, sender, flags, body in net.log if sender == OPENER and flags == ACK_DATA and time >= since}


def pings(net: Network) -> list[int]:
    """Lengths of the bodies of the opener's PINGs about sizes."""
    return [len(body) for _, sender, flags, body in net.log if sender == OPENER and flags == PING and body.startswith(b"size")]


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_bulk_flow_to_stock_is_carried_by_large_segments_once_the_path_is_proven(loss: float) -> None:
    content = random.Random(1).randbytes(3_000_000)
    net = network(Path(), Link(loss=loss))
    net.connect(content, then_finish=False)
    net.run(30.0, lambda: net.now > 100.2 and received(net) == content)
    assert received(net) == content
    assert LARGE + SEGMENT_SIZE in lengths(net)
    first = next(time for time, _, flags, body in net.log if flags == ACK_DATA and len(body) == LARGE + SEGMENT_SIZE)
    asked = next(time for time, _, flags, body in net.log if flags == PING and len(body) == LARGE + SEGMENT_SIZE)
    assert first >= asked + 0.05


def test_a_short_message_asks_for_nothing() -> None:
    net = network(Path())
    net.connect(b"hello", then_finish=False)
    net.run(30.0)
    assert pings(net) == []


def test_the_next_flow_begins_with_what_is_known_and_after_a_minute_anew() -> None:
    net = network(Path(), stock=False)
    net.connect(bytes(500_000))
    net.run(10.0, net.settled)
    for pause, first in ((5.0, LARGE), (90.0, STOCK)):
        net.run(pause)
        began = net.now
        client = net.connect(bytes(500_000))
        net.run(10.0, lambda client=client: client.reason is not None)  # type: ignore[misc]
        full = next(len(body) for time, sender, _, body in net.log if time >= began and sender == OPENER and len(body) > 1000)
        assert full == first + SEGMENT_SIZE


def test_where_full_packets_do_not_pass_segments_stay_small() -> None:
    content = bytes(5_000_000)
    path = Path(whole=1300)
    net = network(path)
    net.connect(content, then_finish=False)
    net.run(30.0, lambda: net.now > 101 and received(net) == content)
    assert received(net) == content
    assert max(lengths(net)) == STOCK + SEGMENT_SIZE
    assert len(pings(net)) == 3
    assert path.allowed == []


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_black_hole_repairs_itself(stock: bool, loss: float, seed: int) -> None:
    content = random.Random(1).randbytes(6_000_000)
    path = Path()
    net = network(path, Link(delay=0.1, loss=loss), stock=stock, seed=seed)
    servers: list[Application] = []

    def serve(event: object) -> Application:
        servers.append(Application(event.session, then_finish=False))  # type: ignore[attr-defined]
        return servers[-1]

    net.serve = serve
    size = net.connect(content, then_finish=False).session.path.size
    assert size is not None
    net.run(10.0, lambda: size.mss == LARGE)
    net.run(0.5)
    got = received(net) if stock else servers[0].incoming
    path.whole = 1300
    net.run(0.5)
    before = len(got)
    net.run(8.0, lambda: len(got) > before)
    assert set(path.allowed) == {ACCEPTOR}
    assert len(got) > before
    net.run(60.0, lambda: len(got) > before + 2_500_000)
    assert {length for length in lengths(net, net.now - 0.05) if length > 1000} == {STOCK + SEGMENT_SIZE}
    net.run(60.0, lambda: len(got) == len(content))
    assert got == content


def test_a_line_that_is_down_for_a_while_is_no_black_hole() -> None:
    path = Path()
    net = network(path, Link(delay=0.1))
    net.connect(bytes(20_000_000), then_finish=False)
    net.run(1.0)
    net.filter = lambda packet: False
    net.run(4.0)
    net.filter = path.carries
    net.run(3.0)
    assert path.allowed == []
    assert LARGE + SEGMENT_SIZE in lengths(net, net.now - 0.5)


def test_a_way_that_the_host_says_is_smaller_is_used_at_that_size() -> None:
    path = Path()
    net = network(path, stock=False)
    net.connect(bytes(500_000))
    net.run(10.0, net.settled)
    path.told = 1400
    net.run(21.0)
    began = net.now
    net.connect(bytes(500_000))
    net.run(10.0, net.settled)
    assert max(lengths(net, began)) == 1400 - HEADER_SIZE


def test_an_end_that_stock_told_in_vain_is_found_out_by_a_ping_about_sizes() -> None:
    """Its FIN is lost, and the PING comes before any other does."""
    path = Path()
    net = network(path)
    stock = net.ends[ACCEPTOR] = Stock(ACCEPTOR, OPENER, opener=False, respond=lambda got: b"bye" if len(got) >= 1000 else None)
    net.filter = lambda packet: not (packet[0] == ACCEPTOR and packet[2][12] == FIN)
    client = net.connect(bytes(1000), then_finish=False)
    net.run(0.3)
    (session,) = net.opener.sessions
    size = session.path.size
    assert size is not None
    assert any(entry.state == "LocalClosed" for entry in stock.conversations.values())
    size.want(net.now)
    net.opener.write(session, b"more")
    net.run(0.3, lambda: client.eof)
    assert len(pings(net)) == 1
    assert client.incoming == b"bye"
    assert client.eof
    assert client.reason is not CloseReason.RESET
