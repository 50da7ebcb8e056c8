"""Kernel routes kept in step, over a netlink that only remembers."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.nic import netlink
from easytier_host.nic.base import NicError

FIRST, SECOND = IPv4Network("192.0.2.0/25"), IPv4Network("198.51.100.0/24")


class FakeNetlink:
    """Notes what is asked of it; `failure` is raised instead."""

    def __init__(self) -> None:
        self.opened = 0
        self.calls: list[tuple[str, str]] = []
        self.failure: Exception | None = None

    def __enter__(self) -> Self:
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None: ...

    def route(self, command: str, *, dst: str, **_: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.calls.append((command, dst))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeNetlink:
    made = FakeNetlink()
    monkeypatch.setattr(netlink, "_open", lambda: made)
    return made


def test_only_what_differs_is_changed(kernel: FakeNetlink) -> None:
    routes = netlink.Routes("tun0", 7)
    routes.replace(frozenset({FIRST}))
    routes.replace(frozenset({SECOND}))
    assert kernel.calls == [("add", str(FIRST)), ("del", str(FIRST)), ("add", str(SECOND))]
    assert routes.installed == {SECOND}


def test_netlink_is_left_alone_when_all_is_in_place(kernel: FakeNetlink) -> None:
    routes = netlink.Routes("tun0", 7)
    routes.replace(frozenset())
    assert kernel.opened == 0
    routes.replace(frozenset({FIRST}))
    routes.replace(frozenset({FIRST}))
    assert kernel.opened == 1


def test_a_refused_route_is_tried_again(kernel: FakeNetlink) -> None:
    routes = netlink.Routes("tun0", 7)
    kernel.failure = OSError(17, "File exists")
    routes.replace(frozenset({FIRST}))
    assert routes.installed == frozenset()
    kernel.failure = None
    routes.replace(frozenset({FIRST}))
    assert routes.installed == {FIRST}


def test_an_error_that_is_no_answer_of_the_kernel_is_told(kernel: FakeNetlink) -> None:
    routes = netlink.Routes("tun0", 7)
    kernel.failure = RuntimeError("no event loop")
    with pytest.raises(NicError, match="no event loop"):
        routes.replace(frozenset({FIRST}))


def message(kind: int, body: bytes) -> bytes:
    """One message of netlink: length, type, flags, sequence, port, body."""
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def deleted_route(destination: str, index: int) -> bytes:
    network = ip_network(destination)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    packed = network.network_address.packed
    attributes = (
        struct.pack("=HHI", 8, 15, 254) + struct.pack("=HH", 4 + len(packed), 1) + packed + struct.pack("=HHI", 8, 4, index)
    )
    return message(25, bytes([family, network.prefixlen]) + bytes(10) + attributes)


LINK_7 = message(16, struct.pack("=BxHi", 0, 65534, 7))
ADDRESS_7_GONE = message(21, struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 7))
ADDRESS_7_COME = message(20, struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 7))


@pytest.mark.parametrize(
    ("news", "touched"),
    [
        (LINK_7, True),
        (ADDRESS_7_GONE, True),
        (ADDRESS_7_COME, False),
        (message(16, struct.pack("=BxHi", 0, 65534, 8)), False),
        (deleted_route(str(FIRST), 7), True),
        (deleted_route("fd01::/48", 7), True),
        (deleted_route(str(FIRST), 8), False),
        (deleted_route(str(SECOND), 7), False),
        (ADDRESS_7_COME + deleted_route(str(SECOND), 7) + deleted_route(str(FIRST), 7), True),
    ],
)
def test_news_is_of_the_device_and_of_what_it_should_have(news: bytes, touched: bool) -> None:
    assert netlink.touches(news, 7, {FIRST, IPv6Network("fd01::/48")}) is touched


@given(
    st.binary(max_size=200)
    | st.builds(lambda cut, at: cut[:at], st.sampled_from([LINK_7, deleted_route("fd01::/48", 7)]), st.integers(0, 60))
)
def test_any_bytes_are_read_to_their_end(news: bytes) -> None:
    netlink.touches(news, 7, {FIRST})
    netlink.touches(message(25, news), 7, {FIRST})
