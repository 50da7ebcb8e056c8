"""`bench.link.Pipe` by the clock of the test; needs no rights."""

from __future__ import annotations

import pytest

from bench.link import LinkOptions, Pipe


def deliveries(pipe: Pipe, *, until: float = 100.0) -> list[tuple[float, bytes]]:
    """All packets with the time at which they became due."""
    found = []
    while (when := pipe.next_due()) is not None and when <= until:
        found += [(when, packet) for packet in pipe.due(when)]
    return found


def test_a_bare_pipe_delivers_at_once() -> None:
    pipe = Pipe(LinkOptions(), seed=1)
    pipe.offer(b"one", 5.0)
    assert pipe.due(5.0) == [b"one"]
    assert pipe.next_due() is None


def test_rate_and_delay_add_up() -> None:
    pipe = Pipe(LinkOptions(rate_bits=8000, delay=0.5), seed=1)
    for _ in range(3):
        pipe.offer(bytes(100), 1.0)
    assert [when for when, _ in deliveries(pipe)] == pytest.approx([1.6, 1.7, 1.8])


def test_an_idle_pipe_saves_no_rate_for_later() -> None:
    pipe = Pipe(LinkOptions(rate_bits=8000), seed=1)
    pipe.offer(bytes(100), 1.0)
    pipe.offer(bytes(100), 10.0)
    assert [when for when, _ in deliveries(pipe)] == pytest.approx([1.1, 10.1])


def test_a_full_queue_drops_the_newest() -> None:
    pipe = Pipe(LinkOptions(rate_bits=8000, queue_bytes=250), seed=1)
    for name in (b"a", b"b", b"c"):
        pipe.offer(name * 100, 0.0)
    assert [packet[:1] for _, packet in deliveries(pipe)] == [b"a", b"b"]
    assert pipe.statistics()["overflowed"] == 1


def test_jitter_keeps_the_order_and_its_bounds() -> None:
    pipe = Pipe(LinkOptions(delay=0.1, jitter=0.05), seed=1)
    for number in range(200):
        pipe.offer(number.to_bytes(2, "big"), number * 0.001)
    found = deliveries(pipe)
    assert [int.from_bytes(packet, "big") for _, packet in found] == list(range(200))
    assert all(0.1 <= when - number * 0.001 <= 0.15 + 1e-9 for number, (when, _) in enumerate(found))
    assert len({when for when, _ in found}) > 1


def test_the_seed_decides_which_packets_are_lost() -> None:
    def survivors(seed: int) -> list[bytes]:
        pipe = Pipe(LinkOptions(loss=0.3), seed)
        for number in range(1000):
            pipe.offer(number.to_bytes(2, "big"), float(number))
        return pipe.due(1000.0)

    assert survivors(1) == survivors(1)
    assert survivors(1) != survivors(2)
    assert 620 < len(survivors(1)) < 780


@pytest.mark.parametrize("impossible", [{"loss": 1.5}, {"loss": -0.1}, {"delay": -1.0}, {"rate_bits": -1.0}])
def test_impossible_links_are_refused(impossible: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="impossible link"):
        LinkOptions(**impossible)  # type: ignore[arg-type]
