"""`ping --kcp PEER`: whether a peer answers by KCP, and how long its answer takes."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from ipaddress import ip_address
from typing import Final

from easytier_cli import output
from easytier_cli.commands import network
from easytier_cli.diagnostics import Exit, complain
from easytier_host.rpc.client import PortalClient, common_pb2, portal_pb2

INTERVAL: Final = 0.5
"""Seconds between two pings."""


def ping(client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace) -> Exit:
    """One line for each ping as it comes, and a summary; 5 if nothing came back, 4 if the node could not even ask."""
    target = _find(client, instance, options)
    if target is None:
        complain(f"no peer is called {options.peer}; easytier-cli peer lists them")
        return Exit.REFUSED
    name, address = target
    rtts: list[float] = []
    failed = False
    for number in range(1, options.count + 1):
        if number > 1:
            time.sleep(INTERVAL)
        answer = client.ping(address, "kcp", instance, timeout=options.timeout)
        if answer.outcome in ("connected", "refused"):
            rtts.append(answer.rtt_us / 1000)
        failed = failed or answer.outcome == "failed"
        if options.output == "json":
            data = {"sequence": number, "peer": name, **output.plain(answer)}
            print(output.harmless(json.dumps(data, ensure_ascii=False)))
        else:
            words = {
                "connected": f"{answer.rtt_us / 1000:.1f} ms",
                "refused": f"{answer.rtt_us / 1000:.1f} ms (the port is closed)",
                "failed": answer.detail.removeprefix("KCP connect failed: "),
                "timeout": f"no answer in {options.timeout:g} s",
            }
            outcome = words.get(answer.outcome, answer.outcome)
            print(output.printable(f"kcp to {name} ({output.socket_address(address)}): {outcome}"))
        sys.stdout.flush()
    if options.output != "json":
        shown = f", {min(rtts):.1f} / {sum(rtts) / len(rtts):.1f} / {max(rtts):.1f} ms min / mean / max" if rtts else ""
        print(f"{len(rtts)} of {options.count} answered{shown}")
    if rtts:
        return Exit.OK
    return Exit.REFUSED if failed else Exit.TIMEOUT


def _find(
    client: PortalClient, instance: portal_pb2.InstanceIdentifier | None, options: Namespace
) -> tuple[str, common_pb2.SocketAddr] | None:
    """The peer's name and the address to connect to; a peer is named by address, host name or peer id."""
    wanted: str = options.peer
    try:
        return wanted, network.socket_address(ip_address(wanted), options.port)
    except ValueError:
        pass
    found = network.address_of(wanted, *network.ask(client, instance))
    return None if found is None else (found[0], network.socket_address(found[1], options.port))
