"""What every tunnel is to the layers above: frames in, frames out, in batches.

A tunnel is one underlay connection between two neighbours.  It knows nothing of peers, keys or routes.  The layer above sets
`on_frames` and `on_close` before the event loop gets a turn, then calls `send`.  Both callbacks run on the event loop's
thread, must return quickly and must not raise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

# Ours.
UNDERLAY_MTU: Final = 1500
"""Bytes of a packet that links carry nearly everywhere; larger ones are not worth finding out about."""
WHOLE_FRAME_SIZE: Final = UNDERLAY_MTU - 20 - 8 - 8
"""Of a frame that fills a packet of this size over UDP and IPv4.  Streams have no such size; what leaves here by one goes on by
UDP behind a relay."""
RELAYED_FRAME_SIZE: Final = UNDERLAY_MTU - 40 - 8 - 8
"""The same with IPv6, which a relay may use."""


CONGESTION_WAIT: Final = 0.02
"""Seconds that a batch of the device waits for a congested tunnel, before the next one may be dropped."""


class TunnelError(Exception):
    """A tunnel could not be opened, or an URL does not name one; the message says which and why."""


@dataclass(frozen=True, slots=True)
class TunnelInfo:
    """Who is joined to whom: the scheme (`udp`, `tcp`, `ring`) and both ends as URLs with ports."""

    scheme: str
    local_url: str
    remote_url: str


def _ignore(*_event: object) -> None:
    """What a tunnel does with its events until somebody listens."""


class Tunnel(ABC):
    """One underlay connection between neighbours.

    `on_frames` gets every batch that arrived, each item one frame of 16 to 2000 bytes.  `on_close` is called exactly once
    with a reason a user can read, whoever closed; nothing is delivered after it.  `on_doubt` says that the other side may
    have gone, on the word of a datagram that anybody can send: whoever listens asks the neighbour.
    """

    info: TunnelInfo
    on_frames: Callable[[list[bytes]], None]
    on_close: Callable[[str], None]
    on_doubt: Callable[[], None]
    round_trip: float
    """Seconds, as whoever pings has measured them; 0 before that."""

    def __init__(self, info: TunnelInfo) -> None:
        self.info = info
        self.round_trip = 0.0
        self.on_frames = _ignore
        self.on_close = _ignore
        self.on_doubt = _ignore

    @abstractmethod
    def send(self, frames: Sequence[bytes]) -> bool:
        """Queue whole frames, in order, and send what the kernel takes at once; never blocks, never raises.

        Returns False when the tunnel is congested: the caller does well to await `wait_writable` before more.  Past the
        tunnel's cap, and after `close`, frames are dropped and counted in `dropped_frames`.
        """

    @property
    @abstractmethod
    def congested(self) -> bool:
        """True while the tunnel has more to send than it should; `send` returned False."""

    @abstractmethod
    async def wait_writable(self) -> None:
        """Return once the tunnel is no longer congested, or is closed."""

    def whole_frame_size(self) -> int:
        """Bytes of the largest frame that is worth sending in one piece: one underlay packet of at most 1500 bytes.  0 while
        packets may be cut on their way."""
        return WHOLE_FRAME_SIZE

    def allow_fragments(self) -> None:
        """Let the network cut packets for a minute.  Streams do so anyway."""
        return

    def part(self) -> bool:
        """Hear and send nothing any more, and tell the other side that the end is near; whether that was said, and may be lost.

        For who has time to say it more than once before `close`.  Tunnels over which nothing is lost do nothing.
        """
        return False

    @abstractmethod
    def close(self, reason: str = "closed by this node") -> None:
        """End the tunnel now; idempotent.  `on_close` runs before this returns."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """True after `close`, or after the other side or the network ended it."""

    @property
    @abstractmethod
    def dropped_frames(self) -> int:
        """Frames that `send` could not keep, since the tunnel was opened."""


async def give_time(tunnel: Tunnel) -> None:
    """Give a congested tunnel a moment, so that the sockets of the host slow down before anything is dropped."""
    with anyio.move_on_after(CONGESTION_WAIT):
        await tunnel.wait_writable()


class Listener(ABC):
    """An open door: each tunnel that comes in is given to the callback it was opened with."""

    url: str
    """Where it listens, with the real port."""

    @abstractmethod
    def close(self) -> None:
        """Stop accepting; tunnels that came in through it stay, unless they share its socket (udp), then they end."""
