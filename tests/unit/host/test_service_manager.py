"""What a service manager hears: from the object itself, and from a whole process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from easytier_host.service_manager import ServiceManager

PATIENCE = 0.1


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        yield heard


def lines(ear: socket.socket) -> list[str]:
    return ear.recv(4096).decode().splitlines()


def manager_for(ear: socket.socket, **more: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": ear.getsockname(), **more})


def test_each_state_is_one_datagram(ear: socket.socket) -> None:
    manager = manager_for(ear)
    manager.ready("lab in network home")
    assert lines(ear) == ["READY=1", "STATUS=lab in network home"]
    manager.reloading()
    state, stamp = lines(ear)
    assert (state, stamp.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert int(stamp.partition("=")[2]) > 0
    manager.stopping()
    assert lines(ear) == ["STOPPING=1"]


def test_an_abstract_address_is_reached_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0easytier-test-{os.getpid()}")
        heard.settimeout(5)
        ServiceManager({"NOTIFY_SOCKET": f"@easytier-test-{os.getpid()}"}).stopping()
        assert lines(heard) == ["STOPPING=1"]


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:2:1"])
def test_nobody_there_is_no_failure(address: str) -> None:
    ServiceManager({"NOTIFY_SOCKET": address}).ready("x")


@pytest.mark.anyio
async def test_a_watched_process_says_that_it_lives_twice_in_the_time(ear: socket.socket) -> None:
    ear.setblocking(False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager_for(ear, WATCHDOG_USEC=str(int(PATIENCE * 1e6))).keep_alive)
        began = anyio.current_time()
        for _ in range(5):
            with anyio.fail_after(5):
                await anyio.wait_readable(ear)
            assert lines(ear) == ["WATCHDOG=1"]
        assert anyio.current_time() - began >= 4 * PATIENCE / 2 * 0.9
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}]
)
async def test_who_is_not_watched_says_nothing(ear: socket.socket, environ: dict[str, str]) -> None:
    await manager_for(ear, **environ).keep_alive()
    ear.setblocking(False)
    with pytest.raises(BlockingIOError):
        ear.recv(1)


def test_a_node_is_ready_once_it_listens_and_tells_its_end(ear: socket.socket, tmp_path: Path) -> None:
    environ = os.environ | {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "60000000"}
    command = ["-m", "easytier_host.main", "--no-tun", "-l", "udp://127.0.0.1:0", "-r", "off", "--network-name", "home"]
    node = subprocess.Popen([sys.executable, *command], env=environ, stderr=subprocess.DEVNULL)
    try:
        assert lines(ear) == ["WATCHDOG=1"]
        assert lines(ear) == ["READY=1", "STATUS=default in network home"]
        node.send_signal(signal.SIGTERM)
        assert lines(ear) == ["STOPPING=1"]
        assert node.wait(20) == 0
    finally:
        node.kill()
        node.wait()
