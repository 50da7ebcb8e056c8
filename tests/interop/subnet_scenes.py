"""A network behind a node, for tests.

    n1 client 10.9.1.2 ==== 10.9.1.1 n2 router 192.168.7.1 ==== 192.168.7.9 host       overlay 10.144.0.1, 10.144.0.2

The host knows nothing of the overlay and has no route back, and the router's kernel does not forward: all of it is the nodes'.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.interop.scenes import PORT, listener, node, options_for
from tests.netns.nodes import NodeOptions, OurNode, RunningNode
from tests.netns.topology import Namespace, Topology, wait_for

HOST = "192.168.7.9"
NETWORK = "192.168.7.0/24"
UDP_PORT = 5353
_JOIN_SECONDS = 15.0

_UDP_SERVER = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], int(sys.argv[2])))
while True:
    data, sender = server.recvfrom(65535)
    server.sendto(data[::-1], sender)
"""
_UDP_CLIENT = """
import os, socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# A connected socket hears the address that it asked, and no other.
client.connect((sys.argv[1], int(sys.argv[2])))
client.settimeout(5)
for size in map(int, sys.argv[3:]):
    payload = os.urandom(size)
    client.send(payload)
    if client.recv(65535) != payload[::-1]:
        sys.exit(f"{size} bytes did not come back as they went")
"""


class NodeWithoutDevice(OurNode):
    """`--no-tun`: ready once it says so."""

    def wait_ready(self) -> None:
        self.wait_logged("peer id", 20.0)


class UnprivilegedNode(NodeWithoutDevice):
    """The same without any capability, as for users who are not root."""

    wrapper = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@dataclass
class Scene:
    """A client, a router, and a host behind it that the client calls `address`; `topology` for more around them."""

    client: RunningNode
    router: RunningNode
    host: Namespace
    address: str
    topology: Topology


def make_stock_or_ours(kind: str) -> Callable[[Namespace, NodeOptions], RunningNode]:
    """A maker of nodes for `scene`."""
    return lambda namespace, options: node(kind, namespace, options)


@contextmanager
def scene(
    client: Callable[[Namespace, NodeOptions], RunningNode],
    router: Callable[[Namespace, NodeOptions], RunningNode],
    address: str = HOST,
    *,
    prepare: Callable[[Scene], None] = lambda _scene: None,
    sysctls: tuple[str, ...] = (),
    client_more: dict[str, object] | None = None,
    **router_more: object,
) -> Iterator[Scene]:
    """The picture above; yields once the client's ping to `address` is answered.

    `sysctls` (`key=value`) are set for the router before it starts; `prepare` runs once the nodes have started; `client_more`
    and `router_more` are fields of their options.
    """
    with Topology() as topology:
        outside, inside, behind = (topology.namespace(label) for label in ("client", "router", "host"))
        topology.join(outside, inside, "10.9.1.2/24", "10.9.1.1/24")
        topology.join(inside, behind, "192.168.7.1/24", f"{HOST}/24")
        inside.run("sysctl", "-qw", "net.ipv4.ip_forward=0", *sysctls)
        made = Scene(
            client(outside, options_for(1, peers=(f"udp://10.9.1.1:{PORT}",), **(client_more or {}))),
            router(inside, options_for(2, listeners=(listener("udp"), listener("tcp")), **router_more)),
            behind,
            address,
            topology,
        )
        made.router.start()
        made.client.start()
        prepare(made)
        wait_for(lambda: outside.ping(address) == 1.0, f"echo to {address}", _JOIN_SECONDS)
        yield made


def exchange_datagrams(client: Namespace, server: Namespace, address: str, *sizes: int, bind: str = "0.0.0.0") -> None:
    """Send datagrams of these sizes to `address`, where `server` turns them round; raises AssertionError unless all come back
    from there."""
    process = server.spawn(sys.executable, "-c", _UDP_SERVER, bind, str(UDP_PORT), label="udp-echo")
    try:
        wait_for(lambda: server.listens_on(UDP_PORT, "udp"), "UDP server listens")
        client.run(sys.executable, "-c", _UDP_CLIENT, address, str(UDP_PORT), *map(str, sizes))
    finally:
        process.close()
