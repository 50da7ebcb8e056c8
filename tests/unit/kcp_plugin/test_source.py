"""The capture side leaves a peer that did not answer alone for a while; the dial side dials nothing that the host refuses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, cast

import anyio
import pytest

from easytier_hooks.errors import DialRefused, TransportUnavailable
from easytier_hooks.testing import make_flow, make_peer
from easytier_hooks.types import IPAddress, PeerCapabilities, PeerInfo
from easytier_kcp_plugin.kcp.conn_data import ConnData, SocketAddress
from easytier_kcp_plugin.kcp.events import CloseReason
from easytier_kcp_plugin.kcp.stream import KcpConnectError
from easytier_kcp_plugin.proxy.destination import KcpDestination
from easytier_kcp_plugin.proxy.relay import RelayError
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

    def dial_target(self, ip: IPAddress, _port: int) -> tuple[IPAddress, int]:
        raise DialRefused(f"{ip} is not ours")


@dataclass
class Driver:
    """Nobody answers."""

    reason: CloseReason | None
    asked: int = 0

    async def connect(self, *_: object, **__: object) -> None:
        self.asked += 1
        raise KcpConnectError("no", self.reason)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def transport(driver: Driver, clock: Clock) -> KcpTransport:
    host = cast("Any", Host())
    rules = Rules(host, enabled=True, carries_subnets=False)
    return KcpTransport(host, rules, cast("Any", driver), cast("Any", object()), "", clock)


async def test_a_peer_that_did_not_answer_is_left_alone_for_a_while() -> None:
    clock = Clock(1000.0)
    kcp = transport(Driver(CloseReason.NO_ANSWER), clock)
    assert kcp.candidate(FLOW, PEER).available
    with pytest.raises(TransportUnavailable, match="did not answer"):
        await kcp.open(FLOW, b"")
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
        await kcp.open(FLOW, b"")
    assert kcp.candidate(FLOW, PEER).available


@dataclass
class Asked:
    """A stream of a peer that wants `conn_data`."""

    conn_data: ConnData
    peer_id: int = 2
    resets: int = 0
    session: Any = field(init=False)

    def __post_init__(self) -> None:
        self.session = self

    def reset(self) -> None:
        self.resets += 1


async def test_what_the_host_refuses_is_reset_and_counted() -> None:
    destination = KcpDestination(cast("Any", Host()))
    stream = Asked(ConnData(SocketAddress(IPv4Address("10.144.0.2"), 5), SocketAddress(IPv4Address("192.0.2.1"), 22)))
    with anyio.fail_after(1):
        await destination.serve(cast("Any", stream))
    assert (stream.resets, destination.refused) == (1, 1)


def test_a_reset_is_told_as_one() -> None:
    assert str(RelayError("source", ConnectionResetError(104, "Connection reset by peer"))) == "reset by the source"
    assert "timed out" in str(RelayError("destination", TimeoutError("timed out")))
