"""What plugins of the EasyTier node are written against. It does not know the host.

For authors of plugins (docs/plugins.md):
    specs.py      the hooks, and the marker `hookimpl`
    types.py      flows, peers, events: what hooks are told and what they answer
    services.py   what a transport or a TCP stack may ask of the node, and what the node expects of it
    streams.py    the byte streams that they hand to each other
    errors.py     what a transport may raise
    logs.py       a logger for what others can cause at any rate
    testing.py    sample values for a plugin's own tests

For hosts:
    manager.py    `PluginManager`: load, notify, ask           loading.py   what is installed, wanted, and fits
    worker.py     the thread of one plugin, its bounded queue    guard.py     calls that cannot do harm, counted and logged
    selection.py  which answers count, and what goes without     trace.py    values in a few words
"""

from easytier_hooks.errors import (
    DestinationUnreachable,
    DialRefused,
    HooksError,
    PluginConfigError,
    PluginLoadError,
    TransportUnavailable,
)
from easytier_hooks.guard import PluginCounters
from easytier_hooks.loading import PluginInfo, PluginState, check_options
from easytier_hooks.manager import PluginHealth, PluginManager
from easytier_hooks.services import Endpoint, FrameHandler, HostServices, Link, PacketHandler, TcpStack, Transport
from easytier_hooks.specs import hookimpl, hookspec
from easytier_hooks.streams import SocketStream, TcpConnection
from easytier_hooks.types import (
    TCP,
    Candidate,
    Capability,
    Closed,
    Connected,
    Connecting,
    Counters,
    Direction,
    Failed,
    FlowEvent,
    FlowKey,
    HalfClosed,
    IPAddress,
    IPNetwork,
    Measures,
    PathFigures,
    PeerCapabilities,
    PeerInfo,
    Seen,
    Selection,
    TcpFlow,
    TransportSelected,
)

__all__ = [
    "TCP",
    "Candidate",
    "Capability",
    "Closed",
    "Connected",
    "Connecting",
    "Counters",
    "DestinationUnreachable",
    "DialRefused",
    "Direction",
    "Endpoint",
    "Failed",
    "FlowEvent",
    "FlowKey",
    "FrameHandler",
    "HalfClosed",
    "HooksError",
    "HostServices",
    "IPAddress",
    "IPNetwork",
    "Link",
    "Measures",
    "PacketHandler",
    "PathFigures",
    "PeerCapabilities",
    "PeerInfo",
    "PluginConfigError",
    "PluginCounters",
    "PluginHealth",
    "PluginInfo",
    "PluginLoadError",
    "PluginManager",
    "PluginState",
    "Seen",
    "Selection",
    "SocketStream",
    "TcpConnection",
    "TcpFlow",
    "TcpStack",
    "Transport",
    "TransportSelected",
    "TransportUnavailable",
    "check_options",
    "hookimpl",
    "hookspec",
]
