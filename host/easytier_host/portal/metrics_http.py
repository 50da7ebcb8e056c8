"""The metrics listener: counters of all nodes of the process for a scraper such as Prometheus, by `GET /metrics`.

It listens where `metrics_listener` says, lets in whom `rpc_portal_whitelist` holds, and answers one request on each connection.
Caps: 8 connections, the next ones are reset at once; 8 KiB of request; 5 s for the whole exchange.  HTTP is h11's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import anyio
import h11

from easytier_hooks.services import Endpoint
from easytier_hooks.streams import SocketStream
from easytier_host.pb import portal_pb2
from easytier_host.portal import views
from easytier_host.portal.door import Door

if TYPE_CHECKING:
    from easytier_host.instance import Node

logger = logging.getLogger("easytier.metrics")

# Fixed by the exposition format of Prometheus.
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

# Ours.
MAX_CONNECTIONS: Final = 8
MAX_REQUEST_BYTES: Final = 8192
EXCHANGE_TIMEOUT: Final = 5.0
READ_SIZE: Final = 4096


class MetricsListener:
    """Serves the counters of `nodes`, a list that its owner keeps current, to whom `door` lets in; `run` it."""

    def __init__(self, door: Door, nodes: Sequence[Node]) -> None:
        self._door = door
        self._nodes = nodes

    async def run(self) -> None:
        """Serve for ever; to be cancelled."""
        await self._door.run(self._serve)

    async def _serve(self, stream: SocketStream, _caller: Endpoint, _here: Endpoint) -> None:
        with anyio.move_on_after(EXCHANGE_TIMEOUT):
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
            is_head = False
            try:
                request = await _read_request(stream, connection)
                is_head = request.method == b"HEAD"
                status, text = self._answer(request)
            except h11.RemoteProtocolError as error:
                status, text = error.error_status_hint, f"{error}\n"
            await stream.send(_encode(connection, status, text.encode(errors="replace"), is_head=is_head))

    def _answer(self, request: h11.Request) -> tuple[int, str]:
        if request.method not in (b"GET", b"HEAD"):
            return 405, "only GET\n"
        if request.target.partition(b"?")[0] != b"/metrics":
            return 404, "the counters are at /metrics\n"
        return 200, views.prometheus(self._snapshots())

    def _snapshots(self) -> Iterator[portal_pb2.MetricSnapshot]:
        for node in self._nodes:
            for snapshot in (*views.metric_snapshots(node), *views.gauges(node)):
                # Two nodes of a process may be in networks of one name.
                snapshot.labels["instance_name"] = views.clean(node.config.instance_name)
                yield snapshot


async def _read_request(stream: SocketStream, connection: h11.Connection) -> h11.Request:
    """The request without its body; raises `h11.RemoteProtocolError` if there is none, or EndOfStream."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            raise h11.RemoteProtocolError("no request")
        connection.receive_data(await stream.receive(READ_SIZE))


def _encode(connection: h11.Connection, status: int, body: bytes, *, is_head: bool) -> bytes:
    """A whole response, after which the connection ends; to HEAD without the body."""
    headers = [
        (b"Content-Type", CONTENT_TYPE),
        (b"Content-Length", str(len(body)).encode()),
        (b"Connection", b"close"),
    ]
    events = (h11.Response(status_code=status, headers=headers), h11.Data(data=b"" if is_head else body), h11.EndOfMessage())
    return b"".join(filter(None, map(connection.send, events)))
