"""Kernel routes kept in step, over a netlink that only remembers."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any, Self

import pytest

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
