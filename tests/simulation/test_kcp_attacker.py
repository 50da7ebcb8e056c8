"""A peer with the right secret that misbehaves while two others exchange bytes: they lose nothing, and are not held up.

The attacker knows all that there is to know: peer ids, the conversation in use, the bodies that others have sent.  What it
cannot do is to send under another peer's id: whom a packet is from is said by the host.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from types import SimpleNamespace

import pytest

from easytier_kcp_plugin.kcp import arq
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.events import CloseReason, Incoming, Poll
from easytier_kcp_plugin.kcp.handshake import HALF_OPEN_LIFE
from easytier_kcp_plugin.kcp.header import (
    ACK_DATA,
    FIN,
    HEADER_SIZE,
    PING,
    PONG,
    RST,
    SYN,
    SYN_ACK,
    PacketType,
    SessionHeader,
)
from easytier_kcp_plugin.kcp.limits import Limits
from easytier_kcp_plugin.kcp.segment import Command, Segment
from easytier_kcp_plugin.kcp.strangers import RST_BURST, RST_RATE
from tests.unit.kcp import network as network_module
from tests.unit.kcp.network import ACCEPTOR, OPENER, Application, Network, request

ATTACKER = 666
STEP = 0.005
PER_STEP = 20
"""Packets: 4000 a second, at each of the two honest nodes."""
Shot = tuple[int, PacketType, bytes]
"""To whom, as which type, and the payload."""


@pytest.fixture(autouse=True, params=["arq", "kcp"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "arq":
        monkeypatch.setattr(network_module, "ikcp", SimpleNamespace(paths=arq.paths))


class Attacker:
    """Counts what it is sent."""

    def __init__(self) -> None:
        self.sent_bytes = self.received_bytes = self.received = 0

    def receive(self, _from_peer: int, _packet_type: int, payloads: Sequence[bytes], _now: float, /) -> None:
        self.received += len(payloads)
        self.received_bytes += sum(map(len, payloads))

    def poll(self, _now: float, congested: Collection[int] = ()) -> Poll:
        return Poll([], [], math.inf)


def packet(to: int, conv: int, flags: int, body: bytes = b"", *, of: int = ATTACKER) -> Shot:
    """A packet for a session between `of` and `to`, which `of` has opened if `to` accepts."""
    if to == ACCEPTOR:
        return to, PacketType.KCP_SRC, SessionHeader(conv, of, to, flags).encode() + body
    return to, PacketType.KCP_DST, SessionHeader(conv, to, of, flags).encode() + body


def push(conv: int, sn: int, *, wnd: int = 128, una: int = 0, data: bytes = b"x" * 1000) -> bytes:
    return Segment(conv, Command.PUSH, 0, wnd, 0, sn & 0xFFFF_FFFF, una, len(data)).encode(data)


def forged_ids(conv: int, source: random.Random) -> Iterator[Shot]:
    for flags in (SYN, SYN_ACK, ACK_DATA, FIN, RST, PING, PONG):
        yield packet(ACCEPTOR, conv, flags, push(conv, source.randrange(100)), of=OPENER)
        yield packet(OPENER, conv, flags, push(conv, source.randrange(100)), of=ACCEPTOR)


def ends_of_others_flows(conv: int, _source: random.Random) -> Iterator[Shot]:
    """Under its own id, for the conversation of others."""
    for to in (ACCEPTOR, OPENER):
        for flags in (RST, FIN, PONG, ACK_DATA, SYN_ACK):
            yield packet(to, conv, flags, push(conv, 0))


def flood_of_requests(_conv: int, source: random.Random) -> Iterator[Shot]:
    for _ in range(PER_STEP):
        yield packet(ACCEPTOR, source.getrandbits(32), SYN, request(source.randrange(1, 65_536)).encode())


def replayed_handshakes(conv: int, _source: random.Random) -> Iterator[Shot]:
    """Its own, and those of others."""
    for each in (7, conv):
        yield packet(ACCEPTOR, each, SYN, request(5).encode())
        yield packet(ACCEPTOR, each, ACK_DATA)
        yield packet(ACCEPTOR, each, RST)
    yield packet(ACCEPTOR, conv, SYN, request().encode(), of=OPENER)


def huge_windows(_conv: int, source: random.Random) -> Iterator[Shot]:
    """A flow of its own that claims room without end, and acknowledges what was never sent."""
    yield packet(ACCEPTOR, 7, SYN, request(5).encode())
    for _ in range(PER_STEP):
        una = source.getrandbits(32)
        yield packet(ACCEPTOR, 7, ACK_DATA, Segment(7, Command.WINS, 0, 65_535, 0, 0, una, 0).encode())
        yield packet(ACCEPTOR, 7, ACK_DATA, Segment(7, Command.ACK, 0, 65_535, 0, una, una, 0).encode())


def segments_ahead(_conv: int, source: random.Random) -> Iterator[Shot]:
    yield packet(ACCEPTOR, 7, SYN, request(5).encode())
    for _ in range(PER_STEP):
        yield packet(ACCEPTOR, 7, ACK_DATA, push(7, source.choice([1, 1023, 1024, 5000, -1, source.getrandbits(32)])))


def large_pings(conv: int, _source: random.Random) -> Iterator[Shot]:
    for _ in range(PER_STEP // 2):
        yield packet(ACCEPTOR, conv, PING, bytes(1900))
        yield packet(OPENER, conv, PING, bytes(1900))


Attack = Callable[[int, random.Random], Iterator[Shot]]
ATTACKS: list[Attack] = [
    forged_ids,
    ends_of_others_flows,
    flood_of_requests,
    replayed_handshakes,
    huge_windows,
    segments_ahead,
    large_pings,
]
TO_NO_SESSION: list[Attack] = [forged_ids, ends_of_others_flows, large_pings]


class Scene:
    """An honest transfer of 300 kB each way, and an attacker beside it."""

    def __init__(self, attack: Attack | None) -> None:
        source = random.Random(1)
        self.network = network = Network(seed=1)
        self.attacker = network.ends[ATTACKER] = Attacker()
        network.events[ATTACKER] = []
        self.there, self.back = source.randbytes(300_000), source.randbytes(300_000)
        network.serve = self._serve
        self.began = network.now
        self.client = network.connect(self.there)
        for _ in range(4000):
            if self.client.reason is not None:
                break
            conv = self.client.session.conv or 0xFFFF_FFF0
            for to, packet_type, payload in () if attack is None else attack(conv, source):
                self.attacker.sent_bytes += len(payload)
                network.inject(to, ATTACKER, packet_type, payload)
            network.run(STEP)
        self.took = network.now - self.began

    def _serve(self, incoming: Incoming) -> Application:
        # The attacker's sessions have an application that does not read.
        honest = incoming.session.peer_id == OPENER
        return Application(incoming.session, self.back) if honest else Application(incoming.session, asleep=True)

    @property
    def server(self) -> Application:
        (found,) = (
            application
            for session, application in self.network.applications.items()
            if application is not self.client and session.peer_id == OPENER
        )
        return found


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_honest_flow_loses_nothing_and_is_not_held_up(attack: Attack) -> None:
    alone, scene = Scene(None), Scene(attack)
    assert scene.client.reason is CloseReason.FINISHED
    assert (bytes(scene.server.incoming), bytes(scene.client.incoming)) == (scene.there, scene.back)
    assert scene.took < 2 * alone.took
    scene.network.run(1.0)
    assert scene.server.reason is CloseReason.FINISHED


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_is_held_for_an_attacker_is_bounded(attack: Attack) -> None:
    scene = Scene(attack)
    limits = Limits()
    for endpoint in (scene.network.opener, scene.network.acceptor):
        assert sum(session.peer_id == ATTACKER for session in endpoint.sessions) <= limits.half_open_per_peer
        # Of each session: itself, half open, its conversation, its siblings, a timer and an engine.
        assert endpoint.held_entries <= 6 * (limits.half_open_per_peer + 1)


@pytest.mark.parametrize("attack", TO_NO_SESSION, ids=lambda attack: attack.__name__)
def test_strangers_get_less_than_they_send(attack: Attack) -> None:
    scene = Scene(attack)
    attacker = scene.attacker
    assert attacker.received_bytes <= attacker.received * HEADER_SIZE
    assert attacker.received_bytes < attacker.sent_bytes
    assert attacker.received <= 2 * (RST_BURST + RST_RATE * scene.took + 1)


@pytest.mark.parametrize(
    ("askers", "each_second"),
    [
        pytest.param((OPENER, ATTACKER), 9, id="also of the same peer"),
        pytest.param((ATTACKER, ATTACKER + 1), 40, id="of others"),
    ],
)
def test_flows_open_beside_many_that_nobody_answers(askers: tuple[int, ...], each_second: int) -> None:
    """A peer that asks for more in ten seconds than may be half open, and less in five; others may ask for as much as they
    like."""
    limits = Limits(half_open_per_peer=50, half_open=100)
    network, source = Network(limits=limits), random.Random(1)
    for peer_id in {*askers} - {OPENER}:
        network.ends[peer_id], network.events[peer_id] = Attacker(), []
    flows = []
    for step in range(15 * each_second):
        for peer_id in askers:
            conv, port = source.getrandbits(31), source.randrange(1, 65_536)
            to, packet_type, payload = packet(ACCEPTOR, conv, SYN, request(port).encode(), of=peer_id)
            network.inject(to, peer_id, packet_type, payload)
        if step % each_second == 0:
            flows.append(network.connect(b"quick", 1000 + step))
        network.run(1 / each_second)
        half_open = sum(session.conv is not None and not session.announced for session in network.acceptor.sessions)
        assert half_open <= limits.half_open
    network.run(1.0)
    assert [flow.reason for flow in flows] == [CloseReason.FINISHED] * 15
    assert network.acceptor.counters.gave_way > 50


def test_a_replayed_handshake_opens_nothing_twice() -> None:
    """An honest peer's packets, as somebody on the way repeats them, also after the flow was reset."""
    endpoint = Endpoint(ACCEPTOR, arq.paths(), first_conv=0, holds=True)
    syn = packet(ACCEPTOR, 7, SYN, request().encode(), of=OPENER)[2]
    third = packet(ACCEPTOR, 7, ACK_DATA, of=OPENER)[2]
    reset = packet(ACCEPTOR, 7, RST, of=OPENER)[2]
    opened = 0
    for step in range(100):
        endpoint.receive(OPENER, PacketType.KCP_SRC, [syn, third, third, reset], step * HALF_OPEN_LIFE / 101)
        opened += sum(isinstance(event, Incoming) for event in endpoint.poll(step * HALF_OPEN_LIFE / 101).events)
    assert opened == 1
    assert endpoint.counters.replayed == 99
