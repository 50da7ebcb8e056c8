"""`node`, `connector`, `stats` and `plugins`: what one node says of itself."""

from __future__ import annotations

import math
from argparse import Namespace

from easytier_cli import output
from easytier_cli.output import Report
from easytier_host.rpc.client import PortalClient, portal_own_pb2, portal_pb2


def node(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """Its addresses and listeners; `node config`: its configuration."""
    info = client.node_info(instance)
    if options.action == "config":
        return Report({"config": info.config}, text=info.config)
    pairs = [
        ("Virtual IP", info.ipv4_addr),
        ("Hostname", info.hostname),
        ("Proxy CIDRs", ", ".join(info.proxy_cidrs)),
        ("Peer ID", str(info.peer_id)),
        *((f"Public {'IPv6' if ':' in address else 'IPv4'}", address) for address in info.stun_info.public_ip),
        ("UDP Stun Type", output.enum_name(info.stun_info, "udp_nat_type")),
        *(("Interface IPv4", str(output.ipv4(address))) for address in info.ip_list.interface_ipv4s),
        *(("Interface IPv6", str(output.ipv6(address))) for address in info.ip_list.interface_ipv6s),
    ]
    listeners = [url for url in info.listeners if not url.startswith("ring:")]
    pairs += [(f"Listener {number}", url) for number, url in enumerate(listeners, 1)]
    return Report(output.plain(info), pairs[0], pairs[1:])


def connector(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """The peers that the configuration names.  Stock prints a dump of its memory here; this is a table."""
    found = client.connectors(instance)
    rows = [(each.url.url, output.enum_name(each, "status").lower()) for each in found]
    return Report([output.plain(each) for each in found], ("url", "status"), rows)


def stats(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """Counters; `stats prometheus`: as a scraper wants them."""
    if options.action == "prometheus":
        text = client.prometheus(instance)
        return Report({"prometheus_text": text}, text=text)
    metrics = client.stats(instance)
    rows = [
        (
            metric.name,
            _metric_value(metric.name, metric.value),
            ", ".join(f"{key}={metric.labels[key]}" for key in sorted(metric.labels)) or "-",
        )
        for metric in metrics
    ]
    narrowing = (("Labels", 24), ("Labels", 0))
    return Report([output.plain(metric) for metric in metrics], ("Metric Name", "Value", "Labels"), rows, narrowing)


def plugins(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Report:
    """The plugins that the node knows; nodes of stock have none."""
    found = client.plugins(instance)
    rows = [(each.name, each.version, state_of(each), faults_of(each) or "-", ", ".join(each.hooks) or "-") for each in found]
    narrowing = (("hooks", 24), ("version", 0), ("hooks", 0))
    return Report([output.plain(each) for each in found], ("plugin", "version", "state", "faults", "hooks"), rows, narrowing)


def state_of(plugin: portal_own_pb2.PluginInfo) -> str:
    """`loaded`, or `loaded, rests 12 s`: not asked for a transport meanwhile."""
    return f"{plugin.status}, rests {math.ceil(plugin.rests_ms / 1000)} s" if plugin.rests_ms else plugin.status


def faults_of(plugin: portal_own_pb2.PluginInfo) -> str:
    """`2 raised, 5 too slow`: what it has done wrong since the start; "" if nothing."""
    kinds = (
        (plugin.raised, "raised"),
        (plugin.nonsense, "unusable"),
        (plugin.dropped, "dropped"),
        (plugin.missed, "too slow"),
    )
    return ", ".join(f"{number} {word}" for number, word in kinds if number)


def _metric_value(name: str, value: int) -> str:
    if "bytes" in name:
        return output.binary_bytes(value)
    return f"{value} ms" if name.endswith("_ms") else str(value)
