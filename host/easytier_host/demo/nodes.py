"""Nodes of one network `demo`, all in this process and without a device."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Interface
from typing import Any

import anyio

from easytier_host.config.model import Config, Flags, PortForward
from easytier_host.instance import Node


def config(
    hostname: str,
    host: int,
    *,
    listeners: Sequence[str] = (),
    peers: Sequence[str] = (),
    port_forwards: Sequence[PortForward] = (),
    **flags: Any,
) -> Config:
    """A node 10.144.0.`host` that carries TCP by KCP; `flags` are those of `Flags`."""
    return Config(
        instance_name=hostname,
        hostname=hostname,
        network_name="demo",
        network_secret="demo secret",
        ipv4=IPv4Interface(f"10.144.0.{host}/24"),
        listeners=tuple(listeners),
        peers=tuple(peers),
        port_forwards=tuple(port_forwards),
        flags=Flags(**{"no_tun": True, "disable_p2p": True, "enable_kcp_proxy": True} | flags),
    )


def udp_address(node: Node) -> tuple[str, int]:
    """Where the node listens; its first listener must be UDP on 127.0.0.1."""
    return "127.0.0.1", int(node.listeners[0].rpartition(":")[2])


async def until_known(node: Node, names: Collection[str], timeout: float) -> None:
    """Wait until exactly these other nodes are known to `node`.  Raises TimeoutError after `timeout` seconds."""
    with anyio.fail_after(timeout):
        events = node.events()
        while {record.hostname for record in node.routes()} != set(names):
            await anext(events)
