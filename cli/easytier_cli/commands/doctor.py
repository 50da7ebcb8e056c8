"""`doctor`: looks at everything a node tells and says what is wrong, each with what to do."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from easytier_cli.commands import network
from easytier_cli.commands.node import faults_of, state_of
from easytier_cli.diagnostics import Exit
from easytier_cli.flows import age
from easytier_cli.output import Report, printable
from easytier_host.rpc.client import PortalClient, RefusedError, ServiceMissingError, portal_own_pb2, portal_pb2

HIGH_LOSS: Final = 0.1
"""Share of pings lost on a connection that is worth a word."""

Instance = portal_pb2.InstanceIdentifier | None


@dataclass(frozen=True, slots=True)
class Finding:
    """`status` is ok, warn or fail; `advice` is empty where nothing is to be done."""

    status: str
    subject: str
    text: str
    advice: str = ""


def doctor(client: PortalClient, instance: Instance, options: Namespace) -> Report:
    """Findings about the node, its machine and its peers; exit status 6 if anything failed."""
    own, nodes = network.ask(client, instance)
    found = [Finding("ok", "portal", f"answers at {client.address}, version {own.version}")]
    if own.ipv4_addr:
        found.append(Finding("ok", "address", own.ipv4_addr))
    else:
        found.append(Finding("warn", "address", "the node has no virtual IPv4 address", "set ipv4 to be reached by others"))
    found += _own(client, instance)
    found += _plugins(client, instance)
    found += _connectors(client, instance)
    if not nodes:
        # A node that nobody told whom to connect to waits for others, and there may be none yet.
        status = "fail" if any(each.subject.startswith("connector") for each in found) else "warn"
        found.append(Finding(status, "peers", "no other node is known", "check peers, network_name and network_secret"))
    names = {each.route.peer_id: each for each in nodes}
    found += [_peer(node, names.get(node.route.next_hop_peer_id)) for node in nodes]
    failed = any(each.status == "fail" for each in found)
    return Report([asdict(each) for each in found], text=_text(found), status=Exit.UNHEALTHY if failed else Exit.OK)


def _text(found: Sequence[Finding]) -> str:
    """One line each, and one more for what to do: sentences do not fit the columns of a table on a small terminal."""
    room = max(len(each.subject) for each in found)
    lines = []
    for each in found:
        lines.append(f"{each.status:4}  {each.subject:{room}}  {each.text}")
        if each.advice:
            lines.append(f"{'':4}  {'':{room}}  -> {each.advice}")
    # A name with a line feed in it is no further finding.
    return "\n".join(map(printable, lines))


def _own(client: PortalClient, instance: Instance) -> Iterator[Finding]:
    try:
        for each in client.diagnose(instance):
            yield Finding(each.status, each.subject, each.text, each.advice)
    except ServiceMissingError:
        yield Finding("ok", "machine", "not looked at: a stock node tells nothing of its device, firewall and rights")
    except RefusedError as error:
        yield Finding("fail", "machine", str(error), "see the node's log")


def _connectors(client: PortalClient, instance: Instance) -> Iterator[Finding]:
    try:
        for each in client.connectors(instance):
            if each.status == portal_pb2.CONNECTED:
                yield Finding("ok", "connector", f"{each.url.url} is connected")
            else:
                yield Finding("fail", "connector", f"{each.url.url} is not connected", "see the node's log for the reason")
    except RefusedError as error:
        yield Finding("fail", "connectors", str(error), "see the node's log")


def _peer(node: network.Node, next_hop: network.Node | None) -> Finding:
    route, conn = node.route, node.connection
    name = f"peer {route.hostname or route.peer_id}"
    version = route.version or "unknown"
    way = f"{'direct' if route.cost == 1 else f'{route.cost} hops'}, version {version}"
    if conn is not None and conn.loss_rate >= HIGH_LOSS:
        return Finding(
            "warn", name, f"{way}, loses {100 * conn.loss_rate:.0f} % of the pings", "the line between you is bad or full"
        )
    if not route.feature_flag.kcp_input:
        return Finding(
            "warn", name, f"{way}, takes no KCP: flows to it stay plain TCP", "it needs 2.2 or newer, without disable_kcp_input"
        )
    if route.cost > 1 and next_hop is not None and next_hop.route.feature_flag.no_relay_kcp:
        relay = next_hop.route.hostname or next_hop.route.peer_id
        return Finding(
            "warn", name, f"{way}, takes KCP, but {relay} on the way does not relay it", f"disable_relay_kcp is set on {relay}"
        )
    return Finding("ok", name, f"{way}, takes KCP")


def _plugins(client: PortalClient, instance: Instance) -> Iterator[Finding]:
    try:
        for each in client.plugins(instance):
            yield _plugin(each)
    except ServiceMissingError:
        yield Finding("ok", "plugins", "a stock node has none")
    except RefusedError as error:
        yield Finding("fail", "plugins", str(error), "see the node's log")


def _plugin(told: portal_own_pb2.PluginInfo) -> Finding:
    subject, text, faults = f"plugin {told.name}", state_of(told), faults_of(told)
    if told.status.startswith("broken"):
        return Finding("fail", subject, text, "see the node's log")
    if faults:
        ago = age(told.last_fault_ago_ms / 1000)
        return Finding(
            "warn",
            subject,
            f"{text}; faults since the start: {faults}; the last {ago} ago: {told.last_fault}",
            "see the node's log",
        )
    return Finding("ok", subject, text)
