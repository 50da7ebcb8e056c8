"""From a fresh tunnel to a neighbour: the handshake of either role, run over a real tunnel, within bounds.

Half-open tunnels (accepted, not yet shaken hands) are capped at 64 an underlay address and 256 in all, 5 s each; more are
closed at once and counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.logs import RateLimitedLogger
from easytier_host.handshake import (
    HANDSHAKE_TIMEOUT,
    HandshakeError,
    Identity,
    Joined,
    encode_hello,
    judge_as_acceptor,
    judge_as_initiator,
)
from easytier_host.metrics import Metrics
from easytier_host.packet import PEER_HEADER, PacketType
from easytier_host.peer_conn import UNANSWERED, PeerConn
from easytier_host.peers import PeerMap, underlay_address
from easytier_host.tunnel.base import Tunnel

logger = logging.getLogger("easytier.admission")

# Ours.
GOODBYE: Final = "stopped or restarted: it said goodbye"
"""Why a neighbour is gone that did and answers no more."""
MAX_HALF_OPEN: Final = 256
MAX_HALF_OPEN_PER_ADDRESS: Final = 64
HELLO_REPEAT: Final = 0.3
"""Seconds: a stock UDP listener may lose a handshake that comes right after its SACK, and never asks for another (control
plane 1.5)."""
MAX_EARLY_FRAMES: Final = 64
"""Frames kept that arrive before the connection stands; later ones are dropped, as on any full queue."""
_HANDSHAKES: Final = frozenset(
    {
        PacketType.HANDSHAKE,
        PacketType.NOISE_HANDSHAKE_1,
        PacketType.NOISE_HANDSHAKE_2,
        PacketType.NOISE_HANDSHAKE_3,
    }
)


class Admission:
    """Makes neighbours of tunnels; `receive(conn, frames)` gets all that a neighbour sends afterwards."""

    def __init__(
        self,
        identity: Identity,
        peers: PeerMap,
        receive: Callable[[PeerConn, list[bytes]], None],
        tasks: TaskGroup,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._identity = identity
        self._peers = peers
        self._receive = receive
        self._tasks = tasks
        self._metrics = metrics
        self._clock = clock
        self._half_open: Counter[str] = Counter()
        self._refusals = RateLimitedLogger(logger, clock)

    def accept(self, tunnel: Tunnel) -> None:
        """Take a tunnel that somebody else opened; its handshake goes on in a task of its own."""
        address = underlay_address(tunnel)
        inbox = _Inbox(tunnel)
        if self._half_open[address] >= MAX_HALF_OPEN_PER_ADDRESS or self._half_open.total() >= MAX_HALF_OPEN:
            self._metrics.tunnels_refused += 1
            tunnel.close("too many tunnels without a handshake")
            return
        self._metrics.tunnels_accepted += 1
        self._half_open[address] += 1
        self._tasks.start_soon(self._accept, tunnel, inbox, address, name=f"accept {tunnel.info.remote_url}")

    async def join(self, tunnel: Tunnel) -> PeerConn:
        """Shake hands over a tunnel that we opened; raises `HandshakeError` and closes it when that makes no neighbour."""
        inbox = _Inbox(tunnel, skip_early=tunnel.info.scheme == "udp")
        self._metrics.tunnels_opened += 1
        try:
            with anyio.move_on_after(HANDSHAKE_TIMEOUT):
                frame = await self._ask(tunnel, inbox)
                return self._establish(tunnel, inbox, judge_as_initiator(self._identity, frame), answer=None)
            raise HandshakeError(f"no answer to the handshake in {HANDSHAKE_TIMEOUT:g} s; is network_name the same there?")
        except HandshakeError as error:
            self._metrics.handshakes_refused += 1
            tunnel.close(str(error))
            raise
        except BaseException:
            tunnel.close("not wanted any more")
            raise

    async def _ask(self, tunnel: Tunnel, inbox: _Inbox) -> bytes:
        hello = encode_hello(self._identity)
        while True:
            tunnel.send([hello])
            with anyio.move_on_after(HELLO_REPEAT if tunnel.info.scheme == "udp" else None):
                return await inbox.first_frame()

    async def _accept(self, tunnel: Tunnel, inbox: _Inbox, address: str) -> None:
        try:
            with anyio.move_on_after(HANDSHAKE_TIMEOUT):
                reply, outcome = judge_as_acceptor(self._identity, await inbox.first_frame())
                if reply is not None:
                    tunnel.send([reply])
                if isinstance(outcome, HandshakeError):
                    raise outcome
                self._establish(tunnel, inbox, outcome, answer=reply)
                return
            raise HandshakeError(f"no handshake in {HANDSHAKE_TIMEOUT:g} s")
        except HandshakeError as error:
            self._metrics.handshakes_refused += 1
            # One key for all: addresses and reasons are the stranger's to choose.
            self._refusals.log(logging.WARNING, "refused", "refused %s: %s", tunnel.info.remote_url, error)
            # The refusal is still in the tunnel's queue; a moment lets it out.
            with anyio.move_on_after(1):
                await tunnel.wait_writable()
            tunnel.close(f"refused: {error}")
        finally:
            self._half_open[address] -= 1
            if not self._half_open[address]:
                del self._half_open[address]

    def _establish(self, tunnel: Tunnel, inbox: _Inbox, joined: Joined, *, answer: bytes | None) -> PeerConn:
        # Whom we have dialled ourselves is wanted, however many come from there.
        refusal = self._peers.refusal(joined.peer_id, None if answer is None else underlay_address(tunnel))
        if refusal is not None:
            raise HandshakeError(refusal)
        if tunnel.closed:
            # Its `on_close` has run already and would never tell anyone that the neighbour is gone.
            raise HandshakeError(inbox.closed or "closed during its handshake")
        conn = PeerConn(
            tunnel,
            self._identity.peer_id,
            joined.peer_id,
            is_foreign_relay=joined.is_foreign_relay,
            is_initiator=answer is None,
            now=self._clock(),
            answer=answer,
        )
        tunnel.on_close = partial(self._leave, conn)
        tunnel.on_frames = partial(self._receive, conn)
        tunnel.on_doubt = partial(self.doubt, conn, GOODBYE)
        self._peers.add(conn)
        if inbox.early:
            self._receive(conn, inbox.early)
        return conn

    def doubt(self, conn: PeerConn, why: str = UNANSWERED) -> None:
        """There is a reason to think that a neighbour has gone."""
        self._peers.doubt(conn, self._clock(), why)

    def _leave(self, conn: PeerConn, reason: str) -> None:
        self._peers.remove(conn, reason)
        conn.gone.set()


class _Inbox:
    """Collects what a tunnel brings before its handshake is judged.

    With `skip_early` other frames may come before the handshake, as datagrams do that overtook it or outlived it.
    """

    def __init__(self, tunnel: Tunnel, *, skip_early: bool = False) -> None:
        self.early: list[bytes] = []
        """All frames but the first."""
        self._skip_early = skip_early
        self._first: bytes | None = None
        self.closed: str | None = None
        """Why the tunnel ended; None while it stands."""
        self._event = anyio.Event()
        tunnel.on_frames = self._take
        tunnel.on_close = self._end

    async def first_frame(self) -> bytes:
        """Wait for the first frame; raises `HandshakeError` if the tunnel ends before."""
        await self._event.wait()
        if self._first is None:
            raise HandshakeError(self.closed or "closed before its handshake")
        return self._first

    def _take(self, frames: list[bytes]) -> None:
        if self._first is None:
            index = next((index for index, frame in enumerate(frames) if self._may_be_first(frame)), None)
            if index is not None:
                self._first = frames[index]
                frames = frames[:index] + frames[index + 1 :]
                self._event.set()
        self.early.extend(frames[: MAX_EARLY_FRAMES - len(self.early)])

    def _may_be_first(self, frame: bytes) -> bool:
        return not self._skip_early or PEER_HEADER.unpack_from(frame)[2] in _HANDSHAKES

    def _end(self, reason: str) -> None:
        self.closed = reason
        self._event.set()
