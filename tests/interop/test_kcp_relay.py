"""KCP through a node in the middle, which knows nothing of it: n1 (source) ==== n2 (relays) ==== n3 (destination)."""

from __future__ import annotations

import pytest

from tests.interop.kcp_scenes import kcp_options, transports
from tests.interop.scenes import PORT, listener, node, wait_joined
from tests.netns.nodes import OurNode
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import games
from tests.netns.topology import Topology

pytestmark = INTEROP


@pytest.mark.parametrize(
    "kinds", [("ours", "stock", "ours"), ("stock", "ours", "stock"), ("ours", "stock", "stock")], ids="-".join
)
def test_kcp_passes_a_relay(kinds: tuple[str, str, str]) -> None:
    with Topology() as topology:
        spaces = [topology.namespace(f"n{number}") for number in (1, 2, 3)]
        topology.join(spaces[1], spaces[0], "10.9.1.1/24", "10.9.1.2/24")
        topology.join(spaces[1], spaces[2], "10.9.2.1/24", "10.9.2.2/24")
        options = [
            kcp_options(1, source=True, peers=(f"udp://10.9.1.1:{PORT}",)),
            kcp_options(2, source=False, listeners=(listener("udp"),)),
            kcp_options(3, source=False, peers=(f"udp://10.9.2.1:{PORT}",)),
        ]
        nodes = [node(kind, space, each) for kind, space, each in zip(kinds, spaces, options, strict=True)]
        for each in (nodes[1], nodes[0], nodes[2]):
            each.start()
        wait_joined(nodes)
        with games(nodes[0].namespace, nodes[2].namespace, nodes[2].address) as played:
            genuine = kinds[0] == kinds[2] == "stock"
            if not genuine:
                # A genuine source loses the tail if the end of the flow follows at once.
                played.play("download", size_bytes=5_000_000)
            played.play("upload", size_bytes=5_000_000)
            # Five at once are too many for a genuine pair: its accept queue holds four, and the fifth hangs.
            assert played.play("flows", count=20, at_once=1 if genuine else 5)["errors"] == []
            played.play("banner")
        for each in (nodes[0], nodes[2]):
            if isinstance(each, OurNode):
                assert len(transports(each, "kcp")) == 23
                assert transports(each, "tcp") == []
