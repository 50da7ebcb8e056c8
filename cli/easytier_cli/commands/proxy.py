"""`proxy`: the TCP flows, by which transport they go, and why."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence

from easytier_cli import filters, output
from easytier_cli.diagnostics import Exit
from easytier_cli.flows import ENDED, NARROWING, WIDE, arrange, as_object, of_ours, of_stock
from easytier_cli.output import Report
from easytier_host.rpc.client import PortalClient, ProxyLists, ServiceMissingError, portal_pb2

KEYS = ("src", "dst", "start_time", "state", "transport_type")
KEYS_NARROWING = (("start_time", 0), ("transport_type", 9), ("state", 0), ("transport_type", 4))
STOCK_NOTE = "this node is a stock one, which does not tell more of a flow than these columns"


def proxy(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """Stock's five columns; with --wide, or to filter and sort by more than those, also bytes, rates, round trip and reason."""
    asks_for_more = options.wide or options.closed
    if not (asks_for_more or options.filter or options.sort):
        return _narrow(client, instance, options)
    try:
        answer = client.flows(instance)
    except ServiceMissingError:
        return _narrow(client, instance, options, *((STOCK_NOTE,) if asks_for_more else ()))
    pairs = [(of_ours(flow), flow) for flow in answer.flows if options.closed or flow.state not in ENDED]
    kept = arrange(pairs, wanted(options), options.sort, reverse=options.reverse)
    notes = (f"{answer.unwatched} more flows were not watched, for the table was full",) if answer.unwatched else ()
    if options.output == "json" or options.verbose:
        return Report([as_object(flow) for _, flow in kept], notes=notes)
    now = time.time()
    return Report((), WIDE, [row.cells(now) for row, _ in kept], NARROWING, notes=notes)


def wanted(options: Namespace) -> filters.Predicate | None:
    """What `--filter` asks for."""
    return filters.parse(options.filter) if options.filter else None


def _narrow(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace, *notes: str) -> Report:
    listed = client.proxy_lists(instance)
    notes += missing(listed)
    status = Exit.PARTIAL if notes else Exit.OK
    entries = listed.entries
    if options.filter or options.sort or options.reverse:
        pairs = ((of_stock(entry), entry) for entry in entries)
        entries = [entry for _, entry in arrange(pairs, wanted(options), options.sort, reverse=options.reverse)]
    if options.verbose:
        return Report([output.plain(entry) for entry in entries], status=status, notes=notes)
    rows = list(map(stock_cells, entries))
    return Report([dict(zip(KEYS, row, strict=True)) for row in rows], KEYS, rows, KEYS_NARROWING, status=status, notes=notes)


def missing(listed: ProxyLists) -> tuple[str, ...]:
    """What to say of lists that the node refused."""
    return tuple(f"the list {domain} is missing: {why}" for domain, why in listed.failures.items())


def stock_cells(entry: portal_pb2.TcpProxyEntry) -> Sequence[str]:
    """Those of the columns `KEYS`."""
    return (
        output.socket_address(entry.src),
        output.socket_address(entry.dst),
        output.local_time(entry.start_time),
        output.enum_name(entry, "state").removesuffix("State"),
        output.enum_name(entry, "transport_type"),
    )
