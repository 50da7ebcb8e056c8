"""Port forwards and SOCKS5 of a node of ours, without a device and any privilege or with them, before a genuine core.

    n1 ours 10.9.1.2 ==== 10.9.1.1 n2 stock 192.168.7.1 ==== 192.168.7.9 host       overlay 10.144.0.1, 10.144.0.2

n1 has ports that lead to n2 and to the host, and a SOCKS5 server.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.scenes import PORT, REHEARSAL, listener, options_for
from tests.interop.subnet_scenes import HOST, NETWORK, UDP_PORT, UnprivilegedNode, exchange_datagrams
from tests.netns.nodes import READY_SECONDS, OurNode, StockNode, reachable_hosts
from tests.netns.requirements import INTEROP
from tests.netns.topology import Namespace, Topology, wait_for

pytestmark = [
    *INTEROP,
    pytest.mark.skipif(REHEARSAL, reason="stock cannot be asked for its port forwards"),
    pytest.mark.skipif(shutil.which("curl") is None or shutil.which("setpriv") is None, reason="needs curl and setpriv"),
]

PEER = "10.144.0.2"
FORWARDS = {PEER: ("127.0.0.1", 8001), HOST: ("127.0.0.2", 8002)}
"""Destination -> where a forward leads to its ports 8000 (TCP) and 5353 (UDP)."""
SOCKS_PORT = 1080
FILE_BYTES = 3_000_000


class StockWithoutDevice(StockNode):
    """A genuine core with `no_tun`; it is ready once it has answered."""

    def wait_ready(self) -> None:
        self._read_line(READY_SECONDS)


@dataclass
class Scene:
    """The three, all up."""

    ours: OurNode
    stock: StockNode
    host: Namespace

    def server_of(self, address: str) -> Namespace:
        return self.stock.namespace if address == PEER else self.host

    def curl(self, *argv: str) -> str:
        """The SHA-256 of what curl gets in n1; raises CommandError with its words."""
        curl = ("curl", "-sS", "-m", "30", "--noproxy", "", *argv)
        script = 'set -o pipefail; "$@" | sha256sum'
        return self.ours.namespace.run("bash", "-c", script, "-", *curl, timeout=40).stdout.split()[0]

    def proxied(self) -> list[dict[str, Any]]:
        """The flows of n1, ended ones among them, by its portal."""
        cli = (sys.executable, "-m", "easytier_cli.main", "-o", "json", "proxy", "--closed")
        flows: list[dict[str, Any]] = json.loads(self.ours.namespace.run(*cli).stdout)
        return flows


@contextmanager
def scene(kind: type[OurNode], *arguments: str, far_kind: type[StockNode] = StockNode) -> Iterator[Scene]:
    forwards = [
        item
        for address, (host, port) in FORWARDS.items()
        for proto, bind, target in (("tcp", port, 8000), ("udp", UDP_PORT, UDP_PORT))
        for item in ("--port-forward", f"{proto}://{host}:{bind}/{address}:{target}")
    ]
    with Topology() as topology:
        near, far, behind = (topology.namespace(label) for label in ("near", "far", "host"))
        topology.join(near, far, "10.9.1.2/24", "10.9.1.1/24")
        topology.join(far, behind, "192.168.7.1/24", f"{HOST}/24")
        flags = {"no_tun": far_kind is StockWithoutDevice}
        stock = far_kind(far, options_for(2, listeners=(listener("udp"),), proxy_networks=(NETWORK,), stock_flags=flags))
        more = ("--socks5", str(SOCKS_PORT), *forwards, *arguments)
        ours = kind(near, options_for(1, peers=(f"udp://10.9.1.1:{PORT}",), our_arguments=more))
        stock.start()
        ours.start()
        wait_for(lambda: ours.options.hostname in reachable_hosts(stock), "route from stock to ours", 15)
        ours.wait_logged("route to peer", 15)
        yield Scene(ours, stock, behind)


@contextmanager
def web_server(namespace: Namespace, directory: Path) -> Iterator[None]:
    argv = (sys.executable, "-m", "http.server", "--directory", str(directory), "8000")
    process = namespace.spawn(*argv, label="http")
    try:
        wait_for(lambda: namespace.listens_on(8000), f"web server: {process.log_tail()}")
        yield
    finally:
        process.close()


def use_everything(made: Scene, tmp_path: Path) -> None:
    """Forwards and SOCKS5, to the peer and to the host, TCP and UDP."""
    data = random.Random(1).randbytes(FILE_BYTES)
    (tmp_path / "file").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    for address, (host, port) in FORWARDS.items():
        with web_server(made.server_of(address), tmp_path):
            assert made.curl(f"http://{host}:{port}/file") == digest
            assert made.curl("--socks5", f"127.0.0.1:{SOCKS_PORT}", f"http://{address}:8000/file") == digest
        # Without a device an address of a node stands for loopback.
        bind = "127.0.0.1" if address == PEER and isinstance(made.stock, StockWithoutDevice) else address
        exchange_datagrams(made.ours.namespace, made.server_of(address), host, 1, 64, 1900, 20_000, bind=bind)


@pytest.mark.parametrize("transport", ["tcp", "kcp"])
def test_programs_reach_peers_and_what_is_behind_them(transport: str, tmp_path: Path) -> None:
    with scene(UnprivilegedNode, "--no-tun", *(["--enable-kcp-proxy"] if transport == "kcp" else [])) as made:
        assert made.ours.namespace.links() == ["v0l"]
        use_everything(made, tmp_path)
        assert made.stock.ping(made.ours, count=3, size_bytes=1000) == 1.0
        flows = made.proxied()
        assert [flow["dst"] for flow in flows] == [f"{PEER}:8000"] * 2 + [f"{HOST}:8000"] * 2
        assert {(flow["transport"], flow["peer_hostname"], flow["end_reason"]) for flow in flows} == {
            (transport, "n2", "FIN both ways")
        }
        assert all(flow["bytes_received"] > FILE_BYTES for flow in flows)


def test_with_a_device_the_kernel_begins_what_goes_as_plain_tcp(tmp_path: Path) -> None:
    with scene(OurNode) as made:
        use_everything(made, tmp_path)
        entered = [flow for flow in made.proxied() if flow["direction"] == "forwarded"]
        assert [flow["transport"] for flow in entered] == ["tcp"] * 4


def test_two_nodes_without_devices(tmp_path: Path) -> None:
    with scene(UnprivilegedNode, "--no-tun", far_kind=StockWithoutDevice) as made:
        use_everything(made, tmp_path)
