"""The hooks: what a plugin may implement. Full text, with an example of each: docs/plugins.md.

A plugin marks its functions with `hookimpl` and names them as below. It may leave out arguments that it does not need. Hooks
are synchronous and run per flow and per peer, never per packet. The first three run on the plugin's own thread, in order; those
for registering run once at the start of the node, on its event loop thread.
"""

from collections.abc import Iterable, Sequence

import pluggy

from easytier_hooks.services import HostServices, TcpStack, Transport
from easytier_hooks.types import Candidate, Capability, FlowEvent, PeerCapabilities, PeerInfo, Selection, TcpFlow

PROJECT = "easytier"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def on_tcp_flow(flow: TcpFlow, event: FlowEvent) -> None:
    """Something happened in the life of a TCP flow. `flow` is its state after `event`.

    Seen comes first, exactly one of Closed and Failed comes last. Never per packet; Counters come at intervals.
    """


@hookspec
def on_peer_capabilities(peer: PeerInfo, capabilities: PeerCapabilities) -> None:
    """What a peer can do became known or changed. A plugin that starts late is told the present state of every peer."""


@hookspec(firstresult=True)
def select_transport(flow: TcpFlow, peer: PeerInfo | None, candidates: Sequence[Candidate]) -> Selection | str | None:
    """Which transport shall a new outbound flow take? Asked once for each flow, while its TCP SYN is held back.

    Answer with a `Selection`, the bare name of an available candidate, or None to leave it to others. The first answer wins.
    """
    return None


@hookspec
def register_transports(host: HostServices) -> Sequence[Transport]:
    """Bring transports along. Called once, at the start."""
    return ()


@hookspec
def register_tcp_stacks(host: HostServices) -> Sequence[TcpStack]:
    """Bring TCP stacks along. Called once, at the start. Provisional, as `TcpStack` is."""
    return ()


@hookspec
def advertise_capabilities() -> Iterable[Capability]:
    """What our own node shall announce to its peers. Called once, at the start; the configuration may take some away."""
    return ()
