"""The command `easytier-cli`: asks a running node, ours or stock's, and prints what it says.

Data goes to standard output, words about it to standard error; `diagnostics.Exit` lists how it ends.  What is heavy is imported
once the command line is known to be right.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, TypeAlias

from easytier_cli import arguments
from easytier_cli.diagnostics import PROGRAM_NAME, Exit, complain

if TYPE_CHECKING:
    from easytier_cli.output import Report
    from easytier_host.rpc.client import PortalClient, portal_pb2

    Instance: TypeAlias = portal_pb2.InstanceIdentifier | None
    Command: TypeAlias = Callable[[PortalClient, Instance, Namespace], Report]
    LiveCommand: TypeAlias = Callable[[PortalClient, Instance, Namespace], Exit]
    """Prints by itself as it goes on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, or raises SystemExit for wrong usage and --help."""
    options = arguments.parse(argv)
    if sys.stdout is None:
        complain("standard output is closed")
        return Exit.PARTIAL
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of others may have characters that the locale has not; so JSON stays JSON.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _print_alone(options) if options.command in ("config", "completions") else _ask(options)
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except OSError as error:
        # What the client of the portal raises is its own; this is standard output.
        complain(f"the output could not be written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PARTIAL
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _print_alone(options: Namespace) -> int:
    from easytier_cli.commands import template

    if options.command == "config":
        text = template.config_template()
    else:
        text = template.completions(arguments.make_parser(), options.shell)
    print(text.rstrip("\n"), flush=True)
    return Exit.OK


def _ask(options: Namespace) -> int:
    from easytier_host.rpc.client import CallTimeoutError, ConnectError, PortalClient, RefusedError, ServiceMissingError

    try:
        with PortalClient(*options.rpc_portal, timeout=options.timeout) as client:
            return _run(client, options)
    except ConnectError as error:
        complain(f"{error}.  Start one:  easytier-core -c lab.toml   or look elsewhere:  {PROGRAM_NAME} -p IP:PORT")
        return Exit.UNREACHABLE
    except CallTimeoutError as error:
        complain(f"{error}.  Is it a node's portal?  easytier-core logs its address; a busy one may need --timeout 30")
        return Exit.TIMEOUT
    except ServiceMissingError as error:
        complain(f"{error}; it may be older than this command, or no node of this project:  {PROGRAM_NAME} node  tells")
        return Exit.REFUSED
    except RefusedError as error:
        complain(str(error))
        return Exit.REFUSED


def _run(client: PortalClient, options: Namespace) -> int:
    instances = _instances(client, options)
    if not instances:
        complain("the process at the portal runs no network; its log says why")
        return Exit.REFUSED
    live = _live_command(options)
    if live is None:
        return _report(client, options, instances)
    if len(instances) > 1:
        names = ", ".join(name for (_, name), _ in instances)
        complain(f"this command shows one network at a time; name one of {names}:  {PROGRAM_NAME} -n NAME ...")
        return Exit.USAGE
    return live(client, instances[0][1], options)


def _report(client: PortalClient, options: Namespace, instances: Sequence[tuple[tuple[str, str], Instance]]) -> int:
    from easytier_cli.output import Report, printable, to_json
    from easytier_host.rpc.client import RefusedError

    command = _command(options)
    reports: list[tuple[tuple[str, str], Report]] = []
    for title, selector in instances:
        try:
            reports.append((title, command(client, selector, options)))
        except RefusedError as error:
            # The other networks are shown all the same.
            if len(instances) == 1:
                raise
            reports.append((title, Report({"error": str(error)}, text=printable(f"failed: {error}"), status=Exit.PARTIAL)))
    as_json = options.output == "json" or options.verbose
    blocks = []
    for title, report in reports:
        text = to_json(report.data) if as_json else report.render(_width(options))
        blocks.append(text if len(reports) == 1 or as_json else f"== {printable(title[1])} ({title[0]}) ==\n{text}")
        for note in report.notes:
            complain(note)
    if as_json and len(reports) > 1:
        keys = ("instance_id", "instance_name", "result")
        blocks = [to_json([dict(zip(keys, (*title, report.data), strict=True)) for title, report in reports])]
    print(("\n" if as_json else "\n\n").join(blocks), flush=True)
    return max(report.status for _, report in reports)


def _command(options: Namespace) -> Command:
    match options.command:
        case "peer" | "route":
            from easytier_cli.commands import network

            return network.peer if options.command == "peer" else network.route
        case "proxy":
            from easytier_cli.commands import proxy, why

            return why.why if options.action == "why" else proxy.proxy
        case "doctor":
            from easytier_cli.commands import doctor

            return doctor.doctor
        case name:
            from easytier_cli.commands import node

            found: Command = getattr(node, name)
            return found


def _live_command(options: Namespace) -> LiveCommand | None:
    if options.command == "ping":
        from easytier_cli.commands import ping

        return ping.ping
    if options.watch and options.action != "why":
        from easytier_cli.commands import watch

        return watch.watch
    return None


def _instances(client: PortalClient, options: Namespace) -> list[tuple[tuple[str, str], Instance]]:
    """Whom to ask, each with (id, name): one that is named, else all that the process runs."""
    from easytier_cli.output import uuid_text
    from easytier_host.rpc.client import ServiceMissingError, common_pb2, portal_pb2

    anybody: list[tuple[tuple[str, str], Instance]] = [(("", ""), None)]
    if options.instance_id is not None:
        value = options.instance_id.int
        words = [value >> shift & 0xFFFF_FFFF for shift in (96, 64, 32, 0)]
        uuid = common_pb2.UUID(part1=words[0], part2=words[1], part3=words[2], part4=words[3])
        return [(("", ""), portal_pb2.InstanceIdentifier(id=uuid))]
    if options.instance_name is not None:
        selector = portal_pb2.InstanceSelector(name=options.instance_name)
        return [(("", ""), portal_pb2.InstanceIdentifier(instance_selector=selector))]
    try:
        metas = client.instances()
    except ServiceMissingError:
        return anybody
    return [((uuid_text(meta.inst_id), meta.instance_name), portal_pb2.InstanceIdentifier(id=meta.inst_id)) for meta in metas]


def _width(options: Namespace) -> int | None:
    """Columns that a table may take; None: any number."""
    if options.no_trunc or not sys.stdout.isatty():
        return None
    from shutil import get_terminal_size

    return get_terminal_size().columns - 1


if __name__ == "__main__":
    sys.exit(main())
