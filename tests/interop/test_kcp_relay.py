"""KCP through a node in the middle, which knows nothing of it: n1 (source) ==== n2 (relays) ==== n3 (destination)."""

from __future__ import annotations

import pytest

from tests.interop.kcp_scenes import kcp_chain, transports
from tests.netns.nodes import OurNode
from tests.netns.requirements import INTEROP
from tests.netns.tcp_games import games

pytestmark = INTEROP


@pytest.mark.parametrize(
    "kinds", [("ours", "stock", "ours"), ("stock", "ours", "stock"), ("ours", "stock", "stock")], ids="-".join
)
def test_kcp_passes_a_relay(kinds: tuple[str, str, str]) -> None:
    with kcp_chain(kinds) as nodes:
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
