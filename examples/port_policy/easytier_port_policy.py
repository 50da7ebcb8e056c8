"""Keeps TCP flows to some destination ports on plain TCP, whatever else could carry them."""

from collections.abc import Mapping

from easytier_hooks import TCP, Selection, TcpFlow, hookimpl


class PortPolicy:
    """The plugin. Options: `ports`, a list of destination ports. Raises ValueError for anything else."""

    def __init__(self, options: Mapping[str, object]) -> None:
        if unknown := options.keys() - {"ports"}:
            raise ValueError(f"no option {min(unknown)!r}, only ports")
        ports = options.get("ports", [])
        if not isinstance(ports, list) or not all(isinstance(port, int) for port in ports):
            raise ValueError(f"ports: expected a list of port numbers, not {ports!r}")
        self._ports = frozenset(ports)

    @hookimpl
    def select_transport(self, flow: TcpFlow) -> Selection | None:
        """Plain TCP for the ports of the list, no opinion on others."""
        port = flow.key.destination_port
        return Selection(TCP, f"port {port} is kept on TCP") if port in self._ports else None
