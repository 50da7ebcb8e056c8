"""The overlay as a side of the node on which TCP stacks work: `easytier_hooks.Link` for peers and the hosts behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from easytier_hooks.services import FrameHandler
from easytier_hooks.types import FlowKey
from easytier_host.batch import Batch
from easytier_host.claims import Claims
from easytier_host.datapath import Outbound
from easytier_host.metrics import Metrics
from easytier_host.packet import Flag

_NO_PROXY: Final = int(Flag.NO_PROXY)


class OverlayLink:
    """Device frames are made of what peers send, and packets for them of what stacks write; `mtu` is the overlay's, in bytes.

    What is written carries NO_PROXY, so that no peer takes an answer for something to proxy.
    """

    def __init__(self, outbound: Outbound, claims: Claims, metrics: Metrics, mtu: int, batch: Batch) -> None:
        self._outbound = outbound
        self._claims = claims
        self._metrics = metrics
        self._mtu = mtu
        self._batch = batch

    @property
    def mtu(self) -> int:
        return self._mtu

    def claim(self, key: FlowKey, handler: FrameHandler) -> Callable[[], None]:
        return self._claims.add(key, handler)

    def write(self, frames: Sequence[bytes]) -> None:
        self._outbound.send_device_frames(frames, _NO_PROXY)

    def take(self, packets: Sequence[bytes]) -> list[bytes]:
        """Give TCP packets of claimed flows to their stacks, segments joined where possible; returns the device frames of the
        others."""
        return self._claims.take(self._batch.coalesce(packets, _Everything()))

    def apart(self, frame: bytes) -> list[bytes]:
        """The packets of a device frame that `take` has returned."""
        try:
            return self._batch.split(frame, self._mtu)
        except ValueError:
            # Joined from segments with wrong checksums.
            self._metrics.dropped_subnet += 1
            return []


class _Everything:
    """The addresses at which stacks end connections, for `coalesce`: any.  A stack verifies the checksum of what is joined."""

    def __contains__(self, address: object) -> bool:
        return True
