"""What the endpoint may ask of whatever is below the overlay.  No implementation: the host's services are one."""

from __future__ import annotations

from typing import Protocol


class Underlay(Protocol):
    """The ways to peers."""

    def largest_payload(self, peer_id: int) -> int:
        """Bytes of the largest payload to a peer that leaves here in one underlay packet; 0 while that cannot be said."""
        ...

    def allow_fragments(self, peer_id: int) -> None:
        """Large payloads to the peer vanish: have the network cut them, for a minute."""
        ...

    def is_stream(self, peer_id: int) -> bool:
        """Whether the way to a peer is one TCP connection: in order, and all that follows a loss late."""
        ...
