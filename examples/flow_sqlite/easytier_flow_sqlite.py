"""Writes each TCP flow that has ended into an SQLite file, with its transport, its bytes and why it ended.

    [plugins]
    flow_sqlite = { path = "/var/lib/easytier/flows.db", keep = 100000 }

    sqlite3 flows.db "SELECT destination, transport, sum(received) FROM flows GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 10"

Hooks of a plugin run on one thread of its own, so this may wait for the disk: no flow does.
"""

import sqlite3
import time
from collections import OrderedDict
from collections.abc import Mapping

from easytier_hooks import Closed, Counters, Failed, FlowEvent, TcpFlow, check_options, hookimpl

SCHEMA = """
CREATE TABLE IF NOT EXISTS flows (
    started REAL, ended REAL, source TEXT, destination TEXT, direction TEXT, peer TEXT, transport TEXT, reason TEXT,
    failed INTEGER, end_reason TEXT, sent INTEGER, received INTEGER
)
"""
MAX_LIVING = 20_000
"""Flows whose bytes are remembered, more than a node watches; the oldest goes, since the end of one may have been missed."""


class FlowSqlite:
    """The plugin. Options: `path` of the file, and `keep`, how many rows it holds. Raises ValueError for anything else."""

    def __init__(self, options: Mapping[str, object]) -> None:
        check_options(options, "path", "keep")
        path, keep = options.get("path"), options.get("keep", 100_000)
        if not isinstance(path, str) or not path:
            raise ValueError("path: expected the name of a file")
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep: expected a number of rows, not {keep!r}")
        self._path, self._keep = path, keep
        self._database: sqlite3.Connection | None = None
        self._bytes: OrderedDict[int, tuple[int, int]] = OrderedDict()

    @hookimpl
    def on_tcp_flow(self, flow: TcpFlow, event: FlowEvent) -> None:
        """Remember the counters of a flow that lives, write one that has ended."""
        match event:
            case Counters(bytes_sent=sent, bytes_received=received):
                self._bytes[flow.id] = sent, received
                if len(self._bytes) > MAX_LIVING:
                    self._bytes.popitem(last=False)
            case Closed(reason) | Failed(reason):
                self._write(flow, isinstance(event, Failed), reason)

    def _write(self, flow: TcpFlow, failed: bool, end_reason: str) -> None:
        if self._database is None:
            # Here and not in __init__: SQLite wants a connection to stay on the thread that opened it.
            self._database = sqlite3.connect(self._path, timeout=5.0)
            self._database.execute(SCHEMA)
        key, peer = flow.key, "" if flow.peer is None else flow.peer.hostname
        ends = f"{key.source_ip}:{key.source_port}", f"{key.destination_ip}:{key.destination_port}"
        row = (flow.started_at, time.time(), *ends, flow.direction, peer, flow.transport, flow.reason, failed, end_reason)
        with self._database:
            done = self._database.execute(
                f"INSERT INTO flows VALUES ({','.join('?' * 12)})", (*row, *self._bytes.pop(flow.id, (0, 0)))
            )
            self._database.execute("DELETE FROM flows WHERE rowid <= ?", ((done.lastrowid or 0) - self._keep,))
