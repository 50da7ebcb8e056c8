"""The user-space TCP stack: the Rust crate `smoltcp` behind a batch interface without sockets, threads or a clock.

Built from `native/` at installation where `cargo` is found, else missing: importers catch ImportError.  It does no I/O.  One
thread owns a `Stack` and drives it:

1. `step` with the packets that came in, or none; send what it gives back, act on its events;
2. `step` again, without packets, while any call since then changed something (`accept`, `connect`, `send`, `receive`, ...);
3. wait for input until the deadline that `step` named.

`step` releases the GIL; another thread's call during it raises RuntimeError.  Times are seconds of any monotonic clock; one
that goes back counts as standing still.  Addresses are packed, 4 or 16 bytes.  Packets are whole IP packets, or with
`vnet_header` device frames: a 10-byte virtio-net header (little endian), then a packet of up to 64 KiB.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypedDict, final, type_check_only

from typing_extensions import Buffer

__all__ = ["AddressInUseError", "ClosedError", "LimitError", "Stack", "StackError", "complete_checksum", "split_frame"]

Endpoint: TypeAlias = tuple[bytes, int]
"""A packed address and a port."""

CloseReason: TypeAlias = Literal["normal", "reset", "timeout", "aborted", "refused"]

Event: TypeAlias = (
    tuple[Literal["incoming"], int, Endpoint, Endpoint]
    | tuple[Literal["withdrawn", "established", "readable", "writable", "end_of_stream"], int]
    | tuple[Literal["closed"], int, CloseReason]
)
"""What happened, to which pending SYN or connection.

- incoming: a SYN waits for `accept`, `reject` or `decline`; then its source and destination
- withdrawn: the pending SYN is gone: reset by its source, too old, or accepted by `accept_syn`
- established: the handshake is complete
- readable: there are bytes; not said again until `receive` has taken all of them
- writable: after a `send` that took less than it was given: a quarter of the buffer or more is free
- end_of_stream: the other end finished, and the last byte has been received
- closed: the last event of its connection, exactly one for each; its id is good until the step that gives it. Bytes that
  arrived before a clean end or a reset are received first. "normal": both ends finished; "refused": RST in answer to our SYN;
  "timeout": the other end fell silent
"""

@type_check_only
class ConnectionInfo(TypedDict):
    state: str  # as in RFC 9293, "ESTABLISHED"; "CLOSED" while bytes wait to be received
    local: Endpoint
    remote: Endpoint
    received: int  # bytes that wait for `receive`
    queued: int  # bytes given to `send` and not acknowledged

class StackError(Exception):
    """The base of the others. By itself: the stack failed inside; every connection is lost and every later call raises it."""

class LimitError(StackError):
    """No room for a further connection."""

class AddressInUseError(StackError):
    """There is a connection between the same ends."""

class ClosedError(StackError):
    """The connection has ended, or its sending half has been finished."""

@final
class Stack:
    """The TCP end points of one link. Connections stay until `closed` was reported; a dropped Stack says goodbye to nobody.

    mtu: bytes, 576 to 65535; the segment size offered to others follows from it. IPv6 needs 1280.
    seed: 64 random bits for sequence numbers, from the operating system, never constant outside of tests. The generator is no
    cryptographic one: it is enough between authenticated peers, not on the open Internet.
    tso_max: with `vnet_header`, the largest super-packet to give out, up to 65535 bytes; 0: none.
    verify_checksums: drop what is corrupt; not asked of a frame whose virtio header says that its checksum is partial or good.
    receive_buffer, send_buffer: bytes, 4 KiB to 16 MiB, per connection. Memory is only taken for the part in use.
    congestion: of what it sends; "none" only where nothing on the way drops packets.
    keepalive, timeout: seconds, 0 for never. A silent connection is asked every `keepalive` and closed after `timeout`, which
    therefore needs a shorter keepalive. In the handshake and after our FIN a peer may be silent for 60 s in any case.
    time_wait: seconds, at most 10, that a closed 4-tuple answers late segments.
    max_connections: up to 2**20; one more raises LimitError. max_pending: SYNs held; one more is unclaimed.
    pending_ttl: seconds until an unanswered SYN is withdrawn.

    Raises ValueError for values outside of these bounds.
    """

    def __new__(
        cls,
        *,
        mtu: int,
        seed: int,
        tso_max: int = 0,
        vnet_header: bool = False,
        verify_checksums: bool = True,
        receive_buffer: int = 262144,
        send_buffer: int = 262144,
        congestion: Literal["none", "reno", "cubic"] = "cubic",
        keepalive: float = 0.0,
        timeout: float = 0.0,
        time_wait: float = 1.0,
        max_connections: int = 16384,
        max_pending: int = 1024,
        pending_ttl: float = 30.0,
    ) -> Stack: ...
    def step(
        self, packets: Sequence[bytes], now: float, max_packets: int = 64
    ) -> tuple[list[bytes], list[Event], list[int] | None, float | None]:
        """Take `packets`, let time pass, and return (packets to send, events, unclaimed input, deadline).

        Unclaimed are the indexes of what is not ours: no TCP, malformed, a fragment, an extension header, an address that
        must not be answered, no SYN and no known connection; None if there are none. Nothing in a packet raises. At most
        `max_packets` are given out, and one more for each that came in; if more wait, the deadline is `now`: step again when
        the way out has room. Deadline None: nothing to do until the next packet or call.
        """

    def accept(self, pending: int, now: float, receive_buffer: int | None = None, send_buffer: int | None = None) -> int:
        """Answer a pending SYN and return the connection. KeyError if it is gone; LimitError, and the SYN stays pending."""

    def accept_syn(self, frame: bytes, now: float, receive_buffer: int | None = None, send_buffer: int | None = None) -> int:
        """The same for a SYN that the caller holds: a packet or device frame, as `step` takes them.

        ValueError if it is not a TCP SYN that can be answered; AddressInUseError; LimitError.
        """

    def reject(self, pending: int, now: float) -> None:
        """Answer a pending SYN with RST, in the next step. KeyError if it is gone."""

    def decline(self, pending: int) -> bytes:
        """Forget a pending SYN and return it as a packet with complete checksum, to be sent on. KeyError if it is gone."""

    def connect(
        self, source: Endpoint, destination: Endpoint, receive_buffer: int | None = None, send_buffer: int | None = None
    ) -> int:
        """Begin a connection: SYN in the next step, later `established` or `closed`.

        ValueError for addresses of two families or that must not be answered and for port 0; AddressInUseError; LimitError.
        """

    def send(self, connection: int, data: Buffer) -> int:
        """Queue bytes; returns how many were taken, 0 if full or not yet established. ClosedError."""

    def receive(self, connection: int, max_bytes: int) -> bytes:
        """Take bytes that arrived. b"" means nothing now; the end is an event. ClosedError after `closed`."""

    def receive_into(self, connection: int, buffer: Buffer) -> int:
        """The same into a writable buffer; returns the number of bytes."""

    def finish(self, connection: int) -> None:
        """FIN after what is queued; receiving goes on. Nothing happens the second time, or after `closed`."""

    def abort(self, connection: int) -> None:
        """RST in the next step; bytes not received are lost. Nothing happens the second time, or after `closed`."""

    def info(self, connection: int) -> ConnectionInfo:
        """Where a connection stands. ClosedError after `closed`."""

    def counters(self) -> dict[str, int]:
        """By name. Now: `connections`, those in `time_wait` among them, `pending`, `pooled_bytes` kept for new connections.

        Since the beginning: packets `received`, `sent`, `unclaimed`, of `bad_checksum`, `resets_received`; SYNs `malformed`
        or that found `pending_full`; connections `opened`, `closed`, and `limited`, those refused with LimitError.
        """

def split_frame(frame: bytes, mtu: int) -> list[bytes]:
    """The whole packets with complete checksums that one device frame stands for; ValueError if it is malformed.

    A super-packet, TCP or UDP, gives segments of the size that its header asks for, smaller where a packet would exceed `mtu`.
    """

def complete_checksum(frame: bytes) -> bytes:
    """The packet of a device frame, not split, with its checksum complete; ValueError if it is malformed."""
