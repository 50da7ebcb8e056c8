"""A genuine EasyTier core as a child process: one JSON configuration in, commands in, JSON lines out.

Run inside a namespace by `nodes.StockNode`; not a test.  The core comes from the PyPI package `easytier-pyo3`.  Its
configuration keys are those of the stock TOML file.

    argv[1]   the configuration as JSON
    stdin     one command a line: `routes`, `peers`, `node_info`, `metrics`, `events`, `add_connector URL`, `stop`
    stdout    `{"ready": ...}` once, then one `{"answer": ...}` or `{"error": ...}` for each command
"""

from __future__ import annotations

import json
import sys

from easytier_pyo3 import Node, version

SNAPSHOTS = (
    "routes",
    "peers",
    "node_info",
    "metrics",
    "events",
    "connectors",
    "running_listeners",
    "dump_route",
    "global_peer_map",
)


def main() -> None:
    node = Node(json.loads(sys.argv[1]))
    node.start()
    _say({"ready": {"version": version(), "peer_id": node.peer_id(), "listeners": node.running_listeners()}})
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        try:
            if command == "stop":
                break
            if command in SNAPSHOTS:
                _say({"answer": getattr(node, command)()})
            elif command == "add_connector":
                node.add_connector(argument)
                _say({"answer": None})
            else:
                _say({"error": f"unknown command {command!r}"})
        except RuntimeError as error:
            _say({"error": str(error)})
    node.stop()


def _say(message: object) -> None:
    sys.stdout.write(json.dumps(message, default=str) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
