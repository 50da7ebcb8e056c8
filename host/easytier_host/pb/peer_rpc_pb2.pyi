import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from easytier_host.pb import common_pb2 as _common_pb2
from easytier_host.pb import error_pb2 as _error_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SyncRouteInfoError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DuplicatePeerId: _ClassVar[SyncRouteInfoError]
    Stopped: _ClassVar[SyncRouteInfoError]
DuplicatePeerId: SyncRouteInfoError
Stopped: SyncRouteInfoError

class HandshakeRequest(_message.Message):
    __slots__ = ("magic", "my_peer_id", "version", "features", "network_name", "network_secret_digest")
    MAGIC_FIELD_NUMBER: _ClassVar[int]
    MY_PEER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_NAME_FIELD_NUMBER: _ClassVar[int]
    NETWORK_SECRET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    magic: int
    my_peer_id: int
    version: int
    features: _containers.RepeatedScalarFieldContainer[str]
    network_name: str
    network_secret_digest: bytes
    def __init__(self, magic: _Optional[int] = ..., my_peer_id: _Optional[int] = ..., version: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., network_name: _Optional[str] = ..., network_secret_digest: _Optional[bytes] = ...) -> None: ...

class RpcRequest(_message.Message):
    __slots__ = ("request", "timeout_ms")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    timeout_ms: int
    def __init__(self, request: _Optional[bytes] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class RpcResponse(_message.Message):
    __slots__ = ("response", "error", "runtime_us")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_US_FIELD_NUMBER: _ClassVar[int]
    response: bytes
    error: _error_pb2.Error
    runtime_us: int
    def __init__(self, response: _Optional[bytes] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ..., runtime_us: _Optional[int] = ...) -> None: ...

class PeerGroupInfo(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TrustedCredentialPubkey(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RoutePeerInfo(_message.Message):
    __slots__ = ("peer_id", "inst_id", "cost", "ipv4_addr", "proxy_cidrs", "hostname", "udp_nat_type", "last_update", "version", "easytier_version", "feature_flag", "peer_route_id", "network_length", "quic_port", "ipv6_addr", "groups", "tcp_nat_type", "noise_static_pubkey", "trusted_credential_pubkeys", "ipv6_public_addr_prefix", "ipv6_public_addr_lease")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    INST_ID_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    IPV4_ADDR_FIELD_NUMBER: _ClassVar[int]
    PROXY_CIDRS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    UDP_NAT_TYPE_FIELD_NUMBER: _ClassVar[int]
    LAST_UPDATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EASYTIER_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FLAG_FIELD_NUMBER: _ClassVar[int]
    PEER_ROUTE_ID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    QUIC_PORT_FIELD_NUMBER: _ClassVar[int]
    IPV6_ADDR_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    TCP_NAT_TYPE_FIELD_NUMBER: _ClassVar[int]
    NOISE_STATIC_PUBKEY_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_CREDENTIAL_PUBKEYS_FIELD_NUMBER: _ClassVar[int]
    IPV6_PUBLIC_ADDR_PREFIX_FIELD_NUMBER: _ClassVar[int]
    IPV6_PUBLIC_ADDR_LEASE_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    inst_id: _common_pb2.UUID
    cost: int
    ipv4_addr: _common_pb2.Ipv4Addr
    proxy_cidrs: _containers.RepeatedScalarFieldContainer[str]
    hostname: str
    udp_nat_type: _common_pb2.NatType
    last_update: _timestamp_pb2.Timestamp
    version: int
    easytier_version: str
    feature_flag: _common_pb2.PeerFeatureFlag
    peer_route_id: int
    network_length: int
    quic_port: int
    ipv6_addr: _common_pb2.Ipv6Inet
    groups: _containers.RepeatedCompositeFieldContainer[PeerGroupInfo]
    tcp_nat_type: _common_pb2.NatType
    noise_static_pubkey: bytes
    trusted_credential_pubkeys: _containers.RepeatedCompositeFieldContainer[TrustedCredentialPubkey]
    ipv6_public_addr_prefix: _common_pb2.Ipv6Inet
    ipv6_public_addr_lease: _common_pb2.Ipv6Inet
    def __init__(self, peer_id: _Optional[int] = ..., inst_id: _Optional[_Union[_common_pb2.UUID, _Mapping]] = ..., cost: _Optional[int] = ..., ipv4_addr: _Optional[_Union[_common_pb2.Ipv4Addr, _Mapping]] = ..., proxy_cidrs: _Optional[_Iterable[str]] = ..., hostname: _Optional[str] = ..., udp_nat_type: _Optional[_Union[_common_pb2.NatType, str]] = ..., last_update: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[int] = ..., easytier_version: _Optional[str] = ..., feature_flag: _Optional[_Union[_common_pb2.PeerFeatureFlag, _Mapping]] = ..., peer_route_id: _Optional[int] = ..., network_length: _Optional[int] = ..., quic_port: _Optional[int] = ..., ipv6_addr: _Optional[_Union[_common_pb2.Ipv6Inet, _Mapping]] = ..., groups: _Optional[_Iterable[_Union[PeerGroupInfo, _Mapping]]] = ..., tcp_nat_type: _Optional[_Union[_common_pb2.NatType, str]] = ..., noise_static_pubkey: _Optional[bytes] = ..., trusted_credential_pubkeys: _Optional[_Iterable[_Union[TrustedCredentialPubkey, _Mapping]]] = ..., ipv6_public_addr_prefix: _Optional[_Union[_common_pb2.Ipv6Inet, _Mapping]] = ..., ipv6_public_addr_lease: _Optional[_Union[_common_pb2.Ipv6Inet, _Mapping]] = ...) -> None: ...

class RoutePeerInfos(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RoutePeerInfo]
    def __init__(self, items: _Optional[_Iterable[_Union[RoutePeerInfo, _Mapping]]] = ...) -> None: ...

class PeerIdVersion(_message.Message):
    __slots__ = ("peer_id", "version")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    version: int
    def __init__(self, peer_id: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class RouteConnBitmap(_message.Message):
    __slots__ = ("peer_ids", "bitmap")
    PEER_IDS_FIELD_NUMBER: _ClassVar[int]
    BITMAP_FIELD_NUMBER: _ClassVar[int]
    peer_ids: _containers.RepeatedCompositeFieldContainer[PeerIdVersion]
    bitmap: bytes
    def __init__(self, peer_ids: _Optional[_Iterable[_Union[PeerIdVersion, _Mapping]]] = ..., bitmap: _Optional[bytes] = ...) -> None: ...

class RouteConnPeerList(_message.Message):
    __slots__ = ("peer_conn_infos",)
    class PeerConnInfo(_message.Message):
        __slots__ = ("peer_id", "connected_peer_ids")
        PEER_ID_FIELD_NUMBER: _ClassVar[int]
        CONNECTED_PEER_IDS_FIELD_NUMBER: _ClassVar[int]
        peer_id: PeerIdVersion
        connected_peer_ids: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, peer_id: _Optional[_Union[PeerIdVersion, _Mapping]] = ..., connected_peer_ids: _Optional[_Iterable[int]] = ...) -> None: ...
    PEER_CONN_INFOS_FIELD_NUMBER: _ClassVar[int]
    peer_conn_infos: _containers.RepeatedCompositeFieldContainer[RouteConnPeerList.PeerConnInfo]
    def __init__(self, peer_conn_infos: _Optional[_Iterable[_Union[RouteConnPeerList.PeerConnInfo, _Mapping]]] = ...) -> None: ...

class ForeignNetworkRouteInfoKey(_message.Message):
    __slots__ = ("peer_id", "network_name")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    NETWORK_NAME_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    network_name: str
    def __init__(self, peer_id: _Optional[int] = ..., network_name: _Optional[str] = ...) -> None: ...

class ForeignNetworkRouteInfoEntry(_message.Message):
    __slots__ = ("foreign_peer_ids", "last_update", "version", "network_secret_digest", "my_peer_id_for_this_network")
    FOREIGN_PEER_IDS_FIELD_NUMBER: _ClassVar[int]
    LAST_UPDATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NETWORK_SECRET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MY_PEER_ID_FOR_THIS_NETWORK_FIELD_NUMBER: _ClassVar[int]
    foreign_peer_ids: _containers.RepeatedScalarFieldContainer[int]
    last_update: _timestamp_pb2.Timestamp
    version: int
    network_secret_digest: bytes
    my_peer_id_for_this_network: int
    def __init__(self, foreign_peer_ids: _Optional[_Iterable[int]] = ..., last_update: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[int] = ..., network_secret_digest: _Optional[bytes] = ..., my_peer_id_for_this_network: _Optional[int] = ...) -> None: ...

class RouteForeignNetworkInfos(_message.Message):
    __slots__ = ("infos",)
    class Info(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: ForeignNetworkRouteInfoKey
        value: ForeignNetworkRouteInfoEntry
        def __init__(self, key: _Optional[_Union[ForeignNetworkRouteInfoKey, _Mapping]] = ..., value: _Optional[_Union[ForeignNetworkRouteInfoEntry, _Mapping]] = ...) -> None: ...
    INFOS_FIELD_NUMBER: _ClassVar[int]
    infos: _containers.RepeatedCompositeFieldContainer[RouteForeignNetworkInfos.Info]
    def __init__(self, infos: _Optional[_Iterable[_Union[RouteForeignNetworkInfos.Info, _Mapping]]] = ...) -> None: ...

class SyncRouteInfoRequest(_message.Message):
    __slots__ = ("my_peer_id", "my_session_id", "is_initiator", "peer_infos", "foreign_network_infos", "conn_bitmap", "conn_peer_list")
    MY_PEER_ID_FIELD_NUMBER: _ClassVar[int]
    MY_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    IS_INITIATOR_FIELD_NUMBER: _ClassVar[int]
    PEER_INFOS_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_NETWORK_INFOS_FIELD_NUMBER: _ClassVar[int]
    CONN_BITMAP_FIELD_NUMBER: _ClassVar[int]
    CONN_PEER_LIST_FIELD_NUMBER: _ClassVar[int]
    my_peer_id: int
    my_session_id: int
    is_initiator: bool
    peer_infos: RoutePeerInfos
    foreign_network_infos: RouteForeignNetworkInfos
    conn_bitmap: RouteConnBitmap
    conn_peer_list: RouteConnPeerList
    def __init__(self, my_peer_id: _Optional[int] = ..., my_session_id: _Optional[int] = ..., is_initiator: bool = ..., peer_infos: _Optional[_Union[RoutePeerInfos, _Mapping]] = ..., foreign_network_infos: _Optional[_Union[RouteForeignNetworkInfos, _Mapping]] = ..., conn_bitmap: _Optional[_Union[RouteConnBitmap, _Mapping]] = ..., conn_peer_list: _Optional[_Union[RouteConnPeerList, _Mapping]] = ...) -> None: ...

class SyncRouteInfoResponse(_message.Message):
    __slots__ = ("is_initiator", "session_id", "error")
    IS_INITIATOR_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    is_initiator: bool
    session_id: int
    error: SyncRouteInfoError
    def __init__(self, is_initiator: bool = ..., session_id: _Optional[int] = ..., error: _Optional[_Union[SyncRouteInfoError, str]] = ...) -> None: ...

class DirectConnectedPeerInfo(_message.Message):
    __slots__ = ("latency_ms",)
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    latency_ms: int
    def __init__(self, latency_ms: _Optional[int] = ...) -> None: ...

class PeerInfoForGlobalMap(_message.Message):
    __slots__ = ("direct_peers",)
    class DirectPeersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: DirectConnectedPeerInfo
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[DirectConnectedPeerInfo, _Mapping]] = ...) -> None: ...
    DIRECT_PEERS_FIELD_NUMBER: _ClassVar[int]
    direct_peers: _containers.MessageMap[int, DirectConnectedPeerInfo]
    def __init__(self, direct_peers: _Optional[_Mapping[int, DirectConnectedPeerInfo]] = ...) -> None: ...

class ReportPeersRequest(_message.Message):
    __slots__ = ("my_peer_id", "peer_infos")
    MY_PEER_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_INFOS_FIELD_NUMBER: _ClassVar[int]
    my_peer_id: int
    peer_infos: PeerInfoForGlobalMap
    def __init__(self, my_peer_id: _Optional[int] = ..., peer_infos: _Optional[_Union[PeerInfoForGlobalMap, _Mapping]] = ...) -> None: ...

class ReportPeersResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetGlobalPeerMapRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: int
    def __init__(self, digest: _Optional[int] = ...) -> None: ...

class GetGlobalPeerMapResponse(_message.Message):
    __slots__ = ("global_peer_map", "digest")
    class GlobalPeerMapEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: PeerInfoForGlobalMap
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[PeerInfoForGlobalMap, _Mapping]] = ...) -> None: ...
    GLOBAL_PEER_MAP_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    global_peer_map: _containers.MessageMap[int, PeerInfoForGlobalMap]
    digest: int
    def __init__(self, global_peer_map: _Optional[_Mapping[int, PeerInfoForGlobalMap]] = ..., digest: _Optional[int] = ...) -> None: ...

class GetIpListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetIpListResponse(_message.Message):
    __slots__ = ("public_ipv4", "interface_ipv4s", "public_ipv6", "interface_ipv6s", "listeners")
    PUBLIC_IPV4_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_IPV4S_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_IPV6_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_IPV6S_FIELD_NUMBER: _ClassVar[int]
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    public_ipv4: _common_pb2.Ipv4Addr
    interface_ipv4s: _containers.RepeatedCompositeFieldContainer[_common_pb2.Ipv4Addr]
    public_ipv6: _common_pb2.Ipv6Addr
    interface_ipv6s: _containers.RepeatedCompositeFieldContainer[_common_pb2.Ipv6Addr]
    listeners: _containers.RepeatedCompositeFieldContainer[_common_pb2.Url]
    def __init__(self, public_ipv4: _Optional[_Union[_common_pb2.Ipv4Addr, _Mapping]] = ..., interface_ipv4s: _Optional[_Iterable[_Union[_common_pb2.Ipv4Addr, _Mapping]]] = ..., public_ipv6: _Optional[_Union[_common_pb2.Ipv6Addr, _Mapping]] = ..., interface_ipv6s: _Optional[_Iterable[_Union[_common_pb2.Ipv6Addr, _Mapping]]] = ..., listeners: _Optional[_Iterable[_Union[_common_pb2.Url, _Mapping]]] = ...) -> None: ...

class KcpConnData(_message.Message):
    __slots__ = ("src", "dst")
    SRC_FIELD_NUMBER: _ClassVar[int]
    DST_FIELD_NUMBER: _ClassVar[int]
    src: _common_pb2.SocketAddr
    dst: _common_pb2.SocketAddr
    def __init__(self, src: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ..., dst: _Optional[_Union[_common_pb2.SocketAddr, _Mapping]] = ...) -> None: ...
