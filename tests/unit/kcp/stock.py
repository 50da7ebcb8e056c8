"""A model of a stock endpoint, with the weaknesses that ours has to live with (wire specification, data plane 5.3 to 5.6).

It repeats no SYN, SYN|ACK, third packet, FIN or RST; loses bodies that come before `accept`, whose queue holds four; stops
reading at a FIN, with what ikcp holds lost; answers a PING with RST once its own FIN is out; forgets the losers of its hedges
without a word. Plugs into `network.Network` as an end, with its application built in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from easytier_kcp_plugin.kcp import ikcp
from easytier_kcp_plugin.kcp.engine import Engine
from easytier_kcp_plugin.kcp.events import Batch, Poll
from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, PING, PONG, RST, SYN, SYN_ACK, Flag, PacketType, SessionHeader

EXACT = Flag.SYN | Flag.ACK | Flag.FIN | Flag.DATA | Flag.RST


@dataclass(eq=False)
class Conversation:
    """One entry of the state table, with its stream."""

    state: str
    syn_body: bytes = b""
    engine: Engine | None = None
    accept_at: float = math.inf
    received: bytearray = field(default_factory=bytearray)
    outgoing: bytes = b""
    closing: bool = False
    broken: bool = False
    """The read side has ended with an error, as it does at a FIN."""
    heard_at: float = 0.0


class Stock:
    """One of the two endpoints of a stock node.

    `respond` is given what a conversation has received, and answers None or the whole outgoing stream, after which it is
    closed.
    """

    def __init__(
        self,
        peer_id: int,
        other: int,
        *,
        opener: bool,
        respond: Callable[[bytes], bytes | None] = lambda received: None,
        accept_delay: float = 0.001,
        read_bytes_per_second: float = math.inf,
        close_when_broken: bool = True,
    ) -> None:
        self.conversations: dict[int, Conversation] = {}
        self.dialled: list[Conversation] = []
        self.accepting = True
        self.ours_type = PacketType.KCP_SRC if opener else PacketType.KCP_DST
        self.ids = (peer_id, other) if opener else (other, peer_id)
        self.winner: int | None = None
        self._other, self._opener = other, opener
        self._respond, self._accept_delay, self._read_rate = respond, accept_delay, read_bytes_per_second
        self._close_when_broken = close_when_broken
        self._path = ikcp.paths()()
        self._out: list[bytes] = []
        self._hedges: list[tuple[float, int, bytes]] = []
        self._read_at = 0.0
        self._next_round = -math.inf
        self._wake = math.inf

    def hedge(self, body: bytes, now: float, times: int = 5) -> None:
        """Begin to open one flow, as stock does: an attempt each 200 ms until one succeeds."""
        self._hedges = [(now + 0.2 * index, 500 + index, body) for index in range(times)]

    def connection(self) -> Conversation:
        """The winner of the hedges."""
        assert self.winner is not None
        return self.conversations[self.winner]

    def receive(self, _from_peer: int, packet_type: int, payloads: Sequence[bytes], now: float) -> None:
        """The order of processing of 5.3."""
        assert packet_type != self.ours_type
        for payload in payloads:
            header = SessionHeader.parse(payload)
            self._receive_one(header.conv, header.flags, payload[14:], now)

    def _receive_one(self, conv: int, flags: int, body: bytes, now: float) -> None:
        entry = self.conversations.get(conv)
        if entry is not None:
            entry.heard_at = now
        if flags & Flag.PING:
            if not flags & Flag.PONG:
                alive = entry is not None and entry.state not in ("LocalClosed", "Closed")
                self._send(conv, PONG if alive else RST, body)
            return
        if flags & Flag.DATA and body and entry is not None and entry.engine is not None:
            entry.engine.input(body, now)
        exact = flags & EXACT
        if entry is None:
            if exact == SYN and not self._opener:
                self.conversations[conv] = Conversation("SynReceived", body, heard_at=now)
                self._send(conv, SYN_ACK)
            elif not flags & Flag.RST:
                self._send(conv, RST)
        elif flags & Flag.RST:
            self._end(entry)
        elif entry.state == "SynReceived":
            if exact == ACK_DATA:
                entry.state = "Established"
                if self.accepting and sum(c.accept_at < math.inf for c in self.conversations.values()) < 4:
                    entry.accept_at = now + self._accept_delay
            elif flags & Flag.FIN:
                self._end(entry)
                self._send(conv, RST)
        elif entry.state == "SynSent":
            if exact == SYN_ACK:
                entry.state = "Established"
                self._send(conv, ACK_DATA)
                if self.winner is None:
                    self.winner = conv
                    self._hedges = []
                    self._connect(entry, conv, now)
        elif flags & Flag.FIN and exact != ACK_DATA:
            entry.broken = True
            if self._close_when_broken:
                entry.closing = True
            if entry.state == "Established":
                entry.state = "PeerClosed"
            elif entry.state == "LocalClosed":
                self._end(entry)

    def _connect(self, entry: Conversation, conv: int, now: float) -> None:
        entry.engine = self._path.open(conv, 1024, now)
        self.dialled.append(entry)

    def poll(self, now: float, congested: Collection[int] = ()) -> Poll:
        """Its tasks, once."""
        while self._hedges and self._hedges[0][0] <= now:
            _, conv, body = self._hedges.pop(0)
            self.conversations[conv] = Conversation("SynSent", heard_at=now)
            self._send(conv, SYN, body)
        for conv, entry in self.conversations.items():
            if entry.accept_at <= now:
                entry.accept_at = math.inf
                self._connect(entry, conv, now)
            self._serve(entry, now)
        self._read_at = now
        for engine, datagrams in self._pump(now):
            conv = next(conv for conv, entry in self.conversations.items() if entry.engine is engine)
            for datagram in datagrams:
                self._send(conv, ACK_DATA, datagram)
        for conv, entry in self.conversations.items():
            drained = entry.engine is not None and entry.engine.drained and not entry.outgoing
            if entry.closing and drained and entry.state in ("Established", "PeerClosed"):
                self._send(conv, FIN)
                if entry.state == "Established":
                    entry.state = "LocalClosed"
                else:
                    self._end(entry)
        if now >= self._next_round:
            self._next_round = now + 10.0
            for conv, entry in list(self.conversations.items()):
                if entry.state == "Closed" or now - entry.heard_at >= 60.0:
                    self._end(entry)
                    del self.conversations[conv]
                else:
                    self._send(conv, PING)
        payloads, self._out = self._out, []
        accepts = [entry.accept_at for entry in self.conversations.values()]
        slow = [now + 0.01] if self._read_rate < math.inf and self.conversations else []
        deadline = min([self._next_round, self._wake, *accepts, *slow, *[hedge[0] for hedge in self._hedges]])
        return Poll([Batch(self._other, self.ours_type, payloads)] if payloads else [], [], deadline)

    def _serve(self, entry: Conversation, now: float) -> None:
        engine = entry.engine
        if engine is None:
            return
        if not entry.broken:
            limit = 1 << 30 if self._read_rate == math.inf else int((now - self._read_at) * self._read_rate)
            if limit > 0:
                entry.received += engine.receive(limit)
        if not entry.closing:
            answer = self._respond(bytes(entry.received))
            if answer is not None:
                entry.outgoing, entry.closing = answer, True
        entry.outgoing = entry.outgoing[engine.send(entry.outgoing) :]

    def _pump(self, now: float) -> list[tuple[Engine, list[bytes]]]:
        batches, wake = self._path.pump(now)
        self._wake = math.inf if wake is None else wake
        return batches

    def _end(self, entry: Conversation) -> None:
        entry.state = "Closed"
        entry.broken = True
        if entry.engine is not None:
            entry.engine.close()
            entry.engine = None

    def _send(self, conv: int, flags: int, body: bytes = b"") -> None:
        self._out.append(SessionHeader(conv, *self.ids, flags).encode() + body)
