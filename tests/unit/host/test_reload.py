"""The configuration, read again while nodes run: what is applied, what waits for a restart, and what a fault changes."""

from __future__ import annotations

import io
import logging
from dataclasses import fields, replace
from ipaddress import IPv4Network, ip_address

import anyio
import pytest

from easytier_hooks.errors import DialRefused
from easytier_hooks.types import IPAddress
from easytier_host.config import Config, ConfigError, Loaded
from easytier_host.config.model import AccessRule, FileLog, Flags, PortForward, ProxyNetwork
from easytier_host.config.schema import SETTINGS
from easytier_host.instance import Node
from easytier_host.log import Levels, configured
from easytier_host.nic.memory import MemoryNic
from easytier_host.reload import LIVE, differences, reload
from tests.unit.host.helpers import make_node, until

pytestmark = pytest.mark.anyio

FORWARD = PortForward("127.0.0.1:0", "10.144.0.2:80", "tcp")


LEVELS = Levels(logging.NullHandler(), None)


async def change(node: Node, **fields: object) -> None:
    """As a signal does, after these fields have changed in the file."""
    wanted = replace(node.config, **fields)  # type: ignore[arg-type]
    await reload(lambda: Loaded((wanted,)), [node], LEVELS)


async def test_each_change_is_applied_or_said_to_need_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    async with make_node(1) as node:
        with caplog.at_level(logging.INFO, "easytier.reload"):
            await change(
                node, hostname="other", tcp_whitelist=((22, 22),), drain_timeout=7, flags=replace(node.config.flags, mtu=1300)
            )
        assert node.config.hostname == "node1"
        assert node.config.drain_timeout == 7
        assert [record.getMessage() for record in caplog.records if record.name == "easytier.reload"] == [
            "hostname has changed, which needs a restart",
            "tcp_whitelist: applied",
            "drain_timeout: applied",
            "flags.mtu has changed, which needs a restart",
        ]


async def test_rules_hold_for_what_begins_from_then_on() -> None:
    async with make_node(1) as node:

        def refusal(port: int) -> str:
            address: IPAddress = node.addresses[0]
            return node.guard.refusal("tcp", 7, None, address, port)

        assert not refusal(80)
        assert node.inbound.guard is None
        await change(node, tcp_whitelist=((22, 22),))
        assert "not in tcp_whitelist" in refusal(80)
        assert node.inbound.guard is node.guard
        await change(node, tcp_whitelist=(), access=(AccessRule(False),))
        assert refusal(22)
        await change(node, access=())
        assert node.inbound.guard is None


async def test_peers_come_and_go() -> None:
    async with make_node(1) as one, make_node(2) as two, make_node(3, *one.listeners) as node:
        await until(lambda: {conn.peer_id for conn in node.peers()} == {one.peer_id})
        await change(node, peers=tuple(two.listeners))
        await until(lambda: {conn.peer_id for conn in node.peers()} == {two.peer_id})


async def test_networks_behind_the_node_come_and_go_and_peers_hear_of_it() -> None:
    inside, outside = ip_address("10.1.3.9"), ip_address("10.1.4.9")
    mapped = ProxyNetwork(IPv4Network("192.168.8.0/24"), IPv4Network("10.1.3.0/24"))
    async with make_node(1, nic=MemoryNic()) as node, make_node(2, *node.listeners) as peer:
        await until(lambda: peer.routes())
        assert node.inbound.subnet is None
        await change(node, proxy_networks=(mapped,))
        await until(lambda: peer.peer_for(inside))
        assert node.dial_target(inside, 22) == (ip_address("192.168.8.9"), 22)
        assert node.inbound.subnet is not None
        await change(node, proxy_networks=(ProxyNetwork(IPv4Network("10.1.4.0/24")),))
        await until(lambda: peer.peer_for(outside))
        assert peer.peer_for(inside) is None
        with pytest.raises(DialRefused):
            node.dial_target(inside, 22)
        await change(node, proxy_networks=())
        await until(lambda: peer.peer_for(outside) is None)
        assert node.own_record.proxy_cidrs == ()


async def test_port_forwards_come_and_go_and_one_that_cannot_be_had_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async with make_node(1, port_forwards=(FORWARD,)) as node:
        kept = node.forwards[0].address
        with anyio.fail_after(5):
            other = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with other:
            taken = replace(FORWARD, bind_addr=f"127.0.0.1:{other.extra(anyio.abc.SocketAttribute.local_port)}")
            udp = replace(FORWARD, proto="udp")
            await change(node, port_forwards=(taken, FORWARD, udp))
        assert "cannot listen there" in caplog.text
        assert node.forwards[0].address == kept
        assert len(node.forwards) == len(node.config.port_forwards) == 2
        async with await anyio.connect_tcp(*kept):
            pass
        # The same port with another destination: the first one has to give it back.
        moved = replace(FORWARD, bind_addr=f"127.0.0.1:{kept[1]}", dst_addr="10.144.0.3:80")
        await change(node, port_forwards=(moved,))
        assert [forward.address for forward in node.forwards] == [kept]
        await change(node, port_forwards=())
        with pytest.raises(OSError, match="connection attempts failed"):
            await anyio.connect_tcp(*kept)


async def test_a_fault_changes_nothing_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def read() -> Loaded:
        raise ConfigError(["a.toml:3: unknown key", "a.toml:4: no address"])

    async with make_node(1) as node:
        before = node.config
        await reload(read, [node], LEVELS)
        assert node.config is before
    said = [record.getMessage() for record in caplog.records if record.name == "easytier.reload"]
    assert said == ["a.toml:3: unknown key", "a.toml:4: no address", "the configuration has faults, nothing is changed"]


async def test_networks_that_come_or_go_wait_for_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    async with make_node(1) as node:
        await reload(lambda: Loaded((replace(node.config, instance_name="new"),)), [node], LEVELS)
    assert 'instance "new" is new: needs a restart' in caplog.text
    assert 'instance "node1" stays until a restart' in caplog.text


async def test_what_is_meant_for_one_of_two_of_a_name_changes_neither(caplog: pytest.LogCaptureFixture) -> None:
    async with make_node(1) as node, make_node(2, instance_name="node1") as other:
        wanted = tuple(replace(each.config, drain_timeout=9) for each in (node, other))
        await reload(lambda: Loaded(wanted), [other, node], LEVELS)
        assert {node.config.drain_timeout, other.config.drain_timeout} == {3}
    assert 'several instances are called "node1": nothing of theirs is applied' in caplog.text


async def test_the_level_of_the_log_changes() -> None:
    console = io.StringIO()
    async with make_node(1, console_log_level="error") as node:
        with configured("error", stream=console) as levels:
            wanted = replace(node.config, console_log_level="info")
            await reload(lambda: Loaded((wanted,)), [node], levels)
            await reload(lambda: Loaded((wanted,)), [node], levels)
    assert "console_logger.level: applied" in console.getvalue()
    assert "nothing has changed" in console.getvalue()


def test_differences_are_named_with_their_table_and_a_random_id_is_none() -> None:
    one = Config(flags=Flags(mtu=1300), file_log=FileLog(level="info"))
    assert list(differences(one, replace(one, instance_id=Config().instance_id))) == []
    other = Config(peers=("udp://192.0.2.1:1",), flags=Flags(no_tun=True))
    assert list(differences(one, other)) == ["peers", "file_log.level", "flags.mtu", "flags.no_tun"]


def test_what_is_applied_live_are_fields_that_a_file_can_set() -> None:
    assert LIVE.issubset(field.name for field in fields(Config))
    assert LIVE.issubset(setting.target for setting in SETTINGS.values())
