"""The KCP proxy of two nodes of ours, seen from outside: what is on the wire, what stays untouched, what is dialled for others.

n1 source 10.99.0.1 ==50 ms there and back== 10.99.0.2 n2 destination 10.77.0.1 ==== 10.77.0.2 lan     overlay 10.144.0.1, .2
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from easytier_host.crypto import network_digest
from tests.interop.kcp_scenes import STACKS, KcpPair, endings, kcp_options, kcp_pair, transports
from tests.interop.scenes import PORT, listener, options_for, wait_joined
from tests.netns.nodes import NodeWithoutDevice, OurNode
from tests.netns.requirements import NETNS
from tests.netns.tcp_games import finish, games
from tests.netns.topology import Namespace, Topology, wait_for
from tests.netns.traffic import iperf_udp

pytestmark = NETNS

CANARY = "the-yellow-bird-in-the-mine"
HOSTS = ("canary-laptop", "canary-phone")
NETWORK, SECRET = "canary-network", "canary-secret"
PROJECT = Path(__file__).parents[2]

_LISTENER = """
import json, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
wire.bind((sys.argv[1], 0))
words = {word: bytes.fromhex(word) for word in sys.argv[2:]}
counts = dict.fromkeys(["packets", *words], 0)
print("listening", flush=True)
while True:
    packet = wire.recv(65536)
    counts["packets"] += 1
    for word, data in words.items():
        counts[word] += data in packet
    print(json.dumps(counts), flush=True)
"""


def tap(namespace: Namespace, device: str, *words: bytes) -> Callable[[], dict[str, int]]:
    """Count the packets of a device, and those that hold each of `words` in clear."""
    process = namespace.spawn(sys.executable, "-c", _LISTENER, device, *(word.hex() for word in words), label="tap")
    wait_for(lambda: "listening" in process.log(), "the tap is open")

    def counts() -> dict[str, int]:
        last = wait_for(lambda: process.log().split("\n")[1:-1], "packets on the wire")[-1]
        return {bytes.fromhex(word).decode("latin-1") if word != "packets" else word: n for word, n in json.loads(last).items()}

    return counts


@pytest.mark.parametrize(("destination", "algorithm"), [("ours", "aes-gcm"), ("stock", "aes-gcm"), ("ours", "off")])
def test_what_is_said_is_not_seen_on_the_wire(destination: str, algorithm: str) -> None:
    """From the first handshake on, with the RPC about routes, to the bytes of a flow."""
    both: dict[str, Any] = {"network_name": NETWORK, "network_secret": SECRET, "algorithm": algorithm}
    digest = network_digest(NETWORK, SECRET)
    named: list[dict[str, object]] = [{"hostname": host} for host in HOSTS]
    with kcp_pair("ours", destination, source_more=named[0], destination_more=named[1], **both) as nodes:
        nodes.source.stop()
        wire = tap(nodes.destination.namespace, "link0", *map(str.encode, (CANARY, *HOSTS, NETWORK, SECRET)), digest)
        nodes.source.start()
        wait_joined((nodes.source, nodes.destination))
        with nodes.games() as played:
            played.play("secret", canary=CANARY, repeat=20)
        assert len(transports(nodes.source, "kcp")) == 1
        seen = wire()
    assert seen["packets"] > 60
    assert seen[SECRET] == 0
    # Stock's handshake: docs/security.md, What a listener sees.
    assert seen[NETWORK] > 0
    assert seen[digest.decode("latin-1")] > 0
    if algorithm == "off":
        # Without encryption they have to show, or this test sees nothing.
        assert seen[CANARY] >= 40
        assert seen[HOSTS[0]] > 0
        assert seen[HOSTS[1]] > 0
    else:
        assert [seen[word] for word in (CANARY, *HOSTS)] == [0, 0, 0]


@pytest.fixture
def policy_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example plugin `port_policy`, as an installed distribution."""
    shutil.copy(PROJECT / "examples/port_policy/easytier_port_policy.py", tmp_path)
    metadata = tmp_path / "easytier_port_policy-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: easytier-port-policy\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[easytier.plugins]\nport_policy = easytier_port_policy:PortPolicy\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("policy_on_the_path")
def test_another_plugin_keeps_a_port_on_tcp(tmp_path: Path) -> None:
    config = tmp_path / "n1.toml"
    config.write_text("[plugins]\nport_policy = { ports = [22] }\n")
    with kcp_pair("ours", "ours", source_more={"our_arguments": ("-c", str(config))}) as nodes, nodes.games() as played:
        played.play("banner")
        played.play("attempt", port=22)
        assert len(transports(nodes.source, "kcp")) == 1
        assert transports(nodes.source, "tcp") == ["port 22 is kept on TCP"]
        assert "chosen_by='port_policy'" in nodes.source.log()


def test_what_is_not_tcp_over_ipv4_is_left_alone() -> None:
    def with_ipv6(number: int) -> dict[str, object]:
        return {"our_arguments": ("--ipv6", f"fd00:144::{number}/64")}

    with kcp_pair("ours", "ours", source_more=with_ipv6(1), destination_more=with_ipv6(2)) as nodes:
        assert nodes.source.ping(nodes.destination, count=10, size_bytes=1200, interval=0.02) == 1.0
        result = iperf_udp(nodes.source.namespace, nodes.destination.namespace, nodes.destination.address, mbits=10)
        assert result.lost_share < 0.02
        # iperf3 has a TCP flow of its own for what the ends tell each other.
        assert len(transports(nodes.source, "kcp")) == 1
        wait_for(lambda: nodes.source.namespace.ping("fd00:144::2") == 1.0, "echo over IPv6")
        with games(nodes.source.namespace, nodes.destination.namespace, "fd00:144::2", bind="::") as played:
            played.play("upload", size_bytes=1_000_000)
        assert transports(nodes.source, "tcp") == ["IPv6 flows are not carried by KCP"]


@pytest.fixture(params=STACKS)
def lan(request: pytest.FixtureRequest) -> Iterator[tuple[KcpPair, Namespace]]:
    """n2 offers its subnet 10.77.0.0/24 under the name of 10.88.0.0/24."""
    more: dict[str, object] = {"our_arguments": ("--proxy-networks", "10.77.0.0/24->10.88.0.0/24")}
    with kcp_pair("ours", "ours", destination_more=more, stack=request.param) as nodes, Topology() as topology:
        behind = topology.namespace("lan")
        topology.join(behind, nodes.destination.namespace, "10.77.0.2/24", "10.77.0.1/24")
        wait_for(lambda: any("10.88.0.0/24" in route for route in nodes.source.namespace.routes()), "route to the subnet")
        yield nodes, behind


def test_a_subnet_is_dialled_under_its_real_addresses(lan: tuple[KcpPair, Namespace]) -> None:
    nodes, behind = lan
    with games(nodes.source.namespace, behind, "10.88.0.2") as played:
        played.play("download", size_bytes=2_000_000)
        assert played.play("flows", count=20, at_once=20)["errors"] == []
        silent = played.begin("attempt", address="10.88.0.3", port=80, limit=20.0)
        refused = played.play("attempt", port=9)
        assert refused["outcome"] in ("refused", "reset")
        assert refused["seconds"] < 1.0
        # Nobody has this address: the machine in between finds out by ARP.
        assert finish(silent)["outcome"] == "unreachable"
    assert len(transports(nodes.source, "kcp")) == 23


def test_a_listener_of_the_node_is_not_dialled() -> None:
    """Through it a tunnel could be led into itself."""
    with kcp_pair("ours", "ours", scheme="tcp") as nodes, nodes.games() as played:
        answer = played.play("attempt", port=PORT)
        assert answer["outcome"] in ("refused", "reset")
        assert transports(nodes.source, "kcp")
        assert "is refused to peers" in nodes.destination.log()


def test_a_destination_without_device_dials_loopback() -> None:
    with Topology() as topology:
        left, right = topology.namespace("n1"), topology.namespace("n2")
        topology.join(left, right, "10.99.0.1/24", "10.99.0.2/24")
        source = OurNode(left, kcp_options(1, source=True, peers=(f"tcp://10.99.0.2:{PORT}",)))
        destination = NodeWithoutDevice(
            right,
            options_for(2, listeners=(listener("tcp"),), our_arguments=("--no-tun", "--console-log-level", "debug")),
        )
        destination.start()
        source.start()
        source.wait_logged("route to peer", 15.0)
        with games(left, right, destination.address, bind="127.0.0.1") as played:
            played.play("download", size_bytes=2_000_000)
            assert played.play("flows", count=10)["errors"] == []
        assert len(transports(source, "kcp")) == 11
        assert endings(source, "Failed") == []
