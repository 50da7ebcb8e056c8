"""A tunnel after its handshake: its neighbour, its pings, its latency, and when it counts as dead (control plane 5).

No task of its own: the node's ticker calls `tick` twice a second, the data path hands Ping and Pong frames in.  State::

    alive --8 pings unanswered and 7 s without any frame--> dead (the caller closes the tunnel)
      | ^----------- any frame from the neighbour ----------' ^
      '--reason to doubt--> doubted --1 s, or 4 round trips --'
      ^-- Pong to a ping since, or a frame after 1 s --'

A reason to doubt is a goodbye, which anybody can forge, or that this machine has slept.

Stock counts five lost pings; on a line with 10 % loss each way an idle connection would then be torn down about once an hour.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final

import anyio

from easytier_host.metrics import Metrics
from easytier_host.packet import PEER_HEADER, PEER_HEADER_SIZE, PacketType
from easytier_host.tunnel.base import Tunnel

_SEQUENCE: Final = struct.Struct("<I")

# Ours.
PING_INTERVAL: Final = 2.0
"""Seconds between pings while they are answered; a stock node pings every 1 to 32 s."""
PING_TIMEOUT: Final = 2.0
"""Seconds after which a ping counts as lost, as in stock."""
SUSPECT_PING_INTERVAL: Final = 0.5
"""Seconds between pings after a loss, so that a dead neighbour is known early and a lossy line is not taken for one."""
DEAD_AFTER_PINGS: Final = 8
DEAD_AFTER_SILENCE: Final = 7.0
"""Seconds; a stock node drops a vanished UDP neighbour after 8 to 9."""
DOUBT_SECONDS: Final = 1.0
"""For the answer of a neighbour that is in doubt, or DOUBT_ROUND_TRIPS if that is more."""
DOUBT_ROUND_TRIPS: Final = 4
DOUBT_REST: Final = 5.0
"""Seconds from one doubt to the next.  Who forges goodbyes would use up the neighbour's allowance of Pongs else."""
MAX_PONGS_PER_SECOND: Final = 100
UNANSWERED: Final = "no answer to pings"
"""Why a connection ends that is dead."""
LIVE_TIME: Final = 3.0
"""Seconds since the last frame for which a connection counts as the way that its neighbour uses: answered pings are 2 s
apart."""
LATENCY_SAMPLES: Final = 15
LOSS_SAMPLES: Final = 100


class PeerConn:
    """One connection to a neighbour.  Times are monotonic seconds."""

    def __init__(
        self,
        tunnel: Tunnel,
        my_peer_id: int,
        peer_id: int,
        *,
        is_foreign_relay: bool,
        is_initiator: bool,
        now: float,
        answer: bytes | None = None,
    ) -> None:
        self.tunnel = tunnel
        self.peer_id = peer_id
        self.is_foreign_relay = is_foreign_relay
        """The neighbour serves our network from another one: RPC with it is in clear (control plane 7.9)."""
        self.is_initiator = is_initiator
        self.opened_at = now
        self.gone = anyio.Event()
        """Set when the tunnel has closed, whoever closed it."""
        self.received_frames = 0
        self.received_bytes = 0
        self.sent_frames = 0
        self.sent_bytes = 0
        self._my_peer_id = my_peer_id
        self._answer = answer
        """What we answered to the neighbour's handshake, if the neighbour opened the tunnel."""
        self._sequence = 0
        self._pending: dict[int, float] = {}
        self._doubted_at: float | None = None
        self._why_doubted = UNANSWERED
        self._next_doubt_at = -math.inf
        self._unanswered = 0
        self._next_ping_at = now
        self._last_received_at = now
        self._frames_at_last_tick = 0
        self._round_trips: deque[float] = deque(maxlen=LATENCY_SAMPLES)
        self._outcomes: deque[bool] = deque(maxlen=LOSS_SAMPLES)
        self._pong_allowance = MAX_PONGS_PER_SECOND
        self._pongs_renewed_at = now

    @property
    def latency(self) -> float | None:
        """Mean of the last 15 round trips in seconds; None before the first."""
        return sum(self._round_trips) / len(self._round_trips) if self._round_trips else None

    @property
    def loss(self) -> float:
        """Share of the last 100 pings that were lost, 0 to 1."""
        return self._outcomes.count(False) / len(self._outcomes) if self._outcomes else 0.0

    @property
    def pings(self) -> int:
        """How many `loss` is a share of."""
        return len(self._outcomes)

    @property
    def is_silent(self) -> bool:
        """True once a ping went unanswered and nothing else came either, or there is doubt: the neighbour may be gone, at least
        from here."""
        return self._unanswered > 1 or self._doubted_at is not None

    def doubt(self, now: float, why: str = UNANSWERED) -> bytes | None:
        """There is a reason to think that the neighbour has gone: returns a Ping to send, None if it is in doubt already.

        `why` is what users read should it be dead.
        """
        if self._doubted_at is not None or now < self._next_doubt_at:
            return None
        self._doubted_at = now
        self._why_doubted = why
        self._next_doubt_at = now + DOUBT_REST
        return self._ping(now)

    def is_live(self, now: float, within: float = LIVE_TIME) -> bool:
        """Whether the neighbour has sent anything over this connection within so many seconds, and is not in doubt."""
        return now - self._last_received_at < within and self._doubted_at is None

    def probe(self) -> None:
        """Let the next tick ping, whenever that were due."""
        self._next_ping_at = -math.inf

    def tick(self, now: float) -> bytes | None:
        """Settle overdue pings; returns a Ping frame when one is due.  To be called about twice a second."""
        if now - self._pongs_renewed_at >= 1:
            self._pongs_renewed_at = now
            self._pong_allowance = MAX_PONGS_PER_SECOND
        if self.received_frames != self._frames_at_last_tick:
            self._frames_at_last_tick = self.received_frames
            self._last_received_at = now
            self._unanswered = 0
            # What comes so late was not under way when the neighbour went.
            if self._doubted_at is not None and now - self._doubted_at >= DOUBT_SECONDS:
                self._doubted_at = None
        for sequence in [number for number, sent_at in self._pending.items() if now - sent_at >= PING_TIMEOUT]:
            del self._pending[sequence]
            self._outcomes.append(False)
            self._next_ping_at = min(self._next_ping_at, now)
        return None if now < self._next_ping_at else self._ping(now)

    def _ping(self, now: float) -> bytes:
        suspect = self._unanswered > 0 or self._doubted_at is not None
        self._next_ping_at = now + (SUSPECT_PING_INTERVAL if suspect else PING_INTERVAL)
        self._unanswered += 1
        sequence = self._sequence
        self._sequence = (sequence + 1) & 0xFFFF_FFFF
        self._pending[sequence] = now
        return PEER_HEADER.pack(self._my_peer_id, self.peer_id, PacketType.PING, 0, 1, 0, _SEQUENCE.size) + _SEQUENCE.pack(
            sequence
        )

    @property
    def end_reason(self) -> str:
        """Why it ends, if it is dead."""
        return UNANSWERED if self._doubted_at is None else self._why_doubted

    def is_dead(self, now: float) -> bool:
        """True once the neighbour has been silent for too long."""
        if self._doubted_at is not None and now - self._doubted_at >= max(
            DOUBT_SECONDS, DOUBT_ROUND_TRIPS * (self.latency or 0)
        ):
            return True
        return self._unanswered > DEAD_AFTER_PINGS and now - self._last_received_at >= DEAD_AFTER_SILENCE

    def answer_ping(self, frame: bytes) -> bytes | None:
        """The Pong to a Ping: the whole frame with another type; None when the neighbour asks too often or too briefly.

        A Pong with fewer than four bytes of payload would end a stock daemon, so a shorter Ping gets none.
        """
        if len(frame) < PEER_HEADER_SIZE + _SEQUENCE.size or self._pong_allowance == 0:
            return None
        self._pong_allowance -= 1
        return b"".join((frame[:8], bytes([PacketType.PONG]), frame[9:]))

    def repeat_answer(self) -> bytes | None:
        """Our answer to the neighbour's handshake once more; None without one, or when the neighbour asks too often.

        It counts as one of the Pongs that a neighbour may have in a second.
        """
        if self._answer is None or self._pong_allowance == 0:
            return None
        self._pong_allowance -= 1
        return self._answer

    def take_pong(self, frame: bytes, now: float) -> None:
        """Note the answer to one of our pings, and tell the tunnel; anything else is ignored."""
        if len(frame) < PEER_HEADER_SIZE + _SEQUENCE.size:
            return
        (sequence,) = _SEQUENCE.unpack_from(frame, PEER_HEADER_SIZE)
        sent_at = self._pending.pop(sequence, None)
        if sent_at is not None:
            if self._doubted_at is not None and sent_at >= self._doubted_at:
                self._doubted_at = None
            self._round_trips.append(now - sent_at)
            self._outcomes.append(True)
            self.tunnel.round_trip = self.latency or 0.0


def transmit(conn: PeerConn, frames: Sequence[bytes], metrics: Metrics) -> Tunnel | None:
    """Hand frames to a connection's tunnel and count them; returns the tunnel if it is congested."""
    tunnel = conn.tunnel
    dropped = tunnel.dropped_frames
    accepted = tunnel.send(frames)
    size = sum(map(len, frames))
    conn.sent_frames += len(frames)
    conn.sent_bytes += size
    metrics.sent_frames += len(frames)
    metrics.sent_bytes += size
    metrics.dropped_congestion += tunnel.dropped_frames - dropped
    return None if accepted else tunnel
