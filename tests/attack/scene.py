"""A network in memory with an attacker in it, and honest flows that must not feel it.

::

    near 10.144.0.2 ---- target 10.144.0.1 ---- far 10.144.0.4        near -> target, near -> far: echoes by KCP
                              |                                        far sees near through the target alone
                       attacker 10.144.0.3

The nodes are whole nodes without devices; the tunnels between them are those of `tunnel.ring`.  The attacker is one of them,
with the network's secret, whose tunnel carries besides what it sends of itself whatever a test wants.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import Any, Final

import anyio
from anyio.abc import ByteStream, SocketAttribute, TaskGroup
from google.protobuf.message import Message

from easytier_hooks.manager import PluginManager
from easytier_host import Flags, Node
from easytier_host.batch import choose_batch
from easytier_host.config.model import Config
from easytier_host.crypto import make_cipher
from easytier_host.packet import PEER_HEADER, Flag, PacketType
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.rpc.framing import split_call
from easytier_host.tunnel import ring
from easytier_host.tunnel.ring import RingTunnel
from easytier_kcp_plugin.plugin import KcpPlugin, SmoltcpPlugin
from tests.unit.host.helpers import until

SECRET: Final = "s3cret"
NETWORK: Final = "lab"
MESSAGE: Final = 1000
ROUND_TRIP_LIMIT: Final = 5.0
"""Seconds for one echo: nothing but a flow that is lost takes so long.  How quick they stay is measured by `bench.attack`."""


def make_node(number: int, *, kcp: bool = True, **changes: object) -> Node:
    """A node at 10.144.0.<number> with a TCP stack of its own, whose flows go by KCP if `kcp`."""
    settings: dict[str, object] = {
        "instance_name": f"n{number}",
        "hostname": f"n{number}",
        "network_name": NETWORK,
        "network_secret": SECRET,
        "ipv4": IPv4Interface(f"10.144.0.{number}/24"),
        "flags": Flags(no_tun=True, enable_ipv6=False, enable_kcp_proxy=kcp, disable_p2p=True),
    }
    plugins = PluginManager(installed=[], environ={})
    plugins.register("kcp", KcpPlugin({}))
    with suppress(ImportError):
        plugins.register("smoltcp", SmoltcpPlugin({}))
    return Node(Config(**(settings | changes)), plugins=plugins)  # type: ignore[arg-type]


async def join(first: Node, second: Node, tasks: TaskGroup) -> RingTunnel:
    """Make neighbours of two nodes; returns the tunnel of the second."""
    one, two = ring.pair(tasks, first.config.hostname, second.config.hostname)
    first.accept_tunnel(one)
    await second.join_tunnel(two)
    return two


class Attacker:
    """The right secret, a place in the network, and no manners."""

    def __init__(self, node: Node, tunnel: RingTunnel, target: Node) -> None:
        self.node = node
        self.tunnel = tunnel
        self.target = target
        self.peer_id = node.peer_id
        self._cipher = make_cipher("aes-gcm", SECRET, secrets.token_bytes, choose_batch().aead)

    def frame(
        self,
        packet_type: int,
        payload: bytes,
        *,
        source: int | None = None,
        to: int | None = None,
        sealed: bool = True,
        flags: int = 0,
        counter: int = 1,
        length: int | None = None,
    ) -> bytes:
        """One frame, of ourselves to the target unless said; `length` is what the header says of the payload."""
        source, to = source or self.peer_id, to or self.target.peer_id
        said = len(payload) if length is None else length
        if sealed:
            flags, payload = flags | Flag.ENCRYPTED, self._cipher.seal(payload)
        return PEER_HEADER.pack(source, to, packet_type, flags, counter, 0, said) + payload

    def call(
        self,
        service: str,
        method: int,
        request: Message | bytes,
        *,
        source: int | None = None,
        transaction: int | None = None,
        is_request: bool = True,
        pieces: slice = slice(None),
    ) -> list[bytes]:
        """The frames of an RPC call, or of the answer to one; `pieces` leaves some out."""
        content = request if isinstance(request, bytes) else request.SerializeToString()
        if is_request:
            content = peer_rpc_pb2.RpcRequest(request=content, timeout_ms=1000).SerializeToString()
        packet = common_pb2.RpcPacket(
            from_peer=source or self.peer_id,
            to_peer=self.target.peer_id,
            transaction_id=secrets.randbits(62) if transaction is None else transaction,
            descriptor=common_pb2.RpcDescriptor(
                domain_name=NETWORK, proto_name=service, service_name=service, method_index=method
            ),
            is_request=is_request,
        )
        kind = PacketType.RPC_REQ if is_request else PacketType.RPC_RESP
        return [self.frame(kind, piece, source=source, counter=2) for piece in split_call(packet, content)[pieces]]

    async def send(self, frames: Iterable[bytes]) -> None:
        """Send these once, none of them lost in our own tunnel."""
        batch = list(frames)
        for start in range(0, len(batch), 256):
            await self.tunnel.wait_writable()
            self.tunnel.send(batch[start : start + 256])

    async def flood(self, frames: Sequence[bytes], *, pause: float = 0.001) -> None:
        """Send them again and again, as many as the tunnel takes; to be cancelled."""
        while True:
            await self.send(frames)
            await anyio.sleep(pause)


@dataclass
class Honest:
    """Echoes over one flow, one after the other, for as long as it is told."""

    name: str
    round_trips: list[float] = field(default_factory=list)
    stop: bool = False

    async def run(self, stream: ByteStream) -> None:
        """Raises if a byte is lost or changed, the flow ends, or an echo takes longer than `ROUND_TRIP_LIMIT`."""
        async with stream:
            number = 0
            while not self.stop:
                number += 1
                message = number.to_bytes(8, "big") * (MESSAGE // 8)
                began = anyio.current_time()
                with anyio.fail_after(ROUND_TRIP_LIMIT):
                    await stream.send(message)
                    back = b""
                    while len(back) < MESSAGE:
                        back += await stream.receive(MESSAGE - len(back))
                assert back == message, f"{self.name}: message {number} came back changed"
                self.round_trips.append(anyio.current_time() - began)
                await anyio.sleep(0.002)


@dataclass
class Scene:
    """The nodes, the attacker at the target, and the honest flows, which run."""

    near: Node
    target: Node
    far: Node
    attacker: Attacker
    flows: list[Honest]
    tasks: TaskGroup
    trap_port: int
    """Of a server on this machine's loopback, which no peer may reach."""

    def live_convs(self) -> list[int]:
        """The KCP conversations of the honest flows, as the opener and the attacked node have them."""
        endpoints = [node.gate.transports["kcp"]._driver.endpoint for node in (self.near, self.target)]  # type: ignore[attr-defined]
        return sorted({session.conv for endpoint in endpoints for session in endpoint.sessions if session.conv is not None})

    def enough(self, count: int = 20) -> bool:
        """Whether each flow has had so many round trips since `forget`."""
        return all(len(flow.round_trips) >= count for flow in self.flows)

    def forget(self) -> None:
        """Begin to count round trips anew."""
        for flow in self.flows:
            flow.round_trips.clear()

    async def while_flooded(self, frames: Sequence[bytes], *, count: int = 20) -> None:
        """Let the attacker send these until each honest flow has had so many round trips."""
        self.forget()
        async with anyio.create_task_group() as flood:
            flood.start_soon(self.attacker.flood, frames)
            await until(lambda: self.enough(count), limit=30)
            flood.cancel_scope.cancel()


async def echo(stream: ByteStream) -> None:
    """Send back what comes."""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)


@asynccontextmanager
async def scene(**target_changes: Any) -> AsyncIterator[Scene]:
    """The whole network, with both honest flows running; leaving it checks that they are alive to the end."""
    async with (
        make_node(1, **target_changes) as target,
        make_node(2) as near,
        make_node(3) as rogue,
        make_node(4) as far,
        anyio.create_task_group() as tasks,
    ):
        await join(target, near, tasks)
        await join(target, far, tasks)
        tunnel = await join(target, rogue, tasks)
        nodes = (target, near, rogue, far)
        await until(lambda: all(len(node.routes()) == 3 for node in nodes))
        flows: list[Honest] = []
        trapped: list[ByteStream] = []

        async def trap(stream: ByteStream) -> None:
            trapped.append(stream)
            await stream.aclose()

        loopback = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with loopback, anyio.create_task_group() as echoes:
            echoes.start_soon(loopback.serve, trap)
            for node, address in ((target, "10.144.0.1"), (far, "10.144.0.4")):
                listener = await node.listen_tcp(7)
                echoes.start_soon(listener.serve, echo)
                flow = Honest(f"near -> {node.config.hostname}")
                flows.append(flow)
                tasks.start_soon(flow.run, await near.connect_tcp(address, 7))
            attacker = Attacker(rogue, tunnel, target)
            attacked = Scene(near, target, far, attacker, flows, tasks, loopback.extra(SocketAttribute.local_port))
            await until(attacked.enough)
            yield attacked
            attacked.forget()
            await until(lambda: attacked.enough(5))
            assert trapped == []
            for flow in flows:
                flow.stop = True
            echoes.cancel_scope.cancel()
        tasks.cancel_scope.cancel()
