"""Where news come from: asks one daemon by its portal, again and again, and comes back to it after it was away.

Blocking; the program calls `step` in a thread, again as soon as it has taken what the last one brought, so nothing piles up
here: who is slow is told less often, and a node of ours says how many events that cost.

    node of this project    news as they happen, gathered for `GATHER` seconds; peers every `OVERVIEW_EVERY`
    stock node              asked for all flows every `POLL_EVERY`
    nobody                  asked again after 1, 2, 4, 8, then every 15 s
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from easytier_host.rpc.client import (
    CallTimeoutError,
    ConnectError,
    PortalClient,
    PortalError,
    ServiceMissingError,
    portal_pb2,
)
from easytier_tui import decode
from easytier_tui.records import FlowNote, Link, NodeRecord, Update
from easytier_tui.words import clean

# Ours, in seconds.
GATHER: Final = 0.25
WATCH_WAIT: Final = 1.0
POLL_EVERY: Final = 1.0
OVERVIEW_EVERY: Final = 2.0
CALL_TIMEOUT: Final = 3.0
BACK_OFF: Final = (1.0, 2.0, 4.0, 8.0, 15.0)


class FeedError(Exception):
    """What was asked of a daemon was not done; the message says why."""


class Feed(Protocol):
    """Source of updates of one daemon."""

    address: str
    """What the user calls it."""
    acts: bool
    """Whether flows can be closed."""

    def step(self) -> Update:
        """Wait for news, a few seconds at most, and return them; may be empty.  Never raises."""
        ...

    def clock(self) -> float:
        """The time that ages are counted to, in epoch seconds."""
        ...

    def wake(self) -> None:
        """Do not wait any longer before the next question."""
        ...

    def close(self) -> None:
        """End; a `step` under way returns soon."""
        ...

    def history(self, flow_id: int) -> Sequence[FlowNote]:
        """What happened to a flow before this program looked; blocks.  Raises `FeedError`."""
        ...

    def close_flow(self, flow_id: int) -> None:
        """Let the node reset a flow on both sides; blocks.  Raises `FeedError`."""
        ...


class PortalFeed:
    """A daemon at `host`:`port`; of several instances in it the one with this name, else the first."""

    def __init__(self, host: str, port: int, instance: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self._endpoint = host, port
        self._client = PortalClient(host, port, timeout=CALL_TIMEOUT)
        self.address = self._client.address
        self.acts = False
        self._wanted = instance
        self.clock = clock
        self._woken = threading.Event()
        self._closed = False
        self._failures = 0
        self._rest = 0.0
        # What is known while the daemon answers.
        self._node: NodeRecord | None = None
        self._instance: portal_pb2.InstanceIdentifier | None = None
        self._others: list[str] = []
        self._owners = decode.NO_OWNERS
        self._cursor = b""
        self._overview_at = 0.0

    def siblings(self) -> list[PortalFeed]:
        """Feeds for the other instances of the process, each once."""
        others, self._others = self._others, []
        return [PortalFeed(*self._endpoint, name, clock=self.clock) for name in others]

    def step(self) -> Update:
        """See `Feed`."""
        self._woken.wait(self._rest)
        self._woken.clear()
        if self._closed:
            return Update(self.clock())
        try:
            update = self._begin() if self._node is None else self._go_on(self._node)
        except PortalError as error:
            return self._give_up(error)
        self._failures = 0
        return update

    def wake(self) -> None:
        """See `Feed`."""
        self._woken.set()

    def close(self) -> None:
        """See `Feed`."""
        self._closed = True
        self._woken.set()
        self._client.close()

    def history(self, flow_id: int) -> Sequence[FlowNote]:
        """See `Feed`."""
        node = self._node
        if node is None or node.is_stock:
            return ()
        try:
            with PortalClient(*self._endpoint, timeout=CALL_TIMEOUT) as client:
                shown = client.show_flow(flow_id, self._instance)
        except PortalError as error:
            raise FeedError(str(error)) from None
        return [decode.note(update, node.peer_id) for update in shown.history]

    def close_flow(self, flow_id: int) -> None:
        """See `Feed`."""
        try:
            with PortalClient(*self._endpoint, timeout=CALL_TIMEOUT) as client:
                client.close_flow(flow_id, self._instance)
        except PortalError as error:
            raise FeedError(str(error)) from None

    # Asking

    def _begin(self) -> Update:
        name = self._choose_instance()
        info = self._client.node_info(self._instance)
        try:
            plugins = self._client.plugins(self._instance)
        except ServiceMissingError:
            plugins = None
        self._node = decode.node(info, name, plugins)
        self._cursor = b""
        self.acts = not self._node.is_stock
        if self._node.is_stock:
            link = Link("polled", f"stock {self._node.version}, polled every {POLL_EVERY:g} s")
        else:
            link = Link("live", "live events")
        return self._news(self._node, link)

    def _choose_instance(self) -> str:
        try:
            instances = self._client.instances()
        except ServiceMissingError:
            self._instance = None
            return ""
        names = [each.instance_name for each in instances]
        if self._wanted and self._wanted not in names:
            raise PortalError(f"{self.address} runs no instance {clean(self._wanted)}")
        if not instances:
            raise PortalError(f"the process at {self.address} runs no network")
        chosen = names.index(self._wanted) if self._wanted else 0
        if not self._wanted:
            self._others = names[1:16]
            self._wanted = names[0]
        self._instance = portal_pb2.InstanceIdentifier(id=instances[chosen].inst_id)
        return names[chosen] if len(names) > 1 else ""

    def _go_on(self, node: NodeRecord) -> Update:
        return self._news(node, None)

    def _news(self, node: NodeRecord, link: Link | None) -> Update:
        peers = connectors = None
        told = node if link is not None else None
        if link is not None or time.monotonic() - self._overview_at >= OVERVIEW_EVERY:
            self._overview_at = time.monotonic()
            routes = self._client.routes(self._instance)
            peers = decode.peers(routes, self._client.peers(self._instance))
            if node.is_stock:
                self._owners = decode.Owners(routes)
            connectors = tuple(
                (clean(each.url.url), each.status == portal_pb2.CONNECTED)
                for each in self._client.connectors(self._instance)[:64]
            )
        if node.is_stock:
            self._rest = POLL_EVERY
            flows = tuple(decode.stock_flow(each, self._owners) for each in self._client.proxy_entries(self._instance))
            return Update(self.clock(), link, told, peers, connectors, flows, is_whole=True)
        answer = self._client.watch_flows(self._instance, cursor=self._cursor, wait=0.0 if link is not None else WATCH_WAIT)
        self._cursor = answer.cursor
        self._rest = GATHER
        return Update(
            self.clock(),
            link,
            told,
            peers,
            connectors,
            tuple(decode.flow(each, node.peer_id) for each in answer.flows),
            answer.is_snapshot,
            tuple(decode.note(each, node.peer_id) for each in answer.updates),
            answer.missed,
            answer.unwatched,
        )

    def _give_up(self, error: PortalError) -> Update:
        self._client.close()
        # Why a connection breaks that served before, its other end alone knows.
        was_there = self._node is not None and not isinstance(error, ConnectError | CallTimeoutError)
        text = f"The node at {self.address} is gone, or ended the connection" if was_there else advice(error, self.address)
        self._node = None
        self.acts = False
        self._rest = BACK_OFF[min(self._failures, len(BACK_OFF) - 1)]
        self._failures += 1
        now = self.clock()
        return Update(now, Link("gone", text, now + self._rest))


def advice(error: PortalError, address: str) -> str:
    """What is wrong, and what to do about it."""
    text = clean(str(error))
    if isinstance(error, ConnectError):
        text = f"{text[:1].upper()}{text[1:]}"
        return f"{text}.  Start one:  easytier-core -c lab.toml   or look elsewhere:  easytier-tui -p IP:PORT"
    if isinstance(error, CallTimeoutError):
        return (
            f"What listens at {address} does not answer.  Is it a node's portal?  easytier-core logs its address when it starts"
        )
    _, is_of_call, reason = text.partition(f"the node at {address}: ")
    if is_of_call:
        text = f"What listens at {address} does not answer as a node does: {reason.partition('; is it a node')[0]}"
    return f"{text}.  Is it a node's portal?  easytier-core logs its address when it starts"
