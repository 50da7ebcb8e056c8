"""Real TUN devices: their addresses and routes, what the kernel makes of our packets, and two of them joined by a small pump.

::

    near 10.98.0.1, fd98::1 --- TUN left == pump == TUN right --- far 10.98.0.2, fd98::2

The pump is this module run as a program: it makes both devices in `near`, the test moves one to `far`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface, ip_network
from typing import Final, TypeVar

import anyio
import anyio.to_thread
import pytest
from pyroute2 import netns

from easytier_host.nic import NicError, lasting
from easytier_host.nic.lasting import open_lasting_tun
from easytier_host.nic.offload import coalesce, split
from easytier_host.nic.tun import TunNic, open_tun
from tests.netns.requirements import NETNS
from tests.netns.topology import LoggedProcess, Namespace, Topology, traces, wait_for
from tests.netns.traffic import transfer

pytestmark = NETNS

T = TypeVar("T")
MTU: Final = 1360
LEFT, RIGHT = ("10.98.0.1/24", "fd98::1/64"), ("10.98.0.2/24", "fd98::2/64")


async def carry(source: TunNic, target: TunNic, corrupt_every: int) -> None:
    """Move packets from one device to the other, with one payload bit flipped in each `corrupt_every`th long one."""
    long_packets = 0
    while True:
        await source.wait_readable()
        packets = [packet for frame in source.read_batch() for packet in split(frame, MTU)]
        for index, packet in enumerate(packets):
            if corrupt_every and len(packet) > 1000:
                long_packets += 1
                if long_packets % corrupt_every == 0:
                    packets[index] = packet[:-9] + bytes([packet[-9] ^ 4]) + packet[-8:]
        target.write_frames(target.join(packets))


async def pump(corrupt_every: int) -> None:
    left = await open_tun("left", MTU, [ip_interface(address) for address in LEFT])
    right = await open_tun("right", MTU, [ip_interface(address) for address in RIGHT])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(carry, left, right, corrupt_every)
        tasks.start_soon(carry, right, left, corrupt_every)


def start_pump(topology: Topology, corrupt_every: int = 0) -> tuple[Namespace, Namespace, LoggedProcess]:
    near, far = topology.namespace("near"), topology.namespace("far")
    process = near.spawn(sys.executable, "-m", "tests.netns.test_nic", str(corrupt_every), label="pump")
    wait_for(lambda: len(near.addresses("right")) == 2, "both devices have their addresses")
    near.run("ip", "link", "set", "right", "netns", far.name)
    for address in RIGHT:
        far.run("ip", "addr", "add", address, "dev", "right", *(["nodad"] if ":" in address else []))
    far.run("ip", "link", "set", "right", "up")
    wait_for(lambda: near.ping("10.98.0.2") == 1, "the pump carries pings")
    return near, far, process


def counter(namespace: Namespace, name: str) -> int:
    """A counter of the kernel's IP stack in there."""
    return int(namespace.run("nstat", "-asz", name).stdout.splitlines()[-1].split()[1])


@pytest.fixture
def topology() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


class TestPump:
    def test_pings_of_all_sizes_pass(self, topology: Topology) -> None:
        near, far, _ = start_pump(topology)
        for size in (0, 56, 57, 1332, 1333, 9000):
            assert near.ping("10.98.0.2", size_bytes=size) == 1, size
            assert far.ping("fd98::1", size_bytes=size) == 1, size

    @pytest.mark.parametrize("address", ["10.98.0.2", "fd98::2"])
    def test_a_transfer_arrives_whole_in_super_packets(self, topology: Topology, address: str) -> None:
        near, far, _ = start_pump(topology)
        received = "IpInReceives" if "." in address else "Ip6InReceives"
        before = counter(far, received)
        transfer(near, far, address, size_bytes=50_000_000)
        assert counter(far, received) - before < 50_000_000 / MTU / 4
        assert counter(far, "TcpInCsumErrors") == 0

    @pytest.mark.parametrize("address", ["10.98.0.2", "fd98::2"])
    def test_the_kernel_refuses_what_was_corrupted_on_the_way(self, topology: Topology, address: str) -> None:
        near, far, _ = start_pump(topology, corrupt_every=1000)
        transfer(near, far, address, size_bytes=10_000_000)
        assert counter(far, "TcpInCsumErrors") >= 5

    def test_nothing_is_left_after_a_kill(self, topology: Topology) -> None:
        near, far, process = start_pump(topology)
        assert near.links() == ["left"]
        process.kill()
        # `ip netns exec` has become the pump itself, so its devices went with it.
        wait_for(lambda: not near.links() and not far.links(), "devices are gone")
        assert near.routes() == []
        assert far.routes() == []


def inside(namespace: Namespace, job: Callable[[], Awaitable[T]]) -> T:
    """Run `job` on an event loop in a thread of its own in `namespace`; worker threads started there live there too."""

    def run() -> T:
        netns.setns(namespace.name)
        return anyio.run(bounded)

    async def bounded() -> T:
        with anyio.fail_after(20):
            return await job()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()


class TestDevice:
    def test_it_is_made_as_asked_and_removed_when_closed(self, topology: Topology) -> None:
        home = topology.namespace("home")

        async def job() -> None:
            nic = await open_tun("et%d", 1380, [ip_interface("10.98.0.1/24"), ip_interface("fd98::1/64")])
            assert (nic.name, nic.mtu) == ("et0", 1380)
            link = await anyio.to_thread.run_sync(lambda: home.run("ip", "-d", "link", "show", "et0").stdout)
            assert "mtu 1380" in link
            assert "UP" in link
            assert "qlen 500" in link
            # No link-local address: nothing is to be sent that nobody has asked for.
            assert home.addresses("et0") == ["10.98.0.1/24", "fd98::1/64"]
            nic.close()
            nic.close()
            assert home.links() == []
            with pytest.raises(NicError, match="closed"):
                nic.read_batch()
            nic.write_frames(nic.join([b"\x45" + bytes(39)]))
            assert nic.dropped_packets == 1

        inside(home, job)

    def test_a_name_in_use_is_refused(self, topology: Topology) -> None:
        async def job() -> None:
            nic = await open_tun("et0", 1360, [])
            with pytest.raises(NicError, match="et0 exists already"):
                await open_tun("et0", 1360, [])
            nic.close()
            with pytest.raises(NicError, match="not a valid name"):
                await open_tun("a-name-that-is-too-long", 1360, [])

        inside(topology.namespace("home"), job)

    def test_without_ipv6_on_the_host_only_an_ipv6_address_is_refused(self, topology: Topology) -> None:
        home = topology.namespace("home")
        for scope in ("all", "default"):
            home.run("sysctl", "-qw", f"net.ipv6.conf.{scope}.disable_ipv6=1")

        async def job() -> None:
            nic = await open_tun("et0", 1360, [ip_interface("10.98.0.1/24")])
            nic.close()
            with pytest.raises(NicError, match=r"fd98::1/64 to et0.*is IPv6 disabled"):
                await open_tun("et0", 1360, [ip_interface("fd98::1/64")])
            assert home.links() == []

        inside(home, job)

    def test_routes_follow_the_wanted_set_and_spare_those_of_the_host(
        self, topology: Topology, caplog: pytest.LogCaptureFixture
    ) -> None:
        home = topology.namespace("home")
        home.run("ip", "route", "add", "10.50.0.0/16", "dev", "lo")

        def overlay() -> list[str]:
            lines = home.routes() + home.run("ip", "-6", "route", "show").stdout.splitlines()
            return sorted(line.split()[0] for line in lines if "dev et0 proto static" in line)

        async def job() -> None:
            nic = await open_tun("et0", 1360, [ip_interface("10.98.0.1/24"), ip_interface("fd98::1/64")])
            foreign = ip_network("10.50.0.0/16")
            await nic.replace_routes({ip_network("10.1.0.0/16"), ip_network("fd01::/48"), foreign})
            assert overlay() == ["10.1.0.0/16", "fd01::/48"]
            assert [record.message for record in caplog.records if "10.50.0.0/16" in record.message] == [
                "et0: no route to 10.50.0.0/16 through the overlay: the host has a route of its own to it"
            ]
            caplog.clear()
            await nic.replace_routes([ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("10.1.0.0/16"), foreign])
            assert overlay() == ["10.1.0.0/16", "default", "default"]
            assert not caplog.records
            home.run("ip", "route", "del", "10.50.0.0/16", "dev", "lo")
            home.run("ip", "route", "del", "10.1.0.0/16", "dev", "et0")
            await nic.replace_routes({foreign})
            assert overlay() == ["10.50.0.0/16"]
            await nic.replace_routes(())
            assert overlay() == []
            nic.close()

        inside(home, job)

    def test_what_somebody_takes_from_it_is_put_back(
        self, topology: Topology, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Each of these is the first of its kind.
        monkeypatch.setattr(lasting, "PEACE", 0.0)
        home = topology.namespace("home")
        addresses = [ip_interface("10.98.0.1/24"), ip_interface("fd98::1/64")]

        def take(*commands: str) -> None:
            for command in commands:
                home.run(*command.split())

        async def come(condition: Callable[[], bool], what: str) -> None:
            await anyio.to_thread.run_sync(wait_for, condition, what, 5)

        async def job() -> None:
            nic = await open_lasting_tun("et0", 1360, addresses, coalesce=coalesce)
            await nic.replace_routes({ip_network("10.1.0.0/16"), ip_network("fd01::/48")})
            whole = await anyio.to_thread.run_sync(traces, home)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(nic.keep)
                for commands in (
                    ("ip link set et0 down", "ip link set et0 up"),
                    ("ip addr flush dev et0",),
                    ("ip route flush dev et0", "ip -6 route flush dev et0"),
                    ("ip route del 10.1.0.0/16 dev et0", "ip addr del fd98::1/64 dev et0"),
                    ("ip link set et0 mtu 1000",),
                ):
                    await anyio.to_thread.run_sync(take, *commands)
                    await come(lambda: traces(home) == whole, f"all is back after {commands}")
                # Who wants it down has it down; afterwards comes what was wanted meanwhile, too.
                await anyio.to_thread.run_sync(take, "ip link set et0 down")
                await come(lambda: "somebody has taken et0 down" in caplog.text, "it is known to be down")
                await nic.replace_routes({ip_network("10.1.0.0/16"), ip_network("fd01::/48"), ip_network("10.2.0.0/16")})
                assert home.routes() == []
                await anyio.to_thread.run_sync(take, "ip link set et0 up")
                wanted = {"10.1.0.0/16", "10.2.0.0/16", "10.98.0.0/24"}
                await come(lambda: {line.split()[0] for line in home.routes()} == wanted, "its routes are there")
                tasks.cancel_scope.cancel()
            nic.close()

        inside(home, job)
        assert "somebody had taken away from et0: MTU 1360, fd98::1/64, routes to fd01::/48; put back" in caplog.text

    def test_a_reader_learns_that_the_device_was_deleted(self, topology: Topology) -> None:
        home = topology.namespace("home")

        async def job() -> None:
            nic = await open_tun("et0", 1360, [])

            async def read_on() -> None:
                while True:
                    await nic.wait_readable()
                    nic.read_batch()

            async def expect_the_end() -> None:
                with pytest.raises(NicError, match="gone"):
                    await read_on()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(expect_the_end)
                await anyio.wait_all_tasks_blocked()
                await anyio.to_thread.run_sync(lambda: home.run("ip", "link", "del", "et0"))
            with pytest.raises(NicError, match="gone"):
                await nic.replace_routes({ip_network("10.1.0.0/16")})
            nic.write_frames(nic.join([b"\x45" + bytes(39)]))
            assert nic.dropped_packets == 1
            nic.close()

        inside(home, job)

    def test_closing_wakes_the_reader(self, topology: Topology) -> None:
        async def job() -> None:
            nic = await open_tun("et0", 1360, [])

            async def reader() -> None:
                with pytest.raises(NicError, match="closed"):
                    await nic.wait_readable()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reader)
                await anyio.wait_all_tasks_blocked()
                nic.close()

        inside(topology.namespace("home"), job)

    def test_what_is_not_ip_is_dropped_and_counted(self, topology: Topology) -> None:
        async def job() -> None:
            nic = await open_tun("et0", 1360, [ip_interface("10.98.0.1/24")])
            nic.write_frames(nic.join([b"", b"x", bytes(40), b"\xff" * 40]))
            nic.write_frames([b"", bytes(9), bytes(10), b"\0\x07" + bytes(8) + b"\x45" + bytes(39)])
            assert nic.dropped_packets == 8
            nic.close()

        inside(topology.namespace("home"), job)


if __name__ == "__main__":
    anyio.run(pump, int(sys.argv[1]))
