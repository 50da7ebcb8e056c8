"""Datagrams of all sizes past a link that silently drops packets of more than 1400 bytes.

::

    near fd09:1::2 / 10.9.1.2 ==== router ==1400== far fd09:2::2 / 10.9.2.2
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import anyio
import pytest
from pyroute2 import netns

from easytier_host.tunnel.base import UNDERLAY_MTU
from easytier_host.tunnel.udp_socket import UdpSocket
from easytier_host.tunnel.udp_wire import UDP_HEADER_SIZE
from tests.netns.requirements import NETNS
from tests.netns.topology import Namespace, Topology, mute_router
from tests.unit.host.tunnel.helpers import running

pytestmark = [*NETNS, pytest.mark.anyio]

NARROW = 1400


def open_socket(namespace: Namespace, family: socket.AddressFamily, address: str) -> socket.socket:
    def bind() -> socket.socket:
        netns.setns(namespace.name)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.setblocking(False)
        sock.bind((address, 0))
        return sock

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(bind).result()


@contextmanager
def past_a_narrow_link(family: socket.AddressFamily) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Sockets in `near` and `far`."""
    with Topology() as topology:
        near, far = topology.namespace("near"), topology.namespace("far")
        router, device, (near_address, far_address) = mute_router(topology, near, far, ipv6=family == socket.AF_INET6)
        router.run("ip", "link", "set", device, "mtu", str(NARROW))
        far.ping(near_address)
        with closing(open_socket(near, family, near_address)) as left, closing(open_socket(far, family, far_address)) as right:
            yield left, right


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
async def test_where_nobody_tells_that_packets_are_too_large_all_sizes_pass_once_they_may_be_cut(
    family: socket.AddressFamily,
) -> None:
    headers = (20 if family == socket.AF_INET else 40) + 8 + UDP_HEADER_SIZE
    with past_a_narrow_link(family) as (left, right):
        async with running() as tasks:
            tunnel = UdpSocket(left, tasks).add_tunnel(7, right.getsockname())
            got: set[int] = set()

            async def send(sizes: range) -> None:
                """Packets of these sizes, one by one, and what of them arrives."""
                got.clear()
                with anyio.move_on_after(2):
                    for size in sizes:
                        tunnel.send([bytes(size - headers)])
                    while len(got) < len(sizes):
                        await anyio.wait_readable(right)
                        got.add(len(right.recv(2048)) + headers - UDP_HEADER_SIZE)

            await send(range(NARROW, NARROW + 2))
            assert got == {NARROW}, "the link does swallow what is larger"
            tunnel.allow_fragments()
            sizes = range(1100, UNDERLAY_MTU + 1)
            await send(sizes)
            assert got == set(sizes)
            # Many of a size leave in one call, or try to.
            tunnel.send([bytes(UNDERLAY_MTU - headers)] * 20)
            with anyio.fail_after(2):
                for _ in range(20):
                    await anyio.wait_readable(right)
                    assert len(right.recv(2048)) == UNDERLAY_MTU - headers + UDP_HEADER_SIZE
