"""Calls to other nodes of the network, and the services that this node offers them (control plane 6).

A call is one awaited method; there is no retransmission inside, so callers repeat by their own rules.  Services are plain
functions: they run on the event loop as requests arrive and must be quick; or else they are generators, which `run` serves in
slices, one call of each neighbour, by turns.  What the calls of one neighbour may take of that loop is bounded (`allowance`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio
from google.protobuf.message import DecodeError, Message

from easytier_host.metrics import Metrics
from easytier_host.packet import PacketType
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.rpc.allowance import BYTE_COST, Allowance
from easytier_host.rpc.answer import AnswerFault, FaultKind, Response, open_answer
from easytier_host.rpc.framing import FramingError, Reassembler, split_call
from easytier_host.steps import Steps
from easytier_host.turns import SLICE, Pace, Turns

logger = logging.getLogger("easytier.rpc")

Handler = Callable[[int, bytes], Message]
"""A served method: (calling peer, encoded request) -> response.  May raise DecodeError or `ServiceError`."""
HandlerInSteps = Callable[[int, bytes], Steps[Message]]
"""The same for what may take long."""
SendPackets = Callable[[int, PacketType, list[bytes]], None]
"""(destination peer, packet type, payloads): sends without waiting; a destination without a route is a drop."""

# Ours.
MAX_CALLS: Final = 256
"""Calls of ours under way at once; the node itself makes a few per neighbour."""
MAX_WAITING_BYTES: Final = 8 << 20
"""Requests under way that are served in steps."""
MAX_DESCRIPTOR_SIZE: Final = 512
"""Bytes of the names in a request, which the answer repeats: stock's have a tenth."""


class RpcError(Exception):
    """The peer answered a call with an error, or the call could not be made."""


class ServiceNotOfferedError(RpcError):
    """The peer does not offer the service at all; asking again soon is useless."""


class RpcTimeoutError(RpcError):
    """No answer came in time."""


class ServiceError(Exception):
    """Raised by a handler: the request is understood and refused; the text goes to the caller."""


class _Call:
    __slots__ = ("done", "peer_id", "response")

    def __init__(self, peer_id: int) -> None:
        self.peer_id = peer_id
        self.done = anyio.Event()
        self.response = b""


@dataclass(slots=True)
class _Work:
    """A request that is served in steps, begun or not."""

    packet: common_pb2.RpcPacket
    steps: Steps[Message]
    size: int


class PeerRpc:
    """Both sides of RPC for one node in one network.

    `domain` is the network's name; a service is found by domain, service and protocol name, all exact.  `new_transaction` gives
    numbers below 2^63 that nobody can guess, or others could answer in a peer's name.
    """

    def __init__(
        self,
        my_peer_id: int,
        domain: str,
        send: SendPackets,
        metrics: Metrics,
        new_transaction: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
        work_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._my_peer_id = my_peer_id
        self._domain = domain
        self._send = send
        self._metrics = metrics
        self._new_transaction = new_transaction
        self._clock = clock
        self._work_clock = work_clock
        self._allowance = Allowance()
        self._calls: dict[int, _Call] = {}
        self._services: dict[str, Mapping[int, Handler]] = {}
        self._services_in_steps: dict[str, Mapping[int, HandlerInSteps]] = {}
        self._works: dict[int, _Work] = {}
        """Of each neighbour, the one whose turn is next first."""
        self._waiting_bytes = 0
        self._arrived = anyio.Event()
        self._reassembler = Reassembler()

    def offer(self, service: str, methods: Mapping[int, Handler]) -> None:
        """Serve `service`; the methods are numbered from 1 as the protocol has them."""
        self._services[service] = methods

    def offer_in_steps(self, service: str, methods: Mapping[int, HandlerInSteps]) -> None:
        """The same for methods that `run` serves.  While one call of a neighbour is under way others of it are dropped."""
        self._services_in_steps[service] = methods

    async def run(self, pace: Pace) -> None:
        """Serve what is offered in steps, for ever."""
        turns = Turns(pace)
        while True:
            turns.begin()
            wait = self.work(self._clock())
            turns.stop()
            if wait:
                self._arrived = anyio.Event()
                with anyio.move_on_after(wait):
                    await self._arrived.wait()
            elif turns.is_over():
                await turns.give()

    def work(self, now: float) -> float:
        """Do a slice of the next call that may go on; returns the seconds until there is more to do: 0 if it may be at once,
        infinity if no call is under way."""
        waits = {neighbour: self._allowance.wait_for_step(neighbour, now) for neighbour in self._works}
        neighbour = next((each for each, wait in waits.items() if not wait), None)
        if neighbour is None:
            return min(waits.values(), default=math.inf)
        work = self._works.pop(neighbour)
        began = self._work_clock()
        answered = self._slice(work, began + SLICE)
        self._allowance.spend(neighbour, self._work_clock() - began + (answered or 0) * BYTE_COST, now)
        if answered is None:
            self._works[neighbour] = work
        else:
            self._waiting_bytes -= work.size
        return 0.0

    async def call(
        self, peer_id: int, service: str, method: int, request: Message, response_type: type[Response], timeout: float = 5.0
    ) -> Response:
        """Call a method of `peer_id` and return its response; `timeout` in seconds.

        Raises `RpcTimeoutError`, `ServiceNotOfferedError`, or `RpcError` for any other failure told by the peer, a response
        that does not decode, or too many calls under way.
        """
        if len(self._calls) >= MAX_CALLS:
            raise RpcError(f"{MAX_CALLS} calls are under way already")
        self._metrics.rpc_calls += 1
        while (transaction := self._new_transaction()) in self._calls:
            pass
        packet = common_pb2.RpcPacket(
            from_peer=self._my_peer_id,
            to_peer=peer_id,
            transaction_id=transaction,
            descriptor=common_pb2.RpcDescriptor(
                domain_name=self._domain, proto_name=service, service_name=service, method_index=method
            ),
            is_request=True,
        )
        content = peer_rpc_pb2.RpcRequest(request=request.SerializeToString(), timeout_ms=max(1, int(timeout * 1000)))
        call = self._calls[transaction] = _Call(peer_id)
        try:
            self._send(peer_id, PacketType.RPC_REQ, split_call(packet, content.SerializeToString()))
            with anyio.fail_after(timeout):
                await call.done.wait()
            return open_answer(call.response, response_type)
        except AnswerFault as fault:
            self._metrics.rpc_calls_failed += 1
            kind = ServiceNotOfferedError if fault.kind is FaultKind.NO_SERVICE else RpcError
            raise kind(f"{service}.{method} of peer {peer_id}: {fault}") from None
        except TimeoutError:
            self._metrics.rpc_calls_failed += 1
            raise RpcTimeoutError(f"{service}.{method} of peer {peer_id}: no answer in {timeout:g} s") from None
        finally:
            del self._calls[transaction]

    def receive(self, from_peer: int, packet_type: int, payload: bytes, now: float, neighbour: int | None = None) -> None:
        """Take one RPC packet from the network; never raises.  Requests are answered before this returns.

        `neighbour` is whose connection brought it, the sender's if None.  One that has used up its share of time goes unheard.
        """
        neighbour = from_peer if neighbour is None else neighbour
        if not self._allowance.permits(neighbour, now):
            self._metrics.dropped_rpc += 1 + self._reassembler.refuse(neighbour, now)
            return
        # Not the time that passes: a machine that is busy or sleeps meanwhile is not the neighbour's doing.
        began = self._work_clock()
        answered = self._take(from_peer, packet_type, payload, now, neighbour)
        self._allowance.spend(neighbour, self._work_clock() - began + answered * BYTE_COST, now)

    def _take(self, from_peer: int, packet_type: int, payload: bytes, now: float, neighbour: int) -> int:
        """Returns the bytes of the answer."""
        packet = common_pb2.RpcPacket()
        try:
            packet.ParseFromString(payload)
            if packet.is_request != (packet_type == PacketType.RPC_REQ):
                raise FramingError("packet type and content disagree on whether it is a request")
            if packet.from_peer != from_peer or packet.to_peer != self._my_peer_id:
                raise FramingError(f"peer {from_peer} sent a call from {packet.from_peer} to {packet.to_peer}")
            if packet.descriptor.ByteSize() > MAX_DESCRIPTOR_SIZE:
                raise FramingError(f"a descriptor of {packet.descriptor.ByteSize()} bytes")
            complete = self._reassembler.add(packet, now, neighbour)
        except (DecodeError, FramingError) as error:
            self._metrics.dropped_rpc += 1
            logger.debug("dropped an RPC packet of peer %d: %s", from_peer, error)
            return 0
        if complete is None:
            return 0
        first, content = complete
        if packet.is_request:
            return self._serve(first, content, neighbour)
        call = self._calls.get(first.transaction_id)
        if call is not None and call.peer_id == from_peer:
            call.response = content
            call.done.set()
        return 0

    def expire(self, now: float) -> None:
        """Forget pieces of calls that were never completed."""
        self._metrics.dropped_rpc += self._reassembler.expire(now)

    def _serve(self, packet: common_pb2.RpcPacket, content: bytes, neighbour: int) -> int:
        """Answer a request, or put it with those that are served in steps; returns the bytes of the answer."""
        response = peer_rpc_pb2.RpcResponse()
        descriptor = packet.descriptor
        methods: Mapping[int, Handler | HandlerInSteps] | None
        methods = in_steps = self._services_in_steps.get(descriptor.service_name)
        if in_steps is None:
            methods = self._services.get(descriptor.service_name)
        if methods is None or descriptor.domain_name != self._domain or descriptor.proto_name != descriptor.service_name:
            response.error.invalid_service.service_name = descriptor.service_name
        elif descriptor.method_index not in methods:
            response.error.invalid_method_index.service_name = descriptor.service_name
            response.error.invalid_method_index.method_index = descriptor.method_index
        else:
            with _telling_errors(response, packet.from_peer):
                request = peer_rpc_pb2.RpcRequest.FromString(content).request
                if in_steps is not None:
                    self._put_with_works(neighbour, packet, in_steps[descriptor.method_index], request)
                    return 0
                # A response may be empty and still be present: stock decodes an absent one the same way.
                answer = self._services[descriptor.service_name][descriptor.method_index](packet.from_peer, request)
                response.response = answer.SerializeToString()
        return self._answer(packet, response)

    def _put_with_works(self, neighbour: int, packet: common_pb2.RpcPacket, handler: HandlerInSteps, request: bytes) -> None:
        if neighbour in self._works or self._waiting_bytes + len(request) > MAX_WAITING_BYTES:
            self._metrics.dropped_rpc += 1
            return
        self._works[neighbour] = _Work(packet, handler(packet.from_peer, request), len(request))
        self._waiting_bytes += len(request)
        self._arrived.set()

    def _slice(self, work: _Work, until: float) -> int | None:
        """Go on until the work clock shows that; returns the bytes of the answer if the work is done, else None."""
        response = peer_rpc_pb2.RpcResponse()
        with _telling_errors(response, work.packet.from_peer):
            while True:
                try:
                    next(work.steps)
                except StopIteration as end:
                    response.response = end.value.SerializeToString()
                    break
                if self._work_clock() >= until:
                    return None
        return self._answer(work.packet, response)

    def _answer(self, packet: common_pb2.RpcPacket, response: peer_rpc_pb2.RpcResponse) -> int:
        """Returns the bytes of it."""
        if response.HasField("error"):
            self._metrics.rpc_requests_refused += 1
        else:
            self._metrics.rpc_requests_served += 1
        answer = common_pb2.RpcPacket(
            from_peer=self._my_peer_id,
            to_peer=packet.from_peer,
            transaction_id=packet.transaction_id,
            descriptor=packet.descriptor,
            trace_id=packet.trace_id,
        )
        pieces = split_call(answer, response.SerializeToString())
        self._send(packet.from_peer, PacketType.RPC_RESP, pieces)
        return sum(map(len, pieces))


@contextmanager
def _telling_errors(response: peer_rpc_pb2.RpcResponse, from_peer: int) -> Iterator[None]:
    """Put what a service raises into its answer."""
    try:
        yield
    except DecodeError:
        response.error.prost_decode_error.SetInParent()
    except ServiceError as error:
        response.error.execute_error.error_message = str(error)
    except Exception:
        logger.exception("a service failed on a request of peer %d", from_peer)
        response.error.execute_error.error_message = "internal error"
