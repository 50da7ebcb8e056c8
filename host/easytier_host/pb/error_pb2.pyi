from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OtherError(_message.Message):
    __slots__ = ("error_message",)
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error_message: str
    def __init__(self, error_message: _Optional[str] = ...) -> None: ...

class InvalidMethodIndex(_message.Message):
    __slots__ = ("service_name", "method_index")
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    METHOD_INDEX_FIELD_NUMBER: _ClassVar[int]
    service_name: str
    method_index: int
    def __init__(self, service_name: _Optional[str] = ..., method_index: _Optional[int] = ...) -> None: ...

class InvalidService(_message.Message):
    __slots__ = ("service_name",)
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    service_name: str
    def __init__(self, service_name: _Optional[str] = ...) -> None: ...

class ProstDecodeError(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProstEncodeError(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExecuteError(_message.Message):
    __slots__ = ("error_message",)
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error_message: str
    def __init__(self, error_message: _Optional[str] = ...) -> None: ...

class MalformatRpcPacket(_message.Message):
    __slots__ = ("error_message",)
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error_message: str
    def __init__(self, error_message: _Optional[str] = ...) -> None: ...

class Timeout(_message.Message):
    __slots__ = ("error_message",)
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error_message: str
    def __init__(self, error_message: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("other_error", "invalid_method_index", "invalid_service", "prost_decode_error", "prost_encode_error", "execute_error", "malformat_rpc_packet", "timeout")
    OTHER_ERROR_FIELD_NUMBER: _ClassVar[int]
    INVALID_METHOD_INDEX_FIELD_NUMBER: _ClassVar[int]
    INVALID_SERVICE_FIELD_NUMBER: _ClassVar[int]
    PROST_DECODE_ERROR_FIELD_NUMBER: _ClassVar[int]
    PROST_ENCODE_ERROR_FIELD_NUMBER: _ClassVar[int]
    EXECUTE_ERROR_FIELD_NUMBER: _ClassVar[int]
    MALFORMAT_RPC_PACKET_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    other_error: OtherError
    invalid_method_index: InvalidMethodIndex
    invalid_service: InvalidService
    prost_decode_error: ProstDecodeError
    prost_encode_error: ProstEncodeError
    execute_error: ExecuteError
    malformat_rpc_packet: MalformatRpcPacket
    timeout: Timeout
    def __init__(self, other_error: _Optional[_Union[OtherError, _Mapping]] = ..., invalid_method_index: _Optional[_Union[InvalidMethodIndex, _Mapping]] = ..., invalid_service: _Optional[_Union[InvalidService, _Mapping]] = ..., prost_decode_error: _Optional[_Union[ProstDecodeError, _Mapping]] = ..., prost_encode_error: _Optional[_Union[ProstEncodeError, _Mapping]] = ..., execute_error: _Optional[_Union[ExecuteError, _Mapping]] = ..., malformat_rpc_packet: _Optional[_Union[MalformatRpcPacket, _Mapping]] = ..., timeout: _Optional[_Union[Timeout, _Mapping]] = ...) -> None: ...
