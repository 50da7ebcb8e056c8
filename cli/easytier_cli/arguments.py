"""The command line of `easytier-cli`: what may be written, and what it becomes.  Light: nothing of the host is imported."""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, NoReturn

from easytier_cli.diagnostics import PROGRAM_NAME

DEFAULT_PORTAL: Final = ("127.0.0.1", 15888)
DISCARD: Final = 9
"""Port that a ping connects to; nothing minds being connected to there."""
SHELLS: Final = ("bash", "zsh", "fish")
ORDERS: Final = ("src", "dst", "peer", "transport", "state", "sent", "received", "rate", "rtt", "loss", "retr", "age")

_DEFAULTS: Final[dict[str, Any]] = {
    "rpc_portal": DEFAULT_PORTAL,
    "timeout": 2.5,
    "output": "table",
    "verbose": False,
    "no_trunc": False,
    "instance_id": None,
    "instance_name": None,
    "action": "",
    "destination": None,
    **dict.fromkeys(("wide", "closed", "watch", "reverse", "kcp"), False),
    **dict.fromkeys(("sort", "filter")),
}


class ShowVersion(Action):
    """Prints the version of the distribution; what argparse has for that would look it up at each start, which takes long."""

    def __call__(self, parser: ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(parser.prog, version("easytier-kcp-plugin"))
        parser.exit()


def parse(argv: Sequence[str] | None) -> Namespace:
    """The options; raises SystemExit for wrong usage and --help."""
    parser = make_parser()
    options = Namespace(**(_DEFAULTS | vars(parser.parse_args(argv))))
    if options.command == "proxy":
        if options.action == "why" and options.destination is None:
            parser.error("proxy why: which destination?  proxy why IP[:PORT], or PEER[:PORT]")
        if options.filter:
            from easytier_cli import filters

            try:
                filters.parse(options.filter)
            except ValueError as error:
                parser.error(f"argument --filter: {error}")
    if options.command == "ping" and not options.kcp:
        parser.error("ping: by which transport?  ping --kcp PEER;  the system's ping asks by ICMP")
    return options


def make_parser() -> ArgumentParser:
    """The parser, which completions are made from, too."""
    common = ArgumentParser(add_help=False, argument_default=SUPPRESS)
    add = common.add_argument
    add("-p", "--rpc-portal", type=_checked(_portal), metavar="IP:PORT", help="where the node answers (127.0.0.1:15888)")
    add("-o", "--output", choices=("table", "json"), help="form of the output (table)")
    add("-v", "--verbose", action="store_true", help="the node's answer as it is, as JSON")
    add("-i", "--instance-id", type=_checked(_uuid), metavar="UUID", help="the network to ask about, by its instance id")
    add("-n", "--instance-name", metavar="NAME", help="the same by its instance name")
    add("--no-trunc", action="store_true", help="do not fit tables to the terminal")
    add("--timeout", type=_checked(_seconds), metavar="SECONDS", help="longest wait for each answer (2.5)")

    parser = ArgumentParser(PROGRAM_NAME, description="Ask a running EasyTier node.", parents=[common], allow_abbrev=False)
    parser.add_argument("-V", "--version", action=ShowVersion, nargs=0, help="show the version, and end")
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
    _add_proxy_options(command("proxy", "the TCP flows, and by which transport they go"))
    command("stats", "counters", "show", "prometheus")
    command("plugins", "the plugins of the node")
    command("doctor", "what is wrong, and what to do about it")
    ping = command("ping", "whether a peer answers by KCP, and how quickly")
    ping.add_argument("--kcp", action="store_true", default=SUPPRESS, help="by KCP; the only way there is")
    ping.add_argument("peer", metavar="PEER", help="virtual address, host name or peer id")
    ping.add_argument("-c", "--count", type=_checked(_count), default=3, metavar="NUMBER", help="how many (3)")
    ping.add_argument("--port", type=_checked(_port), default=DISCARD, help=f"port of the peer to connect to ({DISCARD})")
    config = command("config", "a configuration file to begin with")
    config.add_argument("action", choices=("template",))
    completions = command("completions", "a script that completes the words of this command in a shell")
    completions.add_argument("shell", choices=SHELLS)
    return parser


def _add_proxy_options(proxy: ArgumentParser) -> None:
    proxy.add_argument("action", nargs="?", choices=("why",), help="why: explain one destination")
    proxy.add_argument("destination", nargs="?", type=_checked(_destination), metavar="IP[:PORT]|PEER[:PORT]")

    def add(name: str, text: str, **more: Any) -> None:
        proxy.add_argument(name, default=SUPPRESS, help=text, **more)

    add("--wide", "also bytes, rates, round trip, loss and reason", action="store_true")
    add("--closed", "like --wide, with flows that have ended", action="store_true")
    add("--watch", "go on, and show what changes", action="store_true")
    add("--sort", "order of the flows", choices=ORDERS)
    add("--reverse", "the other way round", action="store_true")
    add(
        "--filter",
        "transport:, state:, peer:, direction:, port:, cidr:, src:, dst:, by:, why: or text; all must hold",
        metavar="TERMS",
    )


def _checked(parse_text: Callable[[str], Any]) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        try:
            return parse_text(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None

    return check


def _portal(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not port or not _port(port) or (":" in host and bare == host):
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


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise ValueError("expected 1 to 1000000")
    return value


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 0xFFFF):
        raise ValueError(f'"{text}" is not a port')
    return int(text)


def _destination(text: str) -> tuple[IPv4Address | IPv6Address | str, int]:
    """An address, or a peer by host name or id; and a port, 0 for any."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or not port.startswith(":"):
            raise ValueError(f'expected [IPV6]:PORT, found "{text}"')
        return ip_address(host), _port(port[1:])
    if text.count(":") > 1:
        return ip_address(text), 0
    host, colon, port = text.partition(":")
    if not host:
        raise ValueError(f'expected IP[:PORT] or PEER[:PORT], found "{text}"')
    number = _port(port) if colon else 0
    # What looks like an address and is none is a typing error, and no name.
    return ip_address(host) if "." in host and not host.strip("0123456789.") else host, number
