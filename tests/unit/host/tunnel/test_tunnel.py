"""Opening tunnels by URL: names, bounded waits, and messages a user can act on."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import pytest

from easytier_host.tunnel import Tunnel, TunnelError, TunnelUrl, connect, listen
from easytier_host.tunnel.resolve import MAX_ENDPOINTS, Endpoint, resolve
from tests.unit.host.tunnel.helpers import Door, Observer, numbered, running, until

pytestmark = pytest.mark.anyio

NAME = TunnelUrl("tcp", "node.example", 11010)


def answer_with(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    async def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in hosts]
        return [(family, 1, 6, "", (address, port)) for family, address in zip(families, hosts, strict=True)]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)


async def test_an_address_does_not_reach_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(anyio, "getaddrinfo")
    assert await resolve(TunnelUrl("udp", "::1", 5), timeout=1) == [Endpoint(socket.AF_INET6, ("::1", 5))]
    assert await resolve(TunnelUrl("udp", "1.2.3.4", 5), timeout=1) == [Endpoint(socket.AF_INET, ("1.2.3.4", 5))]


@pytest.mark.parametrize(
    ("prefer_ipv6", "expected"), [(False, ["1.1.1.1", "2.2.2.2", "::1", "::2"]), (True, ["::1", "::2", "1.1.1.1", "2.2.2.2"])]
)
async def test_the_preferred_family_comes_first(
    monkeypatch: pytest.MonkeyPatch, prefer_ipv6: bool, expected: list[str]
) -> None:
    answer_with(monkeypatch, "::1", "1.1.1.1", "::2", "2.2.2.2")
    endpoints = await resolve(NAME, timeout=1, prefer_ipv6=prefer_ipv6)
    assert [endpoint.address[0] for endpoint in endpoints] == expected


async def test_only_so_many_addresses_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, *(f"10.0.0.{number}" for number in range(100)))
    assert len(await resolve(NAME, timeout=1)) == MAX_ENDPOINTS


async def test_a_resolver_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    async with running() as tasks:
        with pytest.raises(TunnelError, match=r"tcp://node\.example:11010: the name was not resolved within 0\.02 s"):
            await connect(NAME, tasks, timeout=0.02)


async def test_an_unknown_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    async with running() as tasks:
        with pytest.raises(TunnelError, match="the name was not resolved: name or service not known"):
            await connect(NAME, tasks)


async def test_port_0_is_not_dialled() -> None:
    async with running() as tasks:
        with pytest.raises(TunnelError, match="port 0"):
            await connect(TunnelUrl("udp", "127.0.0.1", 0), tasks)


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
async def test_a_name_is_dialled_and_nothing_is_lost_before_the_caller_listens(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    answer_with(monkeypatch, "127.0.0.1")
    door = Door()

    def greet(tunnel: Tunnel) -> None:
        door(tunnel)
        tasks.start_soon(send, tunnel)

    async def send(tunnel: Tunnel) -> None:
        tunnel.send(numbered(3))

    async with running() as tasks:
        listener = await listen(TunnelUrl(scheme, "localhost", 0), tasks, greet)
        tunnel = await connect(TunnelUrl(scheme, "node.example", TunnelUrl.parse(listener.url).port), tasks)
        observer = Observer(tunnel)
        await until(lambda: observer.frames == numbered(3))
        assert tunnel.info.scheme == scheme
