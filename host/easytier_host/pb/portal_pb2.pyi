from easytier_host.pb import common_pb2 as _common_pb2
from easytier_host.pb import peer_rpc_pb2 as _peer_rpc_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TcpProxyEntryState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UnknownState: _ClassVar[TcpProxyEntryState]
    SynReceived: _ClassVar[TcpProxyEntryState]
    ConnectingDst: _ClassVar[TcpProxyEntryState]
    Connected: _ClassVar[TcpProxyEntryState]
    Closed: _ClassVar[TcpProxyEntryState]
    ClosingSrc: _ClassVar[TcpProxyEntryState]
    ClosingDst: _ClassVar[TcpProxyEntryState]

class TcpProxyEntryTransportType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    Tcp: _ClassVar[TcpProxyEntryTransportType]
    Kcp: _ClassVar[TcpProxyEntryTransportType]
    Quic: _ClassVar[TcpProxyEntryTransportType]

class ConnectorStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONNECTED: _ClassVar[ConnectorStatus]
    DISCONNECTED: _ClassVar[ConnectorStatus]
    CONNECTING: _ClassVar[ConnectorStatus]
UnknownState: TcpProxyEntryState
SynReceived: TcpProxyEntryState
ConnectingDst: TcpProxyEntryState
Connected: TcpProxyEntryState
Closed: TcpProxyEntryState
ClosingSrc: TcpProxyEntryState
ClosingDst: TcpProxyEntryState
Tcp: TcpProxyEntryTransportType
Kcp: TcpProxyEntryTransportType
Quic: TcpProxyEntryTransportType
CONNECTED: ConnectorStatus
DISCONNECTED: ConnectorStatus
CONNECTING: ConnectorStatus

class InstanceSelector(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class InstanceIdentifier(_message.Message):
    __slots__ = ("id", "instance_selector")
    ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    id: _common_pb2.UUID
    instance_selector: InstanceSelector
    def __init__(self, id: _Optional[_Union[_common_pb2.UUID, _Mapping]] = ..., instance_selector: _Optional[_Union[InstanceSelector, _Mapping]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("instance",)
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    instance: InstanceIdentifier
    def __init__(self, instance: _Optional[_Union[InstanceIdentifier, _Mapping]] = ...) -> None: ...

class TcpProxyEntry(_message.Message):
    __slots__ = ("src", "dst", "start_time", "state", "transport_type")
    SRC_FIELD_NUMBER: _ClassVar[int]
    DST_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_TYPE_FIELD_NUMBER: _ClassVar[int]
    src: _common_pb2.SocketAddr
    dst: _common_pb2.SocketAddr
    start_time: int
    state: TcpProxyEntryState
    transport_type: TcpProxyEntryTransportType
    def __init__(self, src: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ..., dst: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ..., start_time: _Optional[int] = ..., state: _Optional[_Union[TcpProxyEntryState, str]] = ..., transport_type: _Optional[_Union[TcpProxyEntryTransportType, str]] = ...) -> None: ...

class ListTcpProxyEntryResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[TcpProxyEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[TcpProxyEntry, _Mapping]]] = ...) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("peer_id", "ipv4_addr", "proxy_cidrs", "hostname", "stun_info", "inst_id", "listeners", "config", "version", "feature_flag", "ip_list", "public_ipv6_addr", "ipv6_public_addr_prefix")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    IPV4_ADDR_FIELD_NUMBER: _ClassVar[int]
    PROXY_CIDRS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    STUN_INFO_FIELD_NUMBER: _ClassVar[int]
    INST_ID_FIELD_NUMBER: _ClassVar[int]
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FLAG_FIELD_NUMBER: _ClassVar[int]
    IP_LIST_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_IPV6_ADDR_FIELD_NUMBER: _ClassVar[int]
    IPV6_PUBLIC_ADDR_PREFIX_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    ipv4_addr: str
    proxy_cidrs: _containers.RepeatedScalarFieldContainer[str]
    hostname: str
    stun_info: _common_pb2.StunInfo
    inst_id: str
    listeners: _containers.RepeatedScalarFieldContainer[str]
    config: str
    version: str
    feature_flag: _common_pb2.PeerFeatureFlag
    ip_list: _peer_rpc_pb2.GetIpListResponse
    public_ipv6_addr: _common_pb2.Ipv6Inet
    ipv6_public_addr_prefix: _common_pb2.Ipv6Inet
    def __init__(self, peer_id: _Optional[int] = ..., ipv4_addr: _Optional[str] = ..., proxy_cidrs: _Optional[_Iterable[str]] = ..., hostname: _Optional[str] = ..., stun_info: _Optional[_Union[_common_pb2.StunInfo, _Mapping]] = ..., inst_id: _Optional[str] = ..., listeners: _Optional[_Iterable[str]] = ..., config: _Optional[str] = ..., version: _Optional[str] = ..., feature_flag: _Optional[_Union[_common_pb2.PeerFeatureFlag, _Mapping]] = ..., ip_list: _Optional[_Union[_peer_rpc_pb2.GetIpListResponse, _Mapping]] = ..., public_ipv6_addr: _Optional[_Union[_common_pb2.Ipv6Inet, _Mapping]] = ..., ipv6_public_addr_prefix: _Optional[_Union[_common_pb2.Ipv6Inet, _Mapping]] = ...) -> None: ...

class ShowNodeInfoResponse(_message.Message):
    __slots__ = ("node_info",)
    NODE_INFO_FIELD_NUMBER: _ClassVar[int]
    node_info: NodeInfo
    def __init__(self, node_info: _Optional[_Union[NodeInfo, _Mapping]] = ...) -> None: ...

class TunnelInfo(_message.Message):
    __slots__ = ("tunnel_type", "local_addr", "remote_addr", "resolved_remote_addr")
    TUNNEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ADDR_FIELD_NUMBER: _ClassVar[int]
    REMOTE_ADDR_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_REMOTE_ADDR_FIELD_NUMBER: _ClassVar[int]
    tunnel_type: str
    local_addr: _common_pb2.Url
    remote_addr: _common_pb2.Url
    resolved_remote_addr: _common_pb2.Url
    def __init__(self, tunnel_type: _Optional[str] = ..., local_addr: _Optional[_Union[_common_pb2.Url, _Mapping]] = ..., remote_addr: _Optional[_Union[_common_pb2.Url, _Mapping]] = ..., resolved_remote_addr: _Optional[_Union[_common_pb2.Url, _Mapping]] = ...) -> None: ...

class PeerConnStats(_message.Message):
    __slots__ = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "latency_us")
    RX_BYTES_FIELD_NUMBER: _ClassVar[int]
    TX_BYTES_FIELD_NUMBER: _ClassVar[int]
    RX_PACKETS_FIELD_NUMBER: _ClassVar[int]
    TX_PACKETS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    latency_us: int
    def __init__(self, rx_bytes: _Optional[int] = ..., tx_bytes: _Optional[int] = ..., rx_packets: _Optional[int] = ..., tx_packets: _Optional[int] = ..., latency_us: _Optional[int] = ...) -> None: ...

class PeerConnInfo(_message.Message):
    __slots__ = ("conn_id", "my_peer_id", "peer_id", "features", "tunnel", "stats", "loss_rate", "is_client", "network_name", "is_closed", "noise_local_static_pubkey", "noise_remote_static_pubkey", "secure_auth_level", "peer_identity_type")
    CONN_ID_FIELD_NUMBER: _ClassVar[int]
    MY_PEER_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TUNNEL_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    LOSS_RATE_FIELD_NUMBER: _ClassVar[int]
    IS_CLIENT_FIELD_NUMBER: _ClassVar[int]
    NETWORK_NAME_FIELD_NUMBER: _ClassVar[int]
    IS_CLOSED_FIELD_NUMBER: _ClassVar[int]
    NOISE_LOCAL_STATIC_PUBKEY_FIELD_NUMBER: _ClassVar[int]
    NOISE_REMOTE_STATIC_PUBKEY_FIELD_NUMBER: _ClassVar[int]
    SECURE_AUTH_LEVEL_FIELD_NUMBER: _ClassVar[int]
    PEER_IDENTITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    conn_id: str
    my_peer_id: int
    peer_id: int
    features: _containers.RepeatedScalarFieldContainer[str]
    tunnel: TunnelInfo
    stats: PeerConnStats
    loss_rate: float
    is_client: bool
    network_name: str
    is_closed: bool
    noise_local_static_pubkey: bytes
    noise_remote_static_pubkey: bytes
    secure_auth_level: int
    peer_identity_type: int
    def __init__(self, conn_id: _Optional[str] = ..., my_peer_id: _Optional[int] = ..., peer_id: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., tunnel: _Optional[_Union[TunnelInfo, _Mapping]] = ..., stats: _Optional[_Union[PeerConnStats, _Mapping]] = ..., loss_rate: _Optional[float] = ..., is_client: bool = ..., network_name: _Optional[str] = ..., is_closed: bool = ..., noise_local_static_pubkey: _Optional[bytes] = ..., noise_remote_static_pubkey: _Optional[bytes] = ..., secure_auth_level: _Optional[int] = ..., peer_identity_type: _Optional[int] = ...) -> None: ...

class PeerInfo(_message.Message):
    __slots__ = ("peer_id", "conns", "default_conn_id", "directly_connected_conns")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    CONNS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_CONN_ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTLY_CONNECTED_CONNS_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    conns: _containers.RepeatedCompositeFieldContainer[PeerConnInfo]
    default_conn_id: _common_pb2.UUID
    directly_connected_conns: _containers.RepeatedCompositeFieldContainer[_common_pb2.UUID]
    def __init__(self, peer_id: _Optional[int] = ..., conns: _Optional[_Iterable[_Union[PeerConnInfo, _Mapping]]] = ..., default_conn_id: _Optional[_Union[_common_pb2.UUID, _Mapping]] = ..., directly_connected_conns: _Optional[_Iterable[_Union[_common_pb2.UUID, _Mapping]]] = ...) -> None: ...

class ListPeerResponse(_message.Message):
    __slots__ = ("peer_infos", "my_info")
    PEER_INFOS_FIELD_NUMBER: _ClassVar[int]
    MY_INFO_FIELD_NUMBER: _ClassVar[int]
    peer_infos: _containers.RepeatedCompositeFieldContainer[PeerInfo]
    my_info: NodeInfo
    def __init__(self, peer_infos: _Optional[_Iterable[_Union[PeerInfo, _Mapping]]] = ..., my_info: _Optional[_Union[NodeInfo, _Mapping]] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("peer_id", "ipv4_addr", "next_hop_peer_id", "cost", "path_latency", "proxy_cidrs", "hostname", "stun_info", "inst_id", "version", "feature_flag", "next_hop_peer_id_latency_first", "cost_latency_first", "path_latency_latency_first", "ipv6_addr", "public_ipv6_addr", "ipv6_public_addr_prefix")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    IPV4_ADDR_FIELD_NUMBER: _ClassVar[int]
    NEXT_HOP_PEER_ID_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    PATH_LATENCY_FIELD_NUMBER: _ClassVar[int]
    PROXY_CIDRS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    STUN_INFO_FIELD_NUMBER: _ClassVar[int]
    INST_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FLAG_FIELD_NUMBER: _ClassVar[int]
    NEXT_HOP_PEER_ID_LATENCY_FIRST_FIELD_NUMBER: _ClassVar[int]
    COST_LATENCY_FIRST_FIELD_NUMBER: _ClassVar[int]
    PATH_LATENCY_LATENCY_FIRST_FIELD_NUMBER: _ClassVar[int]
    IPV6_ADDR_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_IPV6_ADDR_FIELD_NUMBER: _ClassVar[int]
    IPV6_PUBLIC_ADDR_PREFIX_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    ipv4_addr: _common_pb2.Ipv4Inet
    next_hop_peer_id: int
    cost: int
    path_latency: int
    proxy_cidrs: _containers.RepeatedScalarFieldContainer[str]
    hostname: str
    stun_info: _common_pb2.StunInfo
    inst_id: str
    version: str
    feature_flag: _common_pb2.PeerFeatureFlag
    next_hop_peer_id_latency_first: int
    cost_latency_first: int
    path_latency_latency_first: int
    ipv6_addr: _common_pb2.Ipv6Inet
    public_ipv6_addr: _common_pb2.Ipv6Inet
    ipv6_public_addr_prefix: _common_pb2.Ipv6Inet
    def __init__(self, peer_id: _Optional[int] = ..., ipv4_addr: _Optional[_Union[_common_pb2.Ipv4Inet, _Mapping]] = ..., next_hop_peer_id: _Optional[int] = ..., cost: _Optional[int] = ..., path_latency: _Optional[int] = ..., proxy_cidrs: _Optional[_Iterable[str]] = ..., hostname: _Optional[str] = ..., stun_info: _Optional[_Union[_common_pb2.StunInfo, _Mapping]] = ..., inst_id: _Optional[str] = ..., version: _Optional[str] = ..., feature_flag: _Optional[_Union[_common_pb2.PeerFeatureFlag, _Mapping]] = ..., next_hop_peer_id_latency_first: _Optional[int] = ..., cost_latency_first: _Optional[int] = ..., path_latency_latency_first: _Optional[int] = ..., ipv6_addr: _Optional[_Union[_common_pb2.Ipv6Inet, _Mapping]] = ..., public_ipv6_addr: _Optional[_Union[_common_pb2.Ipv6Inet, _Mapping]] = ..., ipv6_public_addr_prefix: _Optional[_Union[_common_pb2.Ipv6Inet, _Mapping]] = ...) -> None: ...

class ListRouteResponse(_message.Message):
    __slots__ = ("routes",)
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    def __init__(self, routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ...) -> None: ...

class DumpRouteResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: str
    def __init__(self, result: _Optional[str] = ...) -> None: ...

class Connector(_message.Message):
    __slots__ = ("url", "status")
    URL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    url: _common_pb2.Url
    status: ConnectorStatus
    def __init__(self, url: _Optional[_Union[_common_pb2.Url, _Mapping]] = ..., status: _Optional[_Union[ConnectorStatus, str]] = ...) -> None: ...

class ListConnectorResponse(_message.Message):
    __slots__ = ("connectors",)
    CONNECTORS_FIELD_NUMBER: _ClassVar[int]
    connectors: _containers.RepeatedCompositeFieldContainer[Connector]
    def __init__(self, connectors: _Optional[_Iterable[_Union[Connector, _Mapping]]] = ...) -> None: ...

class MetricSnapshot(_message.Message):
    __slots__ = ("name", "value", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: int
    labels: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., value: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("metrics",)
    METRICS_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.RepeatedCompositeFieldContainer[MetricSnapshot]
    def __init__(self, metrics: _Optional[_Iterable[_Union[MetricSnapshot, _Mapping]]] = ...) -> None: ...

class GetPrometheusStatsResponse(_message.Message):
    __slots__ = ("prometheus_text",)
    PROMETHEUS_TEXT_FIELD_NUMBER: _ClassVar[int]
    prometheus_text: str
    def __init__(self, prometheus_text: _Optional[str] = ...) -> None: ...

class ListNetworkInstanceResponse(_message.Message):
    __slots__ = ("inst_ids",)
    INST_IDS_FIELD_NUMBER: _ClassVar[int]
    inst_ids: _containers.RepeatedCompositeFieldContainer[_common_pb2.UUID]
    def __init__(self, inst_ids: _Optional[_Iterable[_Union[_common_pb2.UUID, _Mapping]]] = ...) -> None: ...

class ListNetworkInstanceMetaRequest(_message.Message):
    __slots__ = ("inst_ids",)
    INST_IDS_FIELD_NUMBER: _ClassVar[int]
    inst_ids: _containers.RepeatedCompositeFieldContainer[_common_pb2.UUID]
    def __init__(self, inst_ids: _Optional[_Iterable[_Union[_common_pb2.UUID, _Mapping]]] = ...) -> None: ...

class NetworkInstanceMeta(_message.Message):
    __slots__ = ("inst_id", "network_name", "config_permission", "instance_name", "source")
    INST_ID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_PERMISSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    inst_id: _common_pb2.UUID
    network_name: str
    config_permission: int
    instance_name: str
    source: int
    def __init__(self, inst_id: _Optional[_Union[_common_pb2.UUID, _Mapping]] = ..., network_name: _Optional[str] = ..., config_permission: _Optional[int] = ..., instance_name: _Optional[str] = ..., source: _Optional[int] = ...) -> None: ...

class ListNetworkInstanceMetaResponse(_message.Message):
    __slots__ = ("metas",)
    METAS_FIELD_NUMBER: _ClassVar[int]
    metas: _containers.RepeatedCompositeFieldContainer[NetworkInstanceMeta]
    def __init__(self, metas: _Optional[_Iterable[_Union[NetworkInstanceMeta, _Mapping]]] = ...) -> None: ...

class EmptyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
