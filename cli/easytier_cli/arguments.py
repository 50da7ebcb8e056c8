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
    **dict.fromkeys(("sort", "filter", "source")),
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
        if options.action == "list" and options.destination is not None:
            parser.error("proxy list: for one destination there is  proxy why IP[:PORT], for some flows  proxy --filter TERMS")
        if options.action != "why" and options.source is not None:
            parser.error("argument --from: with why only: proxy why PEER:PORT --from IP")
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
    where = "where the node answers; PORT: on this machine (127.0.0.1:15888)"
    add("-p", "--rpc-portal", type=checked(portal), metavar="IP:PORT", help=where)
    add("-o", "--output", choices=("table", "json"), help="form of the output (table)")
    add("-v", "--verbose", action="store_true", help="the node's answer as it is, as JSON")
    add("-i", "--instance-id", type=checked(_uuid), metavar="UUID", help="the network to ask about, by its instance id")
    add("-n", "--instance-name", metavar="NAME", help="the same by its instance name")
    add("--no-trunc", action="store_true", help="do not fit tables to the terminal")
    add("--timeout", type=checked(number(0.01, 3600)), metavar="SECONDS", help="longest wait for each answer (2.5)")

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
    command("plugins", "the plugins of the node", "list")
    command("doctor", "what is wrong, and what to do about it")
    ping = command("ping", "whether a peer answers by KCP, and how quickly")
    ping.add_argument("--kcp", action="store_true", default=SUPPRESS, help="by KCP; the only way there is")
    ping.add_argument("peer", metavar="PEER", help="virtual address, host name or peer id")
    ping.add_argument("-c", "--count", type=checked(_count), default=3, metavar="NUMBER", help="how many (3)")
    ping.add_argument("--port", type=checked(_port), default=DISCARD, help=f"port of the peer to connect to ({DISCARD})")
    config = command("config", "a configuration file to begin with")
    config.add_argument("action", choices=("template",))
    completions = command("completions", "a script that completes the words of this command in a shell")
    completions.add_argument("shell", choices=SHELLS)
    return parser


def _add_proxy_options(proxy: ArgumentParser) -> None:
    proxy.add_argument("action", nargs="?", choices=("list", "why"), default="list", help="why: explain one destination")
    proxy.add_argument("destination", nargs="?", type=checked(_destination), metavar="IP[:PORT]|PEER[:PORT]")

    def add(name: str, text: str, **more: Any) -> None:
        proxy.add_argument(name, default=SUPPRESS, help=text, **more)

    add("--from", "why: of a flow that a host behind this node begins", dest="source", type=checked(_source), metavar="IP")
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


def checked(parse_text: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse: what `parse_text` says in a ValueError is shown."""

    def check(text: str) -> Any:
        try:
            return parse_text(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None

    return check


def portal(text: str) -> tuple[str, int]:
    """Host and port of `IP:PORT`, `[IPV6]:PORT`, `NAME:PORT`, or `PORT` of this machine.  Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= 0xFFFF
    if not is_port or (colon and not bare) or (":" in bare) != (bare != host):
        raise ValueError(f'expected IP:PORT, found "{text}"')
    if not colon:
        return DEFAULT_PORTAL[0], int(port)
    if ":" in bare or not bare.strip("0123456789."):
        return str(ip(bare)), int(port)
    if not all(part.isascii() and part.replace("-", "").replace("_", "").isalnum() for part in bare.split(".")):
        raise ValueError(f'expected IP:PORT, found "{text}"')
    return bare, int(port)


def ip(text: str) -> IPv4Address | IPv6Address:
    """An IP address.  Raises ValueError with a clause for the user."""
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address') from None


def _uuid(text: str) -> Any:
    from uuid import UUID

    try:
        return UUID(text)
    except ValueError:
        raise ValueError(f'"{text}" is not a UUID; easytier-cli node config shows the instance_id') from None


def number(least: float, most: float) -> Callable[[str], float]:
    """Reads a number within bounds."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ValueError(f'expected {least:g} to {most:g}, found "{text}"')
        return value

    return read


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= 7 else 0
    if not 1 <= value <= 1_000_000:
        raise ValueError(f'expected 1 to 1000000, found "{text}"')
    return value


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:6]) <= 0xFFFF):
        raise ValueError(f'"{text}" is not a port')
    return int(text)


def _source(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text)


def _destination(text: str) -> tuple[IPv4Address | IPv6Address | str, int]:
    """An address, or a peer by host name or id; and a port, 0 for any."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or not port.startswith(":"):
            raise ValueError(f'expected [IPV6]:PORT, found "{text}"')
        return ip(host), _port(port[1:])
    if text.count(":") > 1:
        return ip(text), 0
    host, colon, port = text.partition(":")
    if not host:
        raise ValueError(f'expected IP[:PORT] or PEER[:PORT], found "{text}"')
    number = _port(port) if colon else 0
    # What looks like an address and is none is a typing error, and no name.
    return ip(host) if "." in host and not host.strip("0123456789.") else host, number
