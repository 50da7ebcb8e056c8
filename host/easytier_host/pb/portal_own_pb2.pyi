from easytier_host.pb import common_pb2 as _common_pb2
from easytier_host.pb import portal_pb2 as _portal_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FlowInfo(_message.Message):
    __slots__ = ("id", "src", "dst", "direction", "peer_id", "peer_hostname", "transport", "reason", "state", "end_reason", "start_time_ms", "bytes_sent", "bytes_received", "rtt_us", "retransmitted", "chosen_by", "send_rate", "receive_rate", "loss", "end_time_ms", "stack", "window", "in_flight")
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
    CHOSEN_BY_FIELD_NUMBER: _ClassVar[int]
    SEND_RATE_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_RATE_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    END_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
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
    chosen_by: str
    send_rate: int
    receive_rate: int
    loss: float
    end_time_ms: int
    stack: str
    window: int
    in_flight: int
    def __init__(self, id: _Optional[int] = ..., src: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ..., dst: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ..., direction: _Optional[str] = ..., peer_id: _Optional[int] = ..., peer_hostname: _Optional[str] = ..., transport: _Optional[str] = ..., reason: _Optional[str] = ..., state: _Optional[str] = ..., end_reason: _Optional[str] = ..., start_time_ms: _Optional[int] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., rtt_us: _Optional[int] = ..., retransmitted: _Optional[int] = ..., chosen_by: _Optional[str] = ..., send_rate: _Optional[int] = ..., receive_rate: _Optional[int] = ..., loss: _Optional[float] = ..., end_time_ms: _Optional[int] = ..., stack: _Optional[str] = ..., window: _Optional[int] = ..., in_flight: _Optional[int] = ...) -> None: ...

class ListFlowsResponse(_message.Message):
    __slots__ = ("flows", "unwatched")
    FLOWS_FIELD_NUMBER: _ClassVar[int]
    UNWATCHED_FIELD_NUMBER: _ClassVar[int]
    flows: _containers.RepeatedCompositeFieldContainer[FlowInfo]
    unwatched: int
    def __init__(self, flows: _Optional[_Iterable[_Union[FlowInfo, _Mapping]]] = ..., unwatched: _Optional[int] = ...) -> None: ...

class PluginInfo(_message.Message):
    __slots__ = ("name", "version", "distribution", "hooks", "status", "raised", "nonsense", "dropped", "missed", "last_fault", "last_fault_ago_ms", "rests_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    HOOKS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RAISED_FIELD_NUMBER: _ClassVar[int]
    NONSENSE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    LAST_FAULT_FIELD_NUMBER: _ClassVar[int]
    LAST_FAULT_AGO_MS_FIELD_NUMBER: _ClassVar[int]
    RESTS_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    distribution: str
    hooks: _containers.RepeatedScalarFieldContainer[str]
    status: str
    raised: int
    nonsense: int
    dropped: int
    missed: int
    last_fault: str
    last_fault_ago_ms: int
    rests_ms: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., distribution: _Optional[str] = ..., hooks: _Optional[_Iterable[str]] = ..., status: _Optional[str] = ..., raised: _Optional[int] = ..., nonsense: _Optional[int] = ..., dropped: _Optional[int] = ..., missed: _Optional[int] = ..., last_fault: _Optional[str] = ..., last_fault_ago_ms: _Optional[int] = ..., rests_ms: _Optional[int] = ...) -> None: ...

class ListPluginsResponse(_message.Message):
    __slots__ = ("plugins",)
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[PluginInfo]
    def __init__(self, plugins: _Optional[_Iterable[_Union[PluginInfo, _Mapping]]] = ...) -> None: ...

class FlowUpdate(_message.Message):
    __slots__ = ("sequence", "flow_id", "time_ms", "event", "detail")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FLOW_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    flow_id: int
    time_ms: int
    event: str
    detail: str
    def __init__(self, sequence: _Optional[int] = ..., flow_id: _Optional[int] = ..., time_ms: _Optional[int] = ..., event: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class WatchFlowsRequest(_message.Message):
    __slots__ = ("instance", "cursor", "wait_ms")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    instance: _portal_pb2.InstanceIdentifier
    cursor: bytes
    wait_ms: int
    def __init__(self, instance: _Optional[_Union[_portal_pb2.InstanceIdentifier, _Mapping]] = ..., cursor: _Optional[bytes] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class WatchFlowsResponse(_message.Message):
    __slots__ = ("cursor", "is_snapshot", "flows", "updates", "missed", "unwatched")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    IS_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    FLOWS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    UNWATCHED_FIELD_NUMBER: _ClassVar[int]
    cursor: bytes
    is_snapshot: bool
    flows: _containers.RepeatedCompositeFieldContainer[FlowInfo]
    updates: _containers.RepeatedCompositeFieldContainer[FlowUpdate]
    missed: int
    unwatched: int
    def __init__(self, cursor: _Optional[bytes] = ..., is_snapshot: bool = ..., flows: _Optional[_Iterable[_Union[FlowInfo, _Mapping]]] = ..., updates: _Optional[_Iterable[_Union[FlowUpdate, _Mapping]]] = ..., missed: _Optional[int] = ..., unwatched: _Optional[int] = ...) -> None: ...

class FlowRequest(_message.Message):
    __slots__ = ("instance", "flow_id")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    FLOW_ID_FIELD_NUMBER: _ClassVar[int]
    instance: _portal_pb2.InstanceIdentifier
    flow_id: int
    def __init__(self, instance: _Optional[_Union[_portal_pb2.InstanceIdentifier, _Mapping]] = ..., flow_id: _Optional[int] = ...) -> None: ...

class ShowFlowResponse(_message.Message):
    __slots__ = ("flow", "history")
    FLOW_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    flow: FlowInfo
    history: _containers.RepeatedCompositeFieldContainer[FlowUpdate]
    def __init__(self, flow: _Optional[_Union[FlowInfo, _Mapping]] = ..., history: _Optional[_Iterable[_Union[FlowUpdate, _Mapping]]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("instance", "dst", "src")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    DST_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    instance: _portal_pb2.InstanceIdentifier
    dst: _common_pb2.SocketAddr
    src: _common_pb2.SocketAddr
    def __init__(self, instance: _Optional[_Union[_portal_pb2.InstanceIdentifier, _Mapping]] = ..., dst: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ..., src: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("transport", "available", "reason")
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    transport: str
    available: bool
    reason: str
    def __init__(self, transport: _Optional[str] = ..., available: bool = ..., reason: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("peer_id", "peer_hostname", "peer_version", "hops", "next_hop_hostname", "candidates", "transport", "reason", "chosen_by", "via_network", "own_networks")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PEER_VERSION_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_HOP_HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_BY_FIELD_NUMBER: _ClassVar[int]
    VIA_NETWORK_FIELD_NUMBER: _ClassVar[int]
    OWN_NETWORKS_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    peer_hostname: str
    peer_version: str
    hops: int
    next_hop_hostname: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    transport: str
    reason: str
    chosen_by: str
    via_network: str
    own_networks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peer_id: _Optional[int] = ..., peer_hostname: _Optional[str] = ..., peer_version: _Optional[str] = ..., hops: _Optional[int] = ..., next_hop_hostname: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., transport: _Optional[str] = ..., reason: _Optional[str] = ..., chosen_by: _Optional[str] = ..., via_network: _Optional[str] = ..., own_networks: _Optional[_Iterable[str]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("status", "subject", "text", "advice")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    status: str
    subject: str
    text: str
    advice: str
    def __init__(self, status: _Optional[str] = ..., subject: _Optional[str] = ..., text: _Optional[str] = ..., advice: _Optional[str] = ...) -> None: ...

class DiagnoseResponse(_message.Message):
    __slots__ = ("findings",)
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class PingRequest(_message.Message):
    __slots__ = ("instance", "dst", "transport", "timeout_ms")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    DST_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    instance: _portal_pb2.InstanceIdentifier
    dst: _common_pb2.SocketAddr
    transport: str
    timeout_ms: int
    def __init__(self, instance: _Optional[_Union[_portal_pb2.InstanceIdentifier, _Mapping]] = ..., dst: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ..., transport: _Optional[str] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class PingResponse(_message.Message):
    __slots__ = ("rtt_us", "outcome", "detail")
    RTT_US_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    rtt_us: int
    outcome: str
    detail: str
    def __init__(self, rtt_us: _Optional[int] = ..., outcome: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...
