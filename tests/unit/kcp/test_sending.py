"""What is kept of bytes that peers do not acknowledge: bounded for a peer and in all, and given up when they do."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from easytier_kcp_plugin.kcp import arq, sending
from easytier_kcp_plugin.kcp.events import Incoming
from easytier_kcp_plugin.kcp.sending import FLOW_BYTES, SendingMemory
from tests.unit.kcp import network as network_module
from tests.unit.kcp.network import OPENER, Application, Network

FLOWS = 10
CAP = 400_000
ANSWER = random.Random(1).randbytes(300_000)


def test_what_peers_hold_adds_up() -> None:
    memory = SendingMemory()
    memory.change(1, 500)
    memory.change(2, 300)
    memory.change(1, -500)
    assert (memory.total, memory.peers) == (300, {2: 300})


@pytest.mark.parametrize("engine", ["arq", "kcp"])
@pytest.mark.parametrize("cap", ["PEER_BYTES", "NODE_BYTES"])
def test_flows_of_a_peer_that_acknowledges_nothing_take_little_beyond_the_cap(
    cap: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, cap, CAP)
    if engine == "arq":
        monkeypatch.setattr(network_module, "ikcp", SimpleNamespace(paths=arq.paths))
    network, served = Network(), list[Application]()

    def serve(incoming: Incoming) -> Application:
        served.append(Application(incoming.session, ANSWER))
        return served[-1]

    network.serve = serve
    flows = [network.connect(b"ask", port) for port in range(50_000, 50_000 + FLOWS)]
    network.run(until=lambda: len(served) == FLOWS)
    network.filter = lambda packet: packet[0] != OPENER
    network.run(5.0)
    memory = network.acceptor.sending
    assert memory.total == memory.peers[OPENER]
    # The flow that reached the cap had taken a buffer at most, and the others a little each.
    assert CAP <= memory.total < CAP + 256 * 1024 + FLOWS * FLOW_BYTES
    assert sum(application.written for application in served) < FLOWS * len(ANSWER) / 3
    # They were slow, but not dead: once the peer acknowledges, all arrives.
    network.filter = lambda packet: True
    network.run()
    assert [bytes(flow.incoming) for flow in flows] == [ANSWER] * FLOWS
    assert (memory.total, memory.peers) == (0, {})


def test_a_flow_that_is_reset_gives_back_what_it_held() -> None:
    network = Network()
    network.serve = lambda incoming: Application(incoming.session, ANSWER)
    flow = network.connect(b"ask")
    network.run(until=lambda: network.acceptor.sending.total > 100_000)
    network.acceptor.reset(network.partner(flow).session, network.now)
    network.run()
    assert (network.acceptor.sending.total, network.acceptor.sending.peers) == (0, {})
