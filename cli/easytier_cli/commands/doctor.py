"""`doctor`: looks at everything a node tells and says what is wrong, each with what to do."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from easytier_cli.commands import network
from easytier_cli.diagnostics import Exit
from easytier_cli.output import Report
from easytier_host.rpc.client import PortalClient, RefusedError, portal_pb2

HIGH_LOSS: Final = 0.1
"""Share of pings lost on a connection that is worth a word."""


def doctor(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """Findings `ok`, `warn` and `fail`; exit status 6 if anything failed."""
    own, nodes = network.ask(client, instance)
    found: list[tuple[str, str, str]] = [("ok", "portal", f"answers at {client.address}, version {own.version}")]
    if own.ipv4_addr:
        found.append(("ok", "address", own.ipv4_addr))
    else:
        found.append(("warn", "address", "the node has no virtual IPv4 address: set ipv4 to be reached by others"))
    found += _connectors(client, instance)
    if not nodes:
        found.append(("fail", "peers", "no other node is known: check peers, network_name and network_secret"))
    for node in nodes:
        found.append(_peer(node))
    found += _plugins(client, instance)
    data = [{"status": status, "subject": subject, "text": text} for status, subject, text in found]
    failed = any(status == "fail" for status, _, _ in found)
    return Report(
        data, ("status", "subject", "finding"), found, cuttable="finding", status=Exit.UNHEALTHY if failed else Exit.OK
    )


def _connectors(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None) -> list[tuple[str, str, str]]:
    return [
        ("ok", "connector", f"{each.url.url} is connected")
        if each.status == portal_pb2.CONNECTED
        else ("fail", "connector", f"{each.url.url} is not connected: see the node's log for the reason")
        for each in client.connectors(instance)
    ]


def _peer(node: network.Node) -> tuple[str, str, str]:
    route = node.route
    name = f"peer {route.hostname or route.peer_id}"
    way = "direct" if route.cost == 1 else f"{route.cost} hops"
    conn = node.connection
    if conn is not None and conn.loss_rate >= HIGH_LOSS:
        return "warn", name, f"{way}, loses {100 * conn.loss_rate:.0f} % of the pings: the line between you is bad or full"
    if not route.feature_flag.kcp_input:
        return "warn", name, f"{way}, takes no KCP (version {route.version or 'unknown'}): flows to it stay plain TCP"
    return "ok", name, f"{way}, takes KCP"


def _plugins(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None) -> list[tuple[str, str, str]]:
    try:
        found = client.plugins(instance)
    except RefusedError:
        return [("ok", "plugins", "this node is a stock one, which has none")]
    return [("fail" if each.status.startswith("broken") else "ok", f"plugin {each.name}", each.status) for each in found]
