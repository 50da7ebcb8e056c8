"""URLs of tunnels: what is read, what is written, what is turned away and with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.tunnel import TunnelError, TunnelUrl


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("udp://1.2.3.4:11010", TunnelUrl("udp", "1.2.3.4", 11010)),
        ("tcp://1.2.3.4", TunnelUrl("tcp", "1.2.3.4", 11010)),
        ("tcp://1.2.3.4:443/", TunnelUrl("tcp", "1.2.3.4", 443)),
        ("TCP://Node.Example:1", TunnelUrl("tcp", "node.example", 1)),
        ("udp://0.0.0.0:0", TunnelUrl("udp", "0.0.0.0", 0)),
        ("udp://[::]:65535", TunnelUrl("udp", "::", 65535)),
        ("udp://[2001:DB8:0::1]", TunnelUrl("udp", "2001:db8::1", 11010)),
        ("udp://[fe80::1%eth0]:5", TunnelUrl("udp", "fe80::1%eth0", 5)),
        ("udp://my_host-2:5", TunnelUrl("udp", "my_host-2", 5)),
    ],
)
def test_good_urls_are_read(text: str, expected: TunnelUrl) -> None:
    assert TunnelUrl.parse(text) == expected
    assert TunnelUrl.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (TunnelUrl("udp", "1.2.3.4", 1), "udp://1.2.3.4:1"),
        (TunnelUrl("tcp", "::1", 11010), "tcp://[::1]:11010"),
        (TunnelUrl.from_address("tcp", ("10.0.0.1", 7)), "tcp://10.0.0.1:7"),
        (TunnelUrl.from_address("udp", ("fe80::1", 7, 0, 3)), "udp://[fe80::1%3]:7"),
        (TunnelUrl.from_address("udp", ("::1", 7, 0, 0)), "udp://[::1]:7"),
    ],
)
def test_urls_are_written_with_brackets_and_always_with_a_port(url: TunnelUrl, text: str) -> None:
    assert str(url) == text


@pytest.mark.parametrize("scheme", ["wg", "ws", "wss", "quic", "faketcp", "ring", "http", "https", "txt", "srv"])
def test_a_scheme_of_stock_that_this_node_lacks_is_named(scheme: str) -> None:
    with pytest.raises(TunnelError, match=f"type {scheme} are not supported by this node"):
        TunnelUrl.parse(f"{scheme}://1.2.3.4:11011")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3.4:11010",
        "udp:1.2.3.4",
        "udp://",
        "udp://:11010",
        "gopher://1.2.3.4",
        "udp://1.2.3.4:65536",
        "udp://1.2.3.4:-1",
        "udp://1.2.3.4:x",
        "udp://1.2.3.4:11010/eth0",
        "udp://1.2.3.4:11010?a",
        "udp://1.2.3.4:11010#a",
        "udp://user@1.2.3.4:11010",
        "udp://300.1.1.1:11010",
        "udp://1.2.3:11010",
        "udp://2001:db8::1",
        "udp://[2001:db8::1",
        "udp://[1.2.3.4]:1",
        "udp://[v1.x]:1",
        "udp://a..b",
        "udp://-a",
        "udp://" + "a" * 64,
        "udp://" + "a." * 130 + "a",
        "udp://a b",
        "udp://a\nb",
        "udp://a\x00b",
        "udp://kö.example",
    ],
)
def test_bad_urls_raise(text: str) -> None:
    with pytest.raises(TunnelError):
        TunnelUrl.parse(text)


def test_a_message_does_not_repeat_a_huge_url() -> None:
    with pytest.raises(TunnelError) as caught:
        TunnelUrl.parse("udp://" + "a" * 100_000)
    assert len(str(caught.value)) < 300


@given(
    st.text(max_size=80)
    | st.builds("{}://{}:{}".format, st.sampled_from(["udp", "tcp"]), st.text(max_size=30), st.text(max_size=6))
)
def test_any_text_is_read_or_turned_away(text: str) -> None:
    try:
        url = TunnelUrl.parse(text)
    except TunnelError:
        return
    assert TunnelUrl.parse(str(url)) == url
