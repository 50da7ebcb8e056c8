"""How a SOCKS server gets out: into the overlay, or by the kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from easytier_hooks.types import IPAddress
from easytier_host.datagrams import OpenPort
from easytier_host.gate import FlowGate


@dataclass(frozen=True, slots=True)
class Ways:
    """What one node has.

    `in_overlay` says whether an address belongs to the overlay, reachable or not; `overlay_port` and `direct_port` open ports
    for IPv4 datagrams, the one towards the overlay, the other by the kernel.
    """

    gate: FlowGate
    in_overlay: Callable[[IPAddress], bool]
    overlay_port: OpenPort
    direct_port: OpenPort


def may_leave(client: IPAddress, destination: IPAddress) -> bool:
    """Whether a client may be led to an address outside of the overlay.

    What only this machine and its links can reach is for clients of this machine: else whoever may use the server could visit
    services that listen on loopback because nobody else should.
    """
    if destination.is_unspecified or destination.is_multicast:
        return False
    return client.is_loopback or not (destination.is_loopback or destination.is_link_local)
