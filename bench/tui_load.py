"""`python -m bench.tui_load`: easytier-tui with many flows, on a terminal of its own: processor time, memory, answers to keys.

A portal in this process tells of `--flows` flows, of which `--changes` change each second; a few end and new ones come.  The
program is the real one, on a pseudo-terminal of 120x40.  Exit status 1 if a limit is exceeded: 30 % of a core, 100 ms for 19 of
20 presses of each key (the first one, which makes its screen, and the slowest are printed, too), 10 % of growth after the first
third.  All of it holds for a machine that has a core to spare.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import random
import socket
import statistics
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import Message

from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_own_pb2, portal_pb2
from easytier_host.rpc import portal_wire

MAX_CORE_SHARE = 0.30
MAX_KEY_SECONDS = 0.1
MAX_GROWTH = 0.10
KEY_EVERY = 0.7
KEYS = (("help", b"?", "In the tables"), ("back", b"\x1b[27u", "Destination"), ("down", b"j", "▶"), ("sort", b"s", "sort: "))
"""Name, what the terminal sends, what is on the screen then."""
ANSWER_TIMEOUT = 5.0
START_TIMEOUT = 20.0


class Node:
    """What the portal tells: flows that change by the clock."""

    def __init__(self, flows: int, changes: float) -> None:
        self._random = random.Random(1)
        self._changes = changes
        self._next_id = 0
        self._flows: dict[int, portal_own_pb2.FlowInfo] = {}
        self._told_at = time.monotonic()
        for _ in range(flows):
            self._add()

    def answer(self, service: str, method: int, cursor: bytes) -> Message | None:
        """To one method; None for those that there are not."""
        match service, method:
            case "PeerManageRpc", 1:
                return portal_pb2.ListPeerResponse()
            case "PeerManageRpc", 3:
                return portal_pb2.ListRouteResponse(routes=[portal_pb2.Route(peer_id=2, hostname="b", cost=1, version="2.6.4")])
            case "PeerManageRpc", 7:
                info = portal_pb2.NodeInfo(peer_id=1, hostname="a", ipv4_addr="10.144.0.1/24", version="2.6.4")
                return portal_pb2.ShowNodeInfoResponse(node_info=info)
            case "ConnectorManageRpc", 1:
                return portal_pb2.ListConnectorResponse()
            case "PythonNodeRpc", 2:
                return portal_own_pb2.ListPluginsResponse()
            case "PythonNodeRpc", 3:
                changed = list(self._flows.values()) if not cursor else list(self._change())
                return portal_own_pb2.WatchFlowsResponse(cursor=b"1", is_snapshot=not cursor, flows=changed)
        return None

    def _change(self) -> Iterator[portal_own_pb2.FlowInfo]:
        now = time.monotonic()
        number = round((now - self._told_at) * self._changes)
        self._told_at = now
        for flow_id in self._random.sample(list(self._flows), min(number, len(self._flows))):
            flow = self._flows[flow_id]
            flow.bytes_sent += self._random.randrange(10_000)
            flow.bytes_received += self._random.randrange(100_000)
            flow.send_rate, flow.receive_rate = self._random.randrange(10_000), self._random.randrange(100_000)
            flow.rtt_us, flow.retransmitted = self._random.randrange(10_000, 90_000), flow.retransmitted + 1
            if self._random.random() < 0.01:
                flow.state, flow.end_reason = "closed", "FIN both ways"
                del self._flows[flow_id]
                yield self._add()
            yield flow

    def _add(self) -> portal_own_pb2.FlowInfo:
        self._next_id += 1
        number = self._next_id
        address = common_pb2.Ipv4Addr(addr=0x0A900001)
        flow = portal_own_pb2.FlowInfo(
            id=number,
            src=common_pb2.SocketAddr(ipv4=address, port=1024 + number % 60_000),
            dst=common_pb2.SocketAddr(ipv4=common_pb2.Ipv4Addr(addr=0x0A900002 + number % 50), port=80),
            direction="outbound",
            peer_id=2,
            peer_hostname="b",
            transport="kcp" if number % 3 else "tcp",
            reason="b takes KCP",
            chosen_by="default",
            state="connected",
            start_time_ms=int(time.time() * 1000),
            rtt_us=50_000,
            retransmitted=0,
        )
        self._flows[number] = flow
        return flow


def serve(server: socket.socket, node: Node) -> None:
    """Answer one caller after the other, until `server` is closed."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as stream:
            while len(prefix := stream.read(portal_wire.LENGTH.size)) == portal_wire.LENGTH.size:
                packet = portal_wire.decode_frame(stream.read(portal_wire.check_length(prefix)), is_request=True)
                connection.sendall(reply(node, packet))


def reply(node: Node, packet: common_pb2.RpcPacket) -> bytes:
    """The frame that answers a request."""
    asked = packet.descriptor
    request = portal_own_pb2.WatchFlowsRequest.FromString(peer_rpc_pb2.RpcRequest.FromString(packet.body).request)
    found = node.answer(asked.service_name, asked.method_index, request.cursor)
    response = peer_rpc_pb2.RpcResponse()
    if found is None:
        response.error.invalid_service.service_name = asked.service_name
    else:
        response.response = found.SerializeToString()
    answer = common_pb2.RpcPacket(transaction_id=packet.transaction_id, descriptor=asked)
    return portal_wire.encode_call(answer, response.SerializeToString())


class Screen:
    """The program on a pseudo-terminal; what it writes is read all the time."""

    def __init__(self, port: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        command = [sys.executable, "-m", "easytier_tui.main", "-p", f"127.0.0.1:{port}"]
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment | {"TERM": "xterm-256color"}
        )
        os.close(slave)
        self._written = ""
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 65_536)
            except OSError:
                return
            with self._changed:
                self._written = (self._written + part.decode(errors="replace"))[-200_000:]
                self._changed.notify_all()

    def press(self, key: bytes, text: str, timeout: float = ANSWER_TIMEOUT) -> float:
        """Press a key and wait until `text` is written; seconds.  Raises TimeoutError."""
        with self._changed:
            self._written = ""
            began = time.monotonic()
            if key:
                os.write(self._master, key)
            if not self._changed.wait_for(lambda: text in self._written, timeout):
                raise TimeoutError(f"{text!r} did not come within {timeout:g} s")
            return time.monotonic() - began

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def waited_seconds(self) -> float:
        """How long it could have run, but other programs had the processors: 0 on a machine with a core to spare."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[1]) for task in tasks) / 1e9

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        """Quit, at the latest by force."""
        os.write(self._master, b"q")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(screen: Screen, seconds: float) -> bool:
    """Press keys for so long, print what was found; whether all limits were kept."""
    screen.press(b"", "connected", START_TIMEOUT)
    # What is done once is not counted: imports, the snapshot, the first drawings.
    time.sleep(3)
    times: dict[str, list[float]] = {name: [] for name, _, _ in KEYS}
    memory: list[int] = []
    first = {name: screen.press(key, text) for name, key, text in KEYS}
    began, cpu, waited = time.monotonic(), screen.cpu_seconds(), screen.waited_seconds()
    while time.monotonic() - began < seconds:
        for name, key, text in KEYS:
            times[name].append(screen.press(key, text))
            time.sleep(KEY_EVERY)
        memory.append(screen.memory())
    passed = time.monotonic() - began
    share, waited = (screen.cpu_seconds() - cpu) / passed, (screen.waited_seconds() - waited) / passed
    settled = memory[len(memory) // 3]
    print(f"processor time  {share:.1%} of a core, keys and their screens included; {waited:.1%} waiting for one")
    for name, found in times.items():
        figures = {"first": first[name], "median": statistics.median(found), "19 of 20": _most(found), "slowest": max(found)}
        print(
            f"key {name:<10}  {', '.join(f'{word} {each * 1000:.0f} ms' for word, each in figures.items())}; {len(found)} times"
        )
    print(f"memory          {', '.join(f'{size >> 20}' for size in (memory[0], settled, memory[-1]))} MiB: start, a third, end")
    answer = max(map(_most, times.values()))
    return share <= MAX_CORE_SHARE and answer <= MAX_KEY_SECONDS and memory[-1] <= settled * (1 + MAX_GROWTH)


def _most(found: list[float]) -> float:
    """What 19 of 20 keep."""
    return sorted(found)[(len(found) * 19 - 1) // 20]


def main() -> int:
    parser = argparse.ArgumentParser(description="easytier-tui under load")
    parser.add_argument("--flows", type=int, default=5000)
    parser.add_argument("--changes", type=float, default=500.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="600 shows whether memory stays flat")
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as server:
        node = Node(options.flows, options.changes)
        threading.Thread(target=serve, args=(server, node), daemon=True).start()
        screen = Screen(server.getsockname()[1])
        try:
            kept = measure(screen, options.seconds)
        finally:
            screen.end()
            server.shutdown(socket.SHUT_RDWR)
    print("all limits kept" if kept else "a limit was exceeded")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
