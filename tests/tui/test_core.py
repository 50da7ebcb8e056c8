"""What runs without a terminal: words, graphs, history, the model, views, columns."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from easytier_cli.flows import age
from easytier_tui import columns, graph, model, words
from easytier_tui.history import LIMIT, SPAN, History
from easytier_tui.model import Model
from easytier_tui.records import ConnectionRecord, FlowNote, FlowRecord, Link, Update
from easytier_tui.view import FlowView
from tests.tui import scene
from tests.tui.scene import NOW


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.00 kB"),
        (38e6, "38.0 MB"),
        (99.96e3, "100 kB"),
        (9.996e3, "10.0 kB"),
        (2**64, "18.4 EB"),
    ],
)
def test_sizes_have_three_digits(value: float | None, text: str) -> None:
    assert words.size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.000_42, "0.42 ms"),
        (0.0052, "5.2 ms"),
        (0.052, "52 ms"),
        (0.9994, "999 ms"),
        (1.2, "1.20 s"),
        (72.0, "72 s"),
    ],
)
def test_round_trips(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (14.9, "14s"), (131, "2m11s"), (11_100, "3h05m"), (187_200, "2d04h")]
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


@given(st.floats(min_value=0, max_value=2**64), st.floats(min_value=0, max_value=9999))
def test_numbers_fit_their_columns(value: float, seconds: float) -> None:
    assert len(words.rate(value)) <= columns.FLOW["up"].width
    assert len(words.size(value)) <= columns.FLOW["sent"].width
    assert len(words.duration(seconds)) <= columns.FLOW["rtt"].width


@given(st.text(max_size=40), st.integers(0, 30), st.booleans())
def test_texts_get_exactly_the_width_they_are_given(text: str, width: int, right: bool) -> None:
    from rich.cells import cell_len

    assert cell_len(words.fit(words.clean(text), width, right=right)) == width


@given(st.text(max_size=80), st.integers(5, 40))
def test_wrapped_lines_fit_and_lose_no_word(text: str, width: int) -> None:
    text = words.clean(text)
    lines = words.wrap(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert len(lines) == 1 or max(map(len, lines)) <= width


def test_names_cannot_command_the_terminal() -> None:
    assert words.clean("a\x1b[2Jb\u202ec") == "a\ufffd[2Jb\ufffdc"
    assert len(words.clean("x" * 1000)) == 300
    assert words.clock(1e20) == "-"


def test_bars() -> None:
    assert graph.bars([None, 0, 1, 4, 8], 1, 8) == ["  ▁▄█"]
    assert graph.bars([8, 16, 0.01], 2, 16) == [" █ ", "██▁"]
    assert graph.bars([], 1) == [""]


@given(st.lists(st.none() | st.floats(-1e30, 1e30), max_size=30), st.integers(1, 5))
def test_bars_have_one_column_a_value(values: list[float | None], height: int) -> None:
    lines = graph.bars(values, height)
    assert [len(line) for line in lines] == [len(values)] * height


@given(st.floats(1e-6, 1e18))
def test_a_nice_top_is_near(value: float) -> None:
    assert value <= graph.nice_top(value) <= value * 2.5001


def test_history_holds_the_last_value_between_samples() -> None:
    history = History(NOW)
    history.add(NOW, 10.0, 1.0, 0.05, None, 128, 12)
    history.add(NOW + 3, 20.0, 1.0, None, 2.0, 256, 200)
    assert history.resample("up", NOW + 4, 1.0, 6) == [None, 10.0, 10.0, 10.0, 20.0, 20.0]
    assert history.resample("rtt", NOW + 3, 3.0, 2) == [pytest.approx(0.05), None]
    assert (history.newest("up", NOW + 3), history.newest("up", NOW + 2.9), history.newest("up", NOW - 1)) == (20.0, 10.0, None)
    assert history.resample("retransmitted", NOW + 3, 3.0, 2) == [None, 2.0]
    assert history.resample("window", NOW + 3, 3.0, 2) == [128, 256]
    assert history.resample("in_flight", NOW + 3, 3.0, 2) == [12, 200]


def test_a_peak_between_two_columns_is_seen_and_stays_where_it_is() -> None:
    history = History(NOW)
    for second in range(60):
        history.add(NOW + second * 1.01, 0.0, 0.0, None, 1.6 if second == 30 else 0.0, None, None)
    # 37 columns of 3.2 s, as in a terminal of 80, read once a second.
    pictures = [history.resample("retransmitted", NOW + end, SPAN / 37, 37) for end in range(31, 120)]
    assert all([each for each in picture if each] == [pytest.approx(1.6)] for picture in pictures)
    places = [picture.index(max(filter(None, picture))) for picture in pictures]
    assert all(0 <= before - after <= 1 for before, after in itertools.pairwise(places)), "to the left alone"
    assert places[-1] < places[0]


def test_history_is_bounded() -> None:
    history = History(NOW)
    for second in range(LIMIT * 2):
        history.add(NOW + second / 10, float(second), 0.0, None, None, None, None)
    assert len(history) == LIMIT
    assert history.resample("up", NOW + LIMIT, 1.0, 1) == [LIMIT * 2 - 1]


def test_of_what_cannot_be_shown_any_more_the_newest_sample_is_kept() -> None:
    history = History(NOW)
    for second in (0, 50, 100, 150, 200, 250):
        history.add(NOW + second, float(second), 0.0, None, None, None, None)
    assert history.resample("up", NOW + 250, SPAN / 2, 4) == [100, 150, 200, 250]
    assert len(history) == 4


def first() -> Model:
    known = Model()
    known.apply(scene.FIRST)
    known.tick(NOW)
    return known


def test_totals_are_sums_by_transport() -> None:
    known = first()
    assert known.counts == {"kcp": 2, "tcp": 1}
    assert known.living == 3
    assert [*known.totals["kcp"]] == [(38e6, 93_000.0)]
    assert [*known.totals["tcp"]] == [(2000.0, 14_000.0)]
    assert known.peers[2].flows == 2


def test_rates_without_news_run_dry() -> None:
    known = first()
    known.tick(NOW + model.RATE_LIFETIME)
    assert known.flows["1.1"].send_rate == 38e6
    known.tick(NOW + model.RATE_LIFETIME + 1)
    assert known.flows["1.1"].send_rate == 0
    assert known.totals["kcp"][-1] == (0.0, 0.0)
    assert known.flows["1.1"].history.resample("up", NOW + 12, 1.0, 1) == [0]


def test_a_frozen_model_keeps_its_graphs() -> None:
    known = first()
    still = known.frozen()
    for second in range(1, 300):
        known.apply(Update(NOW + second, flows=(replace(scene.SSH, sent=second),)))
    assert still.flows["1.1"].history.resample("up", NOW, 1.0, 1) == [38e6]
    assert known.flows["1.1"].history.resample("up", NOW, 1.0, 1) == [None]


def test_retransmissions_become_a_rate() -> None:
    known = first()
    known.apply(Update(NOW + 2, flows=(replace(scene.SSH, retransmitted=41_044),)))
    assert known.flows["1.1"].history.resample("retransmitted", NOW + 2, 1.0, 1) == [5.0]


def test_ended_flows_stay_for_a_while() -> None:
    known = first()
    assert known.flows["1.4"].ended_at == NOW - 8
    known.tick(NOW + model.KEEP_ENDED)
    assert "1.4" in known.flows
    known.tick(NOW + model.KEEP_ENDED + 1)
    assert [*known.flows] == ["1.1", "1.2", "1.3"]


def test_a_snapshot_ends_what_it_does_not_hold() -> None:
    known = first()
    known.apply(Update(NOW + 1, flows=(scene.SSH,), is_whole=True, unwatched=4))
    assert known.flows["1.2"].record.state == "closed"
    assert known.flows["1.2"].record.end_reason == "the node no longer lists it"
    assert known.flows["1.2"].rate is None
    assert known.unwatched == 4
    known.tick(NOW + 1)
    assert known.counts == {"kcp": 1}


def test_a_daemon_that_goes_leaves_what_was_known() -> None:
    known = first()
    known.apply(Update(NOW + 1, Link("gone", "no node answers")))
    assert len(known.flows) == 5
    assert known.node == scene.NODE


def test_peers_get_rates_from_their_counters() -> None:
    known = first()
    more = replace(scene.TUNNEL, sent=scene.TUNNEL.sent + 3000, received=scene.TUNNEL.received + 500)
    known.apply(Update(NOW + 2, peers=(replace(scene.B, connections=(more,)), scene.C)))
    assert (known.peers[2].send_rate, known.peers[2].receive_rate) == (1500.0, 250.0)
    assert known.peers[3].send_rate is None
    renewed = ConnectionRecord("udp", "udp://203.0.113.7:11010", 0.05, 0.0, 10, 10, True)
    known.apply(Update(NOW + 4, peers=(replace(scene.B, connections=(renewed,)),)))
    assert known.peers[2].send_rate == 0, "a new connection counts from the beginning"
    assert 3 not in known.peers


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_FLOWS", 10)
    known = Model()
    flows = tuple(replace(scene.SSH, key=f"2.{number}") for number in range(12))
    known.apply(Update(NOW, flows=flows))
    assert (len(known.flows), known.untold) == (10, 2)
    known.apply(Update(NOW, flows=(replace(flows[0], state="closed"), flows[11])))
    assert (len(known.flows), known.untold) == (10, 2)
    assert "2.11" in known.flows
    assert "2.0" not in known.flows
    for number in range(100):
        known.apply(Update(NOW, notes=(FlowNote("2.1", NOW + number, "seen"), FlowNote("nobody", NOW, "seen"))))
    assert [note.at for note in known.flows["2.1"].notes] == [NOW + number for number in range(68, 100)]


def test_many_ended_flows_make_room_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_ENDED", 3)
    known = Model()
    ended = tuple(replace(scene.OVER, key=f"2.{number}") for number in range(8))
    known.apply(Update(NOW, flows=ended))
    known.tick(NOW)
    assert [*known.flows] == ["2.5", "2.6", "2.7"]


def test_a_polled_node_s_changes_become_notes() -> None:
    known = Model()
    known.apply(Update(NOW, node=scene.STOCK, flows=(replace(scene.SSH, state="connecting"),), is_whole=True))
    known.apply(Update(NOW + 1, flows=(scene.SSH,), is_whole=True))
    known.apply(Update(NOW + 2, is_whole=True))
    assert [note.text for note in known.flows["1.1"].notes] == [
        "connecting",
        "connected",
        "closed: the node no longer lists it",
    ]


def test_a_frozen_model_does_not_change() -> None:
    known = first()
    still = known.frozen()
    known.apply(Update(NOW + 1, flows=(replace(scene.SSH, state="closed"), replace(scene.SSH, key="1.9")), peers=()))
    known.tick(NOW + 1)
    assert still.flows["1.1"].record.state == "connected"
    assert still.flows["1.1"].send_rate == 38e6
    assert len(still.flows) == 5
    assert len(still.totals["kcp"]) == 1
    assert set(still.peers) == {2, 3}


def test_an_update_of_all_makes_the_same_model() -> None:
    known, other = first(), Model()
    other.apply(known.as_update(NOW))
    assert other.as_update(NOW) == known.as_update(NOW)


def test_the_order_by_what_moves_is_kept_for_a_moment() -> None:
    known, view = first(), FlowView()
    view.sort("down")
    assert view.rows(known, NOW) == ["1.3", "1.2", "1.1", "1.4", "1.5"]
    known.apply(Update(NOW + 1, flows=(replace(scene.SSH, receive_rate=1e9),)))
    assert view.rows(known, NOW + 1) == ["1.3", "1.2", "1.1", "1.4", "1.5"]
    assert view.rows(known, NOW + 2) == ["1.1", "1.3", "1.2", "1.4", "1.5"]
    view.sort("down")
    assert view.rows(known, NOW + 2)[0] == "1.2", "asked for twice: the other way round"


@pytest.mark.parametrize("name", columns.FLOW)
def test_every_column_sorts(name: str) -> None:
    known, view = first(), FlowView()
    view.sort(name, descending=False)
    up = view.rows(known, NOW)
    view.sort(name, descending=True)
    down = view.rows(known, NOW)
    assert sorted(up) == sorted(down) == sorted(known.flows)
    order = columns.FLOW[name].order
    living = [order(known.flows[key]) for key in up[:3]]
    assert living == sorted(living)
    assert [order(known.flows[key]) for key in down[:3]] == sorted(living, reverse=True)


def test_addresses_sort_by_their_numbers() -> None:
    ends = ["10.0.0.10:80", "10.0.0.9:80", "[fd00::1]:80", "10.0.0.9:8"]
    assert sorted(ends, key=columns.address_order)[:3] == ["10.0.0.9:8", "10.0.0.9:80", "10.0.0.10:80"]


@pytest.mark.parametrize("layouts", [columns.FLOW_LAYOUTS, columns.STOCK_LAYOUTS])
@pytest.mark.parametrize("room", [1, 10, 20, 40, 60, 79, 100, 119, 200, 400])
def test_a_layout_fits_every_width(layouts: list[columns.Layout], room: int) -> None:
    chosen = columns.choose(columns.FLOW, layouts, room, {"src": 26})
    total = columns.MARKER + sum(width + 1 for _, width in chosen) - 1
    assert total == room or (len(chosen) == 2 and room < 30)


def test_80_columns_show_what_matters_most() -> None:
    names = [column.name for column, _ in columns.choose(columns.FLOW, columns.FLOW_LAYOUTS, 79, {})]
    assert names == ["src", "dst", "transport", "state", "rate", "why"]


def flow(**changes: object) -> FlowRecord:
    return replace(scene.SSH, **changes)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", "12345"),
        ("KCP", "1234"),
        ("transport:kcp", "134"),
        ("transport:t", "25"),
        ("state:conn", "12"),
        ("-state:closed -state:failed", "123"),
        ("peer:b", "134"),
        ("port:22", "1"),
        ("dst:10.1.0.0/16", "2"),
        ("dst:10.144", "1345"),
        ("src:0.0.0.0", "3"),
        ("direction:in", "3"),
        ("by:auto", "1"),
        ("why:fin", "4"),
        ("transport:kcp port:443", "4"),
        ("state:", "12345"),
        ("-state:", "12345"),
        ("-", "12345"),
    ],
)
def test_filters(text: str, keys: str) -> None:
    view = FlowView()
    view.filter(text)
    assert view.error == ""
    assert {key[-1] for key in view.rows(first(), NOW)} == set(keys)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("prot:1", "port"),
        ("zzz:1", "transport"),
        ("port:x", "not a port"),
        ("dst:1/x", "network"),
        ("-dst:rubbish", "not an address"),
        ("dst:10.0.0.0/99", "network"),
    ],
)
def test_a_wrong_term_says_what_would_do_and_is_left_out(text: str, word: str) -> None:
    view = FlowView()
    view.filter(text)
    assert word in view.error
    assert view.held_text == ""
    assert len(view.rows(first(), NOW)) == 5
    view.filter(f"peer:b {text} state:conn")
    assert word in view.error
    assert view.held_text == "peer:b state:conn"
    assert len(view.rows(first(), NOW)) == 1


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_an_error(text: str) -> None:
    view = FlowView()
    view.filter(text)
    rubbish = flow(source="no address", destination="\ud800")
    known = first()
    known.apply(Update(NOW, flows=(rubbish,)))
    assert set(view.rows(known, NOW)) <= set(known.flows)
