"""The host: one node of an EasyTier network, for programs and for plugins.

::

    main.py -> config/ -> instance.py (Node) wires:
        nic/ <-> gate.py <-> datapath.py <-> tunnel/          the way of a packet; gate.py is where plugins see flows
        admission.py, connector.py -> peers.py                from a tunnel to a neighbour
        rpc/ <- route_sync.py (route.py), peer_center.py, direct.py -> topology.py (next_hop.py, lookup.py)

docs/host.md has the pictures.  `Node`, `Config` and `Flags` are what an embedding program needs; they load the rest when first
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easytier_host.config.model import Config, Flags
    from easytier_host.instance import Node, NodeError

__all__ = ["Config", "Flags", "Node", "NodeError"]

_HOMES = {"Config": "config.model", "Flags": "config.model", "Node": "instance", "NodeError": "instance"}


def __getattr__(name: str) -> object:
    # Late, so that a command that only checks a configuration does not load the whole node.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
