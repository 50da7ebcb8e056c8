"""Keeps the route records of this node and of its neighbours in step, over RPC (control plane 7.3 - 7.5).

One loop a neighbour::

    something new, or 10 s passed --> SyncRouteInfo --answer--> note what the neighbour knows --> wait
             ^                             | error or no answer in 3 s
             '------ 0.2 s, doubling to 5 s '

Who lacks something is found out for one neighbour after the other, at most twenty times a second and for a tenth of the time: a
hostile peer may have news all the time.  What takes long, requests to be made and those that are served, is done in slices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup
from google.protobuf.message import Message

from easytier_host.pb import peer_rpc_pb2
from easytier_host.route import LinkState, RouteError
from easytier_host.rpc.peer import PeerRpc, RpcError, ServiceError
from easytier_host.steps import Result, Steps
from easytier_host.turns import Pace, Turns

logger = logging.getLogger("easytier.route")

SERVICE: Final = "OspfRouteRpc"
SYNC_ROUTE_INFO: Final = 1

# Wire: stock's own figures, in seconds.
CALL_TIMEOUT: Final = 3.0
KEEPALIVE_INTERVAL: Final = 10.0

# Ours.
FIRST_RETRY: Final = 0.2
LONGEST_RETRY: Final = 5.0
EXPIRE_TICK: Final = 30.0
SHORTEST_PAUSE: Final = 0.05
"""Between two calls, for a neighbour whose answers make us send everything again."""


class RouteSync:
    """Runs the synchronisation of `state` with every neighbour; `on_change` runs after each request that brought something
    new."""

    def __init__(
        self,
        state: LinkState,
        rpc: PeerRpc,
        tasks: TaskGroup,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_change: Callable[[], None],
        pace: Pace | None = None,
    ) -> None:
        self._state = state
        self._rpc = rpc
        self._tasks = tasks
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_change = on_change
        self._loops: dict[int, anyio.CancelScope] = {}
        self._news: dict[int, anyio.Event] = {}
        self._announced = anyio.Event()
        self._spreads = False
        self._making = anyio.Lock()
        """One request is made at a time, so that there is one slice at a time, too."""
        self._pace = pace or Pace()
        self._turns = Turns(self._pace)
        self._turns.stop()
        rpc.offer_in_steps(SERVICE, {SYNC_ROUTE_INFO: self._serve})

    def add_neighbour(self, peer_id: int) -> None:
        """Open a session with a neighbour that has just connected."""
        self._state.add_neighbour(peer_id)
        scope = self._loops[peer_id] = anyio.CancelScope()
        self._news[peer_id] = anyio.Event()
        self._tasks.start_soon(self._loop, peer_id, scope, name=f"route sync {peer_id}")
        if not self._spreads:
            self._spreads = True
            self._tasks.start_soon(self._spread, name="route news")
        self.announce()

    def remove_neighbour(self, peer_id: int) -> None:
        """Close the session with a neighbour that has gone."""
        self._state.remove_neighbour(peer_id)
        self._loops.pop(peer_id).cancel()
        del self._news[peer_id]
        self.announce()

    async def run(self) -> None:
        """Expire what is due, for ever."""
        while True:
            await anyio.sleep(EXPIRE_TICK)
            self.expire()

    def expire(self) -> None:
        """Forget what is too old, also of calls that neighbours have not finished."""
        now, before = self._clock(), self._state.generation
        self._rpc.expire(now)
        self._state.expire(now)
        if self._state.generation != before:
            self._on_change()
        self.announce()

    def announce(self) -> None:
        """Let the loops of neighbours that lack something we know be woken, at once or soon."""
        self._announced.set()

    async def _spread(self) -> None:
        while True:
            await self._announced.wait()
            self._announced = anyio.Event()
            turns = Turns(self._pace)
            for peer_id in list(self._news):
                wants = await turns.run(self._state.wants_sync_in_steps(peer_id))
                if wants and peer_id in self._news:
                    self._news[peer_id].set()
            await turns.rest()

    async def _loop(self, peer_id: int, scope: anyio.CancelScope) -> None:
        retry = FIRST_RETRY
        with scope:
            # A cancelled task still gets its turn when what it waited for came at the same moment.
            while self._loops.get(peer_id) is scope:
                # Cleared before the request is built, so that news from now on cause another one.
                news = self._news[peer_id] = anyio.Event()
                if await self._sync(peer_id):
                    retry = FIRST_RETRY
                    await anyio.sleep(SHORTEST_PAUSE)
                    if not await self._make(self._state.wants_sync_in_steps(peer_id)):
                        with anyio.move_on_after(KEEPALIVE_INTERVAL):
                            await news.wait()
                else:
                    await anyio.sleep(retry)
                    retry = min(retry * 2, LONGEST_RETRY)

    async def _sync(self, peer_id: int) -> bool:
        request = await self._make(
            self._state.build_request_in_steps(peer_id, self._clock(), self._wall_clock(), keepalive=True)
        )
        if request is None:
            return True
        try:
            response = await self._rpc.call(
                peer_id, SERVICE, SYNC_ROUTE_INFO, request, peer_rpc_pb2.SyncRouteInfoResponse, CALL_TIMEOUT
            )
        except RpcError as error:
            logger.debug("route sync failed: %s", error)
            self._state.on_failure(peer_id)
            return False
        return self._state.on_response(peer_id, request, response, self._clock())

    async def _make(self, steps: Steps[Result]) -> Result:
        async with self._making:
            try:
                return await self._turns.run(steps)
            finally:
                self._turns.stop()

    def _serve(self, from_peer: int, content: bytes) -> Steps[Message]:
        request = peer_rpc_pb2.SyncRouteInfoRequest.FromString(content)
        before = self._state.generation
        yield
        try:
            response = yield from self._state.handle_request_in_steps(from_peer, request, self._clock())
        except RouteError as error:
            self._tell_of_news(before)
            raise ServiceError(str(error)) from None
        self._tell_of_news(before)
        return response

    def _tell_of_news(self, before: int) -> None:
        if self._state.generation != before:
            self._on_change()
            self.announce()
