"""The source side leaves a peer that did not answer alone for a while."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, cast

import pytest

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.testing import make_flow, make_peer
from easytier_hooks.types import IPAddress, PeerCapabilities, PeerInfo
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.stream import KcpConnectError
from easytier_kcp_plugin.proxy.rules import Rules
from easytier_kcp_plugin.proxy.source import ASK_AGAIN, KcpTransport

pytestmark = pytest.mark.anyio

PEER = make_peer(2, "b")
FLOW = make_flow(peer=PEER)


class Host:
    """What both sides ask of a node whose only peer is `PEER`, directly reached."""

    logger = logging.getLogger("test")
    addresses: Sequence[IPAddress] = (IPv4Address("10.144.0.1"),)

    def capabilities_of(self, _peer_id: int) -> PeerCapabilities:
        return PeerCapabilities(kcp_input=True)

    def next_hop_of(self, _peer_id: int) -> PeerInfo:
        return PEER


@dataclass
class Driver:
    """Nobody answers."""

    reason: CloseReason | None
    asked: int = 0
    heard: float = -math.inf

    async def connect(self, *_: object, **__: object) -> None:
        self.asked += 1
        raise KcpConnectError("no", self.reason)

    def heard_at(self, _peer_id: int) -> float:
        return self.heard


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def transport(driver: Driver, clock: Clock) -> KcpTransport:
    host = cast("Any", Host())
    return KcpTransport(Rules(host, enabled=True), cast("Any", driver), clock)


async def test_a_peer_that_did_not_answer_is_left_alone_for_a_while() -> None:
    clock = Clock(1000.0)
    kcp = transport(Driver(CloseReason.NO_ANSWER), clock)
    assert kcp.candidate(FLOW, PEER).available
    with pytest.raises(TransportUnavailable, match="did not answer"):
        await kcp.dial(FLOW)
    clock.now += 3
    candidate = kcp.candidate(FLOW, PEER)
    assert not candidate.available
    assert candidate.reason == "KCP got no answer from b 3 s ago"
    assert kcp.candidate(make_flow(peer=make_peer(3, "c")), make_peer(3, "c")).available
    clock.now += ASK_AGAIN
    assert kcp.candidate(FLOW, PEER).available


@pytest.mark.parametrize("reason", [None, CloseReason.REFUSED])
async def test_other_failures_are_no_reason_to_leave_a_peer_alone(reason: CloseReason | None) -> None:
    kcp = transport(Driver(reason), Clock())
    with pytest.raises(TransportUnavailable):
        await kcp.dial(FLOW)
    assert kcp.candidate(FLOW, PEER).available


async def test_a_flow_that_failed_alone_is_no_reason_to_leave_a_peer_alone() -> None:
    clock = Clock(1000.0)
    kcp = transport(Driver(CloseReason.NO_ANSWER, heard=1001.0), clock)
    with pytest.raises(TransportUnavailable):
        await kcp.dial(FLOW)
    assert kcp.candidate(FLOW, PEER).available
