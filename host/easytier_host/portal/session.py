"""What the portal's server and its services tell each other about one connection."""

from __future__ import annotations

from dataclasses import dataclass


class PortalRefusal(Exception):
    """A request is understood and refused; the text goes to the caller."""


@dataclass(slots=True)
class Session:
    """What is known of one connection."""

    is_local: bool = False
    """The caller is a program of this machine: it comes from a loopback address."""
    is_new: bool = False
    """The caller numbers the methods of PeerManageRpc as 2.6.2 does."""
