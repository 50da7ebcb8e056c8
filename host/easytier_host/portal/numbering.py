"""Which numbering of PeerManageRpc a caller uses: 2.6.2 moved the methods without a sign, so its calls have to tell.  Sans-IO.

These are the calls that stock's commands make over one connection, all of them with the same empty or instance-naming request::

    command                      2.2 to 2.6.1        2.6.2 and later
    peer, route                  1 2 6  or  6 1 2    7 1 3
    node                         6                   7
    route dump                   3                   4
    peer ipv6                    -                   7 3 2
    peer list-foreign            4                   5
    peer list-global-foreign     5                   6

The first call of 2, 3, 6, 7 or 8 decides for the connection.  Where both could make it, the command that people use more wins:
`node` of 2.6.1 over `peer list-global-foreign` of 2.6.2, which then fails; and `route` of 2.6.2 over `route dump` and
`peer list-foreign` of 2.6.0 and 2.6.1, which do.
"""

from __future__ import annotations

from typing import Final

_OLD_ONLY: Final = frozenset({2, 6})
_NEW_ONLY: Final = frozenset({7, 8})
"""First calls that only commands of that generation make, as far as anybody uses them."""


class Numbering:
    """What the calls on one connection have told so far."""

    __slots__ = ("_decided", "_listed_peers", "names_instances")

    def __init__(self) -> None:
        self.names_instances = False
        """The caller knows of instances, as all of 2.6 and some of 2.5 do; without better signs it is taken for a new one."""
        self._decided: bool | None = None
        self._listed_peers = False

    def is_new(self, method: int) -> bool:
        """Whether this next call, of `method`, is meant as 2.6.2 numbers it."""
        if self._decided is None:
            if method in _OLD_ONLY or method in _NEW_ONLY:
                self._decided = method in _NEW_ONLY
            elif method == 3:
                # Programs of others list peers and routes without naming an instance; no old one goes on from 1 to 3.
                self._decided = self.names_instances or self._listed_peers
        self._listed_peers = self._listed_peers or method == 1
        return self.names_instances if self._decided is None else self._decided
