"""`proxy why`: what a new flow to a destination would get now, and by whose word."""

from __future__ import annotations

from argparse import Namespace
from ipaddress import IPv4Address, IPv6Address

from easytier_cli import output
from easytier_cli.commands import network
from easytier_cli.diagnostics import Exit
from easytier_cli.flows import arrange, as_object, of_ours
from easytier_cli.output import Report
from easytier_host.rpc.client import PortalClient, ServiceMissingError, common_pb2, portal_own_pb2, portal_pb2

HERE = "the destination is this node"
"""What the node says of its own addresses."""


def why(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """The peer that has the destination, each transport with its reason, the choice, and the flows that are there."""
    named, port = options.destination
    if isinstance(named, str):
        found = network.address_of(named, *network.ask(client, instance))
        if found is None:
            line = f"no node is called {named}, or it has no address; easytier-cli peer lists them"
            return Report({"destination": named, "peer": None}, text=line, status=Exit.REFUSED)
        address: IPv4Address | IPv6Address = found[1]
    else:
        address = named
    target, source = network.socket_address(address, port), options.source
    try:
        told = client.explain(target, instance, source=source and network.socket_address(source, 0))
        flows = client.flows(instance).flows
    except ServiceMissingError:
        return _by_routes(client, instance, target, address)
    ends = (output.socket_address(target),) if target.port else ()
    host = output.socket_address(target).rpartition(":")[0]
    kept = arrange(
        ((of_ours(flow), flow) for flow in flows),
        lambda row: row.destination in ends if ends else row.destination.rpartition(":")[0] == host,
        None,
    )
    lines = [f"{_name(target)}{f' from {source}' if source else ''}: {_where(told)}"]
    for each in told.candidates:
        chosen = each.transport == told.transport
        mark = f"chosen by {_judge(told.chosen_by)}: {told.reason}" if chosen else ("possible: " if each.available else "no: ")
        lines.append(f"  {each.transport:5} {mark if chosen else mark + each.reason}")
    if not told.candidates:
        lines.append(f"  {told.transport:5} {told.reason}")
    lines += [f"  flow  {row.source}: {row.transport or '-'}, {row.state}, {row.why or '-'}" for row, _ in kept]
    if told.candidates and told.own_networks and not source:
        lines.append(f"  a host in {' or '.join(told.own_networks)} may get something else: --from ADDRESS")
    data = {
        "source": str(source or ""),
        "destination": output.socket_address(target),
        **{key: value for key, value in output.plain(told).items() if key != "candidates"},
        "candidates": [output.plain(each) for each in told.candidates],
        "flows": [as_object(flow) for _, flow in kept],
    }
    known = told.peer_id or told.reason.startswith(HERE)
    return Report(data, text="\n".join(map(output.printable, lines)), status=Exit.OK if known else Exit.REFUSED)


def _where(told: portal_own_pb2.ExplainResponse) -> str:
    if not told.peer_id and told.reason.startswith(HERE):
        return "this node itself"
    if not told.peer_id:
        return "no node has this address; easytier-cli route lists what each of them has"
    way = "direct" if told.hops <= 1 else f"{told.hops} hops, the next one {told.next_hop_hostname}"
    behind = f", announces {told.via_network}" if told.via_network else ""
    return f"peer {told.peer_hostname or told.peer_id} ({way}, version {told.peer_version or 'unknown'}{behind})"


def _judge(chosen_by: str) -> str:
    return "default" if chosen_by == "default" else f"plugin {chosen_by}"


def _name(target: common_pb2.SocketAddr) -> str:
    text = output.socket_address(target)
    return text if target.port else text.rpartition(":")[0]


def _by_routes(
    client: PortalClient,
    instance: portal_pb2.InstanceIdentifier | None,
    target: common_pb2.SocketAddr,
    address: IPv4Address | IPv6Address,
) -> Report:
    """What a stock node's routes tell."""
    note = "this node is a stock one, which does not say how it chooses"
    _, nodes = network.ask(client, instance)
    owner = network.owner_of(address, nodes) if isinstance(address, IPv4Address) else None
    if owner is None:
        line = f"{_name(target)}: no node has this address"
        return Report({"destination": _name(target), "peer": None}, text=line, status=Exit.PARTIAL, notes=(note,))
    route = owner.route
    takes = "the peer accepts it" if route.feature_flag.kcp_input else "no: the peer does not accept it"
    way = "direct" if route.cost == 1 else f"{route.cost} hops"
    lines = [
        f"{_name(target)}: peer {route.hostname or route.peer_id} ({way}, version {route.version or 'unknown'})",
        f"  kcp   {takes}",
    ]
    data = {
        "destination": output.socket_address(target),
        "peer_hostname": route.hostname,
        "kcp_input": route.feature_flag.kcp_input,
    }
    return Report(data, text="\n".join(map(output.printable, lines)), status=Exit.PARTIAL, notes=(note,))
