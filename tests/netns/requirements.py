"""What tests with real devices need, as pytest marks: `NETNS` for our code alone, `INTEROP` for runs against a genuine core."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

import pytest

TOOLS = ("ip", "ss", "ping", "iperf3")


def missing_for_netns() -> str:
    """Why these tests cannot run here; empty when they can.  In CI they must: they run there, and fail at what is missing."""
    if os.environ.get("CI"):
        return ""
    if sys.platform != "linux":
        return "needs Linux"
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs the commands {', '.join(absent)}" if absent else ""


def missing_for_interop() -> str:
    if importlib.util.find_spec("easytier_pyo3") is None:
        return "needs the PyPI package easytier-pyo3 (a genuine core)"
    return missing_for_netns()


NETNS = [pytest.mark.netns, pytest.mark.skipif(bool(missing_for_netns()), reason=missing_for_netns() or "can run")]
INTEROP = [
    pytest.mark.netns,
    pytest.mark.interop,
    pytest.mark.skipif(bool(missing_for_interop()), reason=missing_for_interop() or "can run"),
]
