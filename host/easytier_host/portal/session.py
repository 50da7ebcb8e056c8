"""What the portal's server and its services tell each other about one connection."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import anyio.to_thread

from easytier_hooks.services import Endpoint
from easytier_host.portal import caller
from easytier_host.portal.numbering import Numbering


class PortalRefusal(Exception):
    """A request is understood and refused; the text goes to the caller."""


@dataclass(slots=True)
class Session:
    """What is known of one connection."""

    ends: tuple[Endpoint, Endpoint] | None = None
    """Where the caller comes from, and where it came to."""
    numbering: Numbering = field(default_factory=Numbering)
    """How the caller numbers the methods of PeerManageRpc."""
    _may_change: bool | None = None

    async def may_change(self) -> bool:
        """Whether the caller may change anything: it is a program of this machine, of root or of the user who runs the node."""
        if self._may_change is None:
            user = None
            if self.ends is not None and self.ends[0][0].is_loopback:
                user = await anyio.to_thread.run_sync(caller.user_of, *self.ends)
            self._may_change = user in (0, os.geteuid())
        return self._may_change
