"""`bench.link.Pipe` by the clock of the test; needs no rights."""

from __future__ import annotations

import itertools

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


def test_losses_come_in_bursts_of_the_mean_length_and_share() -> None:
    pipe = Pipe(LinkOptions(loss=0.05, burst=5), seed=1)
    for number in range(100_000):
        pipe.offer(number.to_bytes(3, "big"), float(number))
    arrived = [int.from_bytes(packet, "big") for packet in pipe.due(1e6)]
    gaps = [later - earlier - 1 for earlier, later in itertools.pairwise(arrived) if later > earlier + 1]
    assert sum(gaps) / 100_000 == pytest.approx(0.05, rel=0.1)
    assert sum(gaps) / len(gaps) == pytest.approx(5, rel=0.1)


def test_a_link_that_is_cut_loses_everything_with_bursts_too() -> None:
    pipe = Pipe(LinkOptions(loss=1.0, burst=5), seed=1)
    for number in range(100):
        pipe.offer(b"x", float(number))
    assert pipe.due(1000.0) == []


def test_late_packets_are_overtaken() -> None:
    pipe = Pipe(LinkOptions(delay=0.1, late=0.2, late_by=0.005), seed=1)
    for number in range(1000):
        pipe.offer(number.to_bytes(2, "big"), number * 0.001)
    found = [(when, int.from_bytes(packet, "big")) for when, packet in deliveries(pipe)]
    late = [number for when, number in found if when - number * 0.001 > 0.1 + 1e-9]
    assert 130 < len(late) < 270
    assert all(when - number * 0.001 == pytest.approx(0.105) for when, number in found if number in late)
    assert [number for _, number in found] != sorted(number for _, number in found)


def test_full_packets_are_counted_as_they_arrive() -> None:
    pipe = Pipe(LinkOptions(loss=0.5), seed=1)
    for size_bytes in (1200, 40, 1300):
        pipe.offer(bytes(size_bytes), 0.0)
    assert (pipe.statistics()["full"], pipe.statistics()["full_bytes"]) == (2, 2500)


@pytest.mark.parametrize(
    "impossible",
    [{"loss": 1.5}, {"loss": -0.1}, {"delay": -1.0}, {"rate_bits": -1.0}, {"burst": 0.5}, {"late": 2.0}, {"late_by": -1.0}],
)
def test_impossible_links_are_refused(impossible: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="impossible link"):
        LinkOptions(**impossible)  # type: ignore[arg-type]
