"""`proxy --watch`: the flows as they change, until the user has seen enough.

On a terminal the table is drawn anew at each change, at most four times a second.  Into a pipe goes one line for each event;
with `-o json` one object for each change.  A stock node is asked every second instead.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from easytier_cli import output
from easytier_cli.commands.proxy import KEYS, KEYS_NARROWING, STOCK_NOTE, missing, stock_cells, wanted
from easytier_cli.diagnostics import Exit, complain
from easytier_cli.flows import ENDED, NARROWING_LIVE, WIDE, FlowRow, arrange, as_object, of_ours, of_stock
from easytier_host.rpc.client import PortalClient, ServiceMissingError, portal_own_pb2, portal_pb2

LINGER: Final = 5.0
"""Seconds for which a flow that has ended stays in the table; with --closed a minute."""
LINGER_CLOSED: Final = 60.0
STOCK_INTERVAL: Final = 1.0
REDRAW_INTERVAL: Final = 0.25
"""Seconds between two drawings."""
HOME_AND_CLEAR: Final = "\x1b[H\x1b[J"

Instance = portal_pb2.InstanceIdentifier | None
Item = TypeVar("Item")


def watch(client: PortalClient, instance: Instance, options: Namespace) -> Exit:
    """Print until interrupted, or until nobody reads it any more."""
    try:
        answers = client.follow_flows(instance)
        first = next(answers)
    except ServiceMissingError:
        complain(STOCK_NOTE)
        _watch_stock(client, instance, options)
        return Exit.PARTIAL
    keep = wanted(options)
    if options.output == "json":
        _as_json(first, answers, keep)
    elif sys.stdout.isatty():
        _as_table(first, answers, options)
    else:
        _as_lines(first, answers, keep)
    return Exit.OK


class Shown:
    """The flows that are known, ended ones for a while."""

    def __init__(self, linger: float) -> None:
        self._linger = linger
        self.flows: dict[int, portal_own_pb2.FlowInfo] = {}

    def take(self, answer: portal_own_pb2.WatchFlowsResponse, now: float) -> None:
        """Bring up to date; `now` in epoch seconds."""
        if answer.is_snapshot:
            self.flows.clear()
        self.flows.update((flow.id, flow) for flow in answer.flows)
        for flow in list(self.flows.values()):
            if flow.state in ENDED and now - flow.end_time_ms / 1000 > self._linger:
                del self.flows[flow.id]


def _as_table(
    first: portal_own_pb2.WatchFlowsResponse, answers: Iterator[portal_own_pb2.WatchFlowsResponse], options: Namespace
) -> None:
    shown, keep = Shown(LINGER_CLOSED if options.closed else LINGER), wanted(options)
    missed = 0
    for answer in _with(first, answers):
        now = time.time()
        missed += answer.missed
        shown.take(answer, now)
        pairs = ((of_ours(flow), flow) for flow in shown.flows.values())
        kept = [row for row, _ in arrange(pairs, keep, options.sort or "rate", reverse=options.reverse)]
        cells = partial(FlowRow.cells, now=now)
        _draw(
            WIDE,
            kept,
            cells,
            NARROWING_LIVE,
            f"{len(kept)} of {len(shown.flows)} flows",
            f"{missed} updates missed" if missed else "",
        )
        time.sleep(REDRAW_INTERVAL)


def _draw(
    headers: Sequence[str],
    found: Sequence[Item],
    cells: Callable[[Item], Sequence[str]],
    narrowing: output.Narrowing,
    *words: str,
) -> None:
    """The whole screen: as much of the table as it takes, and a last line of `words`."""
    from shutil import get_terminal_size

    size = get_terminal_size()
    # A heading of two lines, the last one, and where the cursor stays.
    room = max(1, size.lines - 4)
    lines = output.table(headers, list(map(cells, found[:room])), size.columns - 1, narrowing)
    hidden = f"{len(found) - room} below" if len(found) > room else ""
    last = ", ".join(filter(None, (words[0], hidden, *words[1:]))) + "; Ctrl-C ends"
    sys.stdout.write(f"{HOME_AND_CLEAR}{lines}\n{output.printable(last[: size.columns - 1])}\n")
    sys.stdout.flush()


def _as_lines(
    first: portal_own_pb2.WatchFlowsResponse,
    answers: Iterator[portal_own_pb2.WatchFlowsResponse],
    keep: Callable[[FlowRow], bool] | None,
) -> None:
    shown = Shown(LINGER)
    for answer in _with(first, answers):
        shown.take(answer, time.time())
        if answer.missed:
            print(f"{answer.missed} updates missed")
        if answer.is_snapshot:
            for row, _ in arrange(((of_ours(flow), flow) for flow in answer.flows), keep, None):
                print(output.printable(f"{row.source} -> {row.destination}  {row.transport or '-'} {row.state}  {row.why}"))
        for update in answer.updates:
            flow = shown.flows.get(update.flow_id)
            if flow is None or (keep is not None and not keep(of_ours(flow))):
                continue
            row = of_ours(flow)
            clock = time.strftime("%H:%M:%S", time.localtime(update.time_ms / 1000))
            text = f"{clock}.{update.time_ms % 1000:03}  {row.source} -> {row.destination}  {update.event}"
            print(output.printable(f"{text}: {update.detail}" if update.detail else text))
        sys.stdout.flush()


def _as_json(
    first: portal_own_pb2.WatchFlowsResponse,
    answers: Iterator[portal_own_pb2.WatchFlowsResponse],
    keep: Callable[[FlowRow], bool] | None,
) -> None:
    for answer in _with(first, answers):
        flows = {flow.id: flow for flow in answer.flows if keep is None or keep(of_ours(flow))}
        if answer.missed:
            _put({"event": "missed", "count": answer.missed})
        told = set()
        for update in answer.updates if not answer.is_snapshot else ():
            if update.flow_id in flows:
                told.add(update.flow_id)
                what = output.plain(update)
                del what["flow_id"]
                _put({**what, "flow": as_object(flows[update.flow_id])})
        event = "snapshot" if answer.is_snapshot else "counters"
        for flow_id, flow in flows.items():
            if flow_id not in told:
                _put({"event": event, "flow": as_object(flow)})
        sys.stdout.flush()


def _watch_stock(client: PortalClient, instance: Instance, options: Namespace) -> None:
    """Ask every second; say what is new, what has changed its state, and what is gone."""
    keep = wanted(options)
    before: Mapping[tuple[str, str, str], FlowRow] = {}
    as_table = options.output != "json" and sys.stdout.isatty()
    failures: Mapping[str, str] = {}
    while True:
        listed = client.proxy_lists(instance)
        if listed.failures != failures:
            failures = listed.failures
            for note in missing(listed):
                complain(note)
        pairs = [(of_stock(entry), entry) for entry in listed.entries]
        if as_table:
            kept = [entry for _, entry in arrange(pairs, keep, options.sort, reverse=options.reverse)]
            _draw(KEYS, kept, stock_cells, KEYS_NARROWING, f"{len(kept)} of {len(pairs)} flows", *missing(listed))
        else:
            rows = {(row.source, row.destination, row.transport): row for row, _ in pairs}
            _tell_changes(before, rows, keep, as_json=options.output == "json")
            before = rows
        time.sleep(STOCK_INTERVAL)


def _tell_changes(
    before: Mapping[tuple[str, str, str], FlowRow],
    rows: Mapping[tuple[str, str, str], FlowRow],
    keep: Callable[[FlowRow], bool] | None,
    *,
    as_json: bool,
) -> None:
    for key in before.keys() | rows.keys():
        row = rows.get(key) or before[key]
        event = row.state if key in rows else "gone"
        if (key in before and key in rows and before[key].state == row.state) or (keep is not None and not keep(row)):
            continue
        if as_json:
            flow = {"src": row.source, "dst": row.destination, "transport": row.transport, "state": row.state}
            _put({"event": event, "flow": flow})
        else:
            print(f"{time.strftime('%H:%M:%S')}  {row.source} -> {row.destination}  {row.transport} {event}")
    sys.stdout.flush()


def _with(
    first: portal_own_pb2.WatchFlowsResponse, rest: Iterator[portal_own_pb2.WatchFlowsResponse]
) -> Iterator[portal_own_pb2.WatchFlowsResponse]:
    yield first
    yield from rest


def _put(data: dict[str, Any]) -> None:
    print(output.harmless(json.dumps(data, ensure_ascii=False)))
