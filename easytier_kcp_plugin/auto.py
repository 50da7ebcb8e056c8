"""The plugin `auto`: TCP as it is where the path is good, KCP where TCP would suffer from its losses.  Off by default.

`Judge` decides, sans-IO: from round trip and loss of the path to a peer it works out what a TCP connection could do there, by
the model of Padhye and others ("Modeling TCP Throughput", SIGCOMM 1998, equation 32), and compares that with a limit.  It does
not measure; the host tells the figures with each peer.  `AutoPlugin` is the hook implementation around it.

::

            could do less than `below_mbits`
     TCP ------------------------------------> KCP
         <------------------------------------
            could do LEAVE times that, at every look for `hold_seconds`
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from easytier_hooks import TCP, Candidate, PathFigures, PeerInfo, Selection, TcpFlow, check_options, hookimpl

KCP: Final = "kcp"

# Of TCP.
SEGMENT_BYTES: Final = 1340
"""Payload of a full segment in the overlay."""
ACKED_AT_ONCE: Final = 2
"""Segments that a receiver acknowledges together."""
SMALLEST_TIMEOUT: Final = 0.2
"""Seconds; what Linux adds to the round trip before it repeats without an acknowledgement."""

# Ours.
BELOW_MBITS: Final = 50.0
"""With 50 ms already 1 lost ping of 100 is below it, in a LAN 2 of 100."""
LEAVE: Final = 3.0
HOLD_SECONDS: Final = 120.0
"""A lost ping is in the figures for about as long: two of them so far apart are one bad path."""
FEW_PINGS: Final = 50
"""A share of fewer is told as their number: none lost of five says little of a path that loses one of fifty."""
MAX_PEERS: Final = 4096
"""Remembered; the one that was asked about least recently is forgotten, and judged afresh."""


def tcp_mbits(rtt: float, loss: float) -> float:
    """What one TCP connection with loss-based control (Reno, CUBIC) can do, in Mbit/s; infinite without losses.

    `rtt` in seconds, `loss` as a share of round trips, both directions alike.
    """
    one_way = 1.0 - math.sqrt(1.0 - min(max(loss, 0.0), 1.0))
    if one_way == 0.0:
        return math.inf
    by_acks = rtt * math.sqrt(2 * ACKED_AT_ONCE * one_way / 3)
    often = min(1.0, 3 * math.sqrt(3 * ACKED_AT_ONCE * one_way / 8))
    by_timeouts = (SMALLEST_TIMEOUT + rtt) * often * one_way * (1 + 32 * one_way**2)
    return SEGMENT_BYTES * 8 / (by_acks + by_timeouts) / 1e6


@dataclass(slots=True)
class _Standing:
    """Of one peer."""

    uses_kcp: bool
    good_since: float = math.inf


class Judge:
    """Remembers for each peer what was decided, so that figures near the limit do not change it with every flow."""

    def __init__(self, below_mbits: float = BELOW_MBITS, hold_seconds: float = HOLD_SECONDS) -> None:
        self._below = below_mbits
        self._hold = hold_seconds
        self._standings: OrderedDict[int, _Standing] = OrderedDict()

    def judge(self, peer_id: int, path: PathFigures, now: float) -> tuple[str, str]:
        """The transport for a new flow to the peer, and why; `now` in monotonic seconds."""
        mbits = tcp_mbits(path.rtt, path.loss)
        standing = self._standings.get(peer_id)
        if standing is None:
            standing = self._standings[peer_id] = _Standing(uses_kcp=False)
            if len(self._standings) > MAX_PEERS:
                self._standings.popitem(last=False)
        self._standings.move_to_end(peer_id)
        few = path.pings < FEW_PINGS
        lost = f"{round(path.loss * path.pings)} of {path.pings} pings lost so far" if few else f"{path.loss:.1%} lost"
        figures = f"{path.rtt * 1000:.3g} ms, {lost}"
        if mbits < self._below:
            standing.uses_kcp, standing.good_since = True, math.inf
            return KCP, f"auto: {figures}: TCP would do about {mbits:.2g} Mbit/s"
        if not standing.uses_kcp:
            return TCP, f"auto: {figures}: good enough for TCP"
        if mbits < LEAVE * self._below:
            standing.good_since = math.inf
        else:
            standing.good_since = min(standing.good_since, now)
            if now - standing.good_since >= self._hold:
                standing.uses_kcp = False
                return TCP, f"auto: {figures}, and so for {self._hold:g} s: good enough for TCP"
        return KCP, f"auto: {figures}, but it was worse not long ago"


class AutoPlugin:
    """One node's instance.  Options: `below_mbits`, `hold_seconds`, both positive numbers.

    It has no opinion on flows to no peer, on peers of whose path nothing is known, and where what it would choose is not
    available: then the next plugin is asked, or the default holds.
    """

    def __init__(self, options: Mapping[str, object], clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError, with what is wrong, for options that do not fit."""
        check_options(options, "below_mbits", "hold_seconds")
        self._judge = Judge(
            _positive(options, "below_mbits", BELOW_MBITS),
            _positive(options, "hold_seconds", HOLD_SECONDS),
        )
        self._clock = clock

    @hookimpl
    def select_transport(self, flow: TcpFlow, peer: PeerInfo | None, candidates: Sequence[Candidate]) -> Selection | None:
        """By the path's figures."""
        if peer is None or peer.path is None:
            return None
        transport, reason = self._judge.judge(peer.peer_id, peer.path, self._clock())
        available = any(candidate.available for candidate in candidates if candidate.transport == transport)
        return Selection(transport, reason) if available else None


def _positive(options: Mapping[str, object], name: str, default: float) -> float:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name}: {value!r} is not a positive number")
    return float(value)
