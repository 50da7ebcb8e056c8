"""Which senders always seal which packets."""

from __future__ import annotations

import pytest

from easytier_host.packet import PacketType
from easytier_host.sealing import always_seals
from easytier_host.version import EASYTIER_VERSION

SEALED_SINCE_2_5 = (PacketType.DATA, PacketType.KCP_SRC, PacketType.KCP_DST, PacketType.QUIC_SRC, PacketType.QUIC_DST)


@pytest.mark.parametrize("kind", SEALED_SINCE_2_5)
@pytest.mark.parametrize(
    ("version", "sealed"),
    [
        ("2.2.0", False),
        ("2.4.5-1a2b3c", False),
        ("1.2.3", False),
        ("2.5.0", True),
        ("2.6.4-81487c36", True),
        ("2.10.0", True),
        ("10.0.0", True),
        (EASYTIER_VERSION, True),
        ("", True),
        ("unknown", True),
        (None, True),
    ],
)
def test_packets_are_sealed_since_2_5(kind: PacketType, version: str | None, sealed: bool) -> None:
    assert always_seals(kind, version, is_neighbour=False) is sealed
    assert always_seals(kind, version, is_neighbour=True) is sealed


@pytest.mark.parametrize("kind", [PacketType.RPC_REQ, PacketType.RPC_RESP])
@pytest.mark.parametrize("version", ["2.2.0", "2.6.4", None])
def test_calls_are_sealed_between_neighbours(kind: PacketType, version: str | None) -> None:
    assert always_seals(kind, version, is_neighbour=True)
    assert not always_seals(kind, version, is_neighbour=False)


@pytest.mark.parametrize("kind", [PacketType.HANDSHAKE, PacketType.PING, PacketType.PONG, PacketType.FOREIGN_NETWORK])
def test_what_no_version_seals_is_not_asked_for(kind: PacketType) -> None:
    assert not always_seals(kind, "2.6.4", is_neighbour=True)
