"""Prints `docs/configuration.md`: every key, option and variable with its default, made from the schema.

python -m easytier_host.config.reference > docs/configuration.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from easytier_host.config.option_table import OPTIONS, Form, Option
from easytier_host.config.schema import SETTINGS, Setting

_HEAD: Final = """\
# Configuration

This page is printed by `python -m easytier_host.config.reference`; a test keeps it current.

A node is told what to do by a TOML file (`-c`), by options, and by environment variables. Files, options and variables of stock
EasyTier 2.6 are taken as they are. The last column of each table says whether this version acts on a setting: *yes*;
*accepted*, where there is nothing to do; *no*, where the setting is taken with one warning. A key that nobody knows is an
error: it names the file, the line and the nearest known key.

- An option on the command line wins over its variable. With one file, options are merged into it: lists grow, single values are
  replaced. With several files each is a network of its own, and only options about logs and the portal are applied.
- `-c -` reads standard input; `--config-dir` reads every `*.toml` file of a directory. A file holds at most 1 MiB.
- Lists take commas, and may be repeated. Switches are written `--x`, `--x true` or `--x false`.
- In a file, `${NAME}`, `$NAME` and `${NAME:-default}` are replaced from the environment, comments excepted. A `${NAME}` that
  is not set is an error; a `$NAME` that is not set stays as it is, with a warning. `--disable-env-parsing` switches this off.
  Inside double quotes a value is escaped, so any text is safe there.
- Without a file a node listens on tcp and udp port 11010. With a file it listens where file or options say, else nowhere.
  `--no-listener` overrides both.
- `--listeners` takes a URL, a port (tcp and udp), a protocol, or `protocol:port`. Listeners and peers of other protocols than
  tcp and udp are left out with a warning.
- The secret is best given in a file, this one or that of `--secret-file`, with mode 600; if any user can read it, there is a
  warning. `ET_NETWORK_SECRET` is as good: only root and the same user see it. `--network-secret` is seen by all users until the
  program has taken it off its command line, for which it starts again as the same process; and it may stay in the history of
  your shell.

- [Security](security.md) says what `access` and the whitelists do, [Reliability](reliability.md) how `drain_timeout` and SIGHUP
  work, [Subnets](subnets.md) how networks are offered, and [Without root](no-root.md) what port forwards and SOCKS5 carry.

Exit status of `easytier-core`: 0 when it ended as asked, 1 when the configuration is wrong or the node could not start, 2 for
wrong usage. `easytier-core --check-config` checks without starting anything.
"""

_PLUGINS: Final = """\
`[plugins]` says which plugins run: `name = true`, `name = false`, or `name = { option = ... }`. The options are the plugin's
own. `easytier-core --list-plugins` shows which are installed. Stock does not know this table and ignores it.
"""

_EXAMPLE: Final = """\
```toml
instance_name = "a"
ipv4 = "10.144.144.1/24"
listeners = ["tcp://0.0.0.0:11010", "udp://0.0.0.0:11010"]

[network_identity]
network_name = "n"
network_secret = "${SECRET}"

[[peer]]
uri = "udp://203.0.113.5:11010"

[[proxy_network]]
cidr = "10.1.2.0/24"

[flags]
enable_kcp_proxy = true
```
"""


def markdown() -> str:
    """The whole page."""
    top = [setting for key, setting in SETTINGS.items() if not key.startswith("flags.")]
    flags = [setting for key, setting in SETTINGS.items() if key.startswith("flags.")]
    columns = ("key", "type", "default", "meaning", "acted on")
    return "\n".join(
        (
            _HEAD,
            "## An example\n",
            _EXAMPLE,
            "## Keys of a file\n",
            _table(columns, map(_setting_row, top)),
            "## Flags\n",
            "The keys of the table `[flags]`.\n",
            _table(columns, map(_setting_row, flags)),
            "## Plugins\n",
            _PLUGINS,
            "## Options and variables\n",
            _table(("option", "variable", "key", "meaning", "acted on"), map(_option_row, OPTIONS.values())).rstrip("\n"),
            "",
        )
    )


def _setting_row(setting: Setting) -> Sequence[str]:
    kind = f"array of {setting.kind.name}" if setting.many else setting.kind.name
    key = setting.key.removeprefix("flags.")
    return (f"`{key}`", kind, _default(setting), setting.text, setting.status.value)


def _default(setting: Setting) -> str:
    match setting.default:
        case None:
            return ""
        case bool(value):
            return f"`{str(value).lower()}`"
        case int(value) if value == 2**64 - 1:
            return "2^64-1"
        case int(value):
            return f"`{value}`"
        case value:
            return f'`"{value}"`'


def _option_row(option: Option) -> Sequence[str]:
    value = {Form.VALUE: f" {option.metavar}", Form.LIST: f" {option.metavar},..."}.get(option.form, "")
    names = f"`-{option.short}`, `--{option.name}{value}`" if option.short else f"`--{option.name}{value}`"
    shown = f"`{option.variable}`" if option.variable else ""
    return (names, shown, f"`{option.key}`" if option.key else "", option.text, option.status.value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
