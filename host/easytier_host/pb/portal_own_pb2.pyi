from easytier_host.pb import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FlowInfo(_message.Message):
    __slots__ = ("id", "src", "dst", "direction", "peer_id", "peer_hostname", "transport", "reason", "state", "end_reason", "start_time_ms", "bytes_sent", "bytes_received", "rtt_us", "retransmitted")
    ID_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    DST_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    END_REASON_FIELD_NUMBER: _ClassVar[int]
    START_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    RTT_US_FIELD_NUMBER: _ClassVar[int]
    RETRANSMITTED_FIELD_NUMBER: _ClassVar[int]
    id: int
    src: _common_pb2.SocketAddr
    dst: _common_pb2.SocketAddr
    direction: str
    peer_id: int
    peer_hostname: str
    transport: str
    reason: str
    state: str
    end_reason: str
    start_time_ms: int
    bytes_sent: int
    bytes_received: int
    rtt_us: int
    retransmitted: int
    def __init__(self, id: _Optional[int] = ..., src: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ..., dst: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ..., direction: _Optional[str] = ..., peer_id: _Optional[int] = ..., peer_hostname: _Optional[str] = ..., transport: _Optional[str] = ..., reason: _Optional[str] = ..., state: _Optional[str] = ..., end_reason: _Optional[str] = ..., start_time_ms: _Optional[int] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., rtt_us: _Optional[int] = ..., retransmitted: _Optional[int] = ...) -> None: ...

class ListFlowsResponse(_message.Message):
    __slots__ = ("flows", "unwatched")
    FLOWS_FIELD_NUMBER: _ClassVar[int]
    UNWATCHED_FIELD_NUMBER: _ClassVar[int]
    flows: _containers.RepeatedCompositeFieldContainer[FlowInfo]
    unwatched: int
    def __init__(self, flows: _Optional[_Iterable[_Union[FlowInfo, _Mapping]]] = ..., unwatched: _Optional[int] = ...) -> None: ...

class PluginInfo(_message.Message):
    __slots__ = ("name", "version", "distribution", "hooks", "status")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    HOOKS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    distribution: str
    hooks: _containers.RepeatedScalarFieldContainer[str]
    status: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., distribution: _Optional[str] = ..., hooks: _Optional[_Iterable[str]] = ..., status: _Optional[str] = ...) -> None: ...

class ListPluginsResponse(_message.Message):
    __slots__ = ("plugins",)
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[PluginInfo]
    def __init__(self, plugins: _Optional[_Iterable[_Union[PluginInfo, _Mapping]]] = ...) -> None: ...
