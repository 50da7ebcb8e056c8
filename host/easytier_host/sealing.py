"""Which packets a peer always seals where encryption is on, so that one in clear text is not its own.  Pure.

Stock, by version (wire specification, control plane 4.4 and data plane 6)::

    Data, KCP, QUIC   2.5.0 and newer: always sealed; before: in clear from KCP endpoints and from UDP and ICMP proxies
    RPC               to a direct neighbour of its own network: always sealed; over other ways: in clear while it knows too
                      little of the receiver, up to 2.3.2 always behind a public relay
    handshakes, Ping  never sealed, and nothing but the connection is believed to them

Asked by `datapath.Inbound`, for frames in clear alone.
"""

from __future__ import annotations

import re
from typing import Final

from easytier_host.packet import PacketType

# Wire: stock decides.
FIRST_SEALING_ALL: Final = (2, 5)
"""The first version that seals all that its node originates."""

_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})(\.\d{1,4})?\b")
_RPC: Final = frozenset({PacketType.RPC_REQ, PacketType.RPC_RESP})
_DATA: Final = frozenset({PacketType.DATA, PacketType.KCP_SRC, PacketType.KCP_DST, PacketType.QUIC_SRC, PacketType.QUIC_DST})


def always_seals(packet_type: int, version: str | None, *, is_neighbour: bool) -> bool:
    """Whether a sender that reports `version` seals all packets of this type; None and what is no version count as new.

    `is_neighbour`: the frame came over a connection of its sender, which is no relay of another network.
    """
    if packet_type in _RPC:
        return is_neighbour
    if packet_type not in _DATA:
        return False
    found = _VERSION.match(version or "")
    return found is None or (int(found[1]), int(found[2])) >= FIRST_SEALING_ALL
