"""The sides of the node on which TCP stacks work: `easytier_hooks.Link` for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from easytier_hooks.services import FrameHandler
from easytier_hooks.types import FlowKey
from easytier_host.claims import Claims
from easytier_host.nic.base import Nic


class DeviceLink:
    """The TUN: applications of this machine, and hosts that it routes for."""

    def __init__(self, nic: Nic, claims: Claims) -> None:
        self._nic = nic
        self._claims = claims

    @property
    def mtu(self) -> int:
        return self._nic.mtu

    def claim(self, key: FlowKey, handler: FrameHandler) -> Callable[[], None]:
        return self._claims.add(key, handler)

    def write(self, frames: Sequence[bytes]) -> None:
        self._nic.write_frames(frames)
