"""One flow over KCP: the attempts to open it, its engine, and how it ends.  Sans-IO; `endpoint.py` owns it.

A session of an opener outlives its conversations: each attempt has a conv of its own, and if a stock acceptor loses the one
that won (data plane 10.2, accept queue), the bytes so far go over another.  A session of an acceptor has exactly one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from easytier_kcp_plugin.kcp.acceptance import Acceptance, Doubt
from easytier_kcp_plugin.kcp.attempts import Attempts
from easytier_kcp_plugin.kcp.bodies import ASKED, HELD, UNREACHABLE, body_of
from easytier_kcp_plugin.kcp.conn_data import ConnData, Offer
from easytier_kcp_plugin.kcp.ends import Ends
from easytier_kcp_plugin.kcp.engine import Engine, EngineStatistics, Path
from easytier_kcp_plugin.kcp.events import (
    Closed,
    CloseReason,
    Established,
    PeerFinished,
    Readable,
    Role,
    SessionClosed,
    Writable,
)
from easytier_kcp_plugin.kcp.handshake import KINDS, UNKNOWN_RTT, Handshake, Input, State
from easytier_kcp_plugin.kcp.header import ACK_DATA, PING, PONG, RST, Flag
from easytier_kcp_plugin.kcp.leftover import Leftover
from easytier_kcp_plugin.kcp.sending import SendingShare
from easytier_kcp_plugin.kcp.session_host import SessionHost
from easytier_kcp_plugin.kcp.silence import Watch, stalled_at

if TYPE_CHECKING:
    from easytier_kcp_plugin.kcp.siblings import Siblings

# Ours.  Times in seconds.
EARLY_BYTES: Final = 64 * 1024
"""Kept for a second conversation until the first is proven.  One window of a fresh path."""
_ALL: Final = 1 << 30
# Plain numbers: operators of enums cost a microsecond, and each packet comes by here.
_ACK_DATA: Final = int(ACK_DATA)
_DATA: Final = int(Flag.DATA)
_DATA_OR_PING: Final = int(Flag.DATA | Flag.PING)


class Session:
    """Handle of a flow; the endpoint's methods take it.  Attributes without underscore may be read by anyone."""

    def __init__(self, host: SessionHost, role: Role, peer_id: int, conn_data: ConnData, path: Path, now: float) -> None:
        self.role = role
        self.peer_id = peer_id
        self.conn_data = conn_data
        self.started_at = now
        self.peer_offer: Offer | None = conn_data.offer if role is Role.DESTINATION else None
        """None: the peer is stock."""
        self.conv: int | None = None
        """None while an opener has no answer."""
        self.reason: CloseReason | None = None
        """Set once the session is over."""
        self.received_bytes = 0
        """Given to `read` so far."""
        self.announced = role is Role.SOURCE
        self._unproven = True
        self.siblings: Siblings | None = None
        self.path = path
        self.scheduled = math.inf
        self._host = host
        self._handshakes: dict[int, Handshake] = {}
        self._engine: Engine | None = None
        self._statistics: EngineStatistics | None = None
        self._leftover = Leftover()
        self._early: bytearray | None = bytearray() if role is Role.SOURCE else None
        self.was_established = False
        """Whether an opener has had an answer; it may be looking for another since."""
        self._ends = Ends()
        self._wants_read, self._wants_write = True, False
        self._sending = SendingShare(host.sending, peer_id)
        self._watch = Watch(now)
        self.attempts = Attempts(now)
        """Of an opener."""
        self._held_conv: int | None = None
        self._acceptance: Acceptance | None = None
        """Of an opener whose peer is not known to be ours, until a segment comes."""

    # What a host may know.

    @property
    def state(self) -> State:
        """Of the conversation in use; SYN_SENT while there is none."""
        if self.conv is None:
            return State.CLOSED if self.reason else State.SYN_SENT
        handshake = self._handshakes.get(self.conv)
        return State.CLOSED if handshake is None else handshake.state

    @property
    def at_eof(self) -> bool:
        """Whether the peer's stream has ended properly and been read to its end."""
        return self._ends.peer_finished and not self._has_bytes() and not self._ends.reader_gone

    @property
    def engine(self) -> Engine | None:
        """None before there is one, and once the session is over."""
        return self._engine

    @property
    def statistics(self) -> EngineStatistics | None:
        """Of the engine; None before there is one."""
        return self._statistics if self._engine is None else self._engine.statistics

    @property
    def ended(self) -> bool:
        """Whether our direction has been ended, though perhaps not everything has arrived."""
        return self._ends.ended

    # What the endpoint passes on from the application.

    def connect(self, timeout: float, now: float) -> None:
        """Begin to open."""
        self.attempts.allow(timeout)
        self.begin_attempts(now)

    def accept(self, conv: int, now: float) -> None:
        """Answer the SYN that made this session."""
        self.conv = conv
        handshake = self._handshakes[conv] = Handshake(opener=False, now=now, rtt=self.path.rtt)
        self._send_all(conv, handshake.start())

    def hold(self, conv: int) -> None:
        """Keep the SYN that made this session without an answer until `confirm`; its opener is told to wait."""
        self._held_conv = conv
        self._host.send(self, conv, PING, HELD)

    def confirm(self, now: float) -> None:
        """The destination has been reached: answer the SYN that was held.  Without effect if none is."""
        conv, self._held_conv = self._held_conv, None
        if conv is not None:
            self.accept(conv, now)

    def write(self, data: bytes | memoryview) -> int:
        """Take bytes; see `Endpoint.write`."""
        if self.reason is not None:
            raise SessionClosed(f"{self}: {self.reason}")
        if self._ends.ended:
            raise SessionClosed(f"{self}: our direction has been ended")
        if self._early is not None:
            data_taken = data[: EARLY_BYTES - len(self._early)]
            taken = len(data_taken) if self._engine is None else self._engine.send(data_taken)
            self._early += data_taken[:taken]
        else:
            taken = 0 if self._engine is None else self._engine.send(data[: self._room()])
            self._sending.note(self._engine)
        self._wants_write = taken < len(data)
        return taken

    def read(self, limit: int) -> bytes:
        """Give bytes; see `Endpoint.read`."""
        data = self._leftover.read(limit) if self._engine is None else self._engine.receive(limit)
        self.received_bytes += len(data)
        self._wants_read = not data
        return data

    def finish(self, now: float) -> None:
        """End our direction after what was written."""
        self._ends.finish(now)

    def close(self, now: float) -> None:
        """Give up reading as well."""
        self._ends.close(now)
        self._leftover.drop()

    def reset(self, reason: CloseReason, now: float) -> None:
        """End at once, and tell the peer."""
        if reason in (CloseReason.ABORTED, CloseReason.DESTINATION_UNREACHABLE):
            self._ends.reader_gone = True
            self._leftover.drop()
        for conv, handshake in list(self._handshakes.items()):
            self._send_all(conv, handshake.abort(now))
            self._drop(conv)
        if self._held_conv is not None:
            unreachable = reason is CloseReason.DESTINATION_UNREACHABLE
            self._host.send(self, self._held_conv, RST, UNREACHABLE if unreachable else b"")
        self._over(reason)

    def probe(self, now: float) -> None:
        """Find out whether the peer has an engine for this session."""
        if self._engine is not None:
            self._engine.ask(now)

    @property
    def answers_pings(self) -> bool:
        """Whether the peer answers PINGs with the same body: not before its engine is there, nor a stock one after its end."""
        alive = self.state is State.ESTABLISHED or (self.state is State.PEER_CLOSED and self.peer_offer is not None)
        return alive and self._engine is not None and self._engine.heard

    # What moves it.

    def receive(self, conv: int, flags: int, body: bytes, now: float) -> None:
        """Take a packet in that was sent for one of our convs by the right peer.  Never raises."""
        kind = KINDS[flags]
        handshake = self._handshakes.get(conv)
        if handshake is None:
            self._receive_held(conv, kind)
            return
        before, pinged, since = handshake.state, handshake.pinged, handshake.since
        if kind is Input.PONG and self._watch.pong_due and body.startswith(ASKED):
            self._watch.pong_due = False
            if self.peer_offer is None and conv == self.conv:
                self._learn_offer(body[len(ASKED) :])
            self.path.sample_rtt(now - self._watch.pinged_at)
            if self._acceptance is not None:
                self._acceptance.pong(now)
                self._doubt_acceptance(now)
                # The third packet has been taken in, one way or the other.
                self._host.opening_ended(self)
        if kind is Input.PONG and self.path.size is not None:
            self.path.size.answered(body, now)
        handshake.rtt = self.path.rtt
        if kind is Input.RST and conv == self.conv and self.peer_offer is None:
            kind = Input.FIN if self._watch.is_lost_fin(body, self.state, self._engine, now) else kind
        self._watch.heard_at = now
        if kind is Input.PING and body == HELD and handshake.state is State.SYN_SENT:
            self.attempts.wait_for_dial(now)
        elif kind is Input.RST and body == UNREACHABLE and handshake.state is State.SYN_SENT:
            # Nothing else is answered so: no PING, and no SYN that was lost.
            self.attempts.refusal = CloseReason.DESTINATION_UNREACHABLE
            handshake.prove()
        answer = handshake.receive(kind, now)
        self._send_all(conv, answer, body if PONG in answer else b"")
        if handshake.state is not before:
            if before in (State.SYN_SENT, State.SYN_RECEIVED) and handshake.state is State.ESTABLISHED and not pinged:
                self.path.sample_rtt(now - since)
            self._moved(conv, before, handshake.state, now)
        if kind is Input.SYN_ACK and conv == self.conv and self.peer_offer is None:
            self._learn_offer(body)
        if body and flags & _DATA_OR_PING == _DATA and conv == self.conv and self._engine is not None:
            self._take_bodies(self._engine, (body,), now)

    def _receive_held(self, conv: int, kind: Input) -> None:
        """Of the opener whose SYN waits for an answer."""
        if conv == self._held_conv and kind is Input.SYN:
            self._host.send(self, conv, PING, HELD)
        elif conv == self._held_conv and kind is Input.RST:
            self._over(CloseReason.RESET)

    def takes_more(self, conv: int, flags: int) -> bool:
        """Whether packets with these ids and flags may go to `receive_more` for the rest of a batch."""
        return flags == _ACK_DATA and conv == self.conv and self._engine is not None

    def receive_more(self, bodies: Sequence[bytes], now: float) -> None:
        """Take the bodies of packets like the last one.  Never raises."""
        if self._engine is not None:
            self._take_bodies(self._engine, bodies, now)

    def tick(self, now: float) -> None:
        """Do what is due.  Harmless at any time; `settle` has to follow."""
        self._tick_handshakes(now)
        if self.attempts.give_up_at <= now:
            self.reset(self.attempts.silence, now)
        if self.attempts.next_at <= now:
            self._attempt(now)
        self._doubt_acceptance(now)
        if self.reason is not None or self.conv is None:
            return
        reason = self._watch.overdue(self._engine, self._silent_at(), now)
        if reason is None and now >= self._ends.overdue_at:
            reason = CloseReason.ABORTED
        if reason is not None:
            self.reset(reason, now)
        elif self._ping_time() <= now:
            self._ping(self.conv, now)

    def settle(self, now: float) -> None:
        """After input or the application's calls: end what can end, and tell what has become possible."""
        self._discard_unwanted(now)
        if self.conv is not None and self._finish_time(now) <= now:
            self._send_fin(self.conv, now)
        if not self.announced or self.reason is not None:
            return
        if self._wants_read and self._has_bytes() and not self._ends.reader_gone:
            self._wants_read = False
            self._host.emit(Readable(self))
        self._sending.note(self._engine)
        if self._wants_write and not self._ends.ended and self._sending.wakes(self._room()):
            self._wants_write = False
            self._host.emit(Writable(self))

    def deadline(self, now: float) -> float:
        """When `tick` wants to be called; infinite once everything is over."""
        times = [handshake.deadline for handshake in self._handshakes.values()]
        if self.reason is None:
            times += (self.attempts.give_up_at, self.attempts.next_at, self._ends.overdue_at)
            if self._acceptance is not None:
                times.append(self._acceptance.deadline)
            if self.conv is not None:
                times += (self._silent_at(), self._ping_time(), self._finish_time(now), stalled_at(self._engine))
        return min(times, default=math.inf)

    # Opening.

    def begin_attempts(self, now: float) -> None:
        """Begin to open, at once or when it is this session's turn."""
        self.attempts.begin(self._host.opening_slot(self, now))
        if self.attempts.next_at <= now:
            self._attempt(now)

    def _attempt(self, now: float) -> None:
        self.attempts.attempt(now)
        conv = self._host.new_conv(self)
        handshake = self._handshakes[conv] = Handshake(opener=True, now=now, rtt=self.path.rtt)
        self._send_all(conv, handshake.start())

    def _moved(self, conv: int, before: State, after: State, now: float) -> None:
        """A conversation has entered another state."""
        if after is State.ESTABLISHED:
            self._enter_established(conv, now)
        elif after is State.PEER_CLOSED or (after is State.LINGER and before is State.LOCAL_CLOSED):
            # Only a conversation that was accepted and served is ended so: its bytes must not go out a second time.
            self._ends.peer_finished, self._acceptance = True, None
            if self.announced:
                self._host.emit(PeerFinished(self))
            if after is State.LINGER:
                self._over(CloseReason.FINISHED)
        elif after is State.CLOSED:
            self._drop(conv)
            if before is State.SYN_SENT:
                self.reset(self.attempts.refusal, now)
            elif before is not State.LINGER:
                self._over(CloseReason.RESET)

    def _enter_established(self, conv: int, now: float) -> None:
        self.conv = conv
        self.attempts.end()
        self._engine = self._host.open_engine(self, conv, now)
        self._unproven = True
        self._meet()
        if self.role is Role.DESTINATION:
            self._host.established(self, now)
            return
        for other in [other for other in self._handshakes if other != conv]:
            self._host.send(self, other, RST, b"")
            self._drop(other)
        # After repeated SYNs the RTT may be unknown, but not longer than this.
        rtt = max(self._rtt(), now - self.attempts.attempted_at)
        self._acceptance = Acceptance(now, rtt, stream=self._host.is_stream(self.peer_id))
        if self._early:
            self._engine.send(bytes(self._early))
        # Whatever the application does, this shows whether the peer has an engine, and lets a server speak first.
        self._engine.ask(now)
        self._doubt_acceptance(now)
        if not self.was_established:
            self.was_established = True
            self._host.emit(Established(self))

    def _learn_offer(self, body: bytes) -> None:
        """Of an acceptor; a newer stock might one day put something of its own there."""
        with suppress(ValueError):
            self.peer_offer = ConnData.decode(body).offer
        self._meet()

    def _meet(self) -> None:
        if self._engine is not None and self.peer_offer is not None:
            self._engine.meet(self.peer_offer)

    def _doubt_acceptance(self, now: float) -> None:
        if self._acceptance is None or self.conv is None or self._engine is None:
            return
        if self.peer_offer is not None:
            self._acceptance = None
            return
        doubt = self._acceptance.tick(now)
        if doubt is Doubt.LOST:
            self._reopen(now)
        elif doubt is Doubt.ASK:
            self._engine.ask(now, again=True)
            self._ping(self.conv, now)

    def _reopen(self, now: float) -> None:
        """The acceptor never took the conversation off its queue: begin again with another."""
        self._acceptance = None
        if not self.attempts.repeat():
            self.reset(CloseReason.NOT_ACCEPTED, now)
            return
        self._host.opening_ended(self)
        if self.conv is not None:
            self._host.send(self, self.conv, RST, b"")
            self._drop(self.conv)
        self.conv = None
        self._close_engine()
        self.peer_offer = None
        self.begin_attempts(now)

    # Bytes.

    def _take_bodies(self, engine: Engine, bodies: Sequence[bytes], now: float) -> None:
        engine.input_all(bodies, now)
        if engine.readable:
            self._watch.payload_at = now
        if self._unproven and engine.heard:
            self._unproven, self._acceptance, self._early = False, None, None
            if self.conv is not None:
                self._handshakes[self.conv].prove()
            self._host.proven(self, now)

    def _has_bytes(self) -> bool:
        return bool(self._leftover) or (self._engine is not None and self._engine.readable)

    def _room(self) -> int:
        room = 0 if self._engine is None else self._sending.room(self._engine.room)
        return room if self._early is None else min(room, EARLY_BYTES - len(self._early))

    def _discard_unwanted(self, now: float) -> None:
        if self._ends.reader_gone and self._engine is not None and self._engine.readable:
            self._engine.receive(_ALL)
            if self.state is State.LOCAL_CLOSED:
                self.reset(CloseReason.ABORTED, now)

    # Ending.

    def _finish_time(self, now: float) -> float:
        """When our FIN may go out, as far as can be said now; infinite if something has to happen before."""
        ends, state, stock_at = self._ends, self.state, None
        if not ends.ended:
            return math.inf
        if self.peer_offer is None:
            stock_at = ends.stock_may_end_at(state, self.role, self._watch.payload_at, self._host.half_close_idle, now)
        return ends.fin_at(self._engine, state, self.role, now, stock_at, self._rtt())

    def _send_fin(self, conv: int, now: float) -> None:
        handshake = self._handshakes[conv]
        handshake.rtt = self.path.rtt
        self._send_all(conv, handshake.finish(now))
        if handshake.state is State.LINGER:
            self._over(CloseReason.FINISHED)

    def _over(self, reason: CloseReason) -> None:
        """The application's part has ended; a conversation may linger."""
        if self.reason is not None:
            return
        self.reason = reason
        self.attempts.end()
        self._acceptance = self._early = None
        self._close_engine()
        if self.announced:
            self._host.emit(Closed(self, reason))
        if self._held_conv is not None:
            self._host.forget(self, self._held_conv)
            self._held_conv = None
        self._host.over(self)

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._statistics = self._engine.statistics
            self._leftover.close(self._engine, wanted=not self._ends.reader_gone)
            self._host.engine_closed(self._engine)
            self._engine = None
            self._sending.note(None)

    # Helpers.

    def _tick_handshakes(self, now: float) -> None:
        for conv, handshake in list(self._handshakes.items()):
            if handshake.deadline > now:
                continue
            before = handshake.state
            handshake.rtt = self.path.rtt
            self._send_all(conv, handshake.tick(now))
            if handshake.state is State.CLOSED:
                self._drop(conv)
                if before is not State.LINGER:
                    self._over(CloseReason.NO_ANSWER)

    def _send_all(self, conv: int, packets: tuple[Flag, ...], echo: bytes = b"") -> None:
        offer = None if self.peer_offer is None else self.path.offer
        for flags in packets:
            body = body_of(flags, self.conn_data, offer, echo=echo, accepted=self.role is Role.DESTINATION)
            self._host.send(self, conv, flags, body)

    def _drop(self, conv: int) -> None:
        if self._handshakes.pop(conv, None) is not None:
            self._host.forget(self, conv)

    def _rtt(self) -> float:
        return UNKNOWN_RTT if self.path.rtt is None else self.path.rtt

    def _ping(self, conv: int, now: float) -> None:
        self._watch.ask(now)
        self._host.send(self, conv, PING, ASKED)

    def _silent_at(self) -> float:
        """When it is given up if nothing comes."""
        return self._watch.given_up_at(None if self.peer_offer is None else self._host.crowd(self.peer_id))

    def _ping_time(self) -> float:
        """When a PING is due."""
        if self.peer_offer is None or self.conv is None:
            return self._watch.stock_asks_at(self.state, self._engine, self._rtt())
        return self._watch.asks_at(self.conv, self._host.crowd(self.peer_id))

    def __str__(self) -> str:
        conv = "-" if self.conv is None else f"{self.conv:08x}"
        return f"KCP {self.role.name.lower()} session {conv} with peer {self.peer_id}"
