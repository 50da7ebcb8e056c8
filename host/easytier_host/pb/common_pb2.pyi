from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NatType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    Unknown: _ClassVar[NatType]
    OpenInternet: _ClassVar[NatType]
    NoPAT: _ClassVar[NatType]
    FullCone: _ClassVar[NatType]
    Restricted: _ClassVar[NatType]
    PortRestricted: _ClassVar[NatType]
    Symmetric: _ClassVar[NatType]
    SymUdpFirewall: _ClassVar[NatType]
    SymmetricEasyInc: _ClassVar[NatType]
    SymmetricEasyDec: _ClassVar[NatType]

class CompressionAlgoPb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CompressionInvalid: _ClassVar[CompressionAlgoPb]
    CompressionNone: _ClassVar[CompressionAlgoPb]
    CompressionZstd: _ClassVar[CompressionAlgoPb]
Unknown: NatType
OpenInternet: NatType
NoPAT: NatType
FullCone: NatType
Restricted: NatType
PortRestricted: NatType
Symmetric: NatType
SymUdpFirewall: NatType
SymmetricEasyInc: NatType
SymmetricEasyDec: NatType
CompressionInvalid: CompressionAlgoPb
CompressionNone: CompressionAlgoPb
CompressionZstd: CompressionAlgoPb

class Void(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ipv4Addr(_message.Message):
    __slots__ = ("addr",)
    ADDR_FIELD_NUMBER: _ClassVar[int]
    addr: int
    def __init__(self, addr: _Optional[int] = ...) -> None: ...

class Ipv6Addr(_message.Message):
    __slots__ = ("part1", "part2", "part3", "part4")
    PART1_FIELD_NUMBER: _ClassVar[int]
    PART2_FIELD_NUMBER: _ClassVar[int]
    PART3_FIELD_NUMBER: _ClassVar[int]
    PART4_FIELD_NUMBER: _ClassVar[int]
    part1: int
    part2: int
    part3: int
    part4: int
    def __init__(self, part1: _Optional[int] = ..., part2: _Optional[int] = ..., part3: _Optional[int] = ..., part4: _Optional[int] = ...) -> None: ...

class IpAddr(_message.Message):
    __slots__ = ("ipv4", "ipv6")
    IPV4_FIELD_NUMBER: _ClassVar[int]
    IPV6_FIELD_NUMBER: _ClassVar[int]
    ipv4: Ipv4Addr
    ipv6: Ipv6Addr
    def __init__(self, ipv4: _Optional[_Union[Ipv4Addr, _Mapping]] = ..., ipv6: _Optional[_Union[Ipv6Addr, _Mapping]] = ...) -> None: ...

class Ipv4Inet(_message.Message):
    __slots__ = ("address", "network_length")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    address: Ipv4Addr
    network_length: int
    def __init__(self, address: _Optional[_Union[Ipv4Addr, _Mapping]] = ..., network_length: _Optional[int] = ...) -> None: ...

class Ipv6Inet(_message.Message):
    __slots__ = ("address", "network_length")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    address: Ipv6Addr
    network_length: int
    def __init__(self, address: _Optional[_Union[Ipv6Addr, _Mapping]] = ..., network_length: _Optional[int] = ...) -> None: ...

class IpInet(_message.Message):
    __slots__ = ("ipv4", "ipv6")
    IPV4_FIELD_NUMBER: _ClassVar[int]
    IPV6_FIELD_NUMBER: _ClassVar[int]
    ipv4: Ipv4Inet
    ipv6: Ipv6Inet
    def __init__(self, ipv4: _Optional[_Union[Ipv4Inet, _Mapping]] = ..., ipv6: _Optional[_Union[Ipv6Inet, _Mapping]] = ...) -> None: ...

class SocketAddr(_message.Message):
    __slots__ = ("ipv4", "ipv6", "port")
    IPV4_FIELD_NUMBER: _ClassVar[int]
    IPV6_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    ipv4: Ipv4Addr
    ipv6: Ipv6Addr
    port: int
    def __init__(self, ipv4: _Optional[_Union[Ipv4Addr, _Mapping]] = ..., ipv6: _Optional[_Union[Ipv6Addr, _Mapping]] = ..., port: _Optional[int] = ...) -> None: ...

class Url(_message.Message):
    __slots__ = ("url",)
    URL_FIELD_NUMBER: _ClassVar[int]
    url: str
    def __init__(self, url: _Optional[str] = ...) -> None: ...

class UUID(_message.Message):
    __slots__ = ("part1", "part2", "part3", "part4")
    PART1_FIELD_NUMBER: _ClassVar[int]
    PART2_FIELD_NUMBER: _ClassVar[int]
    PART3_FIELD_NUMBER: _ClassVar[int]
    PART4_FIELD_NUMBER: _ClassVar[int]
    part1: int
    part2: int
    part3: int
    part4: int
    def __init__(self, part1: _Optional[int] = ..., part2: _Optional[int] = ..., part3: _Optional[int] = ..., part4: _Optional[int] = ...) -> None: ...

class StunInfo(_message.Message):
    __slots__ = ("udp_nat_type", "tcp_nat_type", "last_update_time", "public_ip", "min_port", "max_port")
    UDP_NAT_TYPE_FIELD_NUMBER: _ClassVar[int]
    TCP_NAT_TYPE_FIELD_NUMBER: _ClassVar[int]
    LAST_UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_IP_FIELD_NUMBER: _ClassVar[int]
    MIN_PORT_FIELD_NUMBER: _ClassVar[int]
    MAX_PORT_FIELD_NUMBER: _ClassVar[int]
    udp_nat_type: NatType
    tcp_nat_type: NatType
    last_update_time: int
    public_ip: _containers.RepeatedScalarFieldContainer[str]
    min_port: int
    max_port: int
    def __init__(self, udp_nat_type: _Optional[_Union[NatType, str]] = ..., tcp_nat_type: _Optional[_Union[NatType, str]] = ..., last_update_time: _Optional[int] = ..., public_ip: _Optional[_Iterable[str]] = ..., min_port: _Optional[int] = ..., max_port: _Optional[int] = ...) -> None: ...

class PeerFeatureFlag(_message.Message):
    __slots__ = ("is_public_server", "avoid_relay_data", "kcp_input", "no_relay_kcp", "support_conn_list_sync", "quic_input", "no_relay_quic", "is_credential_peer", "need_p2p", "disable_p2p", "ipv6_public_addr_provider")
    IS_PUBLIC_SERVER_FIELD_NUMBER: _ClassVar[int]
    AVOID_RELAY_DATA_FIELD_NUMBER: _ClassVar[int]
    KCP_INPUT_FIELD_NUMBER: _ClassVar[int]
    NO_RELAY_KCP_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_CONN_LIST_SYNC_FIELD_NUMBER: _ClassVar[int]
    QUIC_INPUT_FIELD_NUMBER: _ClassVar[int]
    NO_RELAY_QUIC_FIELD_NUMBER: _ClassVar[int]
    IS_CREDENTIAL_PEER_FIELD_NUMBER: _ClassVar[int]
    NEED_P2P_FIELD_NUMBER: _ClassVar[int]
    DISABLE_P2P_FIELD_NUMBER: _ClassVar[int]
    IPV6_PUBLIC_ADDR_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    is_public_server: bool
    avoid_relay_data: bool
    kcp_input: bool
    no_relay_kcp: bool
    support_conn_list_sync: bool
    quic_input: bool
    no_relay_quic: bool
    is_credential_peer: bool
    need_p2p: bool
    disable_p2p: bool
    ipv6_public_addr_provider: bool
    def __init__(self, is_public_server: bool = ..., avoid_relay_data: bool = ..., kcp_input: bool = ..., no_relay_kcp: bool = ..., support_conn_list_sync: bool = ..., quic_input: bool = ..., no_relay_quic: bool = ..., is_credential_peer: bool = ..., need_p2p: bool = ..., disable_p2p: bool = ..., ipv6_public_addr_provider: bool = ...) -> None: ...

class RpcDescriptor(_message.Message):
    __slots__ = ("domain_name", "proto_name", "service_name", "method_index")
    DOMAIN_NAME_FIELD_NUMBER: _ClassVar[int]
    PROTO_NAME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    METHOD_INDEX_FIELD_NUMBER: _ClassVar[int]
    domain_name: str
    proto_name: str
    service_name: str
    method_index: int
    def __init__(self, domain_name: _Optional[str] = ..., proto_name: _Optional[str] = ..., service_name: _Optional[str] = ..., method_index: _Optional[int] = ...) -> None: ...

class RpcCompressionInfo(_message.Message):
    __slots__ = ("algo", "accepted_algo")
    ALGO_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_ALGO_FIELD_NUMBER: _ClassVar[int]
    algo: CompressionAlgoPb
    accepted_algo: CompressionAlgoPb
    def __init__(self, algo: _Optional[_Union[CompressionAlgoPb, str]] = ..., accepted_algo: _Optional[_Union[CompressionAlgoPb, str]] = ...) -> None: ...

class RpcPacket(_message.Message):
    __slots__ = ("from_peer", "to_peer", "transaction_id", "descriptor", "body", "is_request", "total_pieces", "piece_idx", "trace_id", "compression_info")
    FROM_PEER_FIELD_NUMBER: _ClassVar[int]
    TO_PEER_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    IS_REQUEST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PIECES_FIELD_NUMBER: _ClassVar[int]
    PIECE_IDX_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_INFO_FIELD_NUMBER: _ClassVar[int]
    from_peer: int
    to_peer: int
    transaction_id: int
    descriptor: RpcDescriptor
    body: bytes
    is_request: bool
    total_pieces: int
    piece_idx: int
    trace_id: int
    compression_info: RpcCompressionInfo
    def __init__(self, from_peer: _Optional[int] = ..., to_peer: _Optional[int] = ..., transaction_id: _Optional[int] = ..., descriptor: _Optional[_Union[RpcDescriptor, _Mapping]] = ..., body: _Optional[bytes] = ..., is_request: bool = ..., total_pieces: _Optional[int] = ..., piece_idx: _Optional[int] = ..., trace_id: _Optional[int] = ..., compression_info: _Optional[_Union[RpcCompressionInfo, _Mapping]] = ...) -> None: ...
