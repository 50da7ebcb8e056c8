"""What carries a TCP flow from one namespace to another: pairs of nodes, ours and genuine cores, or nothing but the line.

Nothing here measures.  `bed` builds a rival on a line, `loads` sends traffic over it, `cases` says which meet.

    source 10.99.0.1 ==== veth, or `bench.link` ==== 10.99.0.2 destination        overlay 10.144.0.1 and 10.144.0.2

Flows begin at the source, which is also the node that dials; its KCP proxy carries them if the rival goes by KCP.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.link import LinkOptions, LossyLink
from tests.interop.kcp_scenes import kcp_options
from tests.interop.scenes import PORT, listener, node, wait_joined
from tests.netns.nodes import RunningNode
from tests.netns.topology import Namespace, Topology

# Bytes of an IP packet on the line that are not the application's.
_UDP = 28
_TUNNEL = 8 + 16
"""Tunnel header and peer header."""
_KCP = 14 + 24
"""Session header and segment header."""
_TCP = 20 + 32
"""With timestamps."""
_SEAL = {"off": 0, "xor": 0, "aes-gcm": 28, "aes-256-gcm": 28, "chacha20": 28}


@dataclass(frozen=True, slots=True)
class Rival:
    """`source` and `destination` are kinds of nodes, `stock` or `ours`, empty for the bare line.  `congestion` is that of the
    application's own TCP; without it that of the machine, which does not matter where a KCP proxy ends the connection."""

    title: str
    source: str = ""
    destination: str = ""
    by_kcp: bool = False
    congestion: str = ""

    @property
    def is_stock(self) -> bool:
        """Whether a genuine core takes part."""
        return "stock" in (self.source, self.destination)


RIVALS = {
    "ours-ours": Rival("KCP, ours → ours", "ours", "ours", by_kcp=True),
    "ours-stock": Rival("KCP, ours → stock", "ours", "stock", by_kcp=True),
    "stock-ours": Rival("KCP, stock → ours", "stock", "ours", by_kcp=True),
    "stock-stock": Rival("KCP, stock → stock", "stock", "stock", by_kcp=True),
    "tcp-ours": Rival("TCP CUBIC in ours", "ours", "ours", congestion="cubic"),
    "tcp-stock": Rival("TCP CUBIC in stock", "stock", "stock", congestion="cubic"),
    "raw-cubic": Rival("raw TCP CUBIC", congestion="cubic"),
    "raw-bbr": Rival("raw TCP BBR", congestion="bbr"),
    "tcp-ours-stock": Rival("TCP CUBIC, ours → stock", "ours", "stock", congestion="cubic"),
    "tcp-stock-ours": Rival("TCP CUBIC, stock → ours", "stock", "ours", congestion="cubic"),
    "tcp-ours-bbr": Rival("TCP BBR in ours", "ours", "ours", congestion="bbr"),
    "tcp-stock-bbr": Rival("TCP BBR in stock", "stock", "stock", congestion="bbr"),
}
"""All that can be asked for; `cases` names those that run by default."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all nodes of a run have in common; `engine` is that of ours."""

    underlay: str = "udp"
    algorithm: str = "aes-gcm"
    engine: str = "arq"


@dataclass(frozen=True, slots=True)
class Bed:
    """A rival that is ready: connections from `source` to `address` arrive in `destination`.

    `nodes` has source and destination, or is empty; `link` is None on a veth; `overhead_bytes` of a full packet on the line are
    not the application's; `congestion` is that of its TCP, empty for that of the machine.
    """

    source: Namespace
    destination: Namespace
    address: str
    nodes: tuple[RunningNode, ...]
    link: LossyLink | None
    overhead_bytes: int
    congestion: str

    def transports(self) -> Counter[str]:
        """How many of the flows that live, or ended in the last seconds, go by which transport, if our source node can be
        asked.  One that KCP could not take goes by TCP without a word, and its figures would be those of TCP."""
        if not self.nodes or self.nodes[0].kind != "ours":
            return Counter()
        command = (sys.executable, "-m", "easytier_cli.main", "--output", "json", "--timeout", "20", "proxy", "--closed")
        flows = json.loads(self.source.run(*command).stdout)
        return Counter(flow["transport"] for flow in flows if flow["dst"].startswith(f"{self.address}:"))


@contextmanager
def bed(rival: Rival, line: LinkOptions | None, settings: Settings, *, stack: str = "kernel") -> Iterator[Bed]:
    """The rival on a fresh line, a veth if that is None; losses begin once the nodes have met.  `stack` is that of the source.

    Raises AssertionError when the nodes do not meet.
    """
    with ExitStack() as exits:
        topology = exits.enter_context(Topology())
        source, destination = topology.namespace("n1"), topology.namespace("n2")
        link: LossyLink | None = None
        if line is None:
            topology.join(source, destination, "10.99.0.1/24", "10.99.0.2/24")
        else:
            link = exits.enter_context(LossyLink(source.name, destination.name, replace(line, loss=0.0)))
        address = "10.99.0.2"
        nodes: tuple[RunningNode, ...] = ()
        if rival.source:
            folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix=f"{source.name}-")))
            nodes = _nodes(rival, (source, destination), settings, stack, folder)
            address = nodes[-1].address
        if link is not None and line is not None:
            link.change(loss=line.loss)
        yield Bed(source, destination, address, nodes, link, _overhead_bytes(rival, settings), rival.congestion)


def _nodes(
    rival: Rival, spaces: tuple[Namespace, Namespace], settings: Settings, stack: str, folder: Path
) -> tuple[RunningNode, RunningNode]:
    both: dict[str, Any] = {"algorithm": settings.algorithm}
    if rival.by_kcp:
        config = folder / "ours.toml"
        config.write_text(f'[plugins]\nkcp = {{ engine = "{settings.engine}" }}\n', encoding="utf-8")
        both["our_arguments"] = ("--config-file", str(config))
    dialled: dict[str, Any] = {"peers": (f"{settings.underlay}://10.99.0.2:{PORT}",)}
    listening: dict[str, Any] = {"listeners": (listener(settings.underlay),)}
    first = kcp_options(1, source=rival.by_kcp, quiet=True, stack=stack, **both, **dialled)
    second = kcp_options(2, source=False, quiet=True, **both, **listening)
    nodes = (node(rival.source, spaces[0], first), node(rival.destination, spaces[1], second))
    nodes[1].start()
    nodes[0].start()
    wait_joined(nodes)
    return nodes


def _overhead_bytes(rival: Rival, settings: Settings) -> int:
    if not rival.source:
        return _TCP
    carried = _KCP if rival.by_kcp else _TCP
    return _UDP + _TUNNEL + _SEAL[settings.algorithm] + carried
