"""What a node can find out about itself and its machine for `easytier-cli doctor`; other nodes are looked at by the command.

Each finding says what was looked at, how it is, and what to do.  Nothing is changed; what cannot be found out is left out.
"""

from __future__ import annotations

import array
import fcntl
import json
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from easytier_hooks.loading import installed_plugins
from easytier_host.batch import IN_PYTHON, choose_batch
from easytier_host.crypto import NONCE_SIZE, TAG_SIZE
from easytier_host.packet import PEER_HEADER_SIZE
from easytier_host.pb import portal_own_pb2
from easytier_host.stacks import KERNEL, obstacle_of
from easytier_host.tunnel.udp_options import SOCKET_BUFFER_BYTES, enable_gro, enlarge_buffers, has_gso
from easytier_host.tunnel.udp_wire import UDP_HEADER_SIZE

if TYPE_CHECKING:
    from easytier_host.instance import Node

# Fixed by Linux: include/uapi/linux/{sockios,ethtool,capability}.h.
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GTSO: Final = 0x1E
_CAP_NET_ADMIN: Final = 12

# Ours.
SMOLTCP: Final = "smoltcp"
"""Plugin of the user-space TCP stack."""
NFT_TIMEOUT: Final = 2.0
"""Seconds for the list of firewall rules."""
COMMON_MTU: Final = 1500
"""Of Ethernet, and so of most ways between two nodes."""
IP_AND_UDP_HEADERS: Final = 28
"""Around what a tunnel sends by IPv4."""

Finding = portal_own_pb2.Finding


async def findings(node: Node) -> list[Finding]:
    """All findings about `node`, in the order in which a packet meets what they are about."""
    found = [*_device(node), *_stack(node), *_kcp(node), *_mtu(node), *_udp()]
    if node.nic is not None:
        by_kernel = node.gate.stack is None or node.gate.stack.name == KERNEL
        found += firewall_findings(await _ruleset(), node.nic.name, by_kernel=by_kernel)
    return found


def _device(node: Node) -> Iterator[Finding]:
    flags, nic = node.config.flags, node.nic
    if nic is None:
        text = "none, as no_tun says: others reach this node, programs here do not reach them"
        yield _ok("device", text if flags.no_tun else "none")
        return
    addresses = " ".join(str(each) for each in (node.config.ipv4, node.config.ipv6) if each is not None) or "no address"
    yield _ok("device", f"{nic.name} {addresses}, mtu {nic.mtu}")
    if nic.dropped_packets:
        yield _warn("device", f"did not take {nic.dropped_packets} packets", "give this process more CPU, or lower the rate")
    offload = _has_tso(nic.name)
    if offload is False:
        yield _warn("offload", f"{nic.name} has none: large transfers cost more CPU", "a newer kernel has it")
    elif offload:
        yield _ok("offload", f"{nic.name} takes and sends super-packets")
    if not has_capability(_read("/proc/self/status"), _CAP_NET_ADMIN):
        yield _warn(
            "rights",
            "the node has lost CAP_NET_ADMIN: routes cannot be changed",
            "run it as root, or with AmbientCapabilities=CAP_NET_ADMIN",
        )


def _stack(node: Node) -> Iterator[Finding]:
    gate = node.gate
    if gate.stack is not None:
        obstacle = obstacle_of(gate.stack)
        if obstacle:
            advice = "let the firewall accept what comes from the device (see firewall)"
            yield _warn("tcp stack", f"{obstacle}: flows of this machine stay plain TCP", advice)
        else:
            yield _ok("tcp stack", f"{gate.stack.name}: {gate.stack.description}")
    elif node.nic is not None:
        yield _warn("tcp stack", f"{gate.stack_obstacle}: flows of this machine stay plain TCP", "see easytier-cli plugins")
    yield from _native()
    # Where plain TCP does not arrive either, nothing is wrong with the transport: a server is down, an address mistyped.
    failures = [flow.reason for flow in gate.table if flow.chosen_by == "fallback" and flow.connected]
    if failures:
        yield _warn(
            "fallback",
            f"{len(failures)} flow{'s' if len(failures) > 1 else ''} had to go by plain TCP, the last one: {failures[-1]}",
            "easytier-cli proxy --wide",
        )


def _native() -> Iterator[Finding]:
    """Whether the compiled parts are there: the host's own, and that of the user-space stack, in its plugin's package."""
    advice = "to have it, install cargo 1.91 or newer and then the package again, with pip's --no-cache-dir"
    if choose_batch() is not IN_PYTHON:
        yield _ok("packets", "sealed, cut and joined by compiled code")
    else:
        text = "sealed, cut and joined in Python, which takes several times as long: the compiled part is missing"
        yield Finding(status="warn", subject="packets", text=text, advice=advice)
    for entry in installed_plugins():
        if entry.name == SMOLTCP:
            if find_spec(f"{entry.value.partition('.')[0]}._native") is not None:
                yield _ok("native", "the user-space TCP stack is there for --use-smoltcp")
            else:
                # No fault of a node that runs: one that was told to use it does not start.
                text = "the compiled part of the user-space TCP stack is missing: --use-smoltcp cannot work"
                yield Finding(status="warn", subject="native", text=text, advice=advice)


def _kcp(node: Node) -> Iterator[Finding]:
    flags = node.config.flags
    if node.own_record.feature_flag.kcp_input:
        yield _ok("kcp in", "this node accepts KCP")
    else:
        if flags.disable_kcp_input:
            why, advice = "disable_kcp_input is set", "leave out --disable-kcp-input, and disable_kcp_input in the file"
        elif node.config.plugins.get("kcp") is False:
            why, advice = "the plugin kcp is switched off", "leave out kcp = false below [plugins]"
        else:
            why, advice = "no plugin offers it", "see easytier-cli plugins"
        yield _warn("kcp in", f"this node accepts no KCP: {why}", advice)
    if not flags.enable_kcp_proxy and node.config.plugins.get("kcp", False) is False:
        yield _ok("kcp out", "off: flows from here are plain TCP; enable_kcp_proxy turns it on")
    elif "kcp" in node.gate.transports:
        yield _ok("kcp out", "on")
    elif node.config.plugins.get("kcp") is False:
        text = "asked for by enable_kcp_proxy, but the plugin kcp is switched off"
        yield _fail("kcp out", text, "leave out kcp = false below [plugins]")
    else:
        yield _fail("kcp out", "asked for, but no plugin offers KCP", "see easytier-cli plugins")


def _mtu(node: Node) -> Iterator[Finding]:
    flags = node.config.flags
    tail = NONCE_SIZE + TAG_SIZE if flags.enable_encryption else 0
    inner = flags.mtu if node.nic is None else node.nic.mtu
    outer = inner + PEER_HEADER_SIZE + tail + UDP_HEADER_SIZE + IP_AND_UDP_HEADERS
    if outer > COMMON_MTU:
        advice = f"set mtu to {flags.mtu - (outer - COMMON_MTU)} or less"
        yield _warn("mtu", f"packets of {inner} bytes make datagrams of {outer}, which most lines cut in two", advice)
    else:
        yield _ok("mtu", f"packets of {inner} bytes make datagrams of {outer}")


def _udp() -> Iterator[Finding]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        gso, gro = has_gso(probe), enable_gro(probe)
        enlarge_buffers(probe)
        # Linux doubles what is asked for and tells the double.
        buffer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    if not (gso and gro):
        yield _warn("udp", "the kernel lacks GSO or GRO: datagrams go one by one", "Linux 5.0 has both")
    elif buffer < SOCKET_BUFFER_BYTES:
        yield _warn(
            "udp",
            f"the receive buffer is {buffer >> 10} KiB: bursts are lost",
            f"sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES}",
        )
    else:
        yield _ok("udp", f"GSO, GRO, receive buffer {buffer >> 20} MiB")


async def _ruleset() -> str:
    """The machine's nftables rules as JSON; "" where they cannot be had."""
    with anyio.move_on_after(NFT_TIMEOUT):
        try:
            shown = await anyio.run_process(["nft", "-j", "list", "ruleset"], check=False)
        except OSError:
            return ""
        return shown.stdout.decode(errors="replace")
    return ""


def firewall_findings(ruleset: str, device: str, *, by_kernel: bool = True) -> list[Finding]:
    """Whether a firewall with these rules, in nft's JSON, lets in what comes from `device`; empty where it cannot be told.

    Looks at the chains of the input hook that drop by default, and for a rule in them that accepts the device by its name.  It
    does not follow jumps: such chains are named, and the user looks.  Where the kernel's TCP stack is not the one in use
    (`by_kernel`), packets of established connections are enough, which any rule of the table may accept.
    """
    try:
        entries: Iterable[Any] = json.loads(ruleset)["nftables"]
        chains = [entry["chain"] for entry in entries if "chain" in entry]
        rules = [entry["rule"] for entry in entries if "rule" in entry]
        closed = [chain for chain in chains if chain.get("hook") == "input" and chain.get("policy") == "drop"]
        shut = [f"{chain['family']} {chain['table']} {chain['name']}" for chain in closed if not _accepts(rules, chain, device)]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
    if not shut:
        return [_ok("firewall", f"no chain drops by default what comes from {device}")]
    chain = f"nftables chain {shut[0]} drops by default, and has no rule for {device}"
    advice = f"nft insert rule {shut[0]} iifname {device} accept"
    answers = all(_accepts_answers(rules, each) for each in closed)
    if by_kernel:
        more = ", or --use-smoltcp" if answers else ""
        return [_warn("firewall", f"{chain}: the kernel's TCP stack cannot work", advice + more)]
    if answers:
        return [_ok("firewall", f"{chain}; the user-space stack needs none, and peers do not reach services here")]
    return [_warn("firewall", f"{chain}, nor for established connections: programs here get no answer", advice)]


def _accepts(rules: Iterable[Mapping[str, Any]], chain: Mapping[str, Any], device: str) -> bool:
    place = tuple(chain[key] for key in ("family", "table", "name"))
    for rule in rules:
        if tuple(rule.get(key) for key in ("family", "table", "chain")) == place:
            text = json.dumps(rule.get("expr", []))
            if f'"{device}"' in text and '"accept"' in text:
                return True
    return False


def _accepts_answers(rules: Iterable[Mapping[str, Any]], chain: Mapping[str, Any]) -> bool:
    """Whether a rule for established connections is in the chain's table, or a match of iptables that may be one."""
    for rule in rules:
        if (rule.get("family"), rule.get("table")) == (chain["family"], chain["table"]):
            text = json.dumps(rule.get("expr", []))
            if '"accept"' in text and ('"established"' in text or '"conntrack"' in text):
                return True
    return False


def has_capability(status: str, number: int) -> bool:
    """Whether a process with this /proc/.../status has a capability; True where it does not say."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> number & 1)
    return True


def _has_tso(name: str) -> bool | None:
    """Whether a device segments TCP; None where nobody can tell."""
    value = array.array("I", [_ETHTOOL_GTSO, 0])
    request = struct.pack("16sP", name.encode()[:15], value.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            fcntl.ioctl(probe, _SIOCETHTOOL, request)
    except OSError:
        return None
    return bool(value[1])


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _ok(subject: str, text: str) -> Finding:
    return Finding(status="ok", subject=subject, text=text)


def _warn(subject: str, text: str, advice: str) -> Finding:
    return Finding(status="warn", subject=subject, text=text, advice=advice)


def _fail(subject: str, text: str, advice: str) -> Finding:
    return Finding(status="fail", subject=subject, text=text, advice=advice)
