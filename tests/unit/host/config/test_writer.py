"""What is written is a file from which the same configuration is made, secrets excepted."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from easytier_host.config import Config, FileLog, Flags, load_text
from easytier_host.config.model import UNLIMITED, AccessRule
from easytier_host.config.template import template
from easytier_host.config.writer import as_toml
from tests.unit.host.config.test_loader import STOCK_FILE


def again(config: Config) -> Config:
    loaded = load_text(as_toml(config), environ={})
    return loaded.configs[0]


def other(value: Any) -> Any:
    """Something else of the same type, where there is one without thinking."""
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value


def test_a_file_with_every_setting_comes_back() -> None:
    text = re.sub(r"(?m)^#(?=[a-z0-9_]+ = |\[\[)", "", template()).replace("${SECRET}", "")
    config = load_text(text, environ={}).configs[0]
    flags = Flags()
    changed = {each.name: other(getattr(flags, each.name)) for each in fields(Flags)}
    changed |= {"data_compress_algo": 2, "instance_recv_bps_limit": 7, "foreign_relay_bps_limit": UNLIMITED, "dev_name": "tun7"}
    rules = (
        AccessRule(False, "udp", "n$HOME", ip_network("fd00::/8"), ip_network("fd01::1/128"), ((1, 1), (22, 80))),
        AccessRule(True),
    )
    config = replace(
        config,
        flags=replace(flags, **changed),
        plugins={"kcp": True, "auto": False, "a plugin's name": True},
        tcp_whitelist=((0, 0), (80, 90)),
        udp_whitelist=((53, 53),),
        routes=(),
        access=rules,
        drain_timeout=0,
        dhcp=True,
        instance_name="a",
        network_name="n",
        console_log_level="warn",
        file_log=FileLog("debug", "/var/log", "n.log", 7, 3),
    )
    default = Config()
    untouched = [each.name for each in fields(Config) if getattr(config, each.name) == getattr(default, each.name)]
    assert untouched == ["network_secret"], "each has another value than by default"
    assert again(config) == config


def test_secrets_stay_here() -> None:
    config = load_text(STOCK_FILE.replace('"s"', '"hunter2"').replace("1024", '"hunter3"'), environ={}).configs[0]
    text = as_toml(config)
    assert "hunter" not in text
    assert '[network_identity]\nnetwork_name = "n"\n# network_secret is not told\n' in text
    assert "kcp = true  # its options are not told\nother = false\n" in text
    assert again(config) == replace(config, network_secret="", plugins={"kcp": True, "other": False})


def test_of_a_new_node_little_is_told() -> None:
    names = [line.partition(" = ")[0] for line in as_toml(Config()).splitlines() if line]
    assert names == ["instance_name", "instance_id", "hostname", "listeners", "[network_identity]", "network_name"]


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=32),
    st.text("a$${}_\\\"'\x7f\n", max_size=9),
)
def test_any_text_comes_back(hostname: str, name: str) -> None:
    config = Config(hostname=hostname, instance_name=name, network_name=name)
    assert again(config) == config
