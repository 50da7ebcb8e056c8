"""A node with the rights that the unit file gives it, which are not those of root, told of to a service manager."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.netns.requirements import NETNS
from tests.netns.topology import Topology

pytestmark = NETNS

UNIT = Path(__file__).parents[2] / "packaging" / "systemd" / "easytier-core@.service"


def capabilities() -> set[str]:
    """Those of the unit."""
    [line] = re.findall(r"^AmbientCapabilities=(.*)$", UNIT.read_text(), re.MULTILINE)
    return {word.removeprefix("CAP_").lower() for word in line.split()}


def test_a_node_starts_with_its_capabilities_alone_and_says_so(tmp_path: Path) -> None:
    # Uid 0 without the capabilities of root: it may open /dev/net/tun and this checkout, whatever their modes are.
    given = "-all," + ",".join(f"+{name}" for name in sorted(capabilities()))
    rights = ["setpriv", f"--bounding-set={given}", f"--inh-caps={given}", f"--ambient-caps={given}", "--no-new-privs"]
    config = tmp_path / "home.toml"
    config.write_text(
        'instance_name = "home"\nipv4 = "10.144.0.7/24"\nlisteners = ["udp://127.0.0.1:0", "tcp://127.0.0.1:999"]\n'
        'rpc_portal = "off"\n[network_identity]\nnetwork_name = "lab"\n'
    )
    with Topology() as topology, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(20)
        space = topology.namespace("unit")
        command = [*rights, sys.executable, "-m", "easytier_host.main", "-c", str(config)]
        node = subprocess.Popen(
            space.inside(*command), env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}, stderr=subprocess.PIPE
        )
        try:
            assert ear.recv(4096).decode().splitlines() == ["READY=1", "STATUS=home in network lab"]
            status = Path(f"/proc/{node.pid}/status").read_text()
            assert int(re.findall(r"CapEff:\t(\w+)", status)[0], 16).bit_count() == len(capabilities())
            assert "10.144.0.7/24" in space.run("ip", "-o", "addr").stdout
            node.send_signal(signal.SIGTERM)
            assert ear.recv(4096) == b"STOPPING=1"
            assert node.wait(20) == 0
        finally:
            node.kill()
            _, log = node.communicate()
    assert b"WARN" not in log, log.decode()
