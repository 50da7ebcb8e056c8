"""What a node costs while nobody uses it.

n1 (stock, listens) 10.9.1.1 ======== 10.9.1.2 n2 (ours, dials)
"""

from __future__ import annotations

import time

import pytest

from tests.interop.scenes import pair, wait_joined
from tests.netns.requirements import INTEROP
from tests.netns.traffic import iperf_tcp

pytestmark = INTEROP

IDLE_SECONDS = 10.0
IDLE_BYTES = 63_000_000
"""60 are usual: the interpreter 9, pyroute2 11, protobuf and cryptography 9, code of ours and its tables the rest."""
IDLE_SHARE = 0.01


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_an_idle_node_is_small_and_quiet(scheme: str) -> None:
    with pair("stock", "ours", scheme=scheme) as nodes:
        wait_joined(nodes)
        # Buffers that only traffic makes shall be there when memory is read.
        iperf_tcp(nodes[0].namespace, nodes[1].namespace, nodes[1].address)
        process = nodes[1].process
        before = process.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        assert (process.cpu_seconds() - before) / IDLE_SECONDS < IDLE_SHARE
        assert process.resident_bytes() < IDLE_BYTES
