"""The envelope around every answer of an RPC, on a portal connection and between peers (control plane 6.3).  Sans-IO."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from easytier_host.pb import error_pb2, peer_rpc_pb2

Response = TypeVar("Response", bound=Message)

# Ours.
MAX_TEXT: Final = 500
"""Characters of the other end's words that are shown."""


class FaultKind(Enum):
    """What callers do something about."""

    NO_SERVICE = auto()
    NO_METHOD = auto()
    OTHER = auto()


class AnswerFault(Exception):
    """The other end answered with an error, or with something that is no answer; the text is a clause for the user."""

    def __init__(self, kind: FaultKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def open_answer(content: bytes, response_type: type[Response]) -> Response:
    """The response inside an answer; raises `AnswerFault` where there is none."""
    try:
        envelope = peer_rpc_pb2.RpcResponse.FromString(content)
        if envelope.HasField("error"):
            raise _fault(envelope.error)
        return response_type.FromString(envelope.response)
    except DecodeError:
        raise AnswerFault(FaultKind.OTHER, "the answer does not decode") from None


def _fault(error: error_pb2.Error) -> AnswerFault:
    match error.WhichOneof("error_kind"):
        case "invalid_service":
            return AnswerFault(FaultKind.NO_SERVICE, "it does not have this service")
        case "invalid_method_index":
            return AnswerFault(FaultKind.NO_METHOD, "it does not have this method")
        case "other_error" | "execute_error" | "malformat_rpc_packet" | "timeout" as kind:
            # Stock adds the addresses of its stack, which help nobody.
            return AnswerFault(
                FaultKind.OTHER, getattr(error, kind).error_message.partition("\n\nStack backtrace")[0][:MAX_TEXT]
            )
        case kind:
            return AnswerFault(FaultKind.OTHER, f"error {kind or 'without a name'}")
