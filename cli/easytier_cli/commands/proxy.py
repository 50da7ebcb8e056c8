"""`proxy`: the TCP flows, by which transport they go, and why."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from ipaddress import IPv4Address

from easytier_cli import output
from easytier_cli.commands import network
from easytier_cli.diagnostics import Exit
from easytier_cli.output import Report
from easytier_host.rpc.client import PortalClient, ServiceMissingError, portal_own_pb2, portal_pb2

KEYS = ("src", "dst", "start_time", "state", "transport_type")
WIDE = ("src", "dst", "peer", "transport", "state", "sent", "received", "rtt", "retr", "age", "why")
ENDED = ("closed", "failed")


def proxy(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """Stock's five columns; with --wide also bytes, RTT and the reason."""
    if options.action == "why":
        return _why(client, instance, options)
    if not (options.wide or options.closed):
        return _narrow(client, instance, options)
    try:
        answer = client.flows(instance)
    except ServiceMissingError:
        report = _narrow(client, instance, options)
        note = "this node is a stock one, which does not tell more of a flow than these columns"
        return Report(report.data, report.headers, report.rows, report.droppable, status=Exit.PARTIAL, notes=(note,))
    flows = [flow for flow in answer.flows if options.closed or flow.state not in ENDED]
    notes = (f"{answer.unwatched} more flows were not watched, for the table was full",) if answer.unwatched else ()
    now = time.time()
    rows = [_wide_row(flow, now) for flow in flows]
    return Report(
        [_wide_object(flow) for flow in flows], WIDE, rows, ("retr", "rtt", "age", "received", "sent"), "why", notes=notes
    )


def _narrow(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    entries = client.proxy_entries(instance)
    if options.verbose:
        return Report([output.plain(entry) for entry in entries])
    rows = [
        (
            output.socket_address(entry.src),
            output.socket_address(entry.dst),
            _local_time(entry.start_time),
            output.enum_name(entry, "state").removesuffix("State"),
            output.enum_name(entry, "transport_type"),
        )
        for entry in entries
    ]
    return Report([dict(zip(KEYS, row, strict=True)) for row in rows], KEYS, rows, KEYS[2:])


def _wide_row(flow: portal_own_pb2.FlowInfo, now: float) -> Sequence[str]:
    return (
        output.socket_address(flow.src),
        output.socket_address(flow.dst),
        flow.peer_hostname or (str(flow.peer_id) if flow.peer_id else "-"),
        flow.transport or "-",
        flow.state,
        output.decimal_bytes(flow.bytes_sent),
        output.decimal_bytes(flow.bytes_received),
        f"{flow.rtt_us / 1000:.1f} ms" if flow.HasField("rtt_us") else "-",
        str(flow.retransmitted) if flow.HasField("retransmitted") else "-",
        age(now - flow.start_time_ms / 1000),
        _reasons(flow),
    )


def _reasons(flow: portal_own_pb2.FlowInfo) -> str:
    """Why it ended, and why it went that way."""
    return "; ".join(filter(None, (flow.end_reason, flow.reason))) or "-"


def _wide_object(flow: portal_own_pb2.FlowInfo) -> dict[str, object]:
    data = output.plain(flow)
    data["src"], data["dst"] = output.socket_address(flow.src), output.socket_address(flow.dst)
    return data


def _why(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """What the node knows of one destination: the peer that has it, whether that takes KCP, and the flows there."""
    host, _, port = options.destination.partition(":")
    address = IPv4Address(host)
    _, nodes = network.ask(client, instance)
    owner = network.owner_of(address, nodes)
    lines = [f"{options.destination}: no node has this address"]
    if owner is not None:
        flag = owner.route.feature_flag
        by = "direct" if owner.route.cost == 1 else f"{owner.route.cost} hops"
        lines = [
            f"{options.destination}: peer {owner.route.hostname or owner.route.peer_id} ({owner.address or 'no address'}, {by})"
        ]
        lines.append(
            "  kcp   the peer accepts it"
            if flag.kcp_input
            else f"  kcp   the peer does not accept it (version {owner.route.version or 'unknown'})"
        )
    try:
        answer = client.flows(instance)
    except ServiceMissingError:
        return Report({"destination": options.destination, "lines": lines}, text="\n".join(lines), status=Exit.PARTIAL)
    wanted = [
        flow for flow in answer.flows if output.ipv4(flow.dst.ipv4) == address and (not port or flow.dst.port == int(port))
    ]
    lines += [
        f"  {flow.transport or '-'}   {output.socket_address(flow.src)}: {flow.state}, {_reasons(flow)}" for flow in wanted
    ]
    if not wanted:
        lines.append("  no flow there")
    data = {
        "destination": options.destination,
        "peer": None if owner is None else owner.route.hostname,
        "kcp_input": None if owner is None else owner.route.feature_flag.kcp_input,
        "flows": [_wide_object(flow) for flow in wanted],
    }
    return Report(data, text="\n".join(lines))


def age(seconds: float) -> str:
    """`14s`, `2m11s`, `3h05m`, `2d04h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def _local_time(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)
