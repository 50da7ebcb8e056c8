"""The state machine of one conversation: who is open, who has ended, and what is repeated when.  Sans-IO; `session.py` calls
it.

It knows flags and times, neither ids nor bodies nor bytes: the caller adds these.  Two things move it besides the caller's own
`finish` and `abort`: a packet and the clock.  Each returns the flags of the packets to send.  The transitions are tables,
which hold what stock does (wire specification, data plane 5.4) plus what a stock peer takes without harm (10.2).

::

    opener    SYN_SENT --SYN|ACK, PONG--> ESTABLISHED <--ACK|DATA, two PONGs-- SYN_RECEIVED    acceptor
    FIN       ESTABLISHED --ours--> LOCAL_CLOSED --theirs--> LINGER,  ESTABLISHED --theirs--> PEER_CLOSED --ours--> LINGER
    RST       any --> CLOSED

`finish` may be called in ESTABLISHED and PEER_CLOSED only, once everything that was written has been acknowledged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, TypeAlias

from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, PING, PONG, RST, SYN, SYN_ACK, Flag


class State(Enum):
    """Of one conversation."""

    SYN_SENT = auto()
    SYN_RECEIVED = auto()
    ESTABLISHED = auto()
    LOCAL_CLOSED = auto()
    """Our FIN is out, the peer may still send."""
    PEER_CLOSED = auto()
    """The peer's FIN is here, we may still send."""
    LINGER = auto()
    """Both are.  Kept to give our FIN again to a peer that has not seen it."""
    CLOSED = auto()


class Input(Enum):
    """What a packet means to the machine."""

    SYN = auto()
    SYN_ACK = auto()
    ACK_DATA = auto()
    FIN = auto()
    RST = auto()
    PING = auto()
    PONG = auto()
    OTHER = auto()
    """Combinations that nobody sends: they change nothing."""


Step: TypeAlias = tuple[State, tuple[Flag, ...]]

_S, _I = State, Input

TRANSITIONS: Final[Mapping[tuple[State, Input], Step]] = {
    (_S.SYN_SENT, _I.SYN_ACK): (_S.ESTABLISHED, (ACK_DATA,)),
    # Only an acceptor that has the conversation answers a PING so; its SYN|ACK was lost.
    (_S.SYN_SENT, _I.PONG): (_S.ESTABLISHED, (ACK_DATA,)),
    (_S.SYN_SENT, _I.PING): (_S.SYN_SENT, (PONG,)),
    (_S.SYN_SENT, _I.FIN): (_S.CLOSED, (RST,)),
    (_S.SYN_RECEIVED, _I.SYN): (_S.SYN_RECEIVED, (SYN_ACK,)),
    (_S.SYN_RECEIVED, _I.ACK_DATA): (_S.ESTABLISHED, ()),
    (_S.SYN_RECEIVED, _I.PING): (_S.SYN_RECEIVED, (PONG,)),
    (_S.SYN_RECEIVED, _I.FIN): (_S.CLOSED, (RST,)),
    (_S.ESTABLISHED, _I.PING): (_S.ESTABLISHED, (PONG,)),
    (_S.ESTABLISHED, _I.FIN): (_S.PEER_CLOSED, ()),
    (_S.LOCAL_CLOSED, _I.PING): (_S.LOCAL_CLOSED, (PONG,)),
    (_S.LOCAL_CLOSED, _I.FIN): (_S.LINGER, ()),
    (_S.PEER_CLOSED, _I.PING): (_S.PEER_CLOSED, (PONG,)),
    # The peer has not seen our FIN: a PING comes from stock's LocalClosed, which never repeats its own.
    (_S.LINGER, _I.FIN): (_S.LINGER, (FIN,)),
    (_S.LINGER, _I.PING): (_S.LINGER, (FIN,)),
    (_S.CLOSED, _I.PING): (_S.CLOSED, (RST,)),
}
"""What a packet does; a pair that is not listed changes nothing and has no answer, except RST, which closes every state.

An opener takes as many RSTs as it sent PINGs with its SYNs for answers to these: the SYN was lost, or overtaken."""

OPENER_REPEATS: Final[Mapping[tuple[State, Input], Step]] = {
    # A repeated SYN|ACK says that the third packet was lost.
    (_S.ESTABLISHED, _I.SYN_ACK): (_S.ESTABLISHED, (ACK_DATA,)),
}
ACCEPTOR_REPEATS: Final[Mapping[tuple[State, Input], Step]] = {
    (_S.ESTABLISHED, _I.SYN): (_S.ESTABLISHED, (SYN_ACK,)),
}

FINISH: Final[Mapping[State, State]] = {_S.ESTABLISHED: _S.LOCAL_CLOSED, _S.PEER_CLOSED: _S.LINGER}

# Ours, in seconds.  At the first RTT nothing is known of the path: 0.2 s is stock's own hedge.
FIRST_WAIT: Final = 0.2
SYN_WAIT_MAX: Final = 1.0
SYN_ACK_WAIT: Final = 0.3
SYN_ACK_WAIT_MAX: Final = 2.0
HALF_OPEN_LIFE: Final = 10.0
"""As long as stock's opener waits; after it, nobody can want the conversation."""
THIRD_PACKET_GAP: Final = 0.005
"""The third packet goes out twice: it is 14 bytes, and a stock acceptor that misses it may hang."""
FIN_WAIT_MAX: Final = 10.0
FIN_WAIT_MIN: Final = 0.03
LINGER_LIFE: Final = 15.0
"""Longer than a peer's longest wait before it repeats its FIN."""
LINGER_REPEATS: Final = 2
LINGER_ANSWERS: Final = 8
"""Without a limit, two ends that both linger could answer each other's FIN for ever."""
PROVING_PONGS: Final = 2
UNKNOWN_RTT: Final = 0.2


def _classify(flags: int) -> Input:
    """What the machine makes of a flag byte.

    As in stock, PING goes before all; the handshake's combinations are exact among SYN, ACK, FIN, DATA and RST; a FIN counts
    with whatever company.
    """
    if flags & Flag.PING:
        return Input.PONG if flags & Flag.PONG else Input.PING
    if flags & Flag.RST:
        return Input.RST
    exact = _EXACT.get(flags & 0x1F)
    if exact is not None:
        return exact
    return Input.FIN if flags & Flag.FIN else Input.OTHER


_EXACT: Final = {int(SYN): Input.SYN, int(SYN_ACK): Input.SYN_ACK, int(ACK_DATA): Input.ACK_DATA}
KINDS: Final = tuple(_classify(flags) for flags in range(256))
"""What the machine makes of each flag byte."""


class Handshake:
    """One conversation's state and repetitions.

    `rtt` is the best estimate in seconds, None if there is none; the caller refreshes it as it learns.  `deadline` is when
    `tick` wants to be called, infinite if never.
    """

    def __init__(self, *, opener: bool, now: float, rtt: float | None) -> None:
        self.opener = opener
        self.state = State.SYN_SENT if opener else State.SYN_RECEIVED
        self.rtt = rtt
        self.since = now
        """When `state` was entered."""
        self.pinged = False
        """Whether a SYN has been repeated, with a PING."""
        self._table = {**TRANSITIONS, **(OPENER_REPEATS if opener else ACCEPTOR_REPEATS)}
        self._wait = self._first_wait()
        self._repeat_at = now + self._wait
        self._repeats = 0
        self._pongs = 0
        self._unanswered_pings = 0
        self._answers = 0
        self._last_fin = -math.inf

    def start(self) -> tuple[Flag, ...]:
        """The first packet."""
        return (SYN,) if self.opener else (SYN_ACK,)

    def receive(self, kind: Input, now: float) -> tuple[Flag, ...]:
        """Take a packet in; returns what to answer."""
        if kind is Input.ACK_DATA and self.state is not State.SYN_RECEIVED:
            # Each datagram of an open conversation comes by here, and enums are slow keys.
            return ()
        if kind in (Input.RST, Input.PONG) and self._unanswered_pings:
            self._unanswered_pings -= 1
            if kind is Input.RST:
                return (SYN,) if self.state is State.SYN_SENT else ()
        if kind is Input.RST:
            self._enter(State.CLOSED, now)
            return ()
        step = self._table.get((self.state, kind))
        if step is None:
            return self._count_pong(now) if kind is Input.PONG else ()
        state, answer = step
        if self.state is State.LINGER:
            return self._answer_in_linger(now)
        if state is not self.state:
            self._enter(state, now)
        return answer

    def prove(self) -> None:
        """The other side is known to have the conversation: an RST means what it says."""
        self._unanswered_pings = 0

    def finish(self, now: float) -> tuple[Flag, ...]:
        """End our direction.  Raises ValueError, with nothing changed, in a state that has no direction of ours to end."""
        state = FINISH.get(self.state)
        if state is None:
            raise ValueError(f"cannot end a conversation in {self.state.name}")
        self._enter(state, now)
        self._last_fin = now
        return (FIN,)

    def abort(self, now: float) -> tuple[Flag, ...]:
        """Give the conversation up; nothing to send if the other side has ended it as well."""
        known = self.state not in (State.CLOSED, State.LINGER)
        self._enter(State.CLOSED, now)
        return (RST,) if known else ()

    @property
    def deadline(self) -> float:
        """When `tick` wants to be called."""
        if self.state is State.LINGER:
            return min(self._repeat_at, self.since + LINGER_LIFE)
        if self.state is State.SYN_RECEIVED:
            return min(self._repeat_at, self.since + HALF_OPEN_LIFE)
        return self._repeat_at

    def tick(self, now: float) -> tuple[Flag, ...]:
        """Do what is due at `now`; returns what to send."""
        if self.state is State.LINGER and now >= self.since + LINGER_LIFE:
            self._enter(State.CLOSED, now)
        elif self.state is State.SYN_RECEIVED and now >= self.since + HALF_OPEN_LIFE:
            self._enter(State.CLOSED, now)
            return (RST,)
        if now < self._repeat_at:
            return ()
        self._repeats += 1
        match self.state:
            case State.SYN_SENT:
                self._next_repeat(now, 1.5, SYN_WAIT_MAX)
                self.pinged = True
                self._unanswered_pings += 1
                return (SYN, PING)
            case State.SYN_RECEIVED:
                self._next_repeat(now, 2.0, SYN_ACK_WAIT_MAX)
                return (SYN_ACK, PING)
            case State.ESTABLISHED:
                self._repeat_at = math.inf
                return (ACK_DATA,)
            case State.LOCAL_CLOSED:
                self._next_repeat(now, 2.0, FIN_WAIT_MAX)
                self._last_fin = now
                return (FIN,) if self._repeats == 1 else (FIN, PING)
            case State.LINGER:
                self._next_repeat(now, 2.0, FIN_WAIT_MAX)
                if self._repeats >= LINGER_REPEATS:
                    self._repeat_at = math.inf
                self._last_fin = now
                return (FIN,)
            case _:
                self._repeat_at = math.inf
                return ()

    def _enter(self, state: State, now: float) -> None:
        passive_end = self.state is State.LOCAL_CLOSED
        self.state, self.since = state, now
        self._repeats = 0
        if state is State.ESTABLISHED and self.opener:
            self._repeat_at = now + THIRD_PACKET_GAP
        elif state is State.LOCAL_CLOSED or (state is State.LINGER and not passive_end):
            self._wait = self._fin_gap()
            self._repeat_at = now + self._wait
        else:
            # A peer whose FIN came after ours has most likely seen ours: it will ask if not.
            self._repeat_at = math.inf

    def _answer_in_linger(self, now: float) -> tuple[Flag, ...]:
        if now - self._last_fin < self._fin_gap() or self._answers >= LINGER_ANSWERS:
            return ()
        self._answers += 1
        self._last_fin = now
        return (FIN,)

    def _count_pong(self, now: float) -> tuple[Flag, ...]:
        """An opener that leaves two SYN|ACKs without a third packet, but answers PINGs, is past SYN_SENT."""
        if self.state is State.SYN_RECEIVED:
            self._pongs += 1
            if min(self._pongs, self._repeats) >= PROVING_PONGS:
                self._enter(State.ESTABLISHED, now)
        return ()

    def _first_wait(self) -> float:
        if not self.opener:
            return SYN_ACK_WAIT if self.rtt is None else max(SYN_ACK_WAIT, 1.5 * self.rtt)
        return FIRST_WAIT if self.rtt is None else min(1.25 * self.rtt + 0.015, SYN_WAIT_MAX)

    def _fin_gap(self) -> float:
        return min(max(1.5 * (UNKNOWN_RTT if self.rtt is None else self.rtt), FIN_WAIT_MIN), FIN_WAIT_MAX)

    def _next_repeat(self, now: float, growth: float, longest: float) -> None:
        self._wait = min(self._wait * growth, longest)
        self._repeat_at = now + self._wait
