"""The template is a configuration, and each of its examples is one."""

from __future__ import annotations

import re

from easytier_host.config import load_text
from easytier_host.config.schema import SETTINGS, Status
from easytier_host.config.template import template


def test_the_template_is_a_configuration_of_defaults() -> None:
    (config,) = load_text(template()).configs
    assert (config.instance_name, config.network_name, config.ipv4, config.peers) == ("default", "default", None, ())


def test_every_line_can_be_uncommented() -> None:
    text = re.sub(r"(?m)^#(?=[a-z0-9_]+ = |\[\[)", "", template()).replace("${SECRET}", "s3cret")
    loaded = load_text(text)
    (config,) = loaded.configs
    assert config.network_secret == "s3cret"
    assert config.peers == ("udp://203.0.113.5:11010",)
    assert len(config.proxy_networks) == len(config.port_forwards) == 1
    assert config.plugins["auto"] is True
    assert list(loaded.warnings) == []


def test_every_key_that_is_acted_on_is_there() -> None:
    text = template()
    for setting in SETTINGS.values():
        name = setting.key.rpartition(".")[2]
        assert (f"#{name} = " in text or f"#[[{name}]]" in text) == (setting.status is Status.USED), setting.key
