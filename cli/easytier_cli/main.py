"""The command `easytier-cli`: asks a running node, ours or stock's, and prints what it says.

Data goes to standard output, words about it to standard error; `diagnostics.Exit` lists how it ends.  What is heavy is imported
once the command line is known to be right.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from easytier_cli.diagnostics import PROGRAM_NAME, Exit, complain

if TYPE_CHECKING:
    from easytier_cli.output import Report
    from easytier_host.rpc.client import PortalClient, portal_pb2

    Command: TypeAlias = Callable[[PortalClient, portal_pb2.InstanceIdentifier | None, Namespace], Report]

DEFAULT_PORTAL: Final = ("127.0.0.1", 15888)
DEFAULTS: Final[dict[str, Any]] = {
    "rpc_portal": DEFAULT_PORTAL,
    "timeout": 5.0,
    "output": "table",
    "verbose": False,
    "no_trunc": False,
    "instance_id": None,
    "instance_name": None,
    "action": "",
    "wide": False,
    "closed": False,
    "destination": "",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, or raises SystemExit for wrong usage and --help."""
    parser = _parser()
    options = Namespace(**(DEFAULTS | vars(parser.parse_args(argv))))
    if options.action == "why" and not options.destination:
        parser.error("proxy why: which destination?  proxy why IP[:PORT]")
    from easytier_host.rpc.client import CallTimeoutError, ConnectError, PortalClient, RefusedError, ServiceMissingError

    try:
        with PortalClient(*options.rpc_portal, timeout=options.timeout) as client:
            return _run(client, options)
    except ConnectError as error:
        complain(f"{error}.  Start one:  easytier-core -c lab.toml   or look elsewhere:  {PROGRAM_NAME} -p IP:PORT")
        return Exit.UNREACHABLE
    except CallTimeoutError as error:
        complain(str(error))
        return Exit.TIMEOUT
    except ServiceMissingError as error:
        complain(f"{error}; it may be older than this command, or no node of this project")
        return Exit.REFUSED
    except RefusedError as error:
        complain(str(error))
        return Exit.REFUSED
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _run(client: PortalClient, options: Namespace) -> int:
    from easytier_cli.output import to_json

    command = _command(options.command)
    instances = _instances(client, options)
    if not instances:
        complain("the process at the portal runs no network")
        return Exit.REFUSED
    reports = [(title, command(client, selector, options)) for title, selector in instances]
    as_json = options.output == "json" or options.verbose
    blocks = []
    for title, report in reports:
        text = to_json(report.data) if as_json else report.render(_width(options))
        blocks.append(text if len(reports) == 1 or as_json else f"== {title[1]} ({title[0]}) ==\n{text}")
        for note in report.notes:
            complain(note)
    if as_json and len(reports) > 1:
        keys = ("instance_id", "instance_name", "result")
        blocks = [to_json([dict(zip(keys, (*title, report.data), strict=True)) for title, report in reports])]
    print(("\n" if as_json else "\n\n").join(blocks), flush=True)
    return max(report.status for _, report in reports)


def _command(name: str) -> Command:
    if name in ("peer", "route"):
        from easytier_cli.commands import network

        return network.peer if name == "peer" else network.route
    if name == "proxy":
        from easytier_cli.commands import proxy

        return proxy.proxy
    if name == "doctor":
        from easytier_cli.commands import doctor

        return doctor.doctor
    from easytier_cli.commands import node

    found: Command = getattr(node, name)
    return found


def _instances(client: PortalClient, options: Namespace) -> list[tuple[tuple[str, str], portal_pb2.InstanceIdentifier | None]]:
    """Whom to ask, each with (id, name): one that is named, else all that the process runs."""
    from easytier_cli.output import uuid_text
    from easytier_host.rpc.client import ServiceMissingError, common_pb2, portal_pb2

    anybody: list[tuple[tuple[str, str], portal_pb2.InstanceIdentifier | None]] = [(("", ""), None)]
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


def _parser() -> ArgumentParser:
    common = ArgumentParser(add_help=False, argument_default=SUPPRESS)
    add = common.add_argument
    add("-p", "--rpc-portal", type=_checked(_portal), metavar="IP:PORT", help="where the node answers (127.0.0.1:15888)")
    add("-o", "--output", choices=("table", "json"), help="form of the output (table)")
    add("-v", "--verbose", action="store_true", help="the node's answer as it is, as JSON")
    add("-i", "--instance-id", type=_checked(_uuid), metavar="UUID", help="the network to ask about, by its instance id")
    add("-n", "--instance-name", metavar="NAME", help="the same by its instance name")
    add("--no-trunc", action="store_true", help="do not fit tables to the terminal")
    add("--timeout", type=_checked(_seconds), metavar="SECONDS", help="longest wait for each answer (5)")

    parser = ArgumentParser(PROGRAM_NAME, description="Ask a running EasyTier node.", parents=[common], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *actions: str) -> ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        if actions:
            sub.add_argument("action", nargs="?", choices=actions, default=actions[0])
        return sub

    command("peer", "the other nodes, and how good the way to each is", "list")
    command("route", "the way that packets take to each node", "list")
    command("node", "the node itself, or its configuration", "info", "config")
    command("connector", "the peers that the configuration names", "list")
    proxy = command("proxy", "the TCP flows, and by which transport they go")
    proxy.add_argument("action", nargs="?", choices=("why",), help="why: explain one destination")
    proxy.add_argument("destination", nargs="?", type=_checked(_destination), metavar="IP[:PORT]")
    proxy.add_argument("--wide", action="store_true", default=SUPPRESS, help="also bytes, round trip and reason")
    proxy.add_argument("--closed", action="store_true", default=SUPPRESS, help="like --wide, with flows that have ended")
    command("stats", "counters", "show", "prometheus")
    command("plugins", "the plugins of the node")
    command("doctor", "what is wrong, and what to do about it")
    return parser


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None

    return check


def _portal(text: str) -> tuple[str, int]:
    from ipaddress import ip_address

    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (port.isascii() and port.isdecimal() and 0 < int(port) <= 0xFFFF) or (":" in host and bare == host):
        raise ValueError(f'expected IP:PORT, found "{text}"')
    return str(ip_address(bare)), int(port)


def _uuid(text: str) -> Any:
    from uuid import UUID

    return UUID(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 3600:
        raise ValueError("expected 0.01 to 3600 seconds")
    return value


def _destination(text: str) -> str:
    from ipaddress import IPv4Address

    host, colon, port = text.partition(":")
    IPv4Address(host)
    if colon and not (port.isascii() and port.isdecimal() and int(port) <= 0xFFFF):
        raise ValueError(f'"{port}" is not a port')
    return text


if __name__ == "__main__":
    sys.exit(main())
