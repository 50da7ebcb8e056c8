"""Network namespaces for tests: made, joined, watched and certainly removed.

Not a network simulator: delay and loss come from `bench.link`, and what runs inside a namespace is in `nodes`.  Used by the
tests in `tests/netns` and `tests/interop` and by `bench/rivals.py`.  Needs root, iproute2 and Linux.

All names carry the pid of the process that made them (`etp<pid>-<n>-<label>`), so that runs do not meet and `sweep_stale`
can tell what a killed run left behind.  Links are made inside the namespaces; the root namespace never sees one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.05
LOG_TAIL_CHARACTERS = 6000

_PREFIX = "etp"
_OWNED_NAME = re.compile(rf"^{_PREFIX}(\d+)-")
_counter = itertools.count(1)


class CommandError(AssertionError):
    """A command inside a namespace failed; the message holds its output."""


def wait_for(probe: Callable[[], T | None], what: str, timeout: float = 10.0) -> T:
    """Poll `probe` until it returns something true, and return that.

    `timeout` is in seconds.  Raises AssertionError with `what` and the last answer when the time is over.  AssertionErrors
    of the probe count as "not yet".
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            answer = probe()
            if answer:
                return answer
            last = answer
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:g} s; last answer: {last!r}")
        time.sleep(POLL_SECONDS)


def python_environment() -> dict[str, str]:
    """The environment in which a child Python finds the modules that this process finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "PYTHONUNBUFFERED": "1"}


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far in seconds, user and system together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class LoggedProcess:
    """A process whose standard error (and output, unless piped) goes to a file that a failing test shows."""

    def __init__(self, argv: Sequence[str], label: str, *, piped: bool = False, env: Mapping[str, str] | None = None) -> None:
        self.label = label
        self._last_words = ""
        prefix = f"{_PREFIX}{os.getpid()}-{label}-"
        self._log: IO[bytes] = tempfile.NamedTemporaryFile(prefix=prefix, suffix=".log")  # noqa: SIM115
        self.popen: subprocess.Popen[str] = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else self._log,
            stderr=self._log,
            env=env,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def log(self) -> str:
        """Everything the process has written so far, only the end of it after `close`; undecodable bytes are replaced."""
        if self._log.closed:
            return self._last_words
        return Path(self._log.name).read_text(errors="replace")

    def log_tail(self) -> str:
        return self.log()[-LOG_TAIL_CHARACTERS:]

    def cpu_seconds(self) -> float:
        """Processor time used so far in seconds, user and system together."""
        return cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def terminate(self, timeout: float = 10.0) -> int:
        """Send SIGTERM and return the exit code; raises AssertionError when it is still there after `timeout` seconds."""
        self.popen.terminate()
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.label} did not stop within {timeout:g} s of SIGTERM:\n{self.log_tail()}") from None

    def kill(self) -> None:
        """Send SIGKILL and reap; does nothing when the process is gone already."""
        self.popen.kill()
        self.popen.wait(10)

    def close(self) -> None:
        """Kill, and remove the log file; idempotent."""
        self.kill()
        self._last_words = self.log_tail()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._log.close()


class Namespace:
    """One network namespace; made by `Topology.namespace` only."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.name = f"{_PREFIX}{os.getpid()}-{next(_counter)}-{label}"
        self.processes: list[LoggedProcess] = []

    def __repr__(self) -> str:
        return f"Namespace({self.name})"

    def inside(self, *argv: str) -> list[str]:
        """The command line that runs `argv` in here."""
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, *argv: str, check: bool = True, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run to the end, at most `timeout` seconds; raises CommandError on failure (if not `check`: on time-out only)."""
        return _run(self.inside(*argv), check=check, timeout=timeout)

    def spawn(self, *argv: str, label: str | None = None, piped: bool = False) -> LoggedProcess:
        """Start a process in here; it is killed at the latest when the topology goes."""
        name = f"{self.label}-{label or os.path.basename(argv[0])}"
        process = LoggedProcess(self.inside(*argv), name, piped=piped, env=python_environment())
        self.processes.append(process)
        return process

    def links(self) -> list[str]:
        """Names of all network devices but `lo`."""
        return [link["ifname"] for link in self._ip_json("link", "show") if link["ifname"] != "lo"]

    def wait_up(self, device: str) -> None:
        """Return once the device is up and has a carrier."""
        wait_for(
            lambda: any(link["operstate"] == "UP" for link in self._ip_json("link", "show", "dev", device)),
            f"carrier of {device} in {self.name}",
        )

    def addresses(self, device: str) -> list[str]:
        """IPv4 and IPv6 addresses with prefix length; empty when there is no such device."""
        if device not in self.links():
            return []
        infos = self._ip_json("addr", "show", "dev", device)
        return [
            f"{info['local']}/{info['prefixlen']}" for link in infos for info in link.get("addr_info", []) if "local" in info
        ]

    def routes(self) -> list[str]:
        """The lines of the IPv4 routing table."""
        return [line.strip() for line in self.run("ip", "-4", "route", "show").stdout.splitlines()]

    def ping(self, address: str, *, count: int = 1, size_bytes: int = 56, interval: float = 0.2) -> float:
        """Send `count` echo requests and return the share that was answered, 0.0 to 1.0; waits 1 s for the last answer."""
        argv = ["ping", "-n", "-q", "-c", str(count), "-i", f"{interval:g}", "-W", "1", "-s", str(size_bytes), address]
        result = self.run(*argv, check=False, timeout=count * interval + 15)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", result.stdout)
        return int(found[2]) / int(found[1]) if found else 0.0

    def round_trip_ms(self, address: str, *, count: int = 5) -> float:
        """The shortest round trip of `count` echo requests in milliseconds; raises AssertionError when none is answered."""
        result = self.run("ping", "-n", "-q", "-c", str(count), "-i", "0.1", "-W", "1", address, check=False)
        found = re.search(r"rtt min/avg/max/mdev = ([\d.]+)/", result.stdout)
        assert found, f"no answer from {address} to {self.name}: {result.stdout}"
        return float(found[1])

    def listens_on(self, port: int, protocol: str = "tcp") -> bool:
        """Whether any socket in here is bound to `port`, for `protocol` `tcp` (listening) or `udp`."""
        lines = self.run("ss", "-Hln", "--tcp" if protocol == "tcp" else "--udp").stdout.splitlines()
        return any(line.split()[3].endswith(f":{port}") for line in lines)

    def create(self) -> None:
        _run(["ip", "netns", "add", self.name])
        self.run("ip", "link", "set", "lo", "up")

    def destroy(self) -> None:
        for process in self.processes:
            process.close()
        _destroy(self.name)

    def _ip_json(self, *argv: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = json.loads(self.run("ip", "-j", *argv).stdout or "[]")
        return answer


class Topology:
    """A set of namespaces and the links between them; a context manager that removes all of it, whatever happened inside.

    Use `join` for a direct link, `bridge` for a common segment.
    """

    def __init__(self) -> None:
        self.namespaces: list[Namespace] = []
        self._links = itertools.count()

    def __enter__(self) -> Self:
        _live.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        _live.remove(self)
        with contextlib.ExitStack() as stack:
            for namespace in self.namespaces:
                stack.callback(namespace.destroy)
        if value is not None:
            _last_words.extend(self._logs())

    def _logs(self) -> Iterator[tuple[str, str]]:
        for namespace in self.namespaces:
            for process in namespace.processes:
                state = "running" if process.running else f"ended with {process.popen.returncode}"
                yield f"{process.label}, {state}", process.log_tail()

    def namespace(self, label: str) -> Namespace:
        """A new namespace with `lo` up; `label` is for people and kept short."""
        namespace = Namespace(label)
        self.namespaces.append(namespace)
        namespace.create()
        return namespace

    def join(self, left: Namespace, right: Namespace, left_address: str, right_address: str) -> tuple[str, str]:
        """Join two namespaces by a veth pair with these addresses (`10.1.0.1/24`, or IPv6); return the device names."""
        number = next(self._links)
        names = (f"v{number}l", f"v{number}r")
        _run(f"ip link add {names[0]} netns {left.name} type veth peer name {names[1]} netns {right.name}".split())
        ends = list(zip((left, right), names, (left_address, right_address), strict=True))
        for end in ends:
            add_address(*end)
        for namespace, device, _ in ends:
            namespace.wait_up(device)
        return names

    def bridge(self, members: Mapping[Namespace, str]) -> Namespace:
        """Put all members, each with its address, on one segment; return the namespace that holds the bridge."""
        switch = self.namespace("switch")
        switch.run("ip", "link", "add", "br0", "type", "bridge")
        switch.run("ip", "link", "set", "br0", "up")
        for namespace, address in members.items():
            number = next(self._links)
            port, device = f"p{number}", f"v{number}"
            _run(f"ip link add {device} netns {namespace.name} type veth peer name {port} netns {switch.name}".split())
            switch.run("ip", "link", "set", port, "master", "br0", "up")
            add_address(namespace, device, address)
            namespace.wait_up(device)
        return switch


def add_address(namespace: Namespace, device: str, address: str) -> None:
    """Give the device an address, usable at once (no duplicate address detection), and no link-local one; bring it up."""
    namespace.run("ip", "link", "set", device, "addrgenmode", "none")
    namespace.run("ip", "addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
    namespace.run("ip", "link", "set", device, "up")


def mute_router(topology: Topology, near: Namespace, far: Namespace, *, ipv6: bool) -> tuple[Namespace, str, tuple[str, str]]:
    """Join two namespaces by a router that tells nobody when a packet was too large.

    Returns it, its device towards `far`, and the addresses of the two.
    """
    router = topology.namespace("router")
    nets, prefix, family = (("fd09:1::", "fd09:2::"), "/64", "-6") if ipv6 else (("10.9.1.", "10.9.2."), "/24", "-4")
    devices = []
    for namespace, net in zip((near, far), nets, strict=True):
        devices.append(topology.join(namespace, router, f"{net}2{prefix}", f"{net}1{prefix}")[1])
        if ipv6:
            # Without a link-local address it cannot ask who has the next one.
            add_address(router, devices[-1], "fe80::1/64")
        namespace.run("ip", family, "route", "add", "default", "via", f"{net}1")
    router.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1" if ipv6 else "net.ipv4.ip_forward=1")
    kind = "icmpv6 type packet-too-big" if ipv6 else "icmp type destination-unreachable"
    for words in (
        "add table inet mute",
        "add chain inet mute output { type filter hook output priority 0 ; }",
        f"add rule inet mute output {kind} drop",
    ):
        router.run("nft", *words.split())
    return router, devices[1], (f"{nets[0]}2", f"{nets[1]}2")


def traces(namespace: Namespace) -> dict[str, str]:
    """Everything a node may have changed in a namespace: devices, addresses, routes, rules, packet filter."""
    commands = {
        "devices": ("ip", "-br", "link"),
        "addresses": ("ip", "-br", "addr"),
        "routes": ("ip", "route", "show", "table", "all"),
        "routes6": ("ip", "-6", "route", "show", "table", "all"),
        "rules": ("ip", "rule"),
        "filter": ("nft", "list", "ruleset"),
    }
    return {name: namespace.run(*command).stdout for name, command in commands.items()}


def take_logs() -> list[tuple[str, str]]:
    """Title and last words of each process of the open topologies, and of those that ended in an error since the last call."""
    logs = [*_last_words, *(log for topology in _live for log in topology._logs())]
    _last_words.clear()
    return logs


def sweep_stale() -> list[str]:
    """Remove the namespaces (with the processes in them) and the logs of runs that are dead; return the namespaces' names."""
    stale = []
    for line in _run(["ip", "netns", "list"]).stdout.splitlines():
        name = line.split()[0] if line.strip() else ""
        owner = _OWNED_NAME.match(name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            _destroy(name)
            stale.append(name)
    for log in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*.log"):
        owner = _OWNED_NAME.match(log.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            log.unlink(missing_ok=True)
    return stale


_live: list[Topology] = []
_last_words: list[tuple[str, str]] = []
"""Open topologies of this process, and the logs of those that an error has closed, for the report of a failing test."""


def _destroy(name: str) -> None:
    for pid in _run(["ip", "netns", "pids", name], check=False).stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _run(["ip", "netns", "del", name], check=False)


def _run(argv: Sequence[str], *, check: bool = True, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    try:
        result = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, env=python_environment())
    except subprocess.TimeoutExpired as error:
        raise CommandError(
            f"{' '.join(argv)}: not finished within {timeout:g} s; output: {error.stdout!r} {error.stderr!r}"
        ) from None
    if check and result.returncode:
        raise CommandError(f"{' '.join(argv)}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
    return result
