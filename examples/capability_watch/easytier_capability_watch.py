"""Logs what each peer can do: everything at first, then what changed."""

import logging
from collections.abc import Mapping
from dataclasses import asdict

from easytier_hooks import PeerCapabilities, PeerInfo, hookimpl

logger = logging.getLogger(__name__)


class CapabilityWatch:
    """The plugin. It takes no options."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self._seen: dict[int, dict[str, object]] = {}

    @hookimpl
    def on_peer_capabilities(self, peer: PeerInfo, capabilities: PeerCapabilities) -> None:
        """Log the difference to what was known of the peer."""
        before, after = self._seen.get(peer.peer_id, {}), asdict(capabilities)
        self._seen[peer.peer_id] = after
        changes = ", ".join(f"{name}={value}" for name, value in after.items() if before.get(name) != value)
        logger.info("peer %d (%s): %s", peer.peer_id, peer.hostname, changes or "nothing new")
