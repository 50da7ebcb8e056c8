"""Keeps TCP flows to some destination ports on plain TCP, whatever else could carry them."""

from collections.abc import Mapping

from easytier_hooks import TCP, Selection, TcpFlow, check_options, hookimpl


class PortPolicy:
    """The plugin. Options: `ports`, a list of destination ports. Raises ValueError for anything else."""

    def __init__(self, options: Mapping[str, object]) -> None:
        check_options(options, "ports")
        ports = options.get("ports", [])
        if not isinstance(ports, list) or not all(isinstance(port, int) for port in ports):
            raise ValueError(f"ports: expected a list of port numbers, not {ports!r}")
        self._ports = frozenset(ports)

    @hookimpl
    def select_transport(self, flow: TcpFlow) -> Selection | None:
        """Plain TCP for the ports of the list, no opinion on others."""
        port = flow.key.destination_port
        return Selection(TCP, f"port {port} is kept on TCP") if port in self._ports else None
