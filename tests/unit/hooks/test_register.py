"""What plugins bring along at the start: transports, stacks, capabilities."""

from collections.abc import Iterator, Mapping
from typing import cast

import pytest

from easytier_hooks import (
    Candidate,
    Capability,
    FlowKey,
    HostServices,
    Link,
    PeerInfo,
    PluginCounters,
    PluginManager,
    TcpConnection,
    TcpFlow,
    hookimpl,
)


class Carrier:
    """A transport that carries nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def candidate(self, flow: TcpFlow, peer: PeerInfo | None) -> Candidate:
        return Candidate(self.name, available=False, reason="only a sample")

    async def dial(self, flow: TcpFlow) -> TcpConnection:
        raise NotImplementedError


class Stack:
    name = "sample"
    description = "does nothing"
    carries_subnets = False

    def available(self) -> str:
        return ""

    async def terminate(self, link: Link, key: FlowKey, syn: bytes) -> TcpConnection:
        raise NotImplementedError

    async def connect(self, link: Link, key: FlowKey) -> TcpConnection:
        raise NotImplementedError


class Bringing:
    def __init__(self, *items: object) -> None:
        self.items = items
        self.hosts: list[object] = []

    @hookimpl
    def register_transports(self, host: HostServices) -> object:
        self.hosts.append(host)
        return self.items


class Announcing:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    def advertise_capabilities(self) -> object:
        return self.answer


def manager_with(*plugins: object) -> PluginManager:
    manager = PluginManager(environ={}, installed=())
    for number, plugin in enumerate(plugins):
        manager.register(f"p{number}", plugin, {"number": number})
    return manager


def host_for(name: str, options: Mapping[str, object]) -> HostServices:
    return cast("HostServices", (name, dict(options)))


def test_each_plugin_registers_with_services_of_its_own() -> None:
    one, two = Bringing(Carrier("kcp")), Bringing(Carrier("quic"), Carrier("websocket"))
    transports = manager_with(one, two).transports(host_for)
    assert {name: transport.name for name, transport in transports.items()} == {
        "quic": "quic",
        "websocket": "websocket",
        "kcp": "kcp",
    }
    assert list(transports) == ["quic", "websocket", "kcp"], "the plugin loaded last comes first"
    assert (one.hosts, two.hosts) == ([("p0", {"number": 0})], [("p1", {"number": 1})])


@pytest.mark.parametrize("name", ["tcp", "", "KCP", "a b", "x" * 33, 7])
def test_a_transport_without_a_proper_name_is_refused(name: object, caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_with(Bringing(Carrier(cast("str", name)), Carrier("good")))
    assert list(manager.transports(host_for)) == ["good"]
    assert manager.counters()["p0"] == PluginCounters(nonsense=1)
    assert "plugin p0: register_transports" in caplog.text


def test_the_second_transport_of_a_name_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    kept, refused = Carrier("kcp"), Carrier("kcp")
    assert manager_with(Bringing(refused), Bringing(kept)).transports(host_for) == {"kcp": kept}
    assert "plugin p0: register_transports: the name 'kcp' is taken" in caplog.text


def test_what_is_not_a_transport_is_refused() -> None:
    manager = manager_with(Bringing(Stack(), None, "kcp"))
    assert manager.transports(host_for) == {}
    assert manager.counters()["p0"] == PluginCounters(nonsense=3)


def test_a_plugin_that_raises_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    class Raising:
        @hookimpl
        def register_transports(self, host: HostServices) -> None:
            raise OSError("no device")

    class Lazy:
        @hookimpl
        def register_transports(self) -> Iterator[Carrier]:
            yield Carrier("half")
            raise OSError("no device")

    class Nameless(Carrier):
        @property
        def name(self) -> str:
            raise OSError("no name")

        @name.setter
        def name(self, value: str) -> None: ...

    manager = manager_with(Bringing(Carrier("kcp")), Raising(), Lazy(), Bringing(Nameless("")))
    assert list(manager.transports(host_for)) == ["kcp"]
    assert [counters.raised for counters in manager.counters().values()] == [0, 1, 1, 1]
    assert "plugin p1: register_transports raised OSError" in caplog.text


def test_an_endless_answer_is_cut() -> None:
    class Endless:
        @hookimpl
        def register_transports(self) -> Iterator[Carrier]:
            number = 0
            while True:
                number += 1
                yield Carrier(f"t{number}")

    assert len(manager_with(Endless()).transports(host_for)) == 64


def test_stacks_register_in_the_same_way() -> None:
    stack = Stack()

    class Plugin:
        @hookimpl
        def register_tcp_stacks(self, host: HostServices) -> list[object]:
            return [stack, Carrier("kcp")]

    manager = manager_with(Plugin())
    assert manager.tcp_stacks(host_for) == {"sample": stack}
    assert manager.counters()["p0"] == PluginCounters(nonsense=1)


def test_capabilities_of_all_plugins_are_joined() -> None:
    manager = manager_with(
        Announcing([Capability.KCP_INPUT]), Announcing({Capability.QUIC_INPUT, Capability.KCP_INPUT}), Announcing(None)
    )
    assert manager.capabilities() == {Capability.KCP_INPUT, Capability.QUIC_INPUT}


@pytest.mark.parametrize("answer", [7, "kcp_input", [None], ["teleport"], [[]]])
def test_what_is_no_capability_is_refused(answer: object) -> None:
    manager = manager_with(Announcing(answer), Announcing([Capability.KCP_INPUT]))
    assert manager.capabilities() == {Capability.KCP_INPUT}
    assert manager.counters()["p0"].nonsense > 0
