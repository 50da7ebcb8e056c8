"""What the portal's server and its services tell each other about one connection."""

from __future__ import annotations

from dataclasses import dataclass, field

from easytier_host.portal.numbering import Numbering


class PortalRefusal(Exception):
    """A request is understood and refused; the text goes to the caller."""


@dataclass(slots=True)
class Session:
    """What is known of one connection."""

    is_local: bool = False
    """The caller is a program of this machine: it comes from a loopback address."""
    numbering: Numbering = field(default_factory=Numbering)
    """How the caller numbers the methods of PeerManageRpc."""
