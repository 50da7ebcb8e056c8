"""The tables agree with the model, with each other and with the documentation."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from easytier_host.config import Config, FileLog, Flags, load_text, reference
from easytier_host.config.option_table import MISSING, OPTIONS, Form, Option
from easytier_host.config.options import make_parser, parse
from easytier_host.config.schema import SETTINGS, Status

ROOT = Path(__file__).parents[4]

WITHOUT_VARIABLE = {
    *("tcp-whitelist", "udp-whitelist", "check-config", "daemon", "gen-autocomplete", "disable-env-parsing", "list-plugins"),
}
SHORT = {
    "c": "config-file",
    "i": "ipv4",
    "d": "dhcp",
    "p": "peers",
    "e": "external-node",
    "n": "proxy-networks",
    "l": "listeners",
    "m": "instance-name",
    "u": "disable-encryption",
    "r": "rpc-portal",
    "w": "config-server",
}


def test_every_field_of_the_model_is_filled_by_one_setting() -> None:
    targets = [setting.target for setting in SETTINGS.values() if setting.target]
    assert len(targets) == len(set(targets))
    expected = {item.name for item in fields(Config)} - {"flags", "file_log", "plugins"}
    expected |= {f"flags.{item.name}" for item in fields(Flags)} | {f"file_log.{item.name}" for item in fields(FileLog)}
    assert set(targets) == expected


def test_defaults_of_the_schema_are_those_of_the_model() -> None:
    model: Any = Config()
    for setting in SETTINGS.values():
        if setting.target and setting.default is not None:
            value = model
            for name in setting.target.split("."):
                value = getattr(value, name)
            assert value == setting.default, setting.key


def test_every_flag_but_those_without_one_has_its_option() -> None:
    keys = {option.key for option in OPTIONS.values()}
    without = {key for key in SETTINGS if key.startswith("flags.") and key not in keys}
    assert without == {"flags.ipv6_listener", "flags.quic_listen_port"}


def test_short_names_and_variables_are_those_of_stock() -> None:
    assert {option.short: option.name for option in OPTIONS.values() if option.short} == SHORT
    assert {option.name for option in OPTIONS.values() if not option.variable} == WITHOUT_VARIABLE
    assert OPTIONS["network-secret"].variable == "ET_NETWORK_SECRET"


def test_the_documentation_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == reference.markdown(), "run: python -m easytier_host.config.reference > docs/configuration.md"
    for setting in SETTINGS.values():
        assert f"| `{setting.key.removeprefix('flags.')}` |" in page
    for option in OPTIONS.values():
        assert f"--{option.name}" in page
        assert option.variable in page


def test_the_example_of_the_documentation_is_a_good_file() -> None:
    text = reference.markdown().partition("```toml\n")[2].partition("```")[0]
    loaded = load_text(text, "example", environ={"SECRET": "s"})
    assert loaded.warnings == ()
    assert loaded.configs[0].flags.enable_kcp_proxy
    assert loaded.configs[0].network_secret == "s"


def test_help_names_every_option() -> None:
    text = make_parser().format_help()
    for option in OPTIONS.values():
        assert f"--{option.name}" in text


def test_options_that_have_an_effect_stand_in_a_group_with_a_name_and_the_others_in_theirs() -> None:
    for option in OPTIONS.values():
        assert option.group, option.name
        assert (option.group == MISSING) == (option.status is not Status.USED), option.name


def test_an_option_of_the_node_says_what_value_it_takes() -> None:
    unsaid = [option.name for option in OPTIONS.values() if option.status is Status.USED and option.metavar == "VALUE"]
    assert [name for name in unsaid if OPTIONS[name].form in (Form.VALUE, Form.LIST)] == []


def test_help_tells_defaults() -> None:
    text = " ".join(make_parser().format_help().split())
    assert "encryption takes 20 off (default: 1380)" in text
    assert "whole network (default: aes-gcm)" in text
    assert "no TUN device; needs no root --" in text


@pytest.mark.parametrize("option", [option for option in OPTIONS.values() if option.form is Form.SWITCH], ids=lambda o: o.name)
def test_a_switch_may_have_a_value(option: Option) -> None:
    bare = parse([f"--{option.name}"], {})
    assert parse([f"--{option.name}", "true"], {}) == parse([f"--{option.name}=true"], {}) == bare
    off = parse([f"--{option.name}", "false"], {})
    assert off == (parse([], {}) if not option.key else off)
    if option.key:
        assert [given.value for given in off.settings] == [not given.value for given in bare.settings]
    else:
        assert off != bare


@pytest.mark.parametrize("option", [option for option in OPTIONS.values() if option.key], ids=lambda o: o.name)
def test_an_option_without_effect_is_said_to_have_none(option: Option, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    secret.chmod(0o600)
    samples = {
        "ipv4": "10.0.0.1", "ipv6": "fd00::1/64", "peers": "tcp://a:1", "external-node": "tcp://a:1", "listeners": "1",
        "mapped-listeners": "tcp://a:1", "proxy-networks": "10.0.0.0/8", "exit-nodes": "10.0.0.1",
        "manual-routes": "10.0.0.0/8", "socks5": "1080",
        "port-forward": "tcp://0.0.0.0:1/10.0.0.1:2", "vpn-portal": "wg://0.0.0.0:1/10.0.0.0/24", "mtu": "1000",
        "secret-file": str(secret), "rpc-portal": "0", "metrics-listener": "0", "rpc-portal-whitelist": "127.0.0.0/8",
        "drain-timeout": "5", "tcp-whitelist": "80,8000-8100", "udp-whitelist": "53",
        "encryption-algorithm": "xor", "default-protocol": "udp", "compression": "zstd",
        "console-log-level": "debug", "file-log-level": "debug", "file-log-size": "5", "file-log-count": "5",
        "multi-thread-count": "5", "foreign-relay-bps-limit": "5", "instance-recv-bps-limit": "5",
    }  # fmt: skip
    setting = SETTINGS[option.key]
    text = samples.get(option.name) or ("x" if option.form is not Form.SWITCH else str(setting.default is False).lower())
    warned = load_text("", "a.toml", parse([f"--{option.name}", text], {}), environ={}).warnings
    assert bool(warned) is (setting.status is Status.IGNORED)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--network-nam", "x"], 'unrecognized option "--network-nam"; did you mean "--network-name"?'),
        (["--network-secrt=hunter2"], 'unrecognized option "--network-secrt"; did you mean "--network-secret"?'),
        (["-z"], 'unrecognized option "-z"'),
        (["--mtu", "1300", "hunter2"], "word 3 belongs to no option"),
        (["--mtu"], "argument --mtu: expected one argument"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_the_option(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv, {})
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown == f"easytier-core: {said}; --help lists all options\n"
    assert "hunter2" not in shown
