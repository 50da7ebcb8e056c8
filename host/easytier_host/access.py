"""What peers may reach at this node and in the networks that it offers, as its user wants it: stock's whitelists, and rules.
Sans-IO.

What `dial` forbids cannot be allowed here.  Of the rest all is allowed (as in stock), apart from

- ports of this node itself that are not in `tcp_whitelist` or `udp_whitelist`, where that is not empty;
- what the first rule of `[[access]]` denies that fits.

Asked by `targets` for connections that a transport brings, by `guard` for packets.  A rule that names peers or sources never
fits a peer of which nothing is known; so where there are rules, such a peer reaches nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from easytier_hooks.types import IPAddress
from easytier_host.config.model import AccessRule, Config, PortRange

TCP: Final = "tcp"
UDP: Final = "udp"


class Question(NamedTuple):
    """Somebody wants to begin something.

    `peer` is the host name of the sender, None if that is unknown; `source` an address that is the sender's, None if it claims
    none.  `destination` is that of `AccessRule`; `is_here`: it is this machine, under whatever address.
    """

    proto: str
    peer: str | None
    source: IPAddress | None
    destination: IPAddress
    port: int
    is_here: bool


class Access:
    """The policy of one node."""

    def __init__(self, config: Config) -> None:
        self._whitelists = {TCP: config.tcp_whitelist, UDP: config.udp_whitelist}
        self._rules = config.access

    def limits(self, proto: str) -> bool:
        """Whether anything of this protocol could be refused."""
        return bool(self._whitelists[proto]) or any(not rule.allows and rule.proto in ("", proto) for rule in self._rules)

    def refusal(self, question: Question) -> str:
        """Why it may not, in words for the user of this node; "" if it may."""
        whitelist = self._whitelists[question.proto]
        if question.is_here and whitelist and not _holds(whitelist, question.port):
            return f"port {question.port} is not in {question.proto}_whitelist"
        if self._rules and question.peer is None:
            return "nothing is known of the peer, and there are access rules"
        for number, rule in enumerate(self._rules, 1):
            if _fits(rule, question):
                return "" if rule.allows else f"access rule {number} denies it"
        return ""


def _fits(rule: AccessRule, question: Question) -> bool:
    if rule.proto and rule.proto != question.proto:
        return False
    if rule.peer and rule.peer != question.peer:
        return False
    # An address of the other family is in no network.
    if rule.source is not None and (question.source is None or question.source not in rule.source):
        return False
    if rule.destination is not None and question.destination not in rule.destination:
        return False
    return not rule.ports or _holds(rule.ports, question.port)


def _holds(ranges: tuple[PortRange, ...], port: int) -> bool:
    return any(first <= port <= last for first, last in ranges)
