"""What `rpc_portal` may say."""

from __future__ import annotations

import pytest

from easytier_host.config import ConfigError, load_text
from easytier_host.portal.address import PortalAddress, parse

RANGE = tuple(range(15888, 15900))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", PortalAddress("127.0.0.1", RANGE, required=False)),
        ("off", None),
        ("0", PortalAddress("127.0.0.1", (*RANGE, 0), required=True)),
        ("15900", PortalAddress("127.0.0.1", (15900,), required=True)),
        ("0.0.0.0:15888", PortalAddress("0.0.0.0", (15888,), required=True)),
        ("10.1.2.3:0", PortalAddress("10.1.2.3", (*RANGE, 0), required=True)),
        ("[::1]:15888", PortalAddress("::1", (15888,), required=True)),
    ],
)
def test_a_setting_stands_for_addresses(text: str, expected: PortalAddress | None) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["x", "-1", "65536", "::1:15888", "localhost:15888", "10.0.0.1", "10.0.0.1:", "[::1]", "٣"])
def test_anything_else_is_an_error_of_the_configuration(text: str) -> None:
    with pytest.raises(ConfigError, match="rpc_portal"):
        load_text(f'rpc_portal = "{text}"')
