"""`open_tun` where no device can be made: each failure says what to do.  Real devices are in `tests/netns/test_nic.py`."""

from __future__ import annotations

import errno
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from easytier_host.nic import NicError
from easytier_host.nic.tun import open_tun

pytestmark = pytest.mark.anyio


def failing_pytun(error: OSError) -> ModuleType:
    def refuse(**_: object) -> None:
        raise error

    module = ModuleType("pytun")
    module.__dict__["TunTapDevice"] = refuse
    return module


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EPERM, "CAP_NET_ADMIN, or use --no-tun"),
        (errno.EACCES, "run as root"),
        (errno.ENOENT, "/dev/net/tun is missing: .* --no-tun"),
        (errno.ENODEV, "kernel module tun"),
        (errno.EBUSY, "named et0 exists already: choose another dev_name"),
        (errno.EINVAL, "'et0' is not a valid name"),
        (errno.ENOMEM, "cannot make network device et0: .*ENOMEM|Cannot allocate memory"),
    ],
)
async def test_a_refusal_says_what_to_do(monkeypatch: pytest.MonkeyPatch, code: int, advice: str) -> None:
    monkeypatch.setitem(sys.modules, "pytun", failing_pytun(OSError(code, os.strerror(code))))
    with pytest.raises(NicError, match=advice):
        await open_tun("et0", 1360, [])


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytun", None)
    with pytest.raises(NicError, match=r"python-pytun; install it, or use --no-tun"):
        await open_tun("et0", 1360, [])


async def test_the_other_package_of_that_name_is_not_mistaken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytun", ModuleType("pytun"))
    with pytest.raises(NicError, match="python-pytun"):
        await open_tun("et0", 1360, [])


async def test_the_device_is_closed_when_it_cannot_be_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    closed: list[str] = []
    device = SimpleNamespace(name="no-such-device", fileno=lambda: reader, close=lambda: closed.append("closed"))
    module = ModuleType("pytun")
    module.__dict__["TunTapDevice"] = lambda **_: device
    monkeypatch.setitem(sys.modules, "pytun", module)
    try:
        with pytest.raises(NicError, match=r"no-such-device is gone|pyroute2|routing tables"):
            await open_tun("", 1360, [])
    finally:
        os.close(reader)
        os.close(writer)
    assert closed == ["closed"]
