"""The kernel stack: a TCP connection ends at a listener of ours, through the kernel's own TCP.

The host captures the flow's packets; this module rewrites them so that the kernel sees a connection to the listener::

    source, on its link       device frames of the flow          kernel
    src:sport -> dst:dport  --- rewritten to --->  fake:port -> own:listener   (written to the device)
    dst:dport -> src:sport  <-- rewritten from --  own:listener -> fake:port   (read from the device, claimed too)

`fake` is the network address of our prefix: it is routed into the device and no node has it.  Each flow gets a port of its own
there, so that two flows from one source port to two destinations never meet.  IPv4 only.

After a flow has ended its entry stays for 30 s, for the last FIN and ACK; a new TCP SYN of the same ends is the host's to
judge anew.

A firewall may drop what comes from the device, and nobody can ask it.  The first SYN that the kernel leaves without answer,
while it answers no other, makes the stack unavailable: flows are plain TCP at once.  Each `RETRY` one flow tries again.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

import anyio

from easytier_hooks.errors import TransportUnavailable
from easytier_hooks.logs import RateLimitedLogger
from easytier_hooks.services import HostServices, Link
from easytier_hooks.streams import SocketStream, TcpConnection, abort
from easytier_hooks.types import FlowKey
from easytier_kcp_plugin.stack.rewrite import SYN, Ends, Rewriter, tcp_flags, tcp_sequence

# Ours.
MAX_FLOWS: Final = 16_384
ACCEPT_TIMEOUT: Final = 2.0
"""Seconds for the kernel's handshake on this machine; it takes well under a millisecond unless a firewall drops it."""
RETRY: Final = 60.0
"""Seconds after a SYN that the kernel did not answer in which the stack is not available."""
LINGER: Final = 30.0
"""Seconds for which the packets of an ended flow are still rewritten."""
BACKLOG: Final = 1024
DROPPED: Final = "the kernel's TCP did not answer"


@dataclass(slots=True)
class _Entry:
    port: int
    """The flow's own port at the fake address."""
    accepted: anyio.Event = field(default_factory=anyio.Event)
    stream: SocketStream | None = None
    answered: bool = False
    """The kernel has said something; a source that does not complete the handshake is no firewall."""
    abandoned: bool = False
    """The source is gone, and its port serves another connection."""
    unclaim: list[Callable[[], None]] = field(default_factory=list)


class _KernelConnection(SocketStream):
    """Our end of a terminated connection; tells the stack when it is closed."""

    def __init__(self, connection: socket.socket, on_closed: Callable[[], None]) -> None:
        super().__init__(connection)
        self._on_closed = on_closed

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            super()._close()
            self._on_closed()


class KernelStack:
    """`easytier_hooks.TcpStack` by the kernel.  `open` it, then let `run` accept."""

    name = "kernel"
    description = "TCP of the kernel: packets are rewritten to a listener of this node"
    carries_subnets = False

    def __init__(self, host: HostServices, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._obstacle = "the kernel stack does not listen"
        self._device: Link
        self._own: IPv4Address
        self._fake: IPv4Address
        self._listener: socket.socket
        self._listener_port = 0
        self._entries: dict[int, _Entry] = {}
        self._next_port = 1024
        self._clock = clock
        self._ended: deque[tuple[float, _Entry]] = deque()
        """Entries that linger, with the time when they go."""
        self._failures = RateLimitedLogger(host.logger, clock)
        self._dropped_at: float | None = None
        """When the kernel last left a SYN without answer; None if it has answered one since."""
        self._answered_at = -math.inf

    def open(self) -> None:
        """Listen on this node's virtual address, if it has one; `available` says why not."""
        interface = next((interface for interface in self._host.interfaces if isinstance(interface, IPv4Interface)), None)
        device = self._host.device
        if interface is None:
            self._obstacle = "this node has no virtual IPv4 address"
            return
        if device is None:
            self._obstacle = "the kernel stack needs a TUN device"
            return
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind((str(interface.ip), 0))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            self._obstacle = f"the kernel stack cannot listen on {interface.ip}: {error.strerror}"
            return
        self._device, self._listener = device, listener
        self._own, self._fake = interface.ip, interface.network.network_address
        self._listener_port = listener.getsockname()[1]
        self._obstacle = ""

    def available(self) -> str:
        """See `TcpStack.available`."""
        if self._dropped_at is not None and (ago := self._clock() - self._dropped_at) < RETRY:
            return f"{DROPPED} {ago:.0f} s ago"
        return self._obstacle

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
                        text = "the kernel stack could not accept, connections wait: %s"
                        self._failures.log(logging.WARNING, error.errno, text, error.strerror)
                        await anyio.sleep(0.1)
                        break
                    self._take(connection, address, port)
        finally:
            self._listener.close()

    async def terminate(self, link: Link, key: FlowKey, syn: bytes) -> TcpConnection:
        """See `TcpStack.terminate`; fails if a firewall drops what comes from the device."""
        obstacle = self.available()
        if key.source_ip.version != 4 or obstacle:
            raise TransportUnavailable(obstacle or "the kernel stack does not carry IPv6")
        self._sweep()
        if len(self._entries) >= MAX_FLOWS:
            raise TransportUnavailable(f"the kernel stack carries {MAX_FLOWS} flows already")
        if self._dropped_at is not None:
            # This flow finds out for all others, which need not wait with it.
            self._dropped_at = self._clock()
        entry, begun_at = _Entry(self._free_port()), self._clock()
        source = Ends(IPv4Address(key.source_ip), key.source_port, IPv4Address(key.destination_ip), key.destination_port)
        local = Ends(self._fake, entry.port, self._own, self._listener_port)
        inward, outward = Rewriter(source, local), Rewriter(local.reversed(), source.reversed())
        device = self._device
        first_sequence = tcp_sequence(syn)
        self._entries[entry.port] = entry

        def to_kernel(frames: list[bytes]) -> None:
            # The source has forgotten this connection if it begins another from the same port.
            over = tcp_flags(frames[-1]) == SYN and tcp_sequence(frames[-1]) != first_sequence
            device.write([inward(frame) for frame in (frames[:-1] if over else frames)])
            if over:
                self._abandon(entry)

        def to_source(frames: list[bytes]) -> None:
            if not entry.answered:
                entry.answered = True
                self._note_answer()
            if not entry.abandoned:
                link.write([outward(frame) for frame in frames])

        try:
            entry.unclaim.append(link.claim(key, to_kernel))
            answers = FlowKey(self._own, self._listener_port, self._fake, entry.port)
            entry.unclaim.append(device.claim(answers, to_source))
            device.write([inward(syn)])
            with anyio.fail_after(ACCEPT_TIMEOUT):
                await entry.accepted.wait()
        except BaseException as error:
            if entry.stream is not None:
                entry.stream.reset()
            self._forget(entry)
            if isinstance(error, TimeoutError):
                if entry.answered:
                    raise TransportUnavailable("the application did not complete its connection") from None
                if self._answered_at < begun_at:
                    self._note_drop()
                raise TransportUnavailable(f"{DROPPED} within {ACCEPT_TIMEOUT:g} s") from None
            if isinstance(error, ValueError):
                raise TransportUnavailable(str(error)) from None
            raise
        assert entry.stream is not None
        return entry.stream

    async def connect(self, link: Link, key: FlowKey) -> TcpConnection:
        """Always raises TransportUnavailable: applications connect through the device by themselves."""
        raise TransportUnavailable("the kernel stack begins no connections; use the user-space stack (--use-smoltcp)")

    def _note_drop(self) -> None:
        if self._dropped_at is None:
            self._host.logger.warning(
                "%s: a firewall seems to drop what comes from the TUN device, so that TCP flows of this machine stay plain; "
                "easytier-cli doctor says what to do",
                DROPPED,
            )
        self._dropped_at = self._clock()

    def _note_answer(self) -> None:
        self._answered_at = self._clock()
        if self._dropped_at is not None:
            self._dropped_at = None
            self._host.logger.info("the kernel's TCP answers again")

    def _linger(self, entry: _Entry) -> None:
        """The flow has ended: forget it after a while."""
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
            abort(connection)
            return
        entry.stream = _KernelConnection(connection, partial(self._linger, entry))
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
