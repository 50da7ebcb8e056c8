"""`python -m easytier_host.demo [PORT]`: three nodes with a bad line between them, and applications that keep them busy.

    home 10.144.0.1  ---20 Mbit/s, 50 ms round trip, 3 % lost each way---  office 10.144.0.2  ------  cellar 10.144.0.3

cellar accepts no KCP.  Once all know each other, one line says where the portal is: `portal 127.0.0.1:PORT`; without an
argument the first free port from 15888 on.  Ends when standard input does, so it cannot outlive who started it.
"""

from __future__ import annotations

import logging
import os
import sys

import anyio
from anyio.abc import TaskGroup

from easytier_host.config.model import PortForward
from easytier_host.demo import nodes, traffic
from easytier_host.demo.line import BadLine, Line
from easytier_host.instance import Node
from easytier_host.portal import address
from easytier_host.portal.server import Portal, PortalError

LINE = Line(rate_bits=20e6, delay=0.025, loss=0.03, queue_bytes=125_000)
READY_TIMEOUT = 30.0
CLOSED_PORT = 9
"""Nobody serves `discard` today."""


def main() -> int:
    """Run until standard input ends; 1 if the nodes do not find each other, or the portal cannot be opened."""
    logging.basicConfig(level=logging.ERROR)
    status = 0
    try:
        anyio.run(_run, sys.argv[1] if len(sys.argv) > 1 else "0")
    except* TimeoutError:
        print(f"demo: the nodes did not find each other within {READY_TIMEOUT:g} s", file=sys.stderr)
        status = 1
    except* PortalError as group:
        print(f"demo: {group.exceptions[0]}", file=sys.stderr)
        status = 1
    except* KeyboardInterrupt:
        pass
    return status


async def _run(portal_address: str) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_input_ends, tasks)
        files, film, web = [await tasks.start(traffic.serve) for _ in range(3)]
        office = Node(nodes.config("office", 2, listeners=("udp://127.0.0.1:0",)))
        async with office:
            line = BadLine(nodes.udp_address(office), LINE)
            tasks.start_soon(line.run)
            cellar = Node(nodes.config("cellar", 3, peers=(office.listeners[0],), disable_kcp_input=True))
            targets = [f"10.144.0.2:{port}" for port in (files, film, web, CLOSED_PORT)] + [f"10.144.0.3:{web}"]
            forwards = [PortForward("127.0.0.1:0", target, "tcp") for target in targets]
            home = Node(nodes.config("home", 1, peers=(f"udp://127.0.0.1:{line.address[1]}",), port_forwards=forwards))
            async with cellar, home:
                await nodes.until_known(home, ("office", "cellar"), READY_TIMEOUT)
                await nodes.until_known(cellar, ("office", "home"), READY_TIMEOUT)
                wanted = address.parse(portal_address)
                assert wanted is not None, "only off is none"
                portal = Portal(wanted, (), [home, office, cellar])
                await portal.open()
                tasks.start_soon(portal.run)
                _start_clients(tasks, home)
                print(f"portal {portal.address}", flush=True)
                await anyio.sleep_forever()


def _start_clients(tasks: TaskGroup, home: Node) -> None:
    files, film, web, closed_port, cellar = (forward.address for forward in home.forwards)
    clients = traffic.Clients(tasks)
    clients.download(files, 12_000_000, pause=2.0)
    clients.upload(files, 3_000_000, 250_000, pause=4.0)
    clients.watch(film, 400_000)
    clients.watch(film, 150_000)
    for _ in range(3):
        clients.chat(web)
    clients.browse(web, pause=1.5)
    clients.browse(web, pause=4.0)
    clients.browse(closed_port, pause=9.0)
    clients.browse(cellar, pause=6.0)


async def _until_input_ends(tasks: TaskGroup) -> None:
    while await anyio.to_thread.run_sync(os.read, sys.stdin.fileno(), 4096, abandon_on_cancel=True):
        pass
    tasks.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
