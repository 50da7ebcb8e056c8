"""Garbage on the portal's port: nothing but its own connections suffers, and none of it stays.

Half of it is random bytes, half are frames that look right for a while: real services and methods with random requests, pieces
without an end, answers that nobody reads.  `ET_FUZZ_SECONDS=60` lets it go on for that long.
"""

from __future__ import annotations

import gc
import os
import random
import struct
import tracemalloc
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from easytier_host.instance import Node
from easytier_host.packet import PacketType, build_frame
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.portal.server import Portal
from easytier_host.rpc.client import PortalClient
from tests.unit.host.helpers import make_node
from tests.unit.host.portal.portals import SERVICES, ask, flow, portal_of

pytestmark = pytest.mark.anyio

SECONDS = float(os.environ.get("ET_FUZZ_SECONDS", "2"))
PATIENCE = 10.0
KEPT_BYTES = 512 * 1024
"""What the process may hold more of afterwards: caches of protobuf and of the loop, not what was sent."""


def frame(chance: random.Random) -> bytes:
    """A frame with its length whose packet decodes, with a body that may not."""
    request = peer_rpc_pb2.RpcRequest(request=chance.randbytes(chance.randrange(40))).SerializeToString()
    service = chance.choice((*SERVICES, "x" * 300))
    packet = common_pb2.RpcPacket(
        from_peer=chance.choice((1, 1, 2**32 - 1)),
        to_peer=1,
        transaction_id=chance.getrandbits(62),
        descriptor=common_pb2.RpcDescriptor(
            domain_name=chance.choice(("", "", "tcp", "kcp_src", "y")),
            proto_name=service,
            service_name=service,
            method_index=chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2**32 - 1)),
        ),
        body=chance.choice((request, chance.randbytes(chance.randrange(1200)))),
        is_request=chance.random() < 0.95,
        total_pieces=chance.choice((1, 1, 1, 2, 30_000, 2**32 - 1)),
        piece_idx=chance.choice((0, 0, 0, 1, 29_999)),
    )
    built = build_frame(1, 1, PacketType.RPC_REQ, packet.SerializeToString())
    return struct.pack("<I", len(built)) + built


async def annoy(portal: Portal, chance: random.Random) -> None:
    """One connection after the other, for ever."""
    while True:
        with suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError, TimeoutError):
            async with await anyio.connect_tcp("127.0.0.1", portal.port) as stream:
                for _ in range(chance.choice((1, 3, 20))):
                    await stream.send(frame(chance) if chance.random() < 0.6 else chance.randbytes(chance.randrange(1, 3000)))
                if chance.random() < 0.5:
                    with anyio.fail_after(0.01):
                        await stream.receive()
        await anyio.lowlevel.checkpoint()


async def play(node: Node, portal: Portal, seconds: float, seed: int) -> None:
    """Four callers at once."""
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as callers:
            for number in range(4):
                callers.start_soon(annoy, portal, random.Random(seed + number))


@pytest.mark.timeout(60 + SECONDS)
async def test_garbage_on_the_port_harms_nothing() -> None:
    async with make_node(1) as node, portal_of(node) as portal:
        for port in range(50):
            flow(node, port, "tcp")
        # The first second fills what is filled once.
        await play(node, portal, 1.0, 100)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await play(node, portal, SECONDS, 200)
            kept = KEPT_BYTES
            # Requests that were under way end within a few seconds, and what they held goes with them.
            with anyio.move_on_after(PATIENCE):
                while kept >= KEPT_BYTES:
                    await anyio.sleep(0.1)
                    gc.collect()
                    kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert kept < KEPT_BYTES
        assert node.failure is None
        assert (await ask(portal, PortalClient.node_info)).peer_id == node.peer_id
        assert len((await ask(portal, PortalClient.flows)).flows) == 50
