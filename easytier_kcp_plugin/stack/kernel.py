"""The kernel stack: an application's TCP connection ends at a listener of ours, through the kernel's own TCP.

The host captures the flow's packets; this module rewrites them so that the kernel sees a connection to the listener::

    application            device frames of the flow             kernel
    own:sport -> dst:dport  --- rewritten to --->  fake:port -> own:listener   (written back to the device)
    dst:dport -> own:sport  <-- rewritten from --  own:listener -> fake:port   (read from the device, claimed too)

`fake` is the network address of our prefix: it is routed into the device and no node has it.  Each flow gets a port of its own
there, so that two flows from one source port to two destinations never meet.  IPv4 only: an IPv6 flow is not captured.

After a flow has ended its entry stays for 30 s, for the last FIN and ACK; a new TCP SYN of the same ends is the host's to
judge anew.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

import anyio

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.services import HostServices
from easytier_hooks.types import FlowKey
from easytier_kcp_plugin.stack.rewrite import SYN, Ends, Rewriter, tcp_flags, tcp_sequence
from easytier_kcp_plugin.stack.sockets import TcpStream, reset

# Ours.
MAX_FLOWS: Final = 4096
ACCEPT_TIMEOUT: Final = 5.0
"""Seconds for the kernel's handshake on this machine; it takes well under a millisecond unless a firewall drops it."""
LINGER: Final = 30.0
"""Seconds for which the packets of an ended flow are still rewritten."""
BACKLOG: Final = 1024


@dataclass(slots=True)
class _Entry:
    port: int
    """The flow's own port at the fake address."""
    accepted: anyio.Event = field(default_factory=anyio.Event)
    stream: TcpStream | None = None
    abandoned: bool = False
    """The application's side is gone, and its port serves another connection."""
    unclaim: list[Callable[[], None]] = field(default_factory=list)


class KernelStack:
    """Ends flows of the node's own address at the kernel.  One for each node; `run` is its listener."""

    def __init__(self, host: HostServices, interface: IPv4Interface, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._own = interface.ip
        self._fake = interface.network.network_address
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._entries: dict[int, _Entry] = {}
        self._next_port = 1024
        self._listener_port = 0
        self._clock = clock
        self._ended: deque[tuple[float, _Entry]] = deque()
        """Entries that linger, with the time when they go."""

    def open(self) -> None:
        """Bind the listener; raises OSError if our own address is not on this machine yet."""
        self._listener.setblocking(False)
        self._listener.bind((str(self._own), 0))
        self._listener.listen(BACKLOG)
        self._listener_port = self._listener.getsockname()[1]

    async def run(self) -> None:
        """Accept for ever; connections that no flow of ours waits for are reset."""
        try:
            while True:
                await anyio.wait_readable(self._listener)
                for _ in range(64):
                    try:
                        connection, (address, port) = self._listener.accept()
                    except BlockingIOError:
                        break
                    except OSError as error:
                        # Out of descriptors, or a connection that went before it was taken.
                        self._host.logger.warning("the kernel stack could not accept: %s", error)
                        await anyio.sleep(0.1)
                        break
                    self._take(connection, address, port)
        finally:
            self._listener.close()

    async def terminate(self, key: FlowKey, syn: bytes) -> tuple[TcpStream, int]:
        """Complete the TCP handshake of the flow whose SYN was held; returns our end of the connection, and what `release`
        takes.

        From here on the flow's packets are claimed.  Raises `TransportUnavailable` when full, or if the kernel does not take
        the connection (a firewall that drops what comes from the device); the claims are ended then.
        """
        self._sweep()
        if len(self._entries) >= MAX_FLOWS:
            raise TransportUnavailable(f"the kernel stack carries {MAX_FLOWS} flows already")
        entry = _Entry(self._free_port())
        application = Ends(IPv4Address(key.source_ip), key.source_port, IPv4Address(key.destination_ip), key.destination_port)
        local = Ends(self._fake, entry.port, self._own, self._listener_port)
        inward, outward = Rewriter(application, local), Rewriter(local.reversed(), application.reversed())
        write = self._host.write_device
        first_sequence = tcp_sequence(syn)
        self._entries[entry.port] = entry

        def to_kernel(frames: list[bytes]) -> None:
            # The application's side has forgotten this connection if it begins another from the same port.
            over = tcp_flags(frames[-1]) == SYN and tcp_sequence(frames[-1]) != first_sequence
            write([inward(frame) for frame in (frames[:-1] if over else frames)])
            if over:
                self._abandon(entry)

        def to_application(frames: list[bytes]) -> None:
            if not entry.abandoned:
                write([outward(frame) for frame in frames])

        try:
            entry.unclaim.append(self._host.claim(key, to_kernel))
            answers = FlowKey(self._own, self._listener_port, self._fake, entry.port)
            entry.unclaim.append(self._host.claim(answers, to_application))
            write([inward(syn)])
            with anyio.fail_after(ACCEPT_TIMEOUT):
                await entry.accepted.wait()
        except BaseException as error:
            self._forget(entry)
            if isinstance(error, TimeoutError):
                raise TransportUnavailable(
                    "the kernel did not take the connection: does a firewall drop packets from the device?"
                ) from None
            if isinstance(error, ValueError):
                raise TransportUnavailable(str(error)) from None
            raise
        assert entry.stream is not None
        return entry.stream, entry.port

    def release(self, port: int) -> None:
        """The flow has ended: forget it after a while."""
        entry = self._entries.get(port)
        if entry is not None:
            self._ended.append((self._clock() + LINGER, entry))

    def _sweep(self) -> None:
        now = self._clock()
        while self._ended and (self._ended[0][0] <= now or len(self._entries) >= MAX_FLOWS):
            self._forget(self._ended.popleft()[1])

    def _free_port(self) -> int:
        while True:
            self._next_port = self._next_port + 1 if self._next_port < 65_535 else 1024
            if self._next_port not in self._entries:
                return self._next_port

    def _take(self, connection: socket.socket, address: str, port: int) -> None:
        entry = self._entries.get(port)
        if address != str(self._fake) or entry is None or entry.accepted.is_set():
            reset(connection)
            connection.close()
            return
        entry.stream = TcpStream(connection)
        entry.accepted.set()

    def _abandon(self, entry: _Entry) -> None:
        entry.abandoned = True
        if entry.stream is not None:
            entry.stream.reset()

    def _forget(self, entry: _Entry) -> None:
        for unclaim in entry.unclaim:
            unclaim()
        entry.unclaim.clear()
        if self._entries.get(entry.port) is entry:
            del self._entries[entry.port]
