"""What two networks of one process cannot both have: each is said with both places, and nothing else is held against them."""

from __future__ import annotations

from pathlib import Path

import pytest

from easytier_host.config import ConfigError, Loaded, load
from easytier_host.config.options import parse


def both(folder: Path, first: str, second: str) -> Loaded:
    for name, text in (("a", first), ("b", second)):
        (folder / f"{name}.toml").write_text(f'instance_name = "{name}"\n{text}')
    return load(parse(["--config-dir", str(folder)], {}), environ={})


def network(name: str) -> str:
    return f'[network_identity]\nnetwork_name = "{name}"\n'


FORWARD = '[[port_forward]]\nbind_addr = "127.0.0.1:11010"\ndst_addr = "10.144.0.1:80"\nproto = "tcp"'


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        (
            '\nlisteners = ["udp://0.0.0.0:11010"]',
            'listeners = ["tcp://0.0.0.0:11010", "udp://0.0.0.0:11010"]',
            "b.toml:2: listeners: udp://0.0.0.0:11010 is taken by udp://0.0.0.0:11010 of a.toml:3",
        ),
        (
            'listeners = ["udp://192.0.2.1:11010"]',
            'listeners = ["udp://0.0.0.0:11010"]',
            "b.toml:2: listeners: udp://0.0.0.0:11010 is taken by udp://192.0.2.1:11010 of a.toml:2",
        ),
        (
            'listeners = ["tcp://0.0.0.0:11010"]',
            FORWARD,
            "b.toml:2: port_forward: tcp://127.0.0.1:11010 is taken by tcp://0.0.0.0:11010 of a.toml:2",
        ),
        (
            'socks5_proxy = "socks5://127.0.0.1:1080"',
            'socks5_proxy = "socks5://127.0.0.1:1080"',
            "b.toml:2: socks5_proxy: socks5://127.0.0.1:1080 is taken by socks5://127.0.0.1:1080 of a.toml:2",
        ),
        (
            '[flags]\ndev_name = "etx"',
            '[flags]\ndev_name = "etx"',
            "b.toml:3: dev_name: etx is taken by a.toml:3",
        ),
        (
            'ipv4 = "10.144.0.1/24"',
            'ipv4 = "10.144.0.1/16"',
            "b.toml:2: ipv4: 10.144.0.1 in network default is taken by a.toml:2",
        ),
    ],
)
def test_what_two_networks_cannot_both_have(tmp_path: Path, first: str, second: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        both(tmp_path, first, second)
    assert [each.replace(f"{tmp_path}/", "") for each in caught.value.problems] == [problem]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('listeners = ["udp://0.0.0.0:11010"]', 'listeners = ["tcp://0.0.0.0:11010"]'),
        ('listeners = ["udp://0.0.0.0:0"]', 'listeners = ["udp://0.0.0.0:0"]'),
        ('listeners = ["udp://192.0.2.1:11010"]', 'listeners = ["udp://192.0.2.2:11010"]'),
        ('listeners = ["udp://0.0.0.0:11010"]', 'listeners = ["udp://[2001:db8::1]:11010"]'),
        ('[flags]\ndev_name = "etx"', '[flags]\ndev_name = "etx"\nno_tun = true'),
        (f'ipv4 = "10.144.0.1/24"\n{network("one")}', f'ipv4 = "10.144.0.1/24"\n{network("two")}'),
    ],
)
def test_what_two_networks_may_both_have(tmp_path: Path, first: str, second: str) -> None:
    assert both(tmp_path, first, second).warnings == ()


def test_one_network_may_clash_with_itself(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('listeners = ["tcp://0.0.0.0:11010", "tcp://127.0.0.1:11010"]')
    with pytest.raises(ConfigError, match=r"a\.toml:1: listeners: tcp://127\.0\.0\.1:11010 is taken by"):
        load(parse(["-c", f"{tmp_path}/a.toml"], {}), environ={})


def test_equal_names_are_warned_about(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text("")
    (warning,) = load(parse(["--config-dir", str(tmp_path)], {}), environ={}).warnings
    assert warning.startswith(f'{tmp_path}/b.toml: instance_name: "default" is that of {tmp_path}/a.toml too')
