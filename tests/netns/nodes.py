"""Nodes in namespaces: a genuine EasyTier core and our own, behind one face.

What a node knows is asked where it can be asked (`StockNode.routes`), else seen from outside: devices, routes, pings, logs.
"""

from __future__ import annotations

import json
import select
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.netns.topology import LoggedProcess, Namespace, wait_for

ALGORITHMS = ("aes-gcm", "aes-256-gcm", "chacha20", "xor", "off")
READY_SECONDS = 20.0
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class NodeOptions:
    """What both kinds of node are told; `algorithm` is one of `ALGORITHMS`, `off` meaning no encryption."""

    hostname: str
    ipv4: str
    """Virtual address with prefix length."""
    listeners: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    network_name: str = "lab"
    network_secret: str = "s3cret"
    algorithm: str = "aes-gcm"
    dev_name: str = "et0"
    default_protocol: str = ""
    latency_first: bool = False
    compression: bool = False
    proxy_networks: tuple[str, ...] = ()
    """Networks offered: `10.1.2.0/24`, or `10.1.2.0/24->10.9.2.0/24` under another address."""
    exit_nodes: tuple[str, ...] = ()
    stock_flags: dict[str, Any] = field(default_factory=dict)
    """More of the stock `flags` table, for `StockNode` only."""
    our_arguments: tuple[str, ...] = ()
    """More command-line arguments, for `OurNode` only."""

    @property
    def address(self) -> str:
        """The virtual address without prefix length."""
        return self.ipv4.partition("/")[0]


class RunningNode(ABC):
    """A node that `start` has put into its namespace.  `kind` is `stock` or `ours`."""

    kind: str

    def __init__(self, namespace: Namespace, options: NodeOptions) -> None:
        self.namespace = namespace
        self.options = options
        self._process: LoggedProcess | None = None

    def __repr__(self) -> str:
        return f"{self.kind} {self.options.hostname} in {self.namespace.name}"

    @property
    def address(self) -> str:
        return self.options.address

    @property
    def process(self) -> LoggedProcess:
        """The process of the last start; raises AssertionError before the first."""
        assert self._process is not None, f"{self!r} was never started"
        return self._process

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start, or start again after `stop` or `kill9`, and wait until it is ready."""
        assert not self.alive, f"{self!r} runs already"
        self._process = self._spawn()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return once the TUN device carries the virtual address; raises AssertionError with the log after 20 s."""

        def up() -> bool:
            if not self.alive:
                raise RuntimeError(f"{self!r} ended while starting:\n{self.log()}")
            return self.options.ipv4 in self.namespace.addresses(self.options.dev_name)

        wait_for(up, f"device of {self!r} with log {self.process.log_tail()}", READY_SECONDS)

    def stop(self) -> int:
        """SIGTERM; return the exit code, or raise AssertionError when it does not end within 10 s."""
        return self.process.terminate()

    def kill9(self) -> None:
        self.process.kill()

    def log(self) -> str:
        return self.process.log()

    def wait_logged(self, word: str, timeout: float) -> None:
        """Return once the log holds `word`, in any case of letters."""
        wait_for(lambda: word in self.log().lower(), f"{word!r} in the log of {self!r}", timeout)

    def ping(self, other: RunningNode, *, count: int = 1, size_bytes: int = 56, interval: float = 0.2) -> float:
        """Share of echo requests to the other's virtual address that were answered."""
        return self.namespace.ping(other.address, count=count, size_bytes=size_bytes, interval=interval)

    @abstractmethod
    def _spawn(self) -> LoggedProcess: ...


class StockNode(RunningNode):
    """A genuine core, asked through its child process."""

    kind = "stock"

    def routes(self) -> list[dict[str, Any]]:
        """Other nodes as the core lists them; see `reachable_hosts` for the usual question."""
        answer: list[dict[str, Any]] = self.ask("routes")
        return answer

    def peers(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self.ask("peers")
        return answer

    def ask(self, command: str) -> Any:
        """Send one command of `stock_node` and return its answer; raises AssertionError on an error or after 10 s."""
        pipe = self.process.popen
        assert pipe.stdin is not None
        assert self.alive, f"{self!r} has ended:\n{self.process.log_tail()}"
        pipe.stdin.write(command + "\n")
        pipe.stdin.flush()
        message = self._read_line(ANSWER_SECONDS)
        assert "answer" in message, f"{self!r} answered {command!r} with {message!r}"
        return message["answer"]

    def stop(self) -> int:
        """End it through its own stop call, so that it removes its device; return the exit code."""
        pipe = self.process.popen
        if self.alive and pipe.stdin is not None:
            pipe.stdin.write("stop\n")
            pipe.stdin.flush()
        return pipe.wait(10)

    def wait_ready(self) -> None:
        self._read_line(READY_SECONDS)
        super().wait_ready()

    def _read_line(self, timeout: float) -> dict[str, Any]:
        stdout = self.process.popen.stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], timeout)
        assert readable, f"{self!r} said nothing for {timeout:g} s:\n{self.process.log_tail()}"
        line = stdout.readline()
        assert line, f"{self!r} has ended:\n{self.process.log_tail()}"
        message: dict[str, Any] = json.loads(line)
        return message

    def _spawn(self) -> LoggedProcess:
        script = str(Path(__file__).with_name("stock_node.py"))
        config = json.dumps(stock_config(self.options))
        return self.namespace.spawn(sys.executable, script, config, label=f"{self.options.hostname}-stock", piped=True)


class OurNode(RunningNode):
    """Our own `easytier-core`."""

    kind = "ours"
    wrapper: tuple[str, ...] = ()
    """The command that runs it, if it is not run directly."""

    def _spawn(self) -> LoggedProcess:
        argv = [*self.wrapper, sys.executable, "-m", "easytier_host.main", *our_arguments(self.options)]
        return self.namespace.spawn(*argv, label=f"{self.options.hostname}-ours")


class NodeWithoutDevice(OurNode):
    """`--no-tun`, which is among its options: ready once it says so."""

    def wait_ready(self) -> None:
        self.wait_logged("peer id", READY_SECONDS)


def make_node(kind: str, namespace: Namespace, options: NodeOptions) -> RunningNode:
    """A `StockNode` or an `OurNode`, by `kind`."""
    return {"stock": StockNode, "ours": OurNode}[kind](namespace, options)


def stock_config(options: NodeOptions) -> dict[str, Any]:
    """The stock configuration, with discovery of the outside world switched off."""
    flags = {
        "bind_device": False,
        "dev_name": options.dev_name,
        "enable_encryption": options.algorithm != "off",
        "latency_first": options.latency_first,
        "disable_udp_hole_punching": True,
        "disable_tcp_hole_punching": True,
        "disable_sym_hole_punching": True,
        "disable_upnp": True,
        "multi_thread": True,
    }
    if options.algorithm != "off":
        flags["encryption_algorithm"] = options.algorithm
    if options.default_protocol:
        flags["default_protocol"] = options.default_protocol
    if options.compression:
        flags["data_compress_algo"] = 2
    return {
        "instance_name": options.hostname,
        "hostname": options.hostname,
        "ipv4": options.ipv4,
        "network_identity": {"network_name": options.network_name, "network_secret": options.network_secret},
        "listeners": list(options.listeners),
        "peer": [{"uri": uri} for uri in options.peers],
        "exit_nodes": list(options.exit_nodes),
        "proxy_network": [_proxy_network(text) for text in options.proxy_networks],
        "stun_servers": [],
        "stun_servers_v6": [],
        "flags": flags | options.stock_flags,
    }


def our_arguments(options: NodeOptions) -> list[str]:
    """The command line of our `easytier-core`."""
    arguments = ["--hostname", options.hostname, "--instance-name", options.hostname, "--ipv4", options.ipv4]
    arguments += ["--network-name", options.network_name, "--network-secret", options.network_secret]
    arguments += ["--dev-name", options.dev_name]
    for url in options.listeners:
        arguments += ["--listeners", url]
    if not options.listeners:
        arguments += ["--no-listener"]
    for url in options.peers:
        arguments += ["--peers", url]
    if options.algorithm == "off":
        arguments += ["--disable-encryption"]
    else:
        arguments += ["--encryption-algorithm", options.algorithm]
    if options.default_protocol:
        arguments += ["--default-protocol", options.default_protocol]
    if options.latency_first:
        arguments += ["--latency-first"]
    if options.compression:
        arguments += ["--compression", "zstd"]
    for network in options.proxy_networks:
        arguments += ["--proxy-networks", network]
    for address in options.exit_nodes:
        arguments += ["--exit-nodes", address]
    return arguments + list(options.our_arguments)


def reachable_hosts(node: StockNode) -> dict[str, str]:
    """Hostname -> virtual address with prefix length ("" if none), for every other node in the stock node's route table."""
    return {route["hostname"]: _inet(route.get("ipv4_addr")) for route in node.routes()}


def _proxy_network(text: str) -> dict[str, str]:
    cidr, _, mapped = text.partition("->")
    return {"cidr": cidr, "mapped_cidr": mapped} if mapped else {"cidr": cidr}


def _inet(value: dict[str, Any] | None) -> str:
    if not value:
        return ""
    return f"{ip_address(value['address'].get('addr', 0))}/{value.get('network_length', 0)}"
