"""From text to `Config`, and what is said about text that cannot become one."""

from __future__ import annotations

from io import BytesIO
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_network
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.config import Config, ConfigError, Flags, Loaded, PortForward, ProxyNetwork, load, load_text
from easytier_host.config.loader import MAX_FILE_BYTES
from easytier_host.config.model import AccessRule
from easytier_host.config.options import parse

STOCK_FILE = """\
instance_name = "a"
instance_id = "7f0c3f3e-13b8-4ba8-9b6c-0d7d3e8f8a11"
hostname = "a-host-name-of-more-than-32-characters"
ipv4 = "10.144.144.1/16"
ipv6 = "fd00::1/64"
listeners = ["tcp://0.0.0.0:11010", "udp://[::]"]
mapped_listeners = ["tcp://203.0.113.9:443"]
stun_servers = ["stun.example.org"]

[network_identity]
network_name = "n"
network_secret = "s"

[[peer]]
uri = "udp://203.0.113.5:11010"

[[peer]]
uri = "tcp://node.example.org"
peer_public_key = "k"

[[proxy_network]]
cidr = "10.1.2.0/24"
mapped_cidr = "10.9.9.0/24"
allow = ["tcp"]

[flags]
enable_kcp_proxy = true
data_compress_algo = 2
mtu = 1400

[console_logger]
level = "DEBUG"

[file_logger]
dir = "/var/log"

[plugins]
kcp = { window = 1024 }
other = false
"""


def problems(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "a.toml", environ=environ)
    return list(caught.value.problems)


def warnings(text: str) -> list[str]:
    return list(load_text(text, "a.toml", environ={}).warnings)


def from_options(*argv: str, **environ: str) -> Loaded:
    return load(parse(argv, environ), environ=environ)


def config_of(text: str, *argv: str, **environ: str) -> Config:
    [config] = load_text(text, "a.toml", parse(argv, environ), environ=environ).configs
    return config


def test_a_stock_file_is_read_in_full() -> None:
    loaded = load_text(STOCK_FILE, "a.toml", environ={})
    [config] = loaded.configs
    assert loaded.warnings == ()
    assert config.instance_name == "a"
    assert config.instance_id == UUID("7f0c3f3e-13b8-4ba8-9b6c-0d7d3e8f8a11")
    assert config.hostname == "a-host-name-of-more-than-32-char"
    assert (config.network_name, config.network_secret) == ("n", "s")
    assert config.ipv4 == IPv4Interface("10.144.144.1/16")
    assert config.ipv6 == IPv6Interface("fd00::1/64")
    assert config.listeners == ("tcp://0.0.0.0:11010", "udp://[::]:11010")
    assert config.mapped_listeners == ("tcp://203.0.113.9:443",)
    assert config.peers == ("udp://203.0.113.5:11010", "tcp://node.example.org:11010")
    assert config.proxy_networks == (ProxyNetwork(IPv4Network("10.1.2.0/24"), IPv4Network("10.9.9.0/24")),)
    assert config.flags == Flags(enable_kcp_proxy=True, data_compress_algo=2, mtu=1400)
    assert config.console_log_level == "debug"
    assert (config.file_log.dir, config.file_log.level) == ("/var/log", "info")
    assert config.plugins == {"kcp": {"window": 1024}, "other": False}


def test_an_empty_file_gives_the_defaults_and_listens_nowhere() -> None:
    config, other = config_of(""), config_of("")
    assert config.listeners == ()
    assert config.instance_id != other.instance_id
    assert config == Config(instance_id=config.instance_id)


def test_an_object_built_in_code_has_the_defaults_of_stock() -> None:
    config = Config()
    assert (config.instance_name, config.network_name, config.network_secret) == ("default", "default", "")
    assert config.flags.enable_encryption
    assert config.flags.encryption_algorithm == "aes-gcm"
    assert 0 < len(config.hostname) <= 32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('\nipv44 = "1"', 'a.toml:2: unknown key "ipv44" in [root]; did you mean "ipv4"?'),
        ("[flags]\n\nmtuu = 1", 'a.toml:3: unknown key "mtuu" in [flags]; did you mean "mtu"?'),
        ("[flag]\nmtu = 1", 'a.toml:1: unknown key "flag" in [root]; did you mean "flags"?'),
        ("[flags.deep]\nmtu = 1", 'a.toml:1: unknown key "deep" in [flags]'),
        ("[zzz]", 'a.toml:1: unknown key "zzz" in [root]'),
        (
            '[[peer]]\nuri = "tcp://a:1"\n[[peer]]\nurl = "tcp://a:1"',
            'a.toml:4: unknown key "url" in [[peer]]; did you mean "uri"?',
        ),
        ("[[peer]]\n", 'a.toml:1: peer: "uri" is missing in [[peer]]'),
        ("peer = 1", "a.toml:1: peer: expected an array, found an integer"),
        ("peer = [1]", "a.toml:1: peer: expected a table, found an integer"),
        ("flags = 1", "a.toml:1: flags: expected a table, found an integer"),
        ('[flags]\nmtu = "1"', "a.toml:2: flags.mtu: expected an integer, found a string"),
        ("[flags]\nmtu = true", "a.toml:2: flags.mtu: expected an integer, found a boolean"),
        ("[flags]\nmtu = 60000", "a.toml:2: flags.mtu: 60000 is not within 576 to 1956"),
        ("flags.no_tun = 1", "a.toml:1: flags.no_tun: expected a boolean, found an integer"),
        ("hostname = 1979-05-27", "a.toml:1: hostname: expected a string, found a date or time"),
        ('ipv4 = "10.0.0.300"', 'a.toml:1: ipv4: "10.0.0.300" is not an IPv4 address, with or without /prefix'),
        ('ipv4 = "224.0.0.1"', 'a.toml:1: ipv4: "224.0.0.1" cannot be the address of a node'),
        (
            'listeners = [\n"tcp://a:1",\n"tcq://a:1"]',
            "a.toml:3: listeners: 'tcq://a:1': unknown scheme 'tcq' (this node has tcp and udp)",
        ),
        ('listeners = ["11010"]', "a.toml:1: listeners: '11010' is not a URL: write it as udp://host:port"),
        (
            '[[peer]]\nuri = "tcp://a:99999"',
            "a.toml:2: uri: 'tcp://a:99999' is not a URL: Port out of range 0-65535",
        ),
        (
            '[[proxy_network]]\ncidr = "10.1.2.3/24"',
            'a.toml:2: cidr: "10.1.2.3/24" has bits set behind its prefix; the network is 10.1.2.0/24',
        ),
        (
            '[[proxy_network]]\ncidr = "10.1.2.0/24"\nmapped_cidr = "10.0.0.0/16"',
            "a.toml:1: proxy_network: 10.1.2.0/24 and 10.0.0.0/16 differ in their prefix length",
        ),
        (
            '[flags]\nencryption_algorithm = "aes-gmc"',
            'a.toml:2: flags.encryption_algorithm: unknown value "aes-gmc"; did you mean "aes-gcm"?',
        ),
        ("[flags]\ndata_compress_algo = 3", 'a.toml:2: flags.data_compress_algo: expected 1 ("none") or 2 ("zstd")'),
        (
            '[flags]\ndev_name = "a-name-too-long-for-it"',
            'a.toml:2: flags.dev_name: "a-name-too-long-for-it" cannot be the name of a network device',
        ),
        ("[plugins]\nkcp = 1", "a.toml:2: plugins.kcp: expected true, false or a table of options, found an integer"),
        ('instance_id = "x"', 'a.toml:1: instance_id: "x" is not a UUID'),
        ('hostname = "a\\u0000b"', "a.toml:1: hostname: the text holds a NUL character"),
        (
            "[flags]\ndrain_timeout = 5",
            'a.toml:2: unknown key "drain_timeout" in [flags]; it belongs above the first [table] of the file',
        ),
        (
            '[[peer]]\nuri = "tcp://a:1"\nipv4 = "10.0.0.1"',
            'a.toml:3: unknown key "ipv4" in [[peer]]; it belongs above the first [table] of the file',
        ),
        (
            "[plugins]\ndrain_timeout = 5",
            (
                "a.toml:2: plugins.drain_timeout: expected true, false or a table of options, found an integer; "
                "it belongs above the first [table] of the file"
            ),
        ),
        ("mtu = 1300", 'a.toml:1: unknown key "mtu" in [root]; it belongs below [flags]'),
        ("a = 1\nb = \n", 'a.toml:2:5: there is nothing behind "b ="'),
        ("hostname = my-host", 'a.toml:1:12: text stands in quotation marks: hostname = "..."'),
        ("\nipv4 = 10.144.0.1/24 # mine", 'a.toml:2:14: text stands in quotation marks: ipv4 = "..."'),
        ("dhcp = True", "a.toml:1:8: dhcp = true has no capital letters"),
        ("[flags]\nmtu = 1\n[peer]\n[flags]\n", "a.toml:4:7: [flags] is in line 1 already"),
        ("dhcp = true\nipv4 = 1\ndhcp = true\n", "a.toml:3:12: dhcp is in line 1 already"),
        ("[a]\nx = 1\n[b]\nx = 2\nx = 3", "a.toml:5:1: x is in line 4 already"),
        ('a = "x\nb = 1', "a.toml:1:7: the closing quotation mark is missing"),
        ("a.b = 1\na = 2", "a.toml:2:1: Cannot overwrite a value"),
        ('a = "1', "a.toml:1:1: Unterminated string"),
    ],
)
def test_a_fault_names_file_line_and_key(text: str, said: str) -> None:
    assert problems(text) == [said]


def test_all_faults_are_said_at_once_up_to_a_limit() -> None:
    assert len(problems("a1 = 1\nb1 = 2\nmtu = 3")) == 3
    many = problems("".join(f"unknown_{number} = 1\n" for number in range(80)))
    assert len(many) == 51
    assert many[-1] == "and 30 more"


def test_a_secret_is_in_no_fault_and_no_repr() -> None:
    secret = "hunter2"
    config = config_of(f'[network_identity]\nnetwork_secret = "{secret}"\n[plugins]\nkcp = {{ password = "{secret}" }}')
    assert config.network_secret == secret
    assert secret not in repr(config)
    assert secret not in "".join(problems(f'[network_identity]\nnetwork_secret = ["{secret}"]'))
    assert secret not in "".join(problems(f'[network_identity]\nnetwork_secrte = "{secret}"'))
    assert secret not in "".join(problems(f'[network_identity]\nnetwork_secret = "{secret}\n'))


@pytest.mark.parametrize(
    ("text", "interface"), [("10.0.0.1", "10.0.0.1/24"), ("10.0.0.1/32", "10.0.0.1/24"), ("10.0.0.1/8", "10.0.0.1/8")]
)
def test_an_address_without_prefix_has_24_bits(text: str, interface: str) -> None:
    assert config_of(f'ipv4 = "{text}"').ipv4 == IPv4Interface(interface)


def test_what_this_node_does_not_do_is_said_once_for_each_key() -> None:
    said = warnings("dhcp = true\n[flags]\nenable_quic_proxy = true\n[acl]\nx = 1")
    assert sorted(said) == [
        'a.toml:1: "dhcp" has no effect in this version',
        'a.toml:3: "flags.enable_quic_proxy" has no effect in this version',
        'a.toml:4: "acl" has no effect in this version',
    ]


def test_defaults_written_out_and_moot_settings_are_not_mentioned() -> None:
    assert warnings("dhcp = false\n[flags]\nenable_quic_proxy = false\nmulti_thread = false\nprivate_mode = true") == []


def test_listeners_and_peers_of_other_protocols_are_left_out_with_a_warning() -> None:
    text = 'listeners = ["wg://0.0.0.0:11011", "udp://0.0.0.0:1"]\n[[peer]]\nuri = "wss://example.org"'
    assert config_of(text).listeners == ("udp://0.0.0.0:1",)
    assert config_of(text).peers == ()
    assert [line.partition(" is left out")[0] for line in warnings(text)] == [
        'a.toml:1: "wg://0.0.0.0:11011"',
        'a.toml:2: "wss://example.org"',
    ]


def test_an_empty_array_is_not_the_same_as_none() -> None:
    assert config_of("").routes is None
    assert config_of("routes = []").routes == ()
    assert config_of('routes = ["10.0.0.0/8"]').routes == (IPv4Network("10.0.0.0/8"),)


def test_a_port_forward_of_the_file_is_kept() -> None:
    text = '[[port_forward]]\nproto = "tcp"\nbind_addr = "0.0.0.0:53"\ndst_addr = "[fd00::1]:53"'
    assert config_of(text).port_forwards == (PortForward("0.0.0.0:53", "[fd00::1]:53", "tcp"),)


def test_a_port_forward_may_be_of_udp() -> None:
    text = '[[port_forward]]\nproto = "udp"\nbind_addr = "0.0.0.0:53"\ndst_addr = "10.144.0.2:53"'
    assert config_of(text).port_forwards == (PortForward("0.0.0.0:53", "10.144.0.2:53", "udp"),)
    assert warnings(text) == []


def test_a_socks_server_is_a_url_or_as_an_option_a_port_of_this_machine() -> None:
    assert config_of("").socks5 == ""
    assert config_of('socks5_proxy = "socks5://0.0.0.0:1080"').socks5 == "socks5://0.0.0.0:1080"
    assert config_of("", "--socks5", "1080").socks5 == "socks5://127.0.0.1:1080"
    assert config_of("", "--socks5", "socks5://[::1]:1080").socks5 == "socks5://[::1]:1080"


@pytest.mark.parametrize("url", ["1080", "http://127.0.0.1:1080", "socks5://localhost:1080", "socks5://127.0.0.1", "socks5://"])
def test_a_socks_server_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^a.toml:1: socks5_proxy: "):
        config_of(f'socks5_proxy = "{url}"')


# Options and variables


def test_without_a_file_the_default_listeners_are_tcp_and_udp_11010() -> None:
    [config] = from_options().configs
    assert config.listeners == ("tcp://0.0.0.0:11010", "udp://0.0.0.0:11010")


@pytest.mark.parametrize(
    ("item", "urls"),
    [
        ("12000", ["tcp://0.0.0.0:12000", "udp://0.0.0.0:12000"]),
        ("0", ["tcp://0.0.0.0:0", "udp://0.0.0.0:0"]),
        ("tcp", ["tcp://0.0.0.0:11010"]),
        ("udp:5", ["udp://0.0.0.0:5"]),
        ("tcp://[::1]:7", ["tcp://[::1]:7"]),
        ("tcp://1.2.3.4", ["tcp://1.2.3.4:11010"]),
        ("udp:1,tcp:2", ["udp://0.0.0.0:1", "tcp://0.0.0.0:2"]),
    ],
)
def test_listeners_have_a_short_form(item: str, urls: list[str]) -> None:
    loaded = from_options("-l", item)
    assert loaded.configs[0].listeners == tuple(urls)
    assert loaded.warnings == ()


def test_a_protocol_that_is_asked_for_by_name_is_warned_about() -> None:
    loaded = from_options("-l", "wg,tcp")
    assert loaded.configs[0].listeners == ("tcp://0.0.0.0:11010",)
    assert len(loaded.warnings) == 1


def test_no_listener_wins_over_everything() -> None:
    assert from_options("--no-listener", "-l", "tcp").configs[0].listeners == ()
    assert config_of('listeners = ["tcp://0.0.0.0:1"]', "--no-listener").listeners == ()


def test_options_are_merged_into_a_file() -> None:
    config = config_of(
        STOCK_FILE,
        *("-p", "tcp://198.51.100.1:1,tcp://198.51.100.2:1", "-e", "udp://198.51.100.3:1", "-p", "tcp://198.51.100.4:1"),
        *("--hostname", "b", "-n", "10.5.0.0/16->10.6.0.0/16", "--mtu", "1300", "--enable-kcp-proxy", "false", "-u"),
        *("--compression", "none", "--disable-ipv6", "-l", "udp:7"),
    )
    assert config.hostname == "b"
    assert config.peers == (
        *("udp://203.0.113.5:11010", "tcp://node.example.org:11010", "tcp://198.51.100.1:1", "tcp://198.51.100.2:1"),
        *("tcp://198.51.100.4:1", "udp://198.51.100.3:1"),
    )
    assert config.proxy_networks[1] == ProxyNetwork(IPv4Network("10.5.0.0/16"), IPv4Network("10.6.0.0/16"))
    assert config.listeners[-1] == "udp://0.0.0.0:7"
    assert config.flags == Flags(mtu=1300, enable_encryption=False, enable_ipv6=False)


def test_an_option_wins_over_its_variable_and_both_over_the_file() -> None:
    text = '[network_identity]\nnetwork_name = "file"\nnetwork_secret = "file"'
    config = config_of(text, "--network-name", "option", ET_NETWORK_NAME="variable", ET_NETWORK_SECRET="variable")
    assert (config.network_name, config.network_secret) == ("option", "variable")


def test_variables_of_switches_and_lists() -> None:
    config = config_of("", ET_PEERS="tcp://a:1, tcp://b:2", ET_NO_TUN="true", ET_LATENCY_FIRST="0", ET_DISABLE_ENCRYPTION="1")
    assert config.peers == ("tcp://a:1", "tcp://b:2")
    assert config.flags == Flags(no_tun=True, enable_encryption=False)


def test_a_bad_value_of_an_option_names_the_option() -> None:
    with pytest.raises(ConfigError) as caught:
        config_of("", "--mtu", "x", ET_NO_TUN="maybe")
    assert sorted(caught.value.problems) == [
        '--mtu: expected a whole number, found "x"',
        'ET_NO_TUN: expected true or false, found "maybe"',
    ]
    with pytest.raises(ConfigError, match=r"^--proxy-networks: cidr: "):
        config_of("", "-n", "10.1.2.3/24")
    with pytest.raises(ConfigError, match=r"^ET_NETWORK_SECRET: the text is not valid UTF-8$"):
        config_of("", ET_NETWORK_SECRET="\udcff")


def test_options_without_effect_are_warned_about() -> None:
    arguments = ["--daemon", "--vpn-portal", "wg://0.0.0.0:1/10.9.0.0/24", "-d", "false", "--secure-mode=false"]
    said = load(parse(arguments, {"ET_CREDENTIAL": "c"})).warnings
    assert sorted(said) == [
        "--daemon: has no effect in this version",
        "--vpn-portal: this option has no effect in this version",
        "ET_CREDENTIAL: has no effect in this version",
    ]


# Files


def test_several_files_are_several_networks_and_take_only_options_of_the_process(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(f'instance_name = "{name}"')
    by_name = from_options("-c", f"{tmp_path}/a.toml,{tmp_path}/b.toml", "--mtu", "1300", "--console-log-level", "error")
    by_folder = from_options("--config-dir", str(tmp_path))
    assert [config.instance_name for config in by_name.configs] == ["a", "b"]
    assert [config.instance_name for config in by_folder.configs] == ["a", "b"]
    assert {config.flags.mtu for config in by_name.configs} == {1380}
    assert {config.console_log_level for config in by_name.configs} == {"error"}
    assert by_name.warnings == ("--mtu: not applied, since there are several configuration files",)


def test_one_file_takes_options_and_has_no_default_listeners(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('instance_name = "a"')
    [config] = from_options("-c", str(path), "--mtu", "1300").configs
    assert (config.instance_name, config.flags.mtu, config.listeners) == ("a", 1300, ())


def test_a_dash_is_standard_input() -> None:
    loaded = load(parse(["-c", "-"], {}), environ={}, stdin=BytesIO(b'instance_name = "x"'))
    assert loaded.configs[0].instance_name == "x"
    with pytest.raises(ConfigError, match=r"^standard input:1: unknown key"):
        load(parse(["-c", "-"], {}), environ={}, stdin=BytesIO(b"nonsense = 1"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b'a = 1\nb = "\xff"')
    (tmp_path / "large.toml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    (tmp_path / "empty").mkdir()
    faults = {
        "bytes": ":2: the file is not valid UTF-8",
        "large": "is larger than",
        "deep": "nested too deeply",
        "none": "No such file",
    }
    for name, fault in faults.items():
        with pytest.raises(ConfigError) as caught:
            from_options("-c", f"{tmp_path}/{name}.toml")
        [problem] = caught.value.problems
        assert problem.startswith(f"{tmp_path}/{name}.toml")
        assert fault in problem
    with pytest.raises(ConfigError, match=r"there is no \*\.toml file"):
        from_options("--config-dir", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="No such file"):
        from_options("--config-dir", str(tmp_path / "gone"))


def test_the_environment_is_read_into_a_file_unless_forbidden() -> None:
    text = 'hostname = "${NAME}-$NAME-${OTHER:-x}"'
    assert config_of(text, NAME="n").hostname == "n-n-x"
    assert config_of(text, "--disable-env-parsing", NAME="n").hostname == "${NAME}-$NAME-${OTHER:-x}"
    assert problems('a = 1\nhostname = "${NAME}"') == [
        "a.toml:2: environment variable NAME is not set; ${NAME:-...} gives it a default"
    ]


def test_line_ends_of_windows_do_not_matter() -> None:
    assert config_of(STOCK_FILE.replace("\n", "\r\n")).peers == config_of(STOCK_FILE).peers
    assert problems("a = 1\r\n")[0].startswith("a.toml:1:")


KEYS = st.sampled_from(
    ["flags", "peer", "ipv4", "listeners", "plugins", "network_identity", "a", "mtu", "uri", "routes", "acl"]
)
LEAVES = st.one_of(
    st.booleans().map(lambda b: str(b).lower()), st.integers().map(str), st.sampled_from(['"x"', '"$A"', "1.5", "'${B:-c}'"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(KEYS, inner, max_size=3).map(lambda items: f"{{{', '.join(f'{k} = {v}' for k, v in items.items())}}}"),
    ),
    max_leaves=5,
)


@given(
    st.one_of(st.text(max_size=200), st.dictionaries(KEYS, VALUES).map(lambda d: "\n".join(f"{k} = {v}" for k, v in d.items())))
)
def test_any_text_gives_a_config_or_a_config_error(text: str) -> None:
    faults: tuple[str, ...] = ()
    try:
        assert len(load_text(text, "a.toml", environ={"A": "1"}).configs) == 1
    except ConfigError as error:
        faults = error.problems
    assert all(fault.startswith("a.toml") for fault in faults)


def test_whitelists_hold_ports_and_ranges() -> None:
    config = config_of('tcp_whitelist = ["80", "8000-8100", "80"]\nudp_whitelist = ["0"]')
    assert config.tcp_whitelist == ((80, 80), (8000, 8100))
    assert config.udp_whitelist == ((0, 0),)


@pytest.mark.parametrize("text", ["", "-", "80-", "-80", "http", "65536", "90-80", "1-2-3", "0x50", "+1"])
def test_what_is_no_port_is_said_with_its_place(text: str) -> None:
    (problem,) = problems(f'tcp_whitelist = ["{text}"]')
    assert problem.startswith("a.toml:1: tcp_whitelist: ")


def test_access_rules_keep_their_order() -> None:
    config = config_of(
        """
        [[access]]
        action = "allow"
        proto = "tcp"
        peer = "laptop"
        source = "10.144.0.0/28"
        destination = "192.168.7.0/24"
        ports = ["22", "8000-8100"]
        [[access]]
        action = "deny"
        """
    )
    allow = AccessRule(
        True, "tcp", "laptop", ip_network("10.144.0.0/28"), ip_network("192.168.7.0/24"), ((22, 22), (8000, 8100))
    )
    assert config.access == (allow, AccessRule(False))


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ('proto = "tcp"', '"action" is missing in [[access]]'),
        ('action = "refuse"', 'action: unknown value "refuse"'),
        ('action = "deny"\nport = ["22"]', 'unknown key "port" in [[access]]; did you mean "ports"?'),
        ('action = "deny"\nports = ["a"]', 'ports: "a" is neither a port'),
        ('action = "deny"\nsource = "10.0.0.1/8"', "an IP network without bits behind its prefix"),
        ('action = "deny"\nsource = "10.0.0.0/8"\ndestination = "fd00::/64"', "of two families"),
    ],
)
def test_a_wrong_access_rule_is_an_error(rule: str, problem: str) -> None:
    (said,) = problems(f"[[access]]\n{rule}")
    assert problem in said


@pytest.mark.parametrize(
    ("flags", "argv", "place"),
    [
        ("proxy_forward_by_system = true", (), "a.toml:5"),
        ("", ("--proxy-forward-by-system",), "--proxy-forward-by-system"),
        ("proxy_forward_by_system = true", ("--proxy-forward-by-system", "false"), ""),
        # Without a device nothing is left to the kernel.
        ("proxy_forward_by_system = true\nno_tun = true", (), ""),
    ],
)
def test_a_mapped_network_that_is_left_to_the_kernel_is_told(flags: str, argv: tuple[str, ...], place: str) -> None:
    network = '[[proxy_network]]\ncidr = "192.168.1.0/24"\nmapped_cidr = "10.200.1.0/24"\n[flags]\n'
    warnings = load_text(network + flags, "a.toml", parse(argv, {}), environ={}).warnings
    assert [warning.partition(": ")[0] for warning in warnings] == ([place] if place else [])
    assert all("the kernel does not know 192.168.1.0/24 as 10.200.1.0/24" in warning for warning in warnings)
    plain = load_text(network.replace("mapped_cidr", "#") + flags, "a.toml", parse(argv, {}), environ={})
    assert plain.warnings == ()


@pytest.mark.parametrize(
    ("text", "argv", "place"),
    [
        ("[plugins]\nkcp = true\n[flags]\nenable_kcp_proxy = false", (), "a.toml:4"),
        ('[plugins]\nkcp = { engine = "kcp" }', ("--enable-kcp-proxy", "false"), "--enable-kcp-proxy"),
        ("[plugins]\nkcp = true", (), ""),
        ("[plugins]\nkcp = false\n[flags]\nenable_kcp_proxy = false", (), ""),
        ("[plugins]\nkcp = false\n[flags]\nenable_kcp_proxy = true", (), "a.toml:4"),
        ("[flags]\nenable_kcp_proxy = false", (), ""),
        ("[plugins]\nkcp = true\n[flags]\nenable_kcp_proxy = false", ("--enable-kcp-proxy",), ""),
    ],
)
def test_a_flag_that_the_table_overrules_is_told(text: str, argv: tuple[str, ...], place: str) -> None:
    warnings = load_text(text, "a.toml", parse(argv, {}), environ={}).warnings
    assert [warning.partition(": ")[0] for warning in warnings] == ([place] if place else [])
    assert all("has no effect, for [plugins]" in warning for warning in warnings)
